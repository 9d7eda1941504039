"""The commands as a user starts them, and what they refuse."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import core
from apps.solvers.cells import Bench, Recipe
from apps.solvers.compare import CompareOptions, main
from apps.solvers.fields import FIELDS, read_mixture
from apps.solvers.methods import METHODS, Problem, budget, build
from apps.solvers.statistics import StatisticsOptions
from apps.solvers.statistics import main as estimate
from data_tools.cli import UserError

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_compare_fills_the_table_and_keeps_finished_cells(run_cli: Cli, tmp_path: Path) -> None:
    arguments = ["--methods", "euler,scalar,dyweight,spanlift", "--nfe", "3", "--fields", "ring", "--iterations", "3"]
    arguments += ["--held_out", "16", "--batch", "4", "--workers", "1", "--out", str(tmp_path)]
    first = run_cli("apps.solvers.compare", *arguments)
    assert first.returncode == 0, first.stderr
    lines = [line for line in first.stdout.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines][2:6] == ["euler", "scalar", "dyweight", "spanlift"]
    content = json.loads((tmp_path / "compare.json").read_text())
    assert [row["method"] for row in content["rows"]] == ["euler", "scalar", "dyweight", "spanlift"]
    for row in content["rows"]:
        low, high = row["error"]["ci95"]
        assert low < row["error"]["value"] < high
        assert row["calls_counted"] == row["nfe"] == 3
    assert [(found["better"], found["worse"]) for found in content["ranking"]] == [
        ("dyweight", "scalar"),
        ("spanlift", "dyweight"),
    ]
    assert not (tmp_path / "runs" / "ring-scalar-nfe3").exists()
    cell = tmp_path / "cells" / "ring" / "scalar-nfe3.json"
    kept, written = cell.read_text(), cell.stat().st_mtime_ns
    main(CompareOptions("scalar", "3", "ring", 3, 4, 16, 0, 1, str(tmp_path)))
    assert (cell.read_text(), cell.stat().st_mtime_ns) == (kept, written)
    with pytest.raises(UserError, match="choose another --out"):
        main(CompareOptions("scalar", "3", "ring", 4, 4, 16, 0, 1, str(tmp_path)))
    cell.write_text(kept[:50])
    with pytest.raises(UserError, match="damaged"):
        main(CompareOptions("scalar", "3", "ring", 3, 4, 16, 0, 1, str(tmp_path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CompareOptions(methods="spanlfit"), "did you mean 'spanlift'"),
        (CompareOptions(nfe="three"), "whole numbers"),
        (CompareOptions(nfe="0"), "at least 1"),
        (CompareOptions(fields="rings"), "did you mean 'ring'"),
        (CompareOptions(iterations=0), "--iterations"),
    ],
)
def test_compare_refuses(options: CompareOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(options)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("nfe", [3, 4, 5])
def test_every_method_counts_the_calls_of_its_cell_and_starts_as_its_base(name: str, nfe: int) -> None:
    method, bench = METHODS[name], Bench("ring", Recipe(1, 1, 2, 0))
    spent = budget(method, nfe)
    assert spent is not None
    statistics = core.ModelStatistics.degenerate(core.EDM(), spent.grid, "data", 3)
    problem = Problem(spent.grid, 2, 3, statistics, spent.points)
    solver = build(method, problem, 0)
    x_T = 80 * torch.randn(2, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = core.integrate(bench.field, solver, x_T, spent.grid, spent.afs)
    assert state.nfe == nfe
    assert method.learned == any(p.requires_grad for p in getattr(solver, "parameters", list)())
    if method.base in ("euler", "ipndm", "heun") and method.calls == (2 if method.base == "heun" else 1):
        order = 3 if method.base == "ipndm" else None
        base = core.build_solver(method.base, order=order)
        assert torch.equal(state.x, core.integrate(bench.field, base, x_T, spent.grid, spent.afs).x)


def test_statistics_of_a_mixture_file_make_a_solver(run_cli: Cli, tmp_path: Path) -> None:
    field = FIELDS["ring"](None)
    model, out = tmp_path / "mixture.safetensors", tmp_path / "ems.safetensors"
    save_file({"means": field.means, "weights": field.log_weights.exp(), "stds": field.std.clone()}, model)
    x = torch.randn(2, 2, 1, 1, dtype=torch.float64)
    t = torch.tensor(0.7, dtype=torch.float64)
    torch.testing.assert_close(read_mixture(model)(x, t), field(x, t))
    done = run_cli(
        "apps.solvers.statistics", "--model", str(model), "--out", str(out), "--samples", "8", "--nodes", "9"
    )
    assert done.returncode == 0, done.stderr
    statistics = core.load_statistics(out)
    assert statistics.linear.shape == (9, 2, 1, 1)
    solver = core.build_solver("dpm-solver-v3", order=2, statistics=statistics)
    grid = core.build_grid("karras", 4, 80.0, 0.002)
    assert core.integrate(field, solver, 80 * x, grid).nfe == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (StatisticsOptions(model="wave"), "did you mean 'waves'"),
        (StatisticsOptions(model="none.safetensors"), "none at"),
        (StatisticsOptions(model="none.pt2", shape="3,4"), "no file"),
        (StatisticsOptions(model="none.pt2"), "no file|--shape"),
        (StatisticsOptions(samples=1), "--samples"),
        (StatisticsOptions(t_min=0.0), "log-SNR"),
    ],
)
def test_statistics_refuses(options: StatisticsOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        estimate(options)

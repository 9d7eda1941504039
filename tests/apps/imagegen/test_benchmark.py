"""The benchmark on tiny random models: cells measured once, ingredients found and refused, every table filled."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import core
from apps.imagegen.benchmark import BenchmarkOptions, main
from apps.imagegen.methods import MethodOptions
from apps.imagegen.models import ImageModel
from apps.imagegen.published import load_published
from apps.imagegen.tables.ingredients import Ready, find
from apps.imagegen.tables.lines import METHODS, SPAN_LINES, SPECS
from apps.imagegen.tables.overhead import OverheadRecipe, count_operations, count_parameters, fill_overhead, solvers_for
from apps.imagegen.tables.quality import Bench, QualityRecipe, fill_quality
from apps.imagegen.tables.span import SpanRecipe, fill_span, measure
from apps.imagegen.tables.store import Store
from apps.imagegen.tables.table import Filled
from core.operators.corrected import Corrected
from core.state import trajectory
from data_tools.cli import UserError

Cli = Callable[..., subprocess.CompletedProcess[str]]
Put = Callable[..., Path]
PUBLISHED = load_published()
FEW = replace(SPECS["digits"], lines=tuple(line for line in METHODS if line.solver in {"ipndm", "ld3", "dyweight"}))
"""A table of three rows."""


def bench_of(model: ImageModel, samples: int = 12, seed: int = 0) -> Bench:
    return Bench(model, "digits", "digits", QualityRecipe(samples, 2, seed), batch=8)


def test_quality_cells_are_measured_once_and_depend_on_seed_and_solver(
    tiny: ImageModel, put_solver: Put, tmp_path: Path
) -> None:
    store, folder = Store(tmp_path / "cells"), str(tmp_path)
    put_solver(tiny, tmp_path / "dyweight-nfe3", MethodOptions("dyweight", 3, afs=True))

    def fill(seed: int = 0) -> dict[str, float | None]:
        filled = fill_quality("digits", FEW, bench_of(tiny, seed=seed), "tiny", folder, (3,), store, PUBLISHED)
        return {label: cells[0].ours and cells[0].ours.mean for label, cells in filled.rows.items()}

    first = fill()
    measured = {label for label, value in first.items() if value is not None}
    assert measured == {"iPNDM", "DyWeight"}
    assert len(set(first.values())) == 3
    times = {path: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    assert len(times) == 2
    assert fill() == first
    assert {path: path.stat().st_mtime_ns for path in store.folder.iterdir()} == times
    assert fill(seed=100)["iPNDM"] != first["iPNDM"]
    assert len(list(store.folder.iterdir())) == 4
    put_solver(tiny, tmp_path / "dyweight-nfe3", MethodOptions("dyweight", 3, afs=True, order=2))  # trained anew
    fill()
    assert len(list(store.folder.iterdir())) == 5


def test_a_quality_cell_is_the_evaluation_of_its_sampler(tiny: ImageModel, put_solver: Put, tmp_path: Path) -> None:
    bench = bench_of(tiny)
    filled = fill_quality("digits", FEW, bench, "tiny", "none", (3,), Store(tmp_path), PUBLISHED)
    cell = filled.rows["iPNDM"][0]
    ready = find(tiny, "tiny", METHODS[0], 3, "none")
    assert isinstance(ready, Ready)
    scored = bench.evaluator.score(ready.sampler)
    assert cell.ours is not None
    assert cell.ours.mean == pytest.approx(float(scored.fd.mean()), rel=1e-9)
    assert cell.ours.low < cell.ours.mean < cell.ours.high
    assert (cell.details["calls"], scored.nfe) == (3, 3)
    assert cell.published is None


def test_images_that_are_not_finite_fail_their_cell_alone(tiny: ImageModel, put_solver: Put, tmp_path: Path) -> None:
    put_solver(tiny, tmp_path / "dyweight-nfe3", MethodOptions("dyweight", 3, afs=True))
    break_numbers(tmp_path / "dyweight-nfe3" / "solver.safetensors")
    filled = fill_quality("digits", FEW, bench_of(tiny), "tiny", str(tmp_path), (3,), Store(tmp_path / "c"), PUBLISHED)
    assert filled.rows["DyWeight"][0].status == "failed"
    assert "finite" in filled.rows["DyWeight"][0].why
    assert filled.rows["iPNDM"][0].status == "measured"


def test_a_bad_solver_is_a_cell_that_says_so_and_the_others_are_measured(
    tiny: ImageModel, put_solver: Put, tmp_path: Path
) -> None:
    put_solver(tiny, tmp_path / "dyweight-nfe3", MethodOptions("dyweight", 3, afs=True))
    good = put_solver(tiny, tmp_path / "ld3-nfe3", MethodOptions("ld3", 3, afs=True))
    cut = tmp_path / "dyweight-nfe3" / "solver.safetensors"
    cut.write_bytes(cut.read_bytes()[:-9])
    filled = fill_quality("digits", FEW, bench_of(tiny), "tiny", str(tmp_path), (3,), Store(tmp_path / "c"), PUBLISHED)
    status = {label: cells[0].status for label, cells in filled.rows.items()}
    assert status == {"iPNDM": "measured", "LD3": "measured", "DyWeight": "failed"}
    assert f"got {cut}, which is truncated" in filled.rows["DyWeight"][0].why
    assert filled.missing() == []
    for base in ("euler", "ipndm"):
        spec = MethodOptions("spanlift", 3, afs=True, base=base, width=4)
        put_solver(tiny, tmp_path / f"spanlift-{base}-nfe3", spec)
    (tmp_path / "spanlift-euler-nfe3" / "solver.safetensors").write_bytes(good.read_bytes())
    span = fill_span(tiny, "tiny", str(tmp_path), 3, SpanRecipe(3, 3), Store(tmp_path / "c"), PUBLISHED)
    assert [cell.status for cell in span.rows["Euler + SpanLift"]] == ["failed"] * 2
    assert "got ld3" in span.rows["Euler + SpanLift"][0].why
    assert [cell.status for cell in span.rows["iPNDM + SpanLift"]] == ["measured"] * 2
    lost = put_solver(tiny, tmp_path / "spanlift-ipndm-nfe3", spec)  # numbers that are none fail their row
    break_numbers(lost)
    span = fill_span(tiny, "tiny", str(tmp_path), 3, SpanRecipe(3, 3), Store(tmp_path / "c"), PUBLISHED)
    assert [cell.status for cell in span.rows["iPNDM + SpanLift"]] == ["failed"] * 2
    assert "finite" in span.rows["iPNDM + SpanLift"][0].why


def break_numbers(path: Path) -> None:
    """Make every learned number of a solver's file NaN."""
    solver = core.load(path)
    assert isinstance(solver, torch.nn.Module)
    with torch.no_grad():
        for parameter in solver.parameters():
            parameter.fill_(float("nan"))
    card: core.Card = solver.card  # pyright: ignore
    core.save(
        path, solver, grid=card.grid, field_identity=card.field_identity, supervision="teacher", loss="mse",
        extra=card.extra,
    )  # fmt: skip


def test_out_of_span(tiny: ImageModel, put_solver: Put, tmp_path: Path) -> None:
    spec = MethodOptions("spanlift", 3, afs=True, base="ipndm", width=4)
    put_solver(tiny, tmp_path / "spanlift-ipndm-nfe3", spec)
    store, recipe = Store(tmp_path / "cells"), SpanRecipe(samples=5, batch=3, seed=7)
    filled = fill_span(tiny, "tiny", str(tmp_path), 3, recipe, store, PUBLISHED)
    assert filled.columns == ("2", "3")
    assert [cell.status for cell in filled.rows["Euler + SpanLift"]] == ["missing"] * 2
    assert [cell.published for cell in filled.rows["iPNDM + SpanLift"]] == [0.92, 0.88]
    line = next(line for line in SPAN_LINES if line.base == "ipndm")
    ready = find(tiny, "tiny", line, 3, str(tmp_path))
    assert isinstance(ready, Ready)
    for step, cell in zip((2, 3), filled.rows["iPNDM + SpanLift"], strict=True):
        assert cell.ours is not None
        assert cell.ours.mean == pytest.approx(brute_force_ratio(tiny, ready, recipe, step), rel=1e-4)
        assert 0 < cell.ours.low <= cell.ours.mean <= cell.ours.high <= 1
    other = measure(tiny, ready, SpanRecipe(samples=5, batch=5, seed=7))["out_of_span"][3][0]
    assert other == pytest.approx(filled.rows["iPNDM + SpanLift"][1].ours.mean, rel=1e-3)  # pyright: ignore


def brute_force_ratio(model: ImageModel, ready: Ready, recipe: SpanRecipe, step: int) -> float:
    """Mean over samples of |R - P R| / |R| by least squares in numpy's way, along the rollout."""
    sampler, seeds = ready.sampler, range(recipe.seed, recipe.seed + recipe.samples)
    solver = sampler.solver
    assert isinstance(solver, Corrected)
    with torch.no_grad():
        states = list(trajectory(model.field(), solver, model.start(seeds), sampler.grid, sampler.afs))
        proposal = solver.propose(model.field(), states[step], sampler.grid[step + 1])
        correction = solver.residual.parts(states[step], proposal)[1].flatten(1).double()  # pyright: ignore
    ratios = []
    for sample in range(recipe.samples):
        basis = torch.stack([e.velocity[sample].flatten().double() for e in proposal.buffer], dim=1)
        fitted = basis @ torch.linalg.lstsq(basis, correction[sample][:, None]).solution
        ratios.append(float((correction[sample] - fitted[:, 0]).norm() / correction[sample].norm()))
    return sum(ratios) / len(ratios)


def test_overhead_counts_by_hand(tiny: ImageModel, put_solver: Put, tmp_path: Path) -> None:
    recipe = OverheadRecipe(nfe=4, batch=3, repeats=2)
    filled = fill_overhead(tiny, "tiny", recipe, Store(tmp_path), PUBLISHED)
    values = {label: [cell.ours for cell in cells if cell.ours] for label, cells in filled.rows.items()}
    assert {len(numbers) for numbers in values.values()} == {4}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tiny.network(tiny.noise([0]), torch.tensor(1.0))
    call = counter.get_total_flops()
    base, lifted, grid = solvers_for(tiny, recipe)
    assert len(grid) == 6  # four calls and an analytic start
    assert values["DyWeight"][1].mean * 1e9 == pytest.approx(4 * call)
    weights = sum(parameter.numel() for parameter in tiny.network.parameters())
    assert values["DyWeight"][0].mean * 1e6 == pytest.approx(weights + count_parameters(base))
    extra = sum(p.numel() for p in lifted.residual.parameters())  # pyright: ignore
    assert values["SpanLift"][0].mean - values["DyWeight"][0].mean == pytest.approx(extra / 1e6)
    added = count_operations(tiny, lifted, grid, True) - count_operations(tiny, base, grid, True)  # pyright: ignore
    assert values["difference (%)"][1].mean == pytest.approx(100 * added / (4 * call))
    for label in ("DyWeight", "SpanLift"):
        latency, throughput = values[label][2:]
        assert latency.low <= latency.mean <= latency.high
        assert latency.mean > 0 < throughput.mean
    assert [cell.published for cell in filled.rows["difference (%)"]] == [0.04, 0.24, 3.1, -3.0]
    untimed = fill_overhead(tiny, "tiny", OverheadRecipe(nfe=4, repeats=0), Store(tmp_path), PUBLISHED)
    assert [cell.status for cell in untimed.rows["SpanLift"]] == ["measured"] * 2 + ["missing"] * 2
    assert untimed.rows["SpanLift"][0].ours == values["SpanLift"][0]
    assert untimed.missing() == ["python -m apps.imagegen.benchmark --table overhead --model tiny --nfe 4 --repeats 5"]
    with pytest.raises(UserError, match="--repeats of 0 or at least 2"):
        fill_overhead(tiny, "tiny", OverheadRecipe(repeats=1), Store(tmp_path), PUBLISHED)


def test_the_command(run_cli: Cli, run_here: Cli, tiny_file: Path, tmp_path: Path) -> None:
    arguments = ["--table", "digits", "--model", str(tiny_file), "--nfe", "3", "4", "--samples", "6", "--blocks", "2"]
    arguments += [
        "--reference",
        "digits",
        "--batch",
        "6",
        "--out",
        str(tmp_path / "out"),
        "--solvers",
        str(tmp_path / "solvers"),
    ]
    done = run_cli("apps.imagegen.benchmark", *arguments)
    assert done.returncode == 0, done.stderr
    assert (
        f"python -m apps.imagegen.train --model {tiny_file} --solver spanlift --base dyweight --base_path"
        in done.stdout
    )
    content = json.loads((tmp_path / "out" / "digits.json").read_text())
    assert content["rows"][0]["ours"]["value"] > 0
    assert (tmp_path / "out" / "digits.png").stat().st_size > 1000
    assert (tmp_path / "out" / "digits.csv").read_text().startswith("method,nfe,value,low,high,published")
    refused = run_here("apps.imagegen.benchmark", "--table", "overheat", "--out", str(tmp_path / "other"))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "did you mean 'overhead'" in refused.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "--batch of at least 1"),
        ({"device": "nowhere"}, "device of this machine"),
        ({"table": "overhead", "model": "cifar10-small", "device": "nowhere"}, "device of this machine"),
        ({"table": "overhead", "model": "cifar10-small", "precision": "float16"}, "--device cuda"),
        ({"seed": (1 << 31) - 1, "samples": 2, "blocks": 1}, "trained on"),
        ({"table": "out-of-span", "seed": -1}, "--seed"),
        ({"json": "."}, "end in .json"),
        ({"json": __file__.replace(".py", ".json") + "/x.json", "out": __file__}, "got the file"),
        ({"table": "overhead", "model": "digits", "seed": -1}, "--seed"),
        ({"out": __file__}, "got the file"),
    ],
)
def test_mistakes_leave_nothing_behind(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        main(BenchmarkOptions(**{"out": str(tmp_path / "out"), **changes}))
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_replaced_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.imagegen.benchmark.plot_table", lambda *_: None)
    mine = tmp_path / "mine.json"
    mine.write_text("precious")
    options = BenchmarkOptions("imagenet64", nfe="3", out=str(tmp_path / "out"), json=str(mine))  # has no model here
    with pytest.raises(UserError, match=r"expected a new file, got .*mine\.json, which exists; add --overwrite"):
        main(options)
    assert mine.read_text() == "precious"
    assert not (tmp_path / "out").exists()
    main(replace(options, overwrite=True))
    assert json.loads(mine.read_text())["table"] == "imagenet64"
    for _ in range(2):  # the table of the folder grows with its cells
        main(replace(options, json=None))


def test_distances_are_to_what_the_model_learned_from_or_to_what_is_given(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.imagegen.benchmark.plot_table", lambda *_: None)
    monkeypatch.setattr("apps.imagegen.benchmark.fill_quality", lambda *given: asked.append(given) or EMPTY)
    asked: list[tuple] = []
    for model in (None, str(tiny_file)):
        main(BenchmarkOptions("digits", model, nfe="3", out=str(tmp_path)))
    shipped, unknown = asked
    assert shipped[2].reference == "digits"
    assert shipped[4].startswith("out/solvers/digits-")
    assert unknown[2] is None
    assert unknown[-1] == f"python -m apps.imagegen.benchmark --table digits --model {tiny_file} --reference IMAGES"


EMPTY = Filled("digits", "", "", "NFE", ("3",), {})


def test_a_table_that_cannot_be_measured_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise FloatingPointError("expected finite states, got NaN at step 2")

    monkeypatch.setattr("apps.imagegen.tables.overhead.measure", broken)
    with pytest.raises(UserError, match="NaN at step 2"):
        main(BenchmarkOptions("overhead", "digits", out=str(tmp_path / "out")))
    assert list(tmp_path.iterdir()) == []

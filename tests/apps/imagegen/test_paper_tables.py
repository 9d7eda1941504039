"""S4S' tables by schedule and the ablations: rows with published numbers, keys of their own, cells that are filled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import core
from apps.imagegen import train
from apps.imagegen.benchmark import LATENT_TABLES, PIXEL_TABLES
from apps.imagegen.methods import MethodOptions
from apps.imagegen.models import ImageModel
from apps.imagegen.models.latent.loading import latent_model
from apps.imagegen.models.latent.tiny import tiny_pipeline
from apps.imagegen.published import load_published
from apps.imagegen.solvers import build_method
from apps.imagegen.tables.ablation_lines import ABLATIONS
from apps.imagegen.tables.ingredients import Missing, Ready, find
from apps.imagegen.tables.lines import METHODS, SPECS, Line, Spec, of_paper
from apps.imagegen.tables.quality import Bench, QualityRecipe, fill_quality, printed
from apps.imagegen.tables.s4s_lines import S4S_LATENT_SPECS, S4S_SPECS
from apps.imagegen.tables.store import Store
from apps.imagegen.train_options import CONFIGS, TrainOptions
from data_tools.cli import UserError, build_parser, named_configs

Put = Callable[..., Path]
PUBLISHED = load_published()
WHOLE: dict[str, Spec] = {**S4S_SPECS, **S4S_LATENT_SPECS}
ADDED: dict[str, Spec] = {**ABLATIONS, **WHOLE}


PARSER = build_parser(TrainOptions, prog="x", description="x", examples="x")


@cache
def trained_as(command: str) -> TrainOptions:
    """What a command of training is read as."""
    words = named_configs(command.removeprefix("python -m apps.imagegen.train ").split(), CONFIGS)
    found = {key: value for key, value in vars(PARSER.parse_args(words)).items() if key != "config"}
    return TrainOptions(**found)


@pytest.mark.parametrize("table", ADDED)
def test_rows_have_published_numbers(table: str) -> None:
    spec = ADDED[table]
    assert len({line.label for line in spec.lines}) == len(spec.lines)
    for line in spec.lines:
        assert line.solver in core.SOLVERS
        there = {column for column in spec.nfe if printed(PUBLISHED, spec, line, column)}
        assert there == set(spec.nfe) - ({4} if line.label == "S4S-Alt, order 6" else set())


@pytest.mark.parametrize("table", WHOLE)
def test_of_s4s_only_the_rows_that_are_said_to_be_are_left_out(table: str) -> None:
    spec, number = WHOLE[table], {"afhqv2": 13, "cifar10": 14, "ffhq": 15, "imagenet256": 16, "lsun-bedroom": 17}
    table_number = str(number.get(spec.data or "", 18))
    printed_rows = [row for row in PUBLISHED.rows if (row.paper, row.table) == ("s4s", table_number)]
    left_out = [
        row for row in printed_rows if row.method == "dpm-solver-v3" or (row.schedule, row.method) == ("LD3", "s4s-lms")
    ]
    assert len(spec.lines) == len(printed_rows) - len(left_out) == 40
    values = [printed(PUBLISHED, spec, line, 5)["published"] for line in spec.lines]
    kept = [row.values["5"] for row in printed_rows if row not in left_out]
    assert Counter(values) == Counter(kept)


def test_one_folder_is_one_solver_of_a_model_whichever_table_asks() -> None:
    """DyWeight's and SpanLift's may be trained by a paper's recipe or by the command's own options."""
    same: dict[tuple[str, str], tuple] = {}
    for name, spec in {**PIXEL_TABLES, **LATENT_TABLES}.items():
        for line in spec.lines:
            if line.learned:
                asked = (line.solver, line.base, line.operator, line.kernel, line.starts, line.changes)
                if line.solver not in ("dyweight", "spanlift"):
                    asked += (line.grid, line.order) if line.solver != "s4s-alt" else ()
                assert same.setdefault((spec.model, line.key), asked) == asked, f"{line.label} of {name}"


@pytest.mark.parametrize("table", ADDED)
def test_trainings_are_accepted_and_are_of_their_cells(table: str) -> None:
    spec = ADDED[table]
    for line in (line for line in spec.lines if line.learned):
        for column in {spec.nfe[0], spec.nfe[-1]}:
            options = trained_as(line.train_command("some.safetensors", column, "out/s"))
            train.check(options)
            assert (options.solver, options.base, options.nfe) == (line.solver, line.base, column)
            assert options.afs == bool(line.analytic(column))
            assert options.out == f"out/s/{line.key}-nfe{column}"
            assert line.grid in (None, options.grid)
            assert line.order in (None, options.order)
            assert not line.recipe or (CONFIGS / f"{line.recipe}-nfe{column}.yaml").is_file()


def test_ablations_differ_in_what_they_say() -> None:
    def option(table: str, name: str) -> list[object]:
        return [
            getattr(trained_as(line.train_command("m", 4, "s")), name)
            for line in ABLATIONS[table].lines
            if line.learned
        ]

    teachers = list(
        zip(option("dyweight-teachers", "teacher"), option("dyweight-teachers", "teacher_nfe"), strict=True)
    )
    assert teachers == [("ipndm", 18), ("ipndm", 35), ("ipndm", 50), ("dpm-solver-2", 71), ("heun", 71)]
    assert option("dyweight-supervision-cifar10", "supervision") == ["path", "teacher"]
    assert option("dyweight-initialization-afhqv2", "base") == ["ipndm", "euler", "ipndm", "ipndm"]
    assert option("dyweight-initialization-afhqv2", "grid") == ["karras", "karras", "uniform", "logsnr"]
    assert option("dyweight-pairs-imagenet64", "pairs") == [10_000, 20_000, 30_000]
    assert option("dyweight-pairs-imagenet64", "iterations") == [625, 1250, 1875]
    assert option("s4s-order", "order") == [3, 4, 6]


def test_tables_of_the_papers_train_by_their_recipes() -> None:
    found = {line.key: line.train_command("m", 4, "s") for line in SPECS["cifar10"].lines if line.learned}
    assert (
        found["dyweight"]
        == "python -m apps.imagegen.train --config dyweight-cifar10-nfe4 --model m --out s/dyweight-nfe4"
    )
    assert found["spanlift"].startswith(
        "python -m apps.imagegen.train --config spanlift-cifar10-nfe4 --model m --base_path s/"
    )
    assert "--config s4s-alt-cifar10-nfe4" in found["s4s-alt-plain"]
    lines = {line.label: line for line in SPECS["base-solvers-imagenet64"].lines}
    heun = lines["Heun + SpanLift"].train_command("m", 7, "s")
    assert (
        heun
        == "python -m apps.imagegen.train --config spanlift-heun-imagenet64-nfe7 --model m --out s/spanlift-heun-nfe15"
    )
    assert trained_as(heun).nfe == 15
    assert of_paper(METHODS[:3], "cifar10") == METHODS[:3]
    imagenet = {line.key for line in SPECS["imagenet64"].lines}
    assert "s4s-alt" in imagenet


def few(spec: Spec) -> Spec:
    """A handcrafted row of each grid, and rows of each learned method."""
    lines: dict[tuple[str, str | None], Line] = {}
    for line in spec.lines:
        lines.setdefault((line.solver if line.learned else "", line.grid), line)
    return replace(spec, lines=tuple(lines.values()))


@pytest.mark.parametrize("table", ["s4s-afhqv2", "s4s-single-step", "dyweight-initialization-cifar10"])
def test_pixel_tables_are_filled(table: str, tiny: ImageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.imagegen.solvers.SEARCH_SAMPLES", 2)
    spec = few(ADDED[table])
    bench = Bench(tiny, "digits", "digits", QualityRecipe(4, 1), batch=4)
    filled = fill_quality(table, spec, bench, "tiny", "none", (4,), Store(tmp_path), PUBLISHED)
    for line in spec.lines:
        (cell,) = filled.rows[line.label]
        assert cell.status == ("missing" if line.learned else "measured"), cell.why
        if line.learned:
            assert cell.why.endswith(f"--out none/{line.key}-nfe4")
        else:
            assert cell.details["calls"] == 4
    starts = any(line.starts for line in spec.lines)
    assert starts == table.startswith("dyweight")
    assert any("start analytically" in note for note in filled.notes) is False


def test_every_method_of_a_latent_table_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the one whose model has classes; the grids of the others are the same."""
    monkeypatch.setattr("apps.imagegen.solvers.SEARCH_SAMPLES", 2)
    spec, model = S4S_LATENT_SPECS["s4s-imagenet256"], latent_model(tiny_pipeline("ldm-class"), "tiny")
    for line in few(spec).lines:
        found = find(model, "tiny", line, 4, "none", spec.base)
        assert isinstance(found, Missing if line.learned else Ready), found
        if isinstance(found, Ready):
            assert len(found.sampler.grid) == 5


def test_a_trained_solver_of_an_order_fills_its_row(tiny: ImageModel, put_solver: Put, tmp_path: Path) -> None:
    put_solver(tiny, tmp_path / "s4s-alt-order4-nfe4", MethodOptions("s4s-alt", 4, 4, afs=False))
    line = ABLATIONS["s4s-order"].lines[1]
    assert isinstance(find(tiny, "tiny", line, 4, str(tmp_path)), Ready)
    with pytest.raises(UserError, match="expected a grid among"):
        build_method(tiny, MethodOptions("ipndm", 4, grid="discrete"))

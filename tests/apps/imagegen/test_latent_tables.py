"""Tables of latent models on tiny random pipelines: rows, commands, cells measured once, scores that come later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import core
from apps.imagegen.methods import MethodOptions
from apps.imagegen.models.latent.catalogue import CATALOGUE
from apps.imagegen.models.latent.loading import latent_model
from apps.imagegen.models.latent.model import LatentModel
from apps.imagegen.models.latent.text import Prompting
from apps.imagegen.models.latent.tiny import Kind, tiny_pipeline
from apps.imagegen.published import load_published
from apps.imagegen.rewards import SCORERS as LOADERS
from apps.imagegen.solvers import build_method
from apps.imagegen.stages.pairs import Pairs
from apps.imagegen.tables.latent import fill_latent
from apps.imagegen.tables.latent_bench import LatentBench
from apps.imagegen.tables.latent_lines import LATENT_SPECS, METRICS, SCORERS, LatentSpec, TeacherRecipe
from apps.imagegen.tables.quality import QualityRecipe, printed
from apps.imagegen.tables.store import Store
from apps.imagegen.tables.table import Cell, Filled
from apps.imagegen.train_options import CONFIGS, TrainOptions
from data_tools.cli import UserError, build_parser, named_configs

PUBLISHED = load_published()
Put = Callable[..., Path]
FAMILIES: Mapping[str, Kind] = {
    "sana": "sana", "flux": "flux", "sd15": "sd", "sd14": "sd", "lsun-bedroom": "ldm", "imagenet256": "ldm-class",
}  # fmt: skip


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LatentModel]:
    """The tiny model of a table."""
    folder = tmp_path_factory.mktemp("texts")
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(f"{count} birds over a {place}" for count in range(3) for place in ("lake", "road")))
    made: dict[str, LatentModel] = {}

    def model(table: str) -> LatentModel:
        kind = FAMILIES[table]
        if kind not in made:
            texts = Prompting(text_cache=str(folder / "cache"))
            if LATENT_SPECS[table].prompts:
                texts = replace(texts, prompts=str(prompts), train_prompts=2)
            made[kind] = latent_model(tiny_pipeline(kind), f"tiny {kind}", prompting=texts)
        return made[kind]

    return model


class Brightness:
    """In place of a reward: an image's mean, less the length of its prompt."""

    name = "brightness"

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.seen += len(images)
        return images.double().mean((1, 2, 3)) - torch.tensor([len(text) for text in prompts])


def bench_of(model: LatentModel, folder: Path, scorers: Mapping[str, Brightness] | None = None) -> LatentBench:
    teacher = TeacherRecipe("ipndm", 6, 2)
    return LatentBench(model, QualityRecipe(3, 2), 2, teacher, folder / "teachers", scorers=scorers)


def fill(table: str, bench: LatentBench | None, folder: Path, counts: Sequence[int] | None = None) -> dict[str, Filled]:
    spec = LATENT_SPECS[table]
    lacking = {"model": "get it"} if bench is None else {metric: f"needs {metric}" for metric in METRICS}
    found = fill_latent(
        table, spec, bench, "tiny", str(folder / "solvers"), counts or spec.nfe[:1], Store(folder / "cells"),
        PUBLISHED, lacking, "--prompts FILE",
    )  # fmt: skip
    return {filled.name.removeprefix(f"{table}-"): filled for filled in found}


@pytest.mark.parametrize("table", LATENT_SPECS)
def test_rows_are_solvers_that_exist_with_published_numbers(table: str) -> None:
    spec = LATENT_SPECS[table]
    labels = [line.label for line in spec.lines]
    keys = [line.key for line in spec.lines if line.learned]
    assert len(set(labels)) == len(labels)
    assert len(set(keys)) == len(keys)
    assert spec.model in CATALOGUE
    assert set(spec.metrics) <= set(METRICS) - {"teacher"}
    assert spec.base.solver == "dyweight"
    assert all(column % spec.counted == 0 for column in spec.nfe)
    for line in spec.lines:
        assert line.solver in core.SOLVERS
        assert line.base is None or line.base in core.SOLVERS
        for metric in spec.metrics:
            there = {column for column in spec.nfe if printed(PUBLISHED, spec, line, column, metric)}
            unpublished = line.solver == "spanlift" and not table.startswith("sana")
            unpublished |= line.solver == "dyweight" and table in ("sd14", "imagenet256")
            unpublished |= line.key.endswith("-plugin") and metric == "clip"
            if unpublished:
                assert not there
            elif line.key in ("s4s-alt", "dlms") and table == "lsun-bedroom":
                assert len(there) == 3  # of four
            else:
                assert there == set(spec.nfe)


def test_scores_have_scorers() -> None:
    assert set(SCORERS) == set(METRICS) - {"teacher", "fid"}
    assert set(SCORERS.values()) == set(LOADERS)


def test_numbers_of_the_papers() -> None:
    spec = LATENT_SPECS["sana"]
    lift = next(line for line in spec.lines if line.solver == "spanlift")
    assert printed(PUBLISHED, spec, lift, 3) == {"published": 14.4, "source": "SpanLift, Table 3"}
    assert printed(PUBLISHED, spec, lift, 7, "image-reward")["published"] == 1.023
    ld3 = next(line for line in LATENT_SPECS["sd14"].lines if line.key == "ld3-unipc")
    assert printed(PUBLISHED, LATENT_SPECS["sd14"], ld3, 4)["published"] == 21.27


def test_commands_of_recipes_and_of_what_has_none() -> None:
    base, lift = (line for line in LATENT_SPECS["sana"].lines if line.learned)
    assert base.train_command("sana-0.6b", 5, "s", "--prompts FILE") == (
        "python -m apps.imagegen.train --config dyweight-sana-nfe5 --model sana-0.6b --prompts FILE "
        "--out s/dyweight-nfe5"
    )
    assert lift.train_command("m", 7, "s") == (
        "python -m apps.imagegen.train --config spanlift-sana-nfe7 --model m --base_path s/dyweight-nfe7 "
        "--out s/spanlift-nfe7"
    )
    assert "--solver spanlift --base dyweight --base_path s/dyweight-nfe4 --nfe 4" in lift.train_command("m", 4, "s")
    lms = next(line for line in LATENT_SPECS["imagenet256"].lines if line.key == "s4s-lms-unipc")
    assert lms.train_command("m", 4, "s") == (
        "python -m apps.imagegen.train --model m --solver s4s-lms --base unipc --order 3 --grid discrete --nfe 4 "
        "--loss lpips=1 --teacher unipc --teacher_nfe 10 --teacher_order 3 --teacher_grid discrete --pairs 600 "
        "--held_out 200 --batch 20 --iterations 300 --out s/s4s-lms-unipc-nfe4"
    )


def test_without_a_model_everything_is_missing_and_published(tmp_path: Path) -> None:
    found = fill("flux", None, tmp_path, (3, 5))
    assert list(found) == ["teacher", "fid", "clip"]
    for metric, filled in found.items():
        cells = [cell for row in filled.rows.values() for cell in row]
        assert {cell.status for cell in cells} == {"missing"}
        assert filled.missing() == ["get it"]
        assert (cells[0].published is None) == (metric == "teacher")
    assert found["clip"].rows["DyWeight"][1].published == 26.73
    assert not found["clip"].lower_is_better
    assert not (tmp_path / "cells").exists()


@pytest.mark.parametrize("table", FAMILIES)
def test_handcrafted_rows_are_measured_and_learned_ones_can_be_trained(
    table: str, model_of: Callable[[str], LatentModel], tmp_path: Path
) -> None:
    """Against the teacher, which needs no network to look at images."""
    spec = LATENT_SPECS[table]
    found = fill(table, bench_of(model_of(table), tmp_path), tmp_path)["teacher"]
    for line in spec.lines:
        (cell,) = found.rows[line.label]
        if line.learned:
            assert cell.status == "missing", cell.why
            assert f"/{line.key}-nfe{spec.evaluations(spec.nfe[0])}" in cell.why
            assert "--prompts FILE" in cell.why
        else:
            assert cell.status == "measured", cell.why
            assert cell.ours is not None
            assert cell.ours.low < cell.ours.mean < cell.ours.high
            doubled = 1 if table in ("flux", "lsun-bedroom") else 2  # of guidance
            assert cell.details["evaluations"] == spec.evaluations(spec.nfe[0])
            assert cell.details["calls"] == doubled * cell.details["evaluations"]
    assert "papers report no such number" in found.notes[-1]


def test_scores_that_come_later_are_measured_alone(
    model_of: Callable[[str], LatentModel], put_solver: Put, tmp_path: Path
) -> None:
    model = model_of("sana")
    model.prepare(range(8))
    options = {"dyweight": MethodOptions("dyweight", 3, 2, False), "spanlift": MethodOptions("spanlift", 3, afs=False)}
    for name, spec in options.items():
        put_solver(model, tmp_path / "solvers" / f"{name}-nfe3", spec)
    first = fill("sana", bench_of(model, tmp_path), tmp_path)
    assert statuses(first["teacher"]) == {"measured"}
    assert statuses(first["image-reward"]) == {"missing"}
    assert first["image-reward"].missing() == ["needs image-reward"]
    assert first["fid"].rows["SpanLift"][0].published == 14.4
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(cells) == 3
    scorer = Brightness()
    second = fill("sana", bench_of(model, tmp_path, {"image-reward": scorer}), tmp_path)
    assert second["teacher"].rows == first["teacher"].rows
    assert statuses(second["image-reward"]) == {"measured"}
    assert scorer.seen == 3 * 6
    assert all(path.stat().st_mtime_ns == time for path, time in cells.items())
    values = [cell.ours.mean for cells in second["image-reward"].rows.values() for cell in cells if cell.ours]
    assert len(set(values)) == 3
    fill("sana", bench_of(model, tmp_path, {"image-reward": scorer}), tmp_path)
    assert scorer.seen == 3 * 6
    assert "images of sana-0.6b; ours are of tiny sana" in second["image-reward"].notes[-1]


def statuses(filled: Filled) -> set[str]:
    return {cell.status for row in filled.rows.values() for cell in row}


def test_a_cell_is_the_distance_to_the_teacher(model_of: Callable[[str], LatentModel], tmp_path: Path) -> None:
    """By hand: the root mean squared difference of latents, its mean over prompts and not over images."""
    model = model_of("flux")
    (cell,) = fill("flux", bench_of(model, tmp_path), tmp_path)["teacher"].rows["iPNDM(2M)"]
    seeds = range(6)
    field, start = model.field(model.labels(seeds)), model.start(seeds)
    solver = core.build_solver("ipndm", order=2)
    few, many = (core.integrate(field, solver, start, model.grid("shifted", steps)).x for steps in (3, 6))
    each = (few - many).double().square().flatten(1).mean(1).sqrt()
    texts = model.texts(seeds)
    assert texts is not None
    by_prompt = [each[[text == one for text in texts]].mean() for one in set(texts)]
    assert cell.ours is not None
    assert cell.ours.mean == pytest.approx(float(torch.stack(by_prompt).mean()), rel=1e-4)


def test_a_solver_of_another_row_or_damaged_fails_its_cells_alone(
    model_of: Callable[[str], LatentModel], put_solver: Put, tmp_path: Path
) -> None:
    model = model_of("sana")
    put_solver(model, tmp_path / "solvers" / "dyweight-nfe3", MethodOptions("ld3", 3))
    cut = put_solver(model, tmp_path / "solvers" / "spanlift-nfe3", MethodOptions("dyweight", 3))
    cut.write_bytes(cut.read_bytes()[:-9])
    found = fill("sana", bench_of(model, tmp_path), tmp_path)
    rows: Mapping[str, tuple[Cell, ...]] = found["teacher"].rows
    assert "expected the solver of 'DyWeight'" in rows["DyWeight"][0].why
    assert "truncated" in rows["SpanLift"][0].why
    assert [rows[label][0].status for label in rows] == ["measured", "failed", "failed"]
    assert found["teacher"].missing() == []


@pytest.mark.parametrize("table", FAMILIES)
def test_recipes_fit_their_family(table: str, model_of: Callable[[str], LatentModel], tmp_path: Path) -> None:
    """The solver of each recipe and its teacher, grids that are searched for included, can be built for such a
    model."""
    model, parser = model_of(table), build_parser(TrainOptions, prog="x", description="x", examples="x")
    names = sorted(path.stem for path in CONFIGS.glob(f"*-{table}-nfe[34578].yaml"))
    assert names
    for name in names[:1] if table == "sd14" else names:  # whose teacher's grid takes seconds to find
        found = vars(parser.parse_args(named_configs(["--config", name], CONFIGS)))
        options = TrainOptions(**{key: value for key, value in found.items() if key != "config"}).resolved(model)
        spec = options.method(model)
        method = build_method(model, spec)
        assert len(method.grid) == options.nfe + options.afs + 1
        pairs = Pairs(model, options.of_pairs(), method, spec, tmp_path / name)
        assert (len(pairs.keys), len(pairs.held_out)) == (options.pairs, options.held_out)


def test_columns_that_count_guidance(model_of: Callable[[str], LatentModel], tmp_path: Path) -> None:
    spec: LatentSpec = LATENT_SPECS["sd15"]
    assert [spec.evaluations(column) for column in spec.nfe] == [4, 6, 8, 10]
    with pytest.raises(UserError, match="multiples of 2 for sd15"):
        fill("sd15", bench_of(model_of("sd15"), tmp_path), tmp_path, (8, 9))


@pytest.mark.parametrize(
    ("recipe", "batch", "message"),
    [
        (QualityRecipe(1, 2), 2, "--samples of at least 2"),
        (QualityRecipe(3, 0), 2, "--blocks of at least 1"),
        (QualityRecipe(3, 2, 1 << 31), 2, "trained on"),
        (QualityRecipe(3, 2), 0, "--batch of at least 1"),
    ],
)
def test_mistakes(
    recipe: QualityRecipe, batch: int, message: str, model_of: Callable[[str], LatentModel], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        LatentBench(model_of("sana"), recipe, batch, TeacherRecipe("ipndm", 6), tmp_path)

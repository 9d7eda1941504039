"""Recipes of the papers: each is read and accepted by the command, and is of what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from apps.imagegen import train
from apps.imagegen.models.latent.catalogue import CATALOGUE
from apps.imagegen.published import load_published
from apps.imagegen.tables.catalogue import LATENT_TABLES, PIXEL_TABLES
from apps.imagegen.tables.latent_lines import LATENT_SPECS
from apps.imagegen.tables.quality import printed
from apps.imagegen.train_options import CONFIGS, TrainOptions, base_first
from data_tools.cli import build_parser, named_configs

RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
PIXELS = ("cifar10", "ffhq", "afhqv2", "imagenet64")
LATENTS = ("sana", "flux", "sd15", "sd14", "imagenet256", "lsun-bedroom")
"""Data in the names of recipes; of latent models also those of tables."""
OF_PROMPTS = ("sana", "flux", "sd15", "sd14")


def data_of(name: str) -> str:
    return next(data for data in (*PIXELS, *LATENTS) if f"-{data}-nfe" in name)


def read(name: str) -> TrainOptions:
    parser = build_parser(TrainOptions, prog="x", description="x", examples="x")
    found = vars(parser.parse_args(named_configs(["--config", name], CONFIGS)))
    return TrainOptions(**{key: value for key, value in found.items() if key != "config"})


def written(name: str) -> dict[str, object]:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


@pytest.mark.parametrize("data", [*PIXELS, *LATENTS])
def test_recipes_are_what_the_command_reads(data: str) -> None:
    """Each parses to options that the command accepts, of the method and calls that its name says."""
    for name in (name for name in RECIPES if data_of(name) == data):
        options = read(name)
        train.check(options)
        method, _, calls = name.rpartition("-nfe")
        assert method.startswith(options.solver)
        assert options.nfe == (2 * int(calls) + 1 if "heun" in name else int(calls))
        assert options.held_out == (400 if method.startswith("s4s") else 64)
        assert options.afs == (not method.startswith("s4s") and data in (*PIXELS, "lsun-bedroom"))
        assert {"model", "solver", "nfe", "loss", "teacher", "pairs", "batch", "iterations"} <= written(name).keys()
        first = base_first(options)
        if options.solver == "spanlift" and options.base == "dyweight":
            assert first is not None
            same = written(f"dyweight-{data}-nfe{3 if data in PIXELS else calls}")
            assert (first.iterations, first.learning_rate) == (same["iterations"], same["learning_rate"])
        else:
            assert first is None


@pytest.mark.parametrize("data", LATENTS)
def test_recipes_of_latent_models_are_those_of_their_tables(data: str) -> None:
    """One model, size, guidance and, of DyWeight and SpanLift, one teacher; prompts are the user's."""
    spec = LATENT_SPECS[data]
    for name in (name for name in RECIPES if data_of(name) == data):
        options, entry = read(name), CATALOGUE[spec.model]
        assert options.model == spec.model
        assert (options.size or entry.size) == (spec.size or entry.size)
        assert (options.guidance or entry.guidance) == (spec.guidance or entry.guidance)
        assert options.prompts is None
        assert (options.train_prompts == options.pairs) == (data in OF_PROMPTS)
        if options.solver != "s4s-alt":
            assert options.teacher == spec.teacher.solver
            assert options.teacher_nfe == spec.teacher.nfe
            assert options.teacher_order == (spec.teacher.order or 1)
        lines = {line.recipe: line for line in spec.lines if line.recipe}
        line = lines[name.rpartition("-nfe")[0]]
        assert (options.solver, options.base) == (line.solver, line.base)
        assert line.analytic(options.nfe) == options.afs


def test_every_line_that_names_a_recipe_of_its_paper_has_it() -> None:
    """But for SpanLift where the paper has no such table: what trains it there is spelt out."""
    for table in LATENTS:
        spec = LATENT_SPECS[table]
        for line in spec.lines:
            for column in spec.nfe:
                calls = line.spent(spec.evaluations(column))
                there = not line.recipe or f"{line.recipe}-nfe{calls}" in RECIPES
                unpublished = line.solver == "spanlift" or (line.solver, calls) == ("s4s-alt", 9)
                assert there or unpublished


def test_published_cells_of_the_papers_own_methods_are_trained_by_recipes() -> None:
    """Of DyWeight and SpanLift, in every table that has a number for them: never by the command's small defaults."""
    published = load_published()
    for table, spec in {**PIXEL_TABLES, **LATENT_TABLES}.items():
        for line in spec.lines:
            recipes = line.recipe and line.solver in ("dyweight", "spanlift")
            for column in spec.nfe if recipes else ():
                if printed(published, spec, line, column):
                    name = f"{line.recipe}-nfe{spec.evaluations(column)}"
                    assert name in RECIPES, f"{line.label} of {table} at {column}"


def test_recipes_cover_the_published_tables() -> None:
    wanted = {f"dyweight-{d}-nfe{n}" for d in PIXELS for n in range(3, 10)}
    wanted |= {f"spanlift-{d}-nfe{n}" for d in PIXELS for n in range(3, 7)}
    wanted |= {f"spanlift-{base}imagenet64-nfe{n}" for base in ("", "euler-", "heun-", "ipndm-") for n in (7, 9, 11)}
    wanted |= {f"s4s-alt-{d}-nfe{n}" for d in ("cifar10", "ffhq", "afhqv2") for n in range(3, 11)}
    wanted |= {
        f"{method}-{d}-nfe{n}" for method in ("dyweight", "spanlift") for d in ("sana", "flux") for n in (3, 5, 7)
    }
    wanted |= {"dyweight-imagenet64-nfe11"}  # beneath SpanLift's table of base solvers
    wanted |= {"dyweight-flux-nfe9", "spanlift-flux-nfe9"}  # DrawBench
    wanted |= {
        f"dyweight-sd15-nfe{n}" for n in (4, 6, 8, 10)
    }  # guided evaluations: half the calls of the paper's table
    wanted |= {f"dyweight-lsun-bedroom-nfe{n}" for n in range(3, 10)}
    wanted |= {f"s4s-alt-{d}-nfe{n}" for d in ("sd14", "imagenet256", "lsun-bedroom") for n in range(3, 9)}
    assert wanted == set(RECIPES)
    assert all(len(line) <= 120 for path in CONFIGS.glob("*.yaml") for line in Path(path).read_text().splitlines())

"""`benchmark --list`: every table with what it takes, seen without loading anything, and every paper's table in one."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from apps.imagegen.benchmark import LATENT_TABLES, PIXEL_TABLES, TABLES, BenchmarkOptions, main
from apps.imagegen.models import ARCHITECTURES
from apps.imagegen.models.latent.catalogue import CATALOGUE
from apps.imagegen.published import load_published
from apps.imagegen.tables.listing import PUBLISHED_FILES, SCORERS, rows_of
from apps.imagegen.tables.sources import COLUMNS, SOURCES
from apps.listing import Reproducible
from data_tools.cli import UserError, build_parser

Cli = Callable[..., subprocess.CompletedProcess[str]]
PUBLISHED = load_published()
ELSEWHERE = {
    ("spanlift", "4"),  # nowcasts
    ("dyweight", "A.1"),  # coefficients of another data set's model: no command samples them
    ("s4s", "6"),  # the joint objective
    ("s4s", "11"),  # weights that sum to 1
}
"""Tables with published numbers that no table of the command follows."""


def listed(solvers: str | None = None) -> dict[str, Reproducible]:
    return {row.name: row for row in rows_of(TABLES, {**PIXEL_TABLES, **LATENT_TABLES}, solvers)}


def test_every_published_table_is_followed_or_is_known_not_to_be() -> None:
    printed = {(row.paper, row.table) for row in PUBLISHED.rows}
    followed = {
        (paper, number) for papers in SOURCES.values() for paper, numbers in papers.items() for number in numbers
    }
    assert followed <= printed
    assert printed - followed == ELSEWHERE
    assert set(SOURCES) == set(TABLES) - {"digits"}
    assert set(COLUMNS) <= set(TABLES)
    assert {spec.data for spec in LATENT_TABLES.values()} <= set(PUBLISHED_FILES)


def test_the_tables_that_are_named_have_rows_of_the_data() -> None:
    """A table that says it follows another has numbers of it, or the same numbers under another one."""
    for name, spec in {**PIXEL_TABLES, **LATENT_TABLES}.items():
        for paper, numbers in SOURCES.get(name, {}).items():
            for number in numbers:
                found = {row.data for row in PUBLISHED.rows if (row.paper, row.table) == (paper, number)}
                assert spec.data in found, f"{name} of {spec.data} follows {paper} {number} of {found}"


def test_commands_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parser = build_parser(BenchmarkOptions, prog="x", description="x", examples="x")
    for name, row in listed().items():
        prefix, _, arguments = row.command.partition(" --")
        assert prefix == "python -m apps.imagegen.benchmark"
        options = parser.parse_args(f"--{arguments}".split())
        assert options.table == name
        model = options.model
        assert model is None or model in CATALOGUE or model.removesuffix(".safetensors") in ARCHITECTURES
        for ingredient in row.ingredients:
            assert ingredient.present or ingredient.where
    assert "--nfe 3,4,5,6,7,8,9" in listed()["cifar10"].command


def test_what_comes_with_the_project_is_present_and_what_arrives_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert listed()["overhead"].ready
    digits = {thing.name: thing for thing in listed()["digits"].ingredients}
    assert digits["model digits"].present
    assert not listed()["cifar10"].ingredients[0].present
    assert listed()["cifar10"].ingredients[0].where.startswith("python -m apps.imagegen.convert edm-cifar10-32x32-un")
    for file in ("cifar10-32x32-uncond-vp.safetensors", "cifar10-32x32.npz"):
        Path(file).touch()
    present = {thing.name for thing in listed()["cifar10"].ingredients if thing.present}
    assert {"model cifar10-32x32-uncond-vp.safetensors", "reference cifar10-32x32.npz"} <= present
    assert all(metric in SCORERS for spec in LATENT_TABLES.values() for metric in spec.metrics if metric != "fid")


def test_files_go_by_their_published_names_and_it_is_said_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lacking = {row: {thing.name: thing.where for thing in listed()[row].ingredients} for row in ("sana", "sd15")}
    images = "hf download playgroundai/MJHQ-30K --repo-type dataset --local-dir . mjhq30k_imgs.zip"
    assert lacking["sana"]["reference mjhq30k_imgs"] == f"{images} && unzip -q mjhq30k_imgs.zip -d mjhq30k_imgs"
    assert lacking["sana"]["prompts meta_data.json"].endswith(" meta_data.json")
    assert "annotations_trainval2014.zip" in lacking["sd15"]["prompts captions_val2014.json"]
    assert "val2014.zip" in lacking["sd15"]["reference val2014"]


def test_prompts_that_nothing_is_trained_on_come_with_those_that_are() -> None:
    row = listed()["flux-drawbench"]
    assert "--prompts drawbench.txt --train_prompts 0" in row.command
    assert any(thing.name == "prompts to train on, captions_val2014.json" for thing in row.ingredients)


def test_trained_solvers_are_counted_where_commands_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def counted(solvers: str | None = None) -> tuple[int, int, bool]:
        thing = listed(solvers)["operators"].ingredients[-1]
        done, wanted = map(int, re.findall(r"\d+", thing.name))
        return done, wanted, thing.present

    assert counted() == (0, 5, False)
    keys = ("dyweight", "spanlift-pointwise", "spanlift", "spanlift-kernel5", "spanlift-kernel7")
    for place, number in (("out/solvers/digits-01234567", 5), ("out/solvers/digits-89abcdef", 2), ("mine", 1)):
        for key in keys[:number]:
            folder = tmp_path / place / f"{key}-nfe5"
            folder.mkdir(parents=True)
            (folder / "solver.safetensors").touch()
    assert counted() == (5, 5, True)
    assert counted("mine") == (1, 5, False)
    digits = [thing.name for thing in listed()["digits"].ingredients][-1]
    assert digits == "trained solvers, 2 of 40"  # ten methods at four counts; DyWeight and SpanLift are there at 5


def test_the_command_lists(run_cli: Cli, tmp_path: Path) -> None:
    done = run_cli("apps.imagegen.benchmark", "--list", "--json", str(tmp_path / "list.json"))
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    for name in TABLES:
        assert f"\n{name}: " in done.stdout
    assert [row["name"] for row in json.loads((tmp_path / "list.json").read_text())] == list(TABLES)


def test_a_list_replaces_a_file_only_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text("precious")
    with pytest.raises(UserError, match="which exists"):
        main(BenchmarkOptions(list=True, json=str(mine)))
    assert mine.read_text() == "precious"
    assert capsys.readouterr().out == ""

"""`evaluate --list`: every table, what it takes, what of that is here, and commands that commands accept."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import core
from apps.listing import Reproducible, show
from apps.nowcast import convert
from apps.nowcast.evaluate import CONFIGS, EvaluateOptions, main
from apps.nowcast.evaluate_options import check as check_evaluation
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.stages.solver import build_corrected
from apps.nowcast.tables.ingredients import Store, Training, command, identity, model_in
from apps.nowcast.tables.listing import tables
from apps.nowcast.tables.papers import CHECKPOINTS, RECIPES
from apps.nowcast.tables.published import TABLE_4
from apps.nowcast.train_options import CONFIGS as RECIPE_FILES
from apps.nowcast.train_options import TrainOptions
from apps.nowcast.train_options import check as check_training
from data_tools import convert as convert_sevir
from data_tools import download, ingest, storms
from data_tools.cli import UserError, _with_flags, build_parser, named_configs

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[3]

COMMANDS: Mapping[str, tuple[type, list[str]]] = {
    "apps.nowcast.evaluate": (EvaluateOptions, []),
    "apps.nowcast.train": (TrainOptions, []),
    "apps.nowcast.convert": (convert.ConvertOptions, ["src", "out"]),
    "data_tools.convert": (convert_sevir.Options, ["src", "out"]),
    "data_tools.download": (download.Options, ["what"]),
    "data_tools.ingest": (ingest.Options, ["src"]),
    "data_tools.storms": (storms.Options, []),
}
"""Module -> its options, and which of them have no flag."""


def parsed(line: str) -> Any:
    """The options of `python -m MODULE ...`, as its own parser reads them."""
    words = shlex.split(line)
    assert words[:2] == ["python", "-m"], line
    options, positional = COMMANDS[words[2]]
    parser = build_parser(options, prog="", description="", examples="", positional=[(p, "") for p in positional])
    folder = RECIPE_FILES if options is TrainOptions else CONFIGS
    namespace = parser.parse_args(_with_flags(options, named_configs(words[3:], folder)))
    return options(**{key: value for key, value in vars(namespace).items() if key != "config"})


def as_a_shell_expands(text: str) -> list[str]:
    """The `python -m` lines of a block of README, with its variables and loops; nothing of it is run."""
    script = 'python() { printf "python"; printf " %q" "$@"; printf "\\n"; }\n' + text
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Reproducible]:
    """Of a folder in which nothing was made yet."""
    monkeypatch.chdir(tmp_path)
    return tables()


def test_every_table_is_there_once(rows: list[Reproducible]) -> None:
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert {"storms", "radar", "peers", "losses", "counts", "condition", "figure7", "prediff"} <= set(names)
    of_table_4 = {row.title for row in rows if row.source == "SpanLift, Table 4"}
    assert {title for title, _ in RECIPES.values()} <= of_table_4
    assert len(of_table_4) == len(TABLE_4) - 1  # the two references share a command


def test_every_command_is_accepted(rows: list[Reproducible]) -> None:
    lines = {row.command for row in rows}
    ways = {each.where for row in rows for each in row.ingredients if each.where.startswith("python ")}
    assert len(lines) == len(rows)
    assert len(ways) > 12
    for line in [*lines, *(part for way in ways for part in way.split(" && "))]:
        options = parsed(line)
        if isinstance(options, TrainOptions):
            check_training(_on_the_cpu(options))
        elif isinstance(options, EvaluateOptions):
            check_evaluation(_on_the_cpu(options))


def _on_the_cpu(options: Any) -> Any:
    """The same without a GPU, which `check` would ask for."""
    return type(options)(**{**vars(options), "device": "cpu"})


def test_own_tables_are_readmes(rows: list[Reproducible]) -> None:
    """Command by command, up to the order of options: README's blocks as a shell expands them."""
    text = (ROOT / "README.md").read_text()
    blocks = [b for b in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "apps.nowcast" in b]
    # variables of one block serve the next, and SHIPPED stands for the folder that its comment names
    script = "\n".join(block for block in blocks if "pip install" not in block)
    said = [parsed(line) for line in as_a_shell_expands("SHIPPED=SHIPPED\n" + script) if "nowcast.evaluate" in line]
    readme = {options.json: options for options in said}
    for row in (each for each in rows if each.name in ("radar", "peers", "losses", "counts")):
        ours = parsed(row.command)
        theirs = vars(readme[ours.json])
        theirs["solver"] = (theirs["solver"] or "").replace("SHIPPED", "apps/nowcast/assets/mini") or None
        assert vars(ours) == theirs, row.name


def test_a_store_is_here_where_it_has_events_of_its_split(store_factory: Callable[..., Path], tmp_path: Path) -> None:
    place = tmp_path / "radar.zarr"
    store = Store(str(place), "python -m data_tools.ingest RADAR")
    assert (store.found().present, store.found().where) == (False, "python -m data_tools.ingest RADAR")
    store_factory(place, {"test": 2, "val": 1})
    assert store.found().present
    assert "2 events" in store.found().where
    lacking = Store(str(place), "", "train").found()
    assert not lacking.present
    assert "no events of split train" in lacking.where
    (place / "zarr.json").write_text("{}")
    assert not store.found().present


def test_a_solver_counts_if_it_is_of_the_training_and_the_model(
    nowcaster: Nowcaster, tiny_model: Path, tmp_path: Path
) -> None:
    training = Training(str(tmp_path / "solver"), {"supervision": "teacher", "loss": "latent=1", "data": "anything"})
    assert training.found(str(tiny_model)).where == (
        f"python -m apps.nowcast.train --supervision teacher --loss latent=1 --data anything --out {training.out}"
    )

    def write(identity: str, **said: str) -> None:
        torch.manual_seed(0)
        solver = build_corrected(TrainOptions(width=8).solver_stage(), nowcaster)
        (tmp_path / "solver").mkdir(exist_ok=True)
        core.save(
            training.out, solver, grid=nowcaster.grid(5), field_identity=identity, supervision="teacher",
            loss="mean", extra={"command": {"supervision": "teacher", **said}},
        )  # fmt: skip

    write(nowcaster.identity, loss="latent=1")
    assert training.found(str(tiny_model)).present
    write(nowcaster.identity, loss="mse=1")
    assert "one of --loss mse=1" in training.found(str(tiny_model)).where
    write("0123456789abcdef", loss="latent=1")
    assert "one of model 0123456789abcdef" in training.found(str(tiny_model)).where
    (tmp_path / "solver" / "solver.safetensors").write_bytes(b"nothing")
    found = training.found(str(tiny_model))
    assert not found.present
    assert "a damaged file" in found.where


def test_a_recipe_says_what_is_learned() -> None:
    learned = Training("out/x", {"data": "d"}, "spanlift-mse-teacher").learned
    assert (learned["loss"], learned["teacher_steps"], learned["steps"]) == ("latent=1", 100, 5)
    assert "data" not in learned
    assert "out" not in learned


def test_a_model_lacks_the_files_that_are_not_there(tiny_model: Path) -> None:
    wanted = {name: f"make {name}" for name in CHECKPOINTS}
    assert model_in(str(tiny_model), wanted).where == "make alignment.safetensors"
    del wanted["alignment.safetensors"]
    assert model_in(str(tiny_model), wanted).present
    assert identity(str(tiny_model)) == Nowcaster.load(tiny_model).identity
    assert identity(str(tiny_model / "nowhere")) is None


def test_a_command_has_its_switches_and_places() -> None:
    assert command("a.b", {"c": 1, "d": True}, "in out") == "python -m a.b in out --c 1 --d"


def test_what_an_earlier_row_lacks_is_told_once(rows: list[Reproducible], capsys: pytest.CaptureFixture[str]) -> None:
    show(rows)
    parts = {part.strip().partition(":")[0]: part for part in capsys.readouterr().out.split("\n\n")[1:]}
    assert "store out/fmi2017.zarr: as for radar\n" in parts["losses"]
    assert "trained solver out/mse:\n         python -m apps.nowcast.train" in parts["losses"]
    assert "python -m data_tools.ingest RADAR/fmi/20170509" in parts["radar"]
    assert "as for" not in parts["radar"]


def test_what_is_lacking_counts_once_in_a_row(rows: list[Reproducible]) -> None:
    for row in rows:
        names = [each.name for each in row.ingredients]
        assert len(set(names)) == len(names), row.name


def test_the_command_lists_and_writes_json(run_cli: Run, tmp_path: Path, rows: list[Reproducible]) -> None:
    path = tmp_path / "list.json"
    done = run_cli("apps.nowcast.evaluate", "--list", "--json", str(path))
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text())
    assert [row["name"] for row in content] == [row.name for row in rows]
    for row in content:
        assert f"\n{row['name']}: " in f"\n{done.stdout}"
        assert row["ready"] == all(each["present"] for each in row["ingredients"])
    assert next(row for row in content if row["name"] == "storms")["ready"]
    with pytest.raises(UserError, match="exists"):
        main(EvaluateOptions(list=True, json=str(path)))


def test_nothing_is_scored_beside_a_list() -> None:
    with pytest.raises(UserError, match=r"expected no --members with --list"):
        main(EvaluateOptions(list=True, members=3))

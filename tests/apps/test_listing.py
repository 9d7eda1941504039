"""Tables with what they take: text that fits a screen, commands that a shell takes back, strict JSON."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.listing import WIDTH, Ingredient, Reproducible, as_json, continued, is_command, show, write
from data_tools.cli import UserError

HERE = Ingredient("model [digits]", True, "comes with the project")
FOUND = Ingredient("reference", True, "")
FETCHED = Ingredient("weights", False, "hf download someone/something")
CONVERTED = Ingredient(
    "a checkpoint", False, f"python -m apps.imagegen.convert edm-{'x' * 40}.pkl {'y' * 30}.safetensors --fast"
)
TOLD = Ingredient("prompts", False, "captions of a data set that has to be asked for, " * 3 + "one a line")
COMMAND = "python -m apps.imagegen.benchmark --table first --model 'my model.safetensors' --nfe 3,4,5 --samples 50000"
ROWS = (
    Reproducible("first", "A table", "SpanLift, Table 1", (HERE, FOUND), "python -m apps.solvers.compare"),
    Reproducible("second", "Another " * 20, "ours", (HERE, FETCHED, CONVERTED, TOLD), f"{COMMAND} --device cuda"),
)


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    text = "\n".join(line.rstrip() for line in lines)
    overview = [line.split() for line in lines[:3]]
    assert overview[0] == ["table", "follows", "here"]
    assert overview[1] == ["first", "SpanLift,", "Table", "1", "all"]
    assert overview[2] == ["second", "ours", "1", "of", "4"]
    assert "first: A table (SpanLift, Table 1)\n  has    model [digits] (comes with the project); reference\n" in text
    assert "  run    python -m apps.solvers.compare\n" in text
    assert "  lacks  weights: hf download someone/something\n" in text
    assert "  lacks  a checkpoint:\n         python -m apps.imagegen.convert" in text
    assert text.count("  lacks  ") == 3


def test_shown_commands_are_those_of_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS[1:])
    shown = capsys.readouterr().out
    run = shown[shown.index("  run") :].removeprefix("  run").replace("\\\n", "")
    assert shlex.split(run) == shlex.split(ROWS[1].command)
    assert shown.count("\\\n") >= 2


def test_what_takes_lines_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    again = replace(ROWS[1], name="third")
    show([*ROWS, again])
    text = capsys.readouterr().out
    assert text.count("apps.imagegen.convert") == 1
    assert "  lacks  a checkpoint: as for second\n" in text
    assert text.count("hf download someone/something") == 2  # a line each
    assert "as for" not in json.dumps(as_json([*ROWS, again]))


WORDS = st.lists(
    st.one_of(
        st.text("abc.-_=,1", min_size=1, max_size=70),
        st.text("ab '", max_size=9).map(shlex.quote),
        st.sampled_from(["--model", "--out", "&&"]),
    ),
    min_size=1,
    max_size=30,
)


@given(WORDS, st.integers(0, 20))
def test_a_shell_reads_the_lines_as_the_command(words: list[str], indent: int) -> None:
    command = " ".join(words)
    lines = continued(command, " " * indent)
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)
    for line in lines:
        assert len(line) <= WIDTH or len(line.rstrip("\\").split()) == 1 or "'" in line


def test_what_is_a_command() -> None:
    assert is_command("pip install -e '.[imagegen]'")
    assert not is_command("pipelines of others")


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    write(ROWS, path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(as_json(ROWS)))
    assert [(row["name"], row["ready"]) for row in content] == [("first", True), ("second", False)]
    assert content[1]["ingredients"][1] == {
        "name": "weights", "present": False, "where": "hf download someone/something",
    }  # fmt: skip
    assert content[1]["command"] == ROWS[1].command
    with pytest.raises(UserError, match=r"list\.json, which exists; add --overwrite"):
        write(ROWS, path)
    write(ROWS[:1], path, overwrite=True)
    assert len(json.loads(path.read_text())) == 1
    with pytest.raises(UserError, match=r"end in \.json"):
        write(ROWS, tmp_path / "list.txt")
    assert [found.name for found in tmp_path.iterdir()] == ["list.json"]

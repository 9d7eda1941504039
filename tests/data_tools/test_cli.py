"""What all commands share: one-line errors, exit codes, switches, YAML configurations."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from data_tools.cli import UserError, beside, check_folder, named_configs, run


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        source: where from.
        kind: which.
        count: how many.
        replace: whether to.
    """

    source: str
    kind: Literal["one", "two"]
    count: int = 3
    replace: bool = False


def call(main, *argv: str) -> None:
    run(
        Options,
        main,
        prog="tool",
        description="Does it.",
        examples="examples:\n  tool A --kind one",
        positional=[("source", "where from")],
        argv=argv,
    )


def test_options_arrive_typed() -> None:
    seen: list[Options] = []
    call(seen.append, "here", "--kind", "two", "--count=5", "--replace")
    assert seen == [Options("here", "two", 5, True)]


@pytest.mark.parametrize(
    ("words", "expected"), [(("--replace", "false"), False), (("--replace=true",), True), ((), False)]
)
def test_switches_stand_alone_or_with_an_answer(words: tuple[str, ...], expected: bool) -> None:
    seen: list[Options] = []
    call(seen.append, "here", "--kind", "two", *words)
    assert seen[0].replace is expected


def test_a_configuration_file_is_read_and_flags_override_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("kind: two\ncount: 9\n")
    seen: list[Options] = []
    call(seen.append, "here", "--config", str(path), "--count", "4")
    assert seen == [Options("here", "two", 4)]


@pytest.mark.parametrize(
    "argv",
    [
        ("here",),
        ("here", "--kind", "three"),
        ("here", "--kind", "one", "--count", "many"),
        ("here", "--kind", "one", "--unknown", "1"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(argv: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        call(lambda options: None, *argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert error.startswith("tool: ")


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture) -> None:
    def main(options: Options) -> None:
        raise UserError("expected this,\n got that")

    with pytest.raises(SystemExit) as stop:
        call(main, "here", "--kind", "one")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "tool: expected this, got that\n"


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT]
)
def test_a_full_or_closed_disk_is_told_in_one_line(number: int, capsys: pytest.CaptureFixture) -> None:
    def main(options: Options) -> None:
        raise OSError(number, "trouble", "/some/file")

    with pytest.raises(SystemExit) as stop:
        call(main, "here", "--kind", "one")
    assert stop.value.code == 2
    assert "/some/file" in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback() -> None:
    def main(options: Options) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        call(main, "here", "--kind", "one")


def test_ctrl_c_ends_with_130() -> None:
    def main(options: Options) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        call(main, "here", "--kind", "one")
    assert stop.value.code == 130


def test_help_shows_the_examples(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        call(lambda options: None, "--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "examples:\n  tool A --kind one" in text
    assert "how many" in text


def test_a_command_line_may_be_empty() -> None:
    @dataclass(frozen=True)
    class Nothing:
        """Options.

        Attributes:
            replace: whether to.
        """

        replace: bool = False

    seen: list[Nothing] = []
    run(Nothing, seen.append, prog="tool", description="Does it.", examples="examples:", argv=[])
    assert seen == [Nothing()]


def test_names_of_configurations_stand_for_their_files(tmp_path: Path) -> None:
    path = tmp_path / "configs/few-steps.yaml"
    path.parent.mkdir()
    path.write_text("kind: two\ncount: 7\n")
    found = named_configs(["--config", "few-steps", "--count", "3"], path.parent)
    assert found == ["--config", str(path), "--count", "3"]
    assert named_configs(["--config=few-steps"], path.parent) == ["--config", str(path)]
    assert named_configs(["--config", "own.yaml", "--out", "--config=x.yaml"], path.parent) == [
        "--config", "own.yaml", "--out", "--config", "x.yaml",
    ]  # fmt: skip
    assert named_configs(["--out", "few-steps"], path.parent) == ["--out", "few-steps"]


def test_a_named_configuration_is_read_and_the_command_line_wins(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "few-steps.yaml").write_text("kind: two\ncount: 7\n")
    seen: list[Options] = []

    def command(*argv: str) -> None:
        run(
            Options, seen.append, prog="tool", description="Does it.", examples="examples:", argv=argv,
            positional=[("source", "where from")], configs=tmp_path,
        )  # fmt: skip

    command("here", "--config", "few-steps")
    command("here", "--config", "few-steps", "--count", "9")
    assert [(o.kind, o.count) for o in seen] == [("two", 7), ("two", 9)]
    with pytest.raises(SystemExit) as stop:
        command("here", "--config", "fewer-steps")
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "tool: expected a YAML file after --config, or one of few-steps; got fewer-steps\n"
    )


def test_a_folder_to_write_to_is_no_file_nor_inside_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_folder(tmp_path)
    check_folder(tmp_path / "new/deeper")
    for place in ("file", "file/deeper/still"):
        with pytest.raises(UserError, match=f"--dest to be a folder, got the file {tmp_path}/file"):
            check_folder(tmp_path / place, "--dest")
    assert not (tmp_path / "new").exists()


def test_outputs_lie_beside_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b.zarr").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b.zarr")

    def named(name: str) -> str:
        return f"{name}.png"

    assert beside(Path("../b.zarr"), named) == Path("../b.zarr.png")
    assert beside(Path("."), named) == tmp_path / "a" / "b.zarr.png"
    assert beside(Path(".."), named) == tmp_path / "a.png"
    with pytest.raises(UserError, match="expected --out, since nothing lies beside /"):
        beside(Path("/"), named)


def test_a_command_runs_where_stderr_is_closed(tmp_path: Path) -> None:
    """As some services start it: `sys.stderr` is None then."""
    small = ["--events", "2", "--patch", "16", "--frames", "2", "--out", str(tmp_path / "a.zarr")]
    line = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "data_tools.storms", *small]
    done = subprocess.run(line, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0
    assert "2 events" in done.stdout


def test_bars_move_in_terminals_alone(tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A notebook says FORCE_COLOR to the commands it runs, and would show every frame of a bar."""
    small = ("--events", "2", "--patch", "16", "--frames", "2", "--out", str(tmp_path / "a.zarr"))
    done = run_cli("data_tools.storms", *small, FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr
    assert done.stderr.count("making storms") == 1

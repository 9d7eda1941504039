"""What every command of the project shares: typed options, one-line errors, exit codes.

A command is a frozen dataclass of options and a function that takes it. `run` builds the parser from the dataclass
(so the types, defaults and help texts stand in one place), adds `--config file.yaml` and `--print_config`, and turns
a user's mistake into one line on stderr and exit code 2.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ActionConfigFile, ArgumentParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Options = TypeVar("Options")

_IN_TERMINAL = sys.stderr is not None and sys.stderr.isatty()  # it is None where a service closed it
console = Console(stderr=True, force_jupyter=False, force_terminal=None if _IN_TERMINAL else False)
"""Where people are talked to. stdout is kept for results.

Bars move in terminals alone: a notebook, which says of itself that it is one, would show every frame of theirs.
"""


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a system says of a full disk, or of a limit that comes to the same."""

UNUSABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ELOOP, errno.ENOENT,
}  # fmt: skip
"""What a system says of a path that a user has to change."""


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: the message says what was expected, what was got, what to
    do."""


class _OneLineParser(ArgumentParser):
    """A parser whose complaint is one line, not a usage screen."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        text = " ".join(str(message).split())
        sys.stderr.write(f"{self.prog}: {text} (see {self.prog} --help)\n")
        raise SystemExit(2)


def progress_bar() -> Progress:
    """A progress bar on stderr; use it for anything that lasts over two seconds."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=False,
    )


def build_parser(
    options: type, *, prog: str, description: str, examples: str, positional: Sequence[tuple[str, str]] = ()
) -> ArgumentParser:
    """The parser of a command.

    `positional` lists (name, help) of the fields of `options` that are given without a flag; they are strings, and
    those with a default may be left out.
    """
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "\n".join(indent + line for line in text.splitlines())  # examples keep their line breaks

    parser = _OneLineParser(prog=prog, description=description, epilog=examples, formatter_class=Formatter)
    parser.add_argument("--config", action=ActionConfigFile, help="read options from this YAML file")
    for name, text in positional:
        if hasattr(options, name):  # a dataclass has its defaults as attributes
            parser.add_argument(name, nargs="?", type=str, default=getattr(options, name), help=text)
        else:
            parser.add_argument(name, type=str, help=text)
    parser.add_class_arguments(options, as_group=False, skip={name for name, _ in positional})
    return parser


def run(
    options: type[Options],
    main: Callable[[Options], None],
    *,
    prog: str,
    description: str,
    examples: str,
    positional: Sequence[tuple[str, str]] = (),
    argv: Sequence[str] | None = None,
    configs: Path | None = None,
) -> None:
    """Parse the command line into `options`, call `main`; exit code 0, 2 (the user's mistake) or 130 (Ctrl-C).

    `configs` is a folder of configurations that come with the command: `--config NAME` takes NAME.yaml of it.
    """
    parser = build_parser(options, prog=prog, description=description, examples=examples, positional=positional)
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        if configs is not None:
            words = named_configs(words, configs)
        namespace: Any = parser.parse_args(_with_flags(options, words))
        values = {key: value for key, value in vars(namespace).items() if key != "config"}
        main(options(**values))
    except UserError as error:
        _complain(prog, str(error))
    except KeyboardInterrupt:
        sys.stderr.write(f"{prog}: interrupted; what was finished is kept\n")
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno in FULL:
            _complain(prog, f"no space left on the device while writing {error.filename or 'the output'}: free some")
        if error.errno in UNUSABLE:
            _complain(prog, f"cannot write or read {error.filename}: {error.strerror}; choose another place")
        raise


def _with_flags(options: type, argv: list[str]) -> list[str]:
    """Let switches stand alone: `--overwrite` for `--overwrite true`."""
    switches = {f"--{name}" for name, kind in get_type_hints(options).items() if kind is bool}
    answers = {"true", "false", "yes", "no"}
    following = [*argv, ""][1:]
    return [
        f"{word}=true" if word in switches and after.lower() not in answers else word
        for word, after in zip(argv, following, strict=True)
    ]


def named_configs(argv: Sequence[str], folder: Path) -> list[str]:
    """The command line with names after --config replaced by the files NAME.yaml of a folder.

    Raises:
        UserError: a name without a suffix that is neither there nor a file.
    """
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    for place, (before, word) in enumerate(zip(["", *words], words, strict=False)):
        named = folder / f"{word}.yaml"
        if before == "--config" and named.is_file():
            words[place] = str(named)
        elif before == "--config" and not Path(word).suffix and not Path(word).exists():
            known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
            raise UserError(f"expected a YAML file after --config, or one of {known}; got {word}")
    return words


def joined(*options: str, argv: Sequence[str] | None = None) -> list[str]:
    """The command line with values that stand apart after these options joined: `--nfe 3 4 5` for `--nfe 3,4,5`."""
    words: list[str] = []
    values = 0  # of the option that the line is at; below 0 it is another
    for word in sys.argv[1:] if argv is None else argv:
        if word.startswith("--"):
            values = 0 if word.removeprefix("--") in options else -1
            words.append(word)
        elif values > 0:
            words[-1] += f",{word}"
        else:
            values += values == 0
            words.append(word)
    return words


def check_outputs(paths: Sequence[Path], overwrite: bool) -> None:
    """Refuse outputs that exist, unless they may be replaced, and such as cannot be written.

    Raises:
        UserError: a path exists, is a folder, lies inside a file, or is given twice.
    """
    if len(set(paths)) < len(paths):
        raise UserError(f"expected a file of its own for each output, got {paths[0]} twice")
    for path in paths:
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if not above.is_dir():
            raise UserError(f"expected a folder above the output {path}, got the file {above}")
        if path.is_dir():
            raise UserError(f"expected a file name for the output, got the folder {path}")
        if path.exists() and not overwrite:
            raise UserError(f"expected a new file, got {path}, which exists; add --overwrite or choose another name")


def beside(source: Path, name: Callable[[str], str]) -> Path:
    """The output next to `source` that is called `name` of its name; `source` may be the folder one is in.

    Raises:
        UserError: nothing lies next to a root.
    """
    place = source if source.name not in {"", ".."} else source.resolve()
    if not place.name:
        raise UserError(f"expected --out, since nothing lies beside {source}; name a file")
    return place.with_name(name(source.resolve().name))


def check_folder(out: Path, option: str = "--out") -> None:
    """Refuse an output folder that cannot be made because a file is in its place, or above it.

    Raises:
        UserError: it is a file, or lies inside one.
    """
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not place.is_dir():
        raise UserError(f"expected {option} to be a folder, got the file {place}; choose another name")


def _complain(prog: str, message: str) -> None:
    sys.stderr.write(f"{prog}: {' '.join(message.split())}\n")
    raise SystemExit(2)

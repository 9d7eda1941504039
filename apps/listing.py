"""What `--list` of a command shows: tables and figures that it makes, what each takes, and what of that is here."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.fitting import write_atomically
from data_tools.cli import UserError, check_outputs

WIDTH = 100
"""Columns of text."""
INDENT = "  "
LABELS = ("has", "lacks", "run")
GUTTER = INDENT + " " * (max(map(len, LABELS)) + 2)
"""What stands before the text of a line, beneath its label."""


@dataclass(frozen=True)
class Ingredient:
    """Something that a table takes.

    Attributes:
        name: what it is, such as "model" or "trained solvers, 3 of 40".
        present: whether all of it is here.
        where: the place where it was found, or how to get it: a command, or a few words; may be empty where it is
            present.
    """

    name: str
    present: bool
    where: str


@dataclass(frozen=True)
class Reproducible:
    """A table or figure.

    Attributes:
        name: what the command calls it.
        title: what it shows.
        source: the paper and number that it follows, or "ours".
        ingredients: all that it takes beside this project.
        command: what makes it, ready to be copied.
    """

    name: str
    title: str
    source: str
    ingredients: tuple[Ingredient, ...]
    command: str

    @property
    def ready(self) -> bool:
        """Whether everything is here."""
        return all(ingredient.present for ingredient in self.ingredients)


def show(rows: Sequence[Reproducible]) -> None:
    """Print on stdout, in at most 100 columns: a line for each row with how much of it is here, then of each what is
    here, what is lacking and how to get it, and the command. A long command goes on over lines as a shell takes it."""
    screen = Console(width=WIDTH)
    table = Table(box=None, pad_edge=False, width=WIDTH)
    for heading, ratio in (("table", None), ("follows", 1), ("here", None)):
        table.add_column(heading, ratio=ratio, no_wrap=ratio is None)
    for row in rows:
        here = sum(ingredient.present for ingredient in row.ingredients)
        table.add_row(*map(escape, (row.name, row.source, "all" if row.ready else f"{here} of {len(row.ingredients)}")))
    screen.print(table, highlight=False)
    for row in _told_once(rows):
        screen.print()
        for line in _heading(row):
            screen.print(line, style="bold", markup=False, highlight=False, soft_wrap=True)
        for line in _body(row):
            screen.print(line, markup=False, highlight=False, soft_wrap=True)


def as_json(rows: Sequence[Reproducible]) -> list[dict[str, Any]]:
    """Each row as JSON: its fields and `ready`."""
    return [asdict(row) | {"ready": row.ready} for row in rows]


def write(rows: Sequence[Reproducible], path: Path, overwrite: bool = False) -> None:
    """Write the rows as JSON, whole or not at all.

    Raises:
        UserError: a name that does not end in .json, a place that cannot be written, or a file that is there and may
            not be replaced.
    """
    if path.suffix != ".json":
        raise UserError(f"expected --json to end in .json, got {path}; change its name")
    check_outputs([path], overwrite)
    text = json.dumps(as_json(rows), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _told_once(rows: Sequence[Reproducible]) -> list[Reproducible]:
    """The rows with what takes lines to say of an ingredient said where it is first lacking, and named after."""
    first: dict[Ingredient, str] = {}
    short = []
    for row in rows:
        needs = []
        for thing in row.ingredients:
            known = first.setdefault(thing, row.name)
            again = known != row.name and len(_lacking(thing)) > 1
            needs.append(replace(thing, where=f"as for {known}") if again and not thing.present else thing)
        short.append(replace(row, ingredients=tuple(needs)))
    return short


def _heading(row: Reproducible) -> list[str]:
    text = f"{row.name}: {row.title} ({row.source})"
    return textwrap.wrap(text, WIDTH, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)


def _body(row: Reproducible) -> list[str]:
    present = [ingredient for ingredient in row.ingredients if ingredient.present]
    lines = []
    if present:
        names = [f"{thing.name} ({thing.where})" if thing.where else thing.name for thing in present]
        lines += _labelled("has", "; ".join(names))
    lines += [line for thing in row.ingredients if not thing.present for line in _lacking(thing)]
    run = continued(row.command, GUTTER)
    return [*lines, _beside("run", run[0]), *run[1:]]


def _lacking(thing: Ingredient) -> list[str]:
    """In one line where it fits; commands are never cut as prose is."""
    text = f"{thing.name}: {thing.where}"
    if len(GUTTER + text) <= WIDTH or not is_command(thing.where):
        return _labelled("lacks", text)
    return [*_labelled("lacks", f"{thing.name}:"), *continued(thing.where, GUTTER)]


def _labelled(label: str, text: str) -> list[str]:
    width = WIDTH - len(GUTTER)
    wrapped = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [_beside(label, GUTTER + wrapped[0]), *(GUTTER + line for line in wrapped[1:])]


def _beside(label: str, line: str) -> str:
    """A line with its label in the gutter."""
    return (INDENT + label).ljust(len(GUTTER)) + line[len(GUTTER) :]


def is_command(text: str) -> bool:
    """Whether a text is something to type."""
    return text.startswith(("python ", "pip ", "hf "))


def continued(command: str, indent: str) -> list[str]:
    r"""A command as lines that a shell reads as one, each but the last with `\` at its end: broken before options where
    that will do. A line is longer than 100 columns only where a single word is."""
    lines = [indent]
    for piece in _pieces(command):
        for part in [piece] if len(indent + INDENT + piece) < WIDTH else [f"{word} " for word in _words(piece)]:
            if lines[-1].strip() and len(f"{lines[-1]}{part}\\") > WIDTH:
                lines.append(indent + INDENT)
            lines[-1] += part
    return [f"{line}\\" for line in lines[:-1]] + [lines[-1].rstrip()]


def _words(command: str) -> list[str]:
    """What a shell splits it into, with their quotes."""
    return re.findall(r"""(?:[^\s'"]|'[^']*'|"[^"]*"|['"])+""", command)


def _pieces(command: str) -> list[str]:
    """An option with its values, or what stands before the first, each with a space behind it."""
    pieces: list[str] = []
    for word in _words(command):
        if not pieces or word.startswith("--") or word in ("&&", "||", "|"):
            pieces.append("")
        pieces[-1] += f"{word} "
    return pieces

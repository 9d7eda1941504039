"""Prompts from files, split into those that solvers train on and those that evaluation sees.

The split depends on a prompt's text (of COCO's captions on their image, so that none is on both sides) and a seed
alone: the order of the file does not matter, and prompts that are added move few others. SpanLift splits MJHQ-30K into
5,000 for training and 25,000 for evaluation (Experiments).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.cli import UserError

LONGEST = 20_000
"""Characters of a prompt; no text encoder reads as many."""
LARGEST = 1 << 29
"""Bytes of a file of prompts."""
COLUMNS = ("prompt", "caption")
"""Names of the column of a table that holds the prompts."""
SHARE = 6
"""One prompt of so many is trained on where no number is given."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Texts, split.

    Attributes:
        train: that solvers are trained on; () where there are none, e.g. a benchmark that only evaluates.
        evaluation: that pairs are held out with, and that samples and scores are of.
        name: of the file.
        fingerprint: SHA-256 of both lists.
        ids: text -> the name that its file knows it by (MJHQ-30K: the stem of its reference image), where there is one.
    """

    train: tuple[str, ...]
    evaluation: tuple[str, ...]
    name: str
    fingerprint: str
    ids: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def all(self) -> tuple[str, ...]:
        """train + evaluation; a row of labels is a place in it."""
        return self.train + self.evaluation

    def row(self, index: int, train: bool = False) -> int:
        """Place in `all` of the prompt of an index >= 0, counted round: of the evaluation's, or the training's.

        Raises:
            UserError: there are no prompts to train on.
        """
        if not train:
            return len(self.train) + index % len(self.evaluation)
        if not self.train:
            raise UserError(
                f"expected prompts to train on in {self.name}, got {len(self.evaluation)} that are all for evaluation; "
                "raise --train_prompts or give more --prompts"
            )
        return index % len(self.train)


def load_prompts(path: str | Path, train: int | None = None, seed: int = 0) -> Prompts:
    """The prompts of a file, each text once, split.

    Args:
        path: .txt, one prompt a line; .json, a list of texts, MJHQ-30K's meta_data.json ({id: {"prompt": ...}}) or
            COCO's captions ({"annotations": [{"caption": ...}]}); .csv or .tsv with a column `prompt` or `caption`.
            UTF-8; blank prompts are dropped, and space around them.
        train: how many are trained on, 0 for none; a sixth, rounded down, where None.
        seed: of the split: by the SHA-256 of "seed/prompt", the first `train` are trained on. COCO's captions go
            by that of their image; what is left of an image whose captions are trained on is evaluated nowhere.

    Raises:
        UserError: no such file, another kind of file or one that is damaged, no prompts, or too few for `train`.
    """
    path = Path(path)
    found = _read(path)
    if not found:
        raise UserError(f"expected prompts in {path}, got none; give one a line, or a JSON list of texts")
    count = len(found) // SHARE if train is None else train
    if not 0 <= count < len(found):
        raise UserError(
            f"expected --train_prompts from 0 to {len(found) - 1} for the {len(found)} prompts of {path}, so that some "
            f"are left to evaluate, got {train}; change it or give more --prompts"
        )
    ordered = sorted(found.items(), key=lambda item: (_hash(seed, item[1].image or item[0]), _hash(seed, item[0])))
    chosen = tuple(text for text, _ in ordered[:count])
    seen = {entry.image for _, entry in ordered[:count]} - {""}
    rest = tuple(text for text, entry in ordered[count:] if entry.image not in seen)
    if not rest:
        raise UserError(
            f"expected prompts of other images to evaluate, got {path}, whose {len(found)} captions are all of the "
            f"{len(seen)} images that {count} of them train; lower --train_prompts"
        )
    digest = hashlib.sha256(json.dumps([chosen, rest]).encode()).hexdigest()
    return Prompts(chosen, rest, path.name, digest, {text: entry.id for text, entry in found.items() if entry.id})


def _hash(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}/{text}".encode()).digest()


class _Entry(NamedTuple):
    """A prompt, what its file knows it by, and the image it describes among others ("" where they have none)."""

    prompt: str
    id: str = ""
    image: str = ""


def _read(path: Path) -> dict[str, _Entry]:
    """Text -> its first entry, in the order of the file."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"expected prompts in a file {', '.join(_READERS)}, got {path}; save them as one of these")
    if not path.is_file():
        raise UserError(f"expected a file of prompts, got {path}, which is none; check --prompts")
    if path.stat().st_size > LARGEST:
        raise UserError(f"expected prompts of at most {LARGEST >> 20} MiB, got a larger file {path}; check --prompts")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"expected UTF-8 in {path}, got another encoding at byte {error.start}; save it again"
        ) from None
    found: dict[str, _Entry] = {}
    for index, entry in enumerate(reader(text, path)):
        _check(entry.prompt, f"prompt {index + 1} of {path}")
        if entry.prompt.strip():
            found.setdefault(entry.prompt.strip(), entry)
    return found


def _check(prompt: str, place: str) -> None:
    if len(prompt) > LONGEST:
        raise UserError(f"expected prompts of at most {LONGEST} characters, got {len(prompt)} in {place}; shorten it")
    if "\0" in prompt:
        raise UserError(f"expected text, got a NUL character in {place}; the file is damaged or no text")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):  # JSON can spell halves of characters
        raise UserError(f"expected text, got half of a surrogate pair in {place}; save it again as UTF-8")


Found = Iterator[_Entry]


def _lines(text: str, path: Path) -> Found:
    del path
    return (_Entry(line) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))


def _json(text: str, path: Path) -> Found:
    wanted = 'a list of texts, {"id": {"prompt": ...}} or {"annotations": [{"caption": ...}]}'
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected JSON in {path}, got something else ({error}); save it again") from None
    if isinstance(values, Mapping) and isinstance(values.get("annotations"), list):
        entries = [(_named(value), "", _image(value)) for value in values["annotations"]]
    elif isinstance(values, Mapping):
        entries = [(_named(value), str(key), "") for key, value in values.items()]
    else:
        entries = [(value, "", "") for value in (values if isinstance(values, list) else [None])]
    for index, (prompt, identifier, image) in enumerate(entries):
        if not isinstance(prompt, str):
            raise UserError(f"expected {wanted} in {path}, got something else at entry {index + 1}; change the file")
        yield _Entry(prompt, identifier, image)


def _image(value: Any) -> str:
    """Of one of COCO's captions, of which each image has five."""
    known = value.get("image_id") if isinstance(value, Mapping) else None
    return f"image {known}" if isinstance(known, (int, str)) else ""


def _named(value: Any) -> Any:
    """The prompt of an object, None where it has none."""
    named = [value[name] for name in COLUMNS if name in value] if isinstance(value, Mapping) else []
    return named[0] if named else None


def _table(delimiter: str) -> Callable[[str, Path], Found]:
    def read(text: str, path: Path) -> Found:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            header = [name.strip().lower() for name in next(rows, [])]
            place = next((header.index(name) for name in COLUMNS if name in header), None)
            if place is None:
                raise UserError(
                    f"expected a column {' or '.join(COLUMNS)} in {path}, got {', '.join(header)[:200] or 'none'}; "
                    "name the column of the prompts so"
                )
            for row in rows:
                if row and len(row) != len(header):
                    raise UserError(
                        f"expected {len(header)} columns at line {rows.line_num} of {path}, got {len(row)}; quote "
                        "prompts that contain the separator"
                    )
                if row:
                    yield _Entry(row[place])
        except csv.Error as error:
            raise UserError(f"expected a table in {path}, got {error} at line {rows.line_num}; save it again") from None

    return read


_READERS: dict[str, Callable[[str, Path], Found]] = {
    ".txt": _lines,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
}

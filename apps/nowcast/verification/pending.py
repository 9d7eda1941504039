"""Events of a method that is not finished: a file each, so that nothing that was computed is computed again."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.fitting import write_atomically

_NFE = "evaluations of a member"
"""Among the arrays of an event's file; no statistic has spaces in its name."""


def slug(label: str) -> str:
    """A folder's name for a label; different ones for different labels."""
    plain = re.sub(r"[^A-Za-z0-9.+]+", "-", label).strip("-.")
    return plain if plain == label else f"{plain}-{hashlib.sha256(label.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Pending:
    """The files of one method, in `folder`."""

    folder: Path

    def describe(self, description: Mapping[str, Any]) -> Mapping[str, Any]:
        """The description of the method whose events are here; from now on this one where there was none."""
        place = self.folder / "method.json"
        if not place.is_file():
            text = json.dumps(dict(description), indent=1, sort_keys=True)
            write_atomically(place, lambda part: part.write_text(text))
        try:
            return json.loads(place.read_text())
        except ValueError:  # a hand has been at it
            return {}

    def _file(self, number: int) -> Path:
        return self.folder / f"event-{number:07d}.npz"

    def done(self) -> set[int]:
        """The events that are here."""
        return {int(path.stem.removeprefix("event-")) for path in self.folder.glob("event-*.npz")}

    def put(self, number: int, statistics: Mapping[str, np.ndarray], nfe: int) -> None:
        """Keep the statistics of an event."""
        arrays = {**statistics, _NFE: np.array(nfe)}
        write_atomically(self._file(number), lambda part: _save(part, arrays))

    def get(self, number: int) -> dict[str, np.ndarray] | None:
        """The statistics of an event; None, and its file goes, where that is damaged or not there."""
        arrays = self._read(self._file(number))
        if arrays is not None:
            arrays.pop(_NFE, None)
        return arrays

    def nfe(self) -> int:
        """Network evaluations of a member."""
        arrays = self._read(self._file(0)) or {}
        return int(arrays.get(_NFE, np.array(0)))

    def put_picture(self, forecast: np.ndarray) -> None:
        """Keep the forecast (members, leads, y, x) of the event that is drawn."""
        write_atomically(self.folder / "picture.npz", lambda part: _save(part, {"forecast": forecast}))

    def picture(self) -> np.ndarray:
        """What `put_picture` kept; no members where it was not called."""
        arrays = self._read(self.folder / "picture.npz")
        return np.empty((0, 0, 0, 0), np.float32) if arrays is None else arrays["forecast"]

    def _read(self, path: Path) -> dict[str, np.ndarray] | None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)
            return None


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # savez would add a suffix to a name
        np.savez(file, **arrays)  # type: ignore[arg-type]

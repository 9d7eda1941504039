"""Finished cells on disk. A cell is found by what it is a result of, so that nothing stale is ever shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.fitting import write_atomically
from data_tools.cli import UserError

Result = Mapping[str, Any]
"""What a cell measured: JSON."""
DIGITS = 10


@dataclass(frozen=True)
class Store:
    """A folder of cells, `NAME-HASH.json` with the hash that of the identity.

    Attributes:
        folder: made when the first cell is written.
    """

    folder: Path

    def path(self, name: str, identity: Mapping[str, Any]) -> Path:
        """Where the cell of this identity is or will be; `name` is for people."""
        text = json.dumps(identity, sort_keys=True, allow_nan=False)
        return self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}.json"

    def read(self, name: str, identity: Mapping[str, Any]) -> Result | None:
        """The result of a finished cell, None where there is none.

        Raises:
            UserError: the file is damaged or of another identity.
        """
        path = self.path(name, identity)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found, result = content["identity"], content["result"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"expected a finished cell in {path}, got a damaged file; remove it") from error
        # through JSON, where tuples are lists
        if found != json.loads(json.dumps(identity)) or not isinstance(result, dict):
            raise UserError(f"expected the cell of {identity} in {path}, got that of {found}; remove it")
        return result

    def write(self, name: str, identity: Mapping[str, Any], result: Result) -> Path:
        """Keep a result, whole or not at all; what is not a finite number does not pass.

        Raises:
            ValueError: a result with NaN or infinity.
        """
        path = self.path(name, identity)
        content = {"identity": identity, "result": result}
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return path

    def fill(self, name: str, identity: Mapping[str, Any], make: Callable[[], Result]) -> Result:
        """The finished cell, or the one that `make` measures now and that is kept."""
        found = self.read(name, identity)
        if found is None:
            self.write(name, identity, make())
            found = self.read(name, identity)
            assert found is not None
        return found

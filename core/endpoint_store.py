"""Endpoints by key on disk: a Zarr store that a killed run leaves valid and the next one goes on with.

    zarr.json      attributes: format, identity
    endpoint       (rows, *shape), one chunk a row
    key            (rows,) what each row belongs to
    written        (rows,) set last: a row without it counts as empty

Zarr puts every file in place by renaming it, so that a kill leaves whole chunks or none. Each one carries a CRC-32C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.codecs import Crc32cCodec

FORMAT = "spanlift-endpoints"
KEPT_BYTES = 1 << 26
"""Endpoints that are smaller together are read once and kept: a training run draws each of them many times."""

_INDEX_CHUNK = 4096  # keys and flags a file
_ARRAYS = ("endpoint", "key", "written")  # a row has a flag only where it has the others


class EndpointStore:
    """A mapping of keys to tensors of one shape and type, appended to and never changed.

    Args:
        directory: made where it is not there.
        identity: JSON; what the endpoints depend on.

    Raises:
        ValueError: the folder holds something else, or endpoints of another identity.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any]) -> None:
        self.directory = directory
        self._group = self._open(identity)
        self._rows: dict[str, int] = {}
        self._used = 0
        self._kept: np.ndarray | None = None
        self._arrays: dict[str, Any] = {}
        self._read_index()

    def _open(self, identity: Mapping[str, Any]) -> zarr.Group:
        path = str(self.directory)
        if not self.directory.exists() or (self.directory.is_dir() and all(map(_torn, self.directory.iterdir()))):
            attributes = {"format": FORMAT, "identity": dict(identity)}
            return zarr.create_group(path, zarr_format=3, attributes=attributes)
        try:
            group = zarr.open_group(path, mode="r+", zarr_format=3)
            found: Any = group.attrs["identity"]
            if group.attrs["format"] != FORMAT or not isinstance(found, dict):
                raise KeyError(FORMAT)
        except Exception as error:  # whatever a folder of something else makes Zarr say
            raise ValueError(
                f"expected a store of endpoints in {path}, got something else or a damaged one "
                f"({type(error).__name__}); choose another folder or remove it"
            ) from error
        different = sorted(key for key in {*found, *identity} if found.get(key) != identity.get(key))
        if different:
            raise ValueError(
                f"expected rollouts of this teacher in {path}, got another's "
                f"(different: {', '.join(different)}); choose another folder or remove it"
            )
        return group

    def _read_index(self) -> None:
        try:
            self._arrays = {name: self._group[name] for name in _ARRAYS if name in self._group}
            if len(self._arrays) < len(_ARRAYS):  # killed while it made them
                return
            rows = np.flatnonzero(self._arrays["written"][...])
            keys = self._arrays["key"][...][rows]
        except Exception as error:  # each codec has errors of its own
            raise self._damaged("its index") from error
        self._rows = {str(key): int(row) for key, row in zip(keys, rows, strict=True)}
        if len(self._rows) < len(rows):  # lost keys read as equal ones
            raise self._damaged("its index")
        self._used = int(rows[-1]) + 1 if len(rows) else 0

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"expected {self.directory} whole, got {what} damaged or lost; remove the folder")

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def reserve(self, count: int, endpoint: Tensor) -> None:
        """Make room for `count` more endpoints, all like `endpoint` (*shape).

        Raises:
            ValueError: those that are there have another shape or type.
        """
        like = endpoint.numpy()
        if not self._rows:
            for name, array in (("endpoint", like), ("key", None), ("written", np.empty((), bool))):
                self._create(name, array)
        array = self._arrays["endpoint"]
        if (array.shape[1:], array.dtype) != (like.shape, like.dtype):
            raise ValueError(
                f"expected endpoints of shape {array.shape[1:]} and {array.dtype} in {self.directory}, "
                f"got {like.shape} and {like.dtype}; choose another folder"
            )
        for name in _ARRAYS:
            array = self._arrays[name]
            array.resize((max(self._used + count, array.shape[0]), *array.shape[1:]))

    def _create(self, name: str, like: np.ndarray | None) -> None:
        shape, dtype = ((), "string") if like is None else (like.shape, like.dtype)
        self._arrays[name] = self._group.create_array(
            name,
            shape=(0, *shape),
            chunks=(1 if name == "endpoint" else _INDEX_CHUNK, *shape),
            dtype=dtype,
            fill_value={"endpoint": np.nan, "key": "", "written": False}[name],  # a lost chunk is no endpoint
            compressors=Crc32cCodec(),
            chunk_key_encoding={"name": "default", "separator": "."},
            config={"write_empty_chunks": True},
            overwrite=True,
        )

    def append(self, keys: Sequence[str], endpoints: Tensor) -> None:
        """Keep the endpoints (len(keys), *shape) of new keys, for which there is room."""
        rows = slice(self._used, self._used + len(keys))
        self._arrays["endpoint"][rows] = endpoints.numpy()
        self._arrays["key"][rows] = np.array(keys, dtype=object)
        self._arrays["written"][rows] = np.ones(len(keys), bool)
        self._rows.update({key: self._used + index for index, key in enumerate(keys)})
        self._used += len(keys)
        self._kept = None

    def read(self, keys: Sequence[str]) -> Tensor:
        """Endpoints (len(keys), *shape) of these keys, in their order; no others are held unless all are small.

        Raises:
            ValueError: a chunk is damaged or lost.
        """
        rows = np.array([self._rows[key] for key in keys])
        array = self._arrays["endpoint"]
        try:
            if self._kept is None and array.nbytes <= KEPT_BYTES:
                self._kept = array[: self._used]
            found = self._kept[rows] if self._kept is not None else array.oindex[rows]
        except Exception as error:  # each codec has errors of its own
            raise self._damaged("an endpoint") from error
        if np.isnan(found).any():
            raise self._damaged("an endpoint")
        return torch.from_numpy(found)


def _torn(path: Path) -> bool:
    """Whether it is what a kill left of a file that Zarr was writing."""
    return path.suffix == ".partial"

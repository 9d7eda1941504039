"""Other people's checkpoints, read without running anything of theirs: pickles, torch files old and new, safetensors.

Formats: a plain pickle, as NVIDIA's and DyWeight's networks are; torch's archive (a zip of one pickle and the storages)
and torch's file before that (several pickles, then the storages). The pickles go through `core.inert_pickle`.
"""

from __future__ import annotations

import errno
import io
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.inert_objects import DTYPES, STORAGES, Array, ArrayType, Budget, Name, Refused, Storage, View
from core.inert_pickle import Machine

MAGIC = 0x1950A86A20F9469CFC6C
MAGIC_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickle of the number that torch's old files begin with."""
OLD_VERSION = 1001
ZIP_MAGIC = b"PK\x03\x04"
DEEPEST = 100
MOST_DIMENSIONS = 64
NUMBERS = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")
"""numpy dtypes that are read."""
DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
"""What reading a damaged file may end in."""


def read_foreign_pickle(path: str | Path) -> Any:
    """What a pickle or a torch file holds: nested plain dicts (lists, tuples, sets) of tensors and scalars.

    Nothing of the file is imported or called. Persistent objects of NVIDIA's tools and modules of torch become the
    dicts of their state, embedded source is not looked at, numpy arrays become tensors, functions a mere mention of
    `solvers.*` their name. Tensors of one storage share memory. What is made is bounded by a multiple of the file's
    size.

    Args:
        path: of the file; its name tells nothing.

    Raises:
        ValueError: no such file; one that asks for anything else, with the name of it; a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected a checkpoint, got no file {path}; correct the path")
    budget = Budget(path.stat().st_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in names that are odd: they will be refused
            return _plain(_tree(path, budget), budget, DEEPEST)
    except Refused as refused:
        raise ValueError(
            f"expected tensors alone, got {path}, which asks for {refused}; "
            "convert it where its code is at home and can be trusted"
        ) from None
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # an offset before the file is damage too
            raise
        raise ValueError(f"expected a checkpoint, got {path}, truncated or foreign; get it again") from error


def read_foreign_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of somebody else's checkpoint, by name: safetensors, or what `read_foreign_pickle` reads.

    A state dict nested under "state_dict", "model" or "module" is found there.

    Raises:
        ValueError: not such a file.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except SafetensorError as error:
            raise ValueError(
                f"expected safetensors, got {path}, truncated or foreign ({error}); get it again"
            ) from error
    content = read_foreign_pickle(path)
    for name in ("state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"expected a mapping of names to tensors in {path}, got {type(content).__name__} with other things; "
            "save the state_dict alone"
        )
    return dict(content)


def module_tensors(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of a pickled module by the names of its state dict.

    Args:
        state: of the module, as `read_foreign_pickle` gives it: `_parameters`, `_buffers`, `_modules`.
        prefix: of the names.
    """
    own = {**state.get("_parameters", {}), **state.get("_buffers", {})}
    hidden = state.get("_non_persistent_buffers_set", ())
    found = {prefix + name: value for name, value in own.items() if isinstance(value, Tensor) and name not in hidden}
    for name, module in state.get("_modules", {}).items():
        if isinstance(module, Mapping):
            found |= module_tensors(module, f"{prefix}{name}.")
    return found


def _tree(path: Path, budget: Budget) -> Any:
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            return _archive(path, budget)
    content = path.read_bytes()
    if content.startswith(MAGIC_PICKLE):
        return _old_file(content, budget)
    return Machine(budget, embedded=lambda inner: _embedded(inner, budget)).run(io.BytesIO(content))


def _embedded(content: bytes, budget: Budget) -> Storage:
    """The storage that a torch file within a pickle holds."""
    storage = _old_file(content, budget, outermost=False)
    if not isinstance(storage, Storage):
        raise Refused("a torch file that is no storage in place of one")
    return storage


def _old_file(content: bytes, budget: Budget, outermost: bool = True) -> Any:
    """torch's format before archives: magic number, version, machine, tree, names of storages, storages."""
    stream = io.BytesIO(content)
    storages: dict[str, Storage] = {}
    header = Machine(budget)
    if header.run(stream) != MAGIC or header.run(stream) != OLD_VERSION:
        raise ValueError("not torch's old format")
    _check_order(header.run(stream)["little_endian"])

    def storage(identity: Any) -> Storage:
        key, made = _declared(identity)
        return storages.setdefault(key, made)

    machine = Machine(budget, storage)
    if outermost:
        machine.embedded = lambda inner: _embedded(inner, budget)
    tree = machine.run(stream)
    for key in header.run(stream):
        wanted, count = storages[key], int.from_bytes(stream.read(8), "little")
        _fill(wanted, count, stream.read(wanted.count * wanted.dtype.itemsize), budget)
    return tree


def _archive(path: Path, budget: Budget) -> Any:
    """torch's format since 1.6: a zip, not compressed, of data.pkl and data/<key>."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            raise Refused("compressed storages, which torch does not write")
        budget.spend(sum(entry.file_size for entry in entries))
        names = [entry.filename for entry in entries]
        (root,) = [name.removesuffix("data.pkl") for name in names if re.fullmatch(r"([^/]*/)?data\.pkl", name)]
        if f"{root}byteorder" in names:
            _check_order(archive.read(f"{root}byteorder") == b"little")
        storages: dict[str, Storage] = {}

        def storage(identity: Any) -> Storage:
            key, made = _declared(identity)
            if key not in storages:
                raw = archive.read(f"{root}data/{key}")
                _fill(made, len(raw) // made.dtype.itemsize, raw, budget)
                storages[key] = made
            return storages[key]

        machine = Machine(budget, storage, lambda inner: _embedded(inner, budget))
        return machine.run(io.BytesIO(archive.read(f"{root}data.pkl")))


def _check_order(little: Any) -> None:
    if little is not True:
        raise Refused("the byte order of another machine")


def _declared(identity: Any) -> tuple[str, Storage]:
    """Key and storage of a persistent id ("storage", type, key, location, count[, view])."""
    tag, kind, key, _, count, *view = identity
    if tag != "storage" or not isinstance(kind, Name) or kind.text not in STORAGES or not isinstance(key, str):
        raise Refused(f"a persistent object that is no storage{f': {kind.text}' if isinstance(kind, Name) else ''}")
    if view not in ([], [None]):
        raise Refused("a view of a storage, which torch no longer writes")
    if not isinstance(count, int) or count < 0:
        raise ValueError("a storage without a size")
    return key, Storage(STORAGES[kind.text], count)


def _fill(storage: Storage, count: int, raw: bytes, budget: Budget) -> None:
    if count != storage.count or len(raw) != count * storage.dtype.itemsize:
        raise ValueError("a storage of another size than declared")
    budget.spend(len(raw))
    storage.raw = raw


def _plain(value: Any, budget: Budget, depth: int) -> Any:
    """The tree with its inert nodes replaced by tensors and plain values.

    What the file mentions twice is spent twice: a structure that refers to itself, or multiplies itself, ends.
    """
    budget.spend(1)
    if depth == 0:
        raise Refused(f"a structure more than {DEEPEST} deep")
    if isinstance(value, dict):
        return {key: _plain(item, budget, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, budget, depth - 1) for item in value)
    if isinstance(value, set):
        budget.spend(len(value))
        return set(value)
    if isinstance(value, View):
        return _tensor(value)
    if isinstance(value, Storage):
        return _data(value)
    if isinstance(value, Array):
        return _array(value)
    if isinstance(value, Name):
        return DTYPES.get(value.text, value.text)
    if isinstance(value, ArrayType):
        return value.text
    return value


def _data(storage: Storage) -> Tensor:
    if storage.data is None:
        if storage.raw is None:
            raise ValueError("a storage without data")
        numbers = torch.frombuffer(bytearray(storage.raw), dtype=torch.uint8) if storage.raw else torch.empty(0)
        boolean = storage.dtype == torch.bool
        storage.data = numbers.ne(0) if boolean else numbers.to(torch.uint8).view(storage.dtype)
        storage.raw = None
    return storage.data


def _tensor(view: View) -> Tensor:
    numbers = (view.offset, *view.size, *view.stride)
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or len(view.size) != len(view.stride):
        raise ValueError("a tensor of no shape")
    count, last = 1, view.offset
    for length, stride in zip(view.size, view.stride, strict=True):
        count, last = count * length, last + (length - 1) * stride
    if len(view.size) > MOST_DIMENSIONS or count > view.storage.count or (count and last >= view.storage.count):
        raise Refused("a tensor larger than its storage")
    return torch.as_strided(_data(view.storage), view.size, view.stride, view.offset)


def _array(array: Array) -> Tensor | bool | int | float | complex:
    kind = array.dtype
    if not isinstance(kind, ArrayType) or not NUMBERS.fullmatch(kind.text) or kind.order not in "<>|=":
        raise Refused(f"numpy values of type {kind.text if isinstance(kind, ArrayType) else None}")
    dtype = np.dtype(f"{kind.order}{kind.text}")
    values = np.frombuffer(array.raw, dtype)
    if array.scalar:
        return values.reshape(()).item()
    shaped = values.reshape(array.shape, order="F" if array.fortran else "C")
    return torch.from_numpy(shaped.astype(dtype.newbyteorder("="), order="C", copy=True))

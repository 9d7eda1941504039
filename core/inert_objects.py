"""What a foreign pickle may be made of: the names it may use, the inert nodes that stand for tensors and arrays, and
what the few known functions make of their arguments. None of them is imported; a call here builds a node."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

LONGEST_NAME = 120
LARGEST_KEY = 1 << 62
ALLOWANCE = 16
FREE = 4096

STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
}
DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
OBJECTS = re.compile(r"torch\.nn\.modules\.\w+\.\w+|dnnlib\.util\.EasyDict|collections\.OrderedDict")
"""Classes whose instances are read as the dict of what they hold."""
MENTIONED = re.compile(r"solvers\.\w+|numpy\.ndarray|(builtins|__builtin__)\.object")
"""Names that may appear, as names."""


class Refused(ValueError):
    """The file asks for something that is not data; the message says what."""


class Budget:
    """How much may be made of a file: a multiple of its size, in bytes and in elements of containers.

    Whatever copies data or repeats it spends; a pickle that would grow is refused, however it does it.
    """

    def __init__(self, size: int) -> None:
        self.left = ALLOWANCE * size + FREE

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise Refused("more memory than a file of its size can hold")


@dataclass(slots=True, eq=False)
class Name:
    """A function or class that the file names."""

    text: str


class Instance(dict):
    """An object of a class in `OBJECTS`: its items and attributes."""


@dataclass(slots=True, eq=False)
class Storage:
    """`count` numbers; `raw` arrives with the file's data."""

    dtype: torch.dtype
    count: int
    raw: bytes | None = None
    data: torch.Tensor | None = None


@dataclass(slots=True, eq=False)
class View:
    """A tensor over a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(slots=True, eq=False)
class ArrayType:
    """A numpy dtype, e.g. "f8"; order is "<", ">", "|" or "="."""

    text: str
    order: str = "="


@dataclass(slots=True, eq=False)
class Array:
    """A numpy array, or a scalar."""

    dtype: ArrayType | None = None
    shape: tuple[int, ...] = ()
    raw: bytes = b""
    fortran: bool = False
    scalar: bool = False


class Reading(Protocol):
    """What making an object may draw on."""

    @property
    def budget(self) -> Budget: ...

    @property
    def embedded(self) -> Callable[[bytes], Storage]:
        """Bytes of a torch file -> the storage in it."""
        ...


def kind_of(value: Any) -> str:
    return value.text[:LONGEST_NAME] if isinstance(value, Name) else type(value).__name__


def checked_key(value: Any) -> Any:
    """The value, if it is a plain one that hashes in no time."""
    if isinstance(value, tuple) and not any(isinstance(part, tuple) for part in value):
        return tuple(map(checked_key, value))
    if value is None or isinstance(value, str | bytes | float) or (isinstance(value, int) and abs(value) < LARGEST_KEY):
        return value
    raise Refused(f"a key of type {kind_of(value)}")


def checked_pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return [(checked_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)]


def as_bytes(reading: Reading, value: Any) -> bytes:
    """Bytes, which Python 2 wrote as text."""
    if not isinstance(value, bytes | str):
        raise Refused(f"{kind_of(value)} in place of bytes")
    reading.budget.spend(len(value))
    return value.encode("latin-1") if isinstance(value, str) else value


def as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(f"{kind_of(value)} in place of text")
    return value


def _persistent_state(reading: Reading, meta: dict) -> dict:
    """NVIDIA's persistence: an object with its source, of which the state is all that is wanted."""
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise Refused("a persistent object without a state")
    return meta["state"]


def _ordered_dict(reading: Reading, pairs: list | tuple = ()) -> Instance:
    reading.budget.spend(len(pairs))
    return Instance((checked_key(key), value) for key, value in pairs)


def _tensor(reading: Reading, storage: Storage, offset: int, size: tuple, stride: tuple, *rest: Any) -> View:
    """The arguments that remain are about gradients."""
    if not isinstance(storage, Storage):
        raise Refused(f"a tensor over {kind_of(storage)}")
    return View(storage, offset, _size(reading, size), _size(reading, stride))


def _parameter(reading: Reading, data: View, *rest: Any) -> View:
    if not isinstance(data, View):
        raise Refused(f"a parameter of {kind_of(data)}")
    return data


def _embedded(reading: Reading, content: bytes) -> Storage:
    return reading.embedded(as_bytes(reading, content))


def _text(reading: Reading, text: str, index: int | None = None) -> str:
    return as_text(text) if index is None else f"{as_text(text)}:{int(index)}"


def _encoded(reading: Reading, text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise Refused("another encoding than latin-1")
    return as_bytes(reading, as_text(text))


def _set(reading: Reading, items: list | tuple = ()) -> set:
    reading.budget.spend(len(items))
    return set(map(checked_key, items))


def _size(reading: Reading, items: tuple) -> tuple:
    reading.budget.spend(len(items))
    return tuple(items)


def _object(reading: Reading, kind: Name, base: Name, state: None) -> Instance:
    if not isinstance(kind, Name) or not OBJECTS.fullmatch(kind.text) or state is not None:
        raise Refused(f"an instance of {kind_of(kind)}")
    return Instance()


CALLS: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_state,
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _embedded,
    "torch.device": _text,
    "torch.Size": _size,
    "_codecs.encode": _encoded,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "copyreg._reconstructor": _object,
    "copy_reg._reconstructor": _object,
    "numpy.dtype": lambda reading, text, *rest: ArrayType(as_text(text)),
    **{
        f"numpy.{core}.{name}": make
        for core in ("core", "_core")
        for name, make in {
            "multiarray._reconstruct": lambda reading, kind, shape, code: Array(),
            "multiarray.scalar": lambda reading, dtype, raw: Array(dtype, (), as_bytes(reading, raw), scalar=True),
            "numeric._frombuffer": lambda reading, raw, dtype, shape, order: Array(
                dtype, shape, as_bytes(reading, raw), order == "F"
            ),
        }.items()
    },
}
"""What the few known functions make of their arguments."""

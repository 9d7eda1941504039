"""Foreign pickles that ask for code, lie or explode: refused by name, fast, and without a trace."""

from __future__ import annotations

import collections
import copyreg
import os
import pickle
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.checkpoints import read_foreign_pickle


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def refused(tmp_path: Path, content: Any, words: str, protocol: int = 4) -> None:
    path = write(tmp_path / "bad.pkl", content, protocol)
    with pytest.raises(ValueError, match=words):
        read_foreign_pickle(path)


@pytest.mark.parametrize("protocol", range(6))
def test_calls_are_refused_by_name(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    system = f"{os.system.__module__}.system"
    for content, asked in (
        (Call(os.system, f"touch {marker}"), system),
        ({"a": [Call(eval, "1")]}, r"(builtins|__builtin__)\.eval"),
        (Call(getattr, "text", "upper"), r"(builtins|__builtin__)\.getattr"),
        (Call(print, Call(os.system, f"touch {marker}")), r"(builtins|__builtin__)\.print"),
        (Call(torch.load, str(marker)), r"torch\.serialization\.load"),
        (torch.zeros, r"torch\.zeros|_VariableFunctions|getattr"),
        (Path("x"), r"pathlib"),
        (np.array(["a", None], dtype=object), "list in place of bytes|numpy values of type O"),
        (np.array(["abc"]), "numpy values of type U3"),
    ):
        refused(tmp_path, content, asked, protocol)
    assert not marker.exists()


def short_text(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def named(module: str, name: str) -> bytes:
    """STACK_GLOBAL of two texts."""
    return short_text(module) + short_text(name) + b"\x93"


HEAD, STOP, MARK, REDUCE, TUPLE, EMPTY_TUPLE, BUILD = b"\x80\x04", b".", b"(", b"R", b"t", b")", b"b"


@pytest.mark.parametrize(
    ("body", "words"),
    {
        "attribute of a known module": (named("torch.storage", "os") + STOP, r"torch\.storage\.os"),
        "dotted attribute": (named("torch.storage", "os.system") + STOP, r"torch\.storage\.os\.system"),
        "dotted known name": (named("torch", "_utils.__loader__") + STOP, r"torch\._utils\.__loader__"),
        "attribute of a known function": (named("collections", "OrderedDict.__init__.__globals__") + STOP, "globals"),
        "known class as a function": (named("dnnlib.util", "EasyDict") + EMPTY_TUPLE + REDUCE + STOP, "a call of dnnl"),
        "call of a call": (
            named("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE + EMPTY_TUPLE + REDUCE + STOP,
            "a call of Instance",
        ),
        "call of a string": (short_text("os.system") + EMPTY_TUPLE + REDUCE + STOP, "a call of str"),
        "name from numbers": (b"K\x01K\x02\x93" + STOP, "a function without a name"),
        "state of a function": (
            named("torch.storage", "_load_from_bytes") + b"}" + BUILD + STOP,
            r"a state for torch\.storage\._load_from_bytes",
        ),
        "state of a list": (b"]}" + BUILD + STOP, "a state for list"),
        "items of a function": (named("torch", "Size") + b"K\x01a" + STOP, r"items for a torch\.Size"),
        "extension": (b"\x82\x01" + STOP, "the opcode EXT1"),
        "wide extension": (b"\x83\x01\x00" + STOP, "the opcode EXT2"),
        "widest extension": (b"\x84\x01\x00\x00\x00" + STOP, "the opcode EXT4"),
        "old instance": (MARK + b"ios\nsystem\n" + STOP, "the opcode INST os system"),
        "old object": (MARK + named("torch", "Size") + b"o" + STOP, "the opcode OBJ"),
        "new object of a function": (
            named("torch", "Size") + EMPTY_TUPLE + b"\x81" + STOP,
            r"an instance of torch\.Size",
        ),
        "new object with words": (named("torch", "Size") + EMPTY_TUPLE + b"}\x92" + STOP, "the opcode NEWOBJ_EX"),
        "persistent text": (b"Pname\n" + STOP, "the opcode PERSID"),
        "persistent id": (short_text("x") + b"Q" + STOP, "a persistent object, which only torch"),
        "out-of-band buffer": (b"\x97" + STOP, "the opcode NEXT_BUFFER"),
        "encoding": (
            named("_codecs", "encode") + short_text("x") + short_text("zlib") + b"\x86" + REDUCE + STOP,
            "another encoding",
        ),
        "tuple in a key": (b"})\x85\x85K\x01s" + STOP, "a key of type tuple"),
        "list in a set": (b"\x8f(]\x90" + STOP, "a key of type list"),
        "huge key": (b"}\x8a\x09" + b"\xff" * 8 + b"\x00K\x01s" + STOP, "a key of type int"),
        "no state": (
            named("torch_utils.persistence", "_reconstruct_persistent_obj") + b"}\x85" + REDUCE + STOP,
            "a persistent object without a state",
        ),
        "nothing": (STOP, "truncated or foreign"),
        "no end": (b"K\x01", "truncated or foreign"),
        "unknown opcode": (b"\xff" + STOP, "truncated or foreign"),
        "odd escape": (b"cos\n\\osystem\n" + STOP, r"os\.\\+osystem"),
        "unknown memo": (b"h\x07" + STOP, "truncated or foreign"),
        "no mark": (b"K\x01t" + STOP, "truncated or foreign"),
        "odd items": (b"}(K\x01u" + STOP, "truncated or foreign"),
        "long name": (named("a" * 200, "b") + STOP, "a" * 120 + ";"),
    }.values(),
)
def test_crafted_pickles(tmp_path: Path, body: bytes, words: str) -> None:
    refused(tmp_path, HEAD + body, words)


def tensor_call(*arguments: Any) -> Any:
    return Call(torch._utils._rebuild_tensor_v2, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, (10**12,), (0,)), "a tensor larger than its storage"),
        ((0, (5,), (1,)), "a tensor larger than its storage"),
        ((3, (2,), (1,)), "a tensor larger than its storage"),
        ((0, (2, 2), (3, 1)), "a tensor larger than its storage"),
        ((0, (1,) * 65, (1,) * 65), "a tensor larger than its storage"),
        ((-1, (2,), (1,)), "truncated or foreign"),
        ((0, (-2, -2), (1, 1)), "truncated or foreign"),
        ((0, (2,), (1, 1)), "truncated or foreign"),
    ],
)
def test_tensors_stay_within_their_storage(tmp_path: Path, arguments: tuple[Any, ...], words: str) -> None:
    storage = torch.arange(4.0).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    good = tensor_call(typed, 0, (2, 2), (2, 1), False, collections.OrderedDict())
    assert torch.equal(read_foreign_pickle(write(tmp_path / "good", good)), torch.arange(4.0).reshape(2, 2))
    refused(tmp_path, tensor_call(typed, *arguments, False, collections.OrderedDict()), words)


def bombs() -> dict[str, bytes]:
    laughs = (
        HEAD
        + b"](K\x01K\x01e"
        + b"\x94"
        + b"".join(b"](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(60))
    )
    text = b"X" + struct.pack("<i", 50_000) + b"x" * 50_000 + b"\x940"
    encoded = named("_codecs", "encode") + b"h\x00" + short_text("latin1") + b"\x86R0"
    items = b"](" + b"N" * 50_000 + b"e\x940"
    as_set = named("builtins", "set") + b"h\x00\x85R0"
    return {
        "a billion laughs": laughs + STOP,
        "itself": HEAD + b"]\x94h\x00a" + STOP,
        "deep": HEAD + b"]" * 20_000 + b"a" * 19_999 + STOP,
        "copies of a text": HEAD + text + encoded * 4000 + b"N" + STOP,
        "copies of a list": HEAD + items + as_set * 4000 + b"N" + STOP,
        "a long size": HEAD + b"\x8e" + struct.pack("<Q", 1 << 60) + b"abc" + STOP,
        "a long number": HEAD + b"\x8b" + struct.pack("<i", 1 << 30) + b"abc" + STOP,
        "a long text": HEAD + b"I" + b"9" * 100_000 + b"\n" + STOP,
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs_fail_fast(tmp_path: Path, name: str) -> None:
    content = bombs()[name]
    path = write(tmp_path / "bomb.pkl", content)
    begin = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"more memory than|deep|truncated or foreign"):
            read_foreign_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 200 * len(content) + (1 << 20)
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begin < 5


SEEDS = [pickle.dumps({"a": [1, 2.5, "x"], "b": collections.OrderedDict(c=torch.ones(3))}, protocol=n) for n in (2, 4)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=0, max_size=6)), min_size=1, max_size=8),
)
def test_damage_is_a_value_error_or_plain_values(tmp_path: Path, seed: bytes, edits: list[tuple[int, bytes]]) -> None:
    content = bytearray(seed)
    for place, insert in edits:
        place %= len(content)
        content[place : place + len(insert)] = insert
    only_plain(tmp_path, bytes(content))


OPCODES = st.sampled_from(
    [code.encode("latin-1") for code in "()]}aest lu0122NKhRbo.\x85\x86\x87\x93\x94\x81\x8f\x90\x91Q".replace(" ", "")]
)
NAMES = [
    named("collections", "OrderedDict"),
    named("torch", "Size"),
    named("torch._utils", "_rebuild_tensor_v2"),
    named("builtins", "set"),
    named("numpy", "dtype"),
    named("torch.nn.modules.linear", "Linear"),
]
PIECES = st.one_of(OPCODES, st.binary(max_size=3), st.sampled_from([*NAMES, b"K\x01"]))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=25))
def test_any_opcodes_are_a_value_error_or_plain_values(tmp_path: Path, pieces: list[bytes]) -> None:
    only_plain(tmp_path, HEAD + b"".join(pieces) + STOP)


def only_plain(tmp_path: Path, content: bytes) -> None:
    before = set(sys.modules)
    try:
        got = read_foreign_pickle(write(tmp_path / "fuzzed", content))
    except ValueError as error:
        assert "expected" in str(error)  # noqa: PT017 (both outcomes are right)
    else:
        check_plain(got)
    assert set(sys.modules) <= before


PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype)


def check_plain(value: Any) -> None:
    if type(value) is dict:
        for key, item in value.items():
            check_plain(key)
            check_plain(item)
    elif type(value) in (list, tuple, set):
        for item in value:
            check_plain(item)
    elif type(value) is torch.Tensor:
        value.sum()
    else:
        assert type(value) in PLAIN or isinstance(value, torch.dtype)


def test_the_extension_registry_is_not_consulted(tmp_path: Path) -> None:
    copyreg.add_extension(os.system.__module__, "system", 0xF0)
    try:
        refused(tmp_path, os.system, "the opcode EXT1", protocol=2)
    finally:
        copyreg.remove_extension(os.system.__module__, "system", 0xF0)

"""Foreign checkpoints: what they hold comes out, what they ask for is refused by name, and nothing of them runs."""

from __future__ import annotations

import collections
import copyreg
import io
import os
import pickle
import struct
import sys
import time
import tracemalloc
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from core.checkpoints import read_foreign_pickle
from core.foreign import module_tensors
from core.solvers.learned.tables import read_tables

SOURCE = "import os\nos.environ['RAN'] = 'yes'\nclass Persistent:\n    pass\n"


class Persistent:
    """Stands for an object of NVIDIA's tools: it pickles as a call of their hook, its source beside it."""

    def __init__(self, state: dict[str, Any], source: str = SOURCE) -> None:
        self.state = state
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": "Network",
            "state": self.state,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


@pytest.fixture
def their_modules() -> Iterator[None]:
    """Modules of the authors' repositories, as far as pickling names them; gone when the file is read."""
    names = ("torch_utils", "torch_utils.persistence", "solvers", "dnnlib", "dnnlib.util")
    made = {name: types.ModuleType(name) for name in names}

    def hook(meta: dict) -> object:
        raise AssertionError("the hook was called")

    for module, name, value in (
        ("torch_utils.persistence", "_reconstruct_persistent_obj", hook),
        ("solvers", "ipndm_sampler", lambda: None),
        ("dnnlib.util", "EasyDict", type("EasyDict", (dict,), {})),
    ):
        value.__module__, value.__qualname__ = module, name
        setattr(made[module], name, value)
    sys.modules.update(made)
    yield
    for name in names:
        sys.modules.pop(name, None)


def forget(*names: str) -> None:
    for name in names:
        sys.modules.pop(name, None)


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


def dyweight_network(steps: int = 4, history: int = 3) -> dict[str, Any]:
    age = torch.arange(steps)[:, None] - torch.arange(steps)
    weights = nn.Parameter(torch.arange(1.0, 1.0 + steps**2).reshape(steps, steps) / 10)
    predictor = {
        "training": False,
        "_parameters": collections.OrderedDict(
            hybrid_weights=weights, t_scale=nn.Parameter(torch.linspace(0.9, 1, steps - 1))
        ),
        "_buffers": collections.OrderedDict(mask=((age >= 0) & (age < history)).float()),
        "_non_persistent_buffers_set": set(),
        "_modules": collections.OrderedDict(),
        "num_steps": steps + 1,
        "max_history_steps": history,
        "afs": True,
        "guidance_type": None,
        "device": torch.device("cuda", 0),
    }
    loss = {
        "schedule_type": "polynomial",
        "schedule_rho": 7,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "teacher": sys.modules["solvers"].ipndm_sampler,
        "t_steps": None,
    }
    return {"predictor": Persistent(predictor), "loss_fn": Persistent(loss)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_like_those_of_dyweight(tmp_path: Path, their_modules: None, protocol: int) -> None:
    network = dyweight_network()
    path = write(tmp_path / "network-snapshot-000010.pkl", network, protocol)
    forget("torch_utils", "torch_utils.persistence", "solvers")
    content = read_foreign_pickle(path)
    state = content["predictor"]
    assert "torch_utils.persistence" not in sys.modules
    assert "RAN" not in os.environ
    assert content["loss_fn"]["teacher"] == "solvers.ipndm_sampler"
    assert (state["num_steps"], state["afs"], state["device"]) == (5, True, "cuda:0")
    weights = network["predictor"].state["_parameters"]["hybrid_weights"].detach()
    assert torch.equal(state["_parameters"]["hybrid_weights"], weights)
    assert type(state["_parameters"]) is dict
    assert not state["_parameters"]["t_scale"].requires_grad
    ((name, table),) = read_tables(path).items()
    assert name.endswith("/network-snapshot-000010")
    assert torch.equal(table.weights, (weights * state["_buffers"]["mask"]).double())
    assert table.analytic
    assert table.solver().config.history == 3


def test_a_file_like_those_of_flux(tmp_path: Path) -> None:
    weights = torch.tensor([[0.9, 0.0], [-0.1, 1.1]], dtype=torch.float64)
    content = {
        "window_size": 2,
        "dyweight_weights_raw": weights,
        "dyweight_t_scales": torch.tensor([1.01, 0.98]),
        "dyweight_meta": {"K": 2, "tscale_low": 0.5, "tscale_high": 1.5},
    }
    torch.save(content, tmp_path / "dyweight_nfe2.pt")
    (table,) = read_tables(tmp_path / "dyweight_nfe2.pt").values()
    assert torch.equal(table.weights, weights)
    assert table.flow
    assert not table.analytic


class Network(nn.Module):
    """Nested as EDM's networks are: persistent objects within containers of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 5)
        self.enc = nn.ModuleDict({"8x8_block": nn.Conv2d(2, 3, 3), "norm": nn.BatchNorm1d(4)})
        self.register_buffer("freqs", torch.arange(3.0))
        self.register_buffer("hidden", torch.arange(2.0), persistent=False)


@pytest.mark.parametrize("protocol", [2, 4])
def test_modules_become_their_state(tmp_path: Path, their_modules: None, protocol: int) -> None:
    network = Network()
    easy = sys.modules["dnnlib.util"].EasyDict(a=1, b=torch.Size([2, 3]))
    path = write(tmp_path / "edm.pkl", {"ema": Persistent(network.__dict__), "kwargs": easy}, protocol)
    forget("torch_utils.persistence", "dnnlib.util")
    content = read_foreign_pickle(path)
    assert content["kwargs"] == {"a": 1, "b": (2, 3)}
    tensors, expected = module_tensors(content["ema"]), network.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


VALUES = {
    "text": "weights",
    "numbers": [1, -2.5, True, None, 3 + 0, 10**30, float("inf")],
    "nested": ({"a": (1, 2)}, {"b", 3}, frozenset({4}), b"raw", bytearray(b"raw")),
    "dtype": torch.float16,
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(3),
    "float64": torch.linspace(0, 1, 7, dtype=torch.float64),
    "bool": torch.tensor([True, False]),
    "complex": torch.tensor([1 + 2j]),
    "bfloat16": torch.linspace(0, 1, 5).bfloat16(),
    "view": torch.arange(24).reshape(4, 6)[1:, ::2].T,
    "array": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "foreign order": np.arange(3, dtype=">f4"),
    "numpy scalar": np.float32(0.5),
    "numpy bool": np.array([True, False]),
}


def plain(value: Any) -> Any:
    """What a value is read as."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, frozenset):
        return set(value)
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


def same(got: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        return type(got) is torch.Tensor and got.dtype == expected.dtype and torch.equal(got, expected)
    if isinstance(expected, dict):
        return type(got) is dict and got.keys() == expected.keys() and all(same(got[k], expected[k]) for k in got)
    if isinstance(expected, list | tuple):
        return type(got) is type(expected) and len(got) == len(expected) and all(map(same, got, expected))
    return got == expected and type(got) is type(expected)


def write_old(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


FORMATS: dict[str, Callable[[Any, Path], None]] = {
    "archive": torch.save,
    "old torch": write_old,
    **{f"pickle {n}": lambda content, path, n=n: write(path, content, n) and None for n in range(2, 6)},
}


@pytest.mark.parametrize("form", FORMATS)
def test_values_come_out_as_they_were(tmp_path: Path, form: str) -> None:
    content = dict(VALUES)
    if form != "pickle 5":
        content["nested"] = VALUES["nested"][:-1]  # only protocol 5 has byte arrays without calling their class
    if form in ("archive", "old torch", "pickle 2", "pickle 3"):
        content["nested"] = (*content["nested"][:1], {"b", 3}, b"raw")
    FORMATS[form](content, tmp_path / "file")
    got = read_foreign_pickle(tmp_path / "file")
    for name, value in content.items():
        assert same(got[name], plain(value)), name


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_of_one_storage_share_memory(tmp_path: Path, form: str) -> None:
    whole = torch.arange(10.0)
    FORMATS[form]({"a": whole[:4], "b": whole[2:]}, tmp_path / "file")
    got = read_foreign_pickle(tmp_path / "file")
    if "pickle" not in form:
        assert got["a"].untyped_storage().data_ptr() == got["b"].untyped_storage().data_ptr()
    assert torch.equal(got["b"], whole[2:])


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


def archive(path: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> Path:
    """A torch archive whose entries have been changed."""
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(6.0), "b": torch.ones(2)}, buffer)
    with zipfile.ZipFile(buffer) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, content in entries.items():
            target.writestr(name, content)
    return path


def replace_entry(ending: str, content: bytes | None) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        name = next(name for name in entries if name.endswith(ending))
        if content is None:
            del entries[name]
        else:
            entries[name] = content

    return change


@pytest.mark.parametrize(
    ("change", "compression", "words"),
    [
        (lambda entries: None, zipfile.ZIP_DEFLATED, "compressed storages"),
        (replace_entry("data/0", None), zipfile.ZIP_STORED, "truncated or foreign"),
        (replace_entry("data/0", b"abcd"), zipfile.ZIP_STORED, "truncated or foreign"),
        (replace_entry("data.pkl", None), zipfile.ZIP_STORED, "truncated or foreign"),
        (replace_entry("byteorder", b"big"), zipfile.ZIP_STORED, "byte order"),
        (replace_entry("data.pkl", HEAD + named("os", "system") + STOP), zipfile.ZIP_STORED, r"os\.system"),
        (replace_entry("data.pkl", HEAD + named("torch", "FloatStorage") + b"Q."), zipfile.ZIP_STORED, "truncated"),
        (
            replace_entry("data.pkl", HEAD + MARK + short_text("storage") + named("torch", "Size") + b"NNK\x01tQ."),
            zipfile.ZIP_STORED,
            r"no storage: torch\.Size",
        ),
    ],
)
def test_damaged_archives(tmp_path: Path, change: Any, compression: int, words: str) -> None:
    assert torch.equal(read_foreign_pickle(archive(tmp_path / "whole", lambda entries: None))["b"], torch.ones(2))
    with pytest.raises(ValueError, match=words):
        read_foreign_pickle(archive(tmp_path / "changed", change, compression))


def test_an_archive_that_counts_its_bytes_twice(tmp_path: Path) -> None:
    """Many entries of a directory that point to the same data."""
    path = archive(tmp_path / "a", lambda entries: entries.update({"archive/data/big": b"\0" * 50_000}))
    content = bytearray(path.read_bytes())
    start, count = content.rindex(b"PK\x01\x02"), 400
    end = content.rindex(b"PK\x05\x06")
    record = bytes(content[start:end])
    extra = record * count
    entries, size = struct.unpack_from("<HHI", content, end + 8)[1:3]
    tail = bytearray(content[end:])
    struct.pack_into("<HHI", tail, 8, entries + count, entries + count, size + len(extra))
    path.write_bytes(content[:end] + extra + tail)
    with pytest.raises(ValueError, match="more memory than"):
        read_foreign_pickle(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got no file"):
        read_foreign_pickle(tmp_path / "none.pkl")
    for form, save in FORMATS.items():
        save({"a": torch.arange(50.0), "b": [1, 2]}, tmp_path / form)
        whole = (tmp_path / form).read_bytes()
        for size in {*range(0, len(whole), 41), len(whole) - 1}:
            (tmp_path / "cut").write_bytes(whole[:size])
            with pytest.raises(ValueError, match=r"truncated or foreign|asks for"):
                read_foreign_pickle(tmp_path / "cut")


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

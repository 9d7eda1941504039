"""Foreign checkpoints: what they hold comes out, what they ask for is refused by name, and nothing of them runs."""

from __future__ import annotations

import collections
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
    path.write_bytes(pickle.dumps(content, protocol=protocol))
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

"""NVIDIA's pickles become files of ours with the same denoiser, and nothing in them runs."""

from __future__ import annotations

import collections
import copy
import io
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from apps.imagegen.convert import Options, main, read_checkpoint
from apps.imagegen.models import load_model
from apps.imagegen.models.configurations import ARCHITECTURES
from apps.imagegen.models.edm import EDMPrecond
from data_tools.cli import UserError

MARK = "spanlift-convert-test"
KWARGS: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 2,
    "label_dim": 3,
    "use_fp16": False,
    "model_type": "SongUNet",
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "augment_dim": 9,
    "dropout": 0.13,
}
SONG, ADM = (
    KWARGS,
    {
        "img_resolution": 8,
        "img_channels": 3,
        "model_type": "DhariwalUNet",
        "model_channels": 16,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
        "use_fp16": True,
    },
)


class Persistent:
    """Stands for an object of NVIDIA's tools: it pickles as a call of their hook, its source beside it."""

    def __init__(self, name: str, state: dict[str, Any]) -> None:
        self.name, self.state = name, state

    def __reduce__(self) -> tuple[Any, ...]:
        source = f"import os\nos.environ['RAN'] = 'yes'\nopen('{MARK}', 'w').close()\nclass {self.name}:\n    pass\n"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": self.name, "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.fixture
def their_modules() -> Iterator[Callable[[], None]]:
    """The modules that pickling names, for as long as a file is written."""
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    made = {name: types.ModuleType(name) for name in names}

    def hook(meta: dict) -> object:
        raise AssertionError("the hook was called")

    easy = type("EasyDict", (dict,), {})
    for module, name, value in (
        ("torch_utils.persistence", "_reconstruct_persistent_obj", hook),
        ("dnnlib.util", "EasyDict", easy),
    ):
        value.__module__, value.__qualname__ = module, name
        setattr(made[module], name, value)
    sys.modules.update(made)

    def forget() -> None:
        for name in names:
            sys.modules.pop(name, None)

    yield forget
    forget()


def as_theirs(module: nn.Module, kwargs: dict[str, Any]) -> Any:
    """A module of ours as theirs is pickled: persistent objects, in torch's own dictionaries of modules."""
    children = collections.OrderedDict((name, as_theirs(child, {})) for name, child in module._modules.items() if child)
    if isinstance(module, nn.ModuleDict):
        container = nn.ModuleDict()
        container.__dict__["_modules"] = children
        return container
    state = {
        **{key: value for key, value in nn.Module().__dict__.items() if not key.startswith("_forward")},
        "_parameters": collections.OrderedDict(module._parameters),
        "_buffers": collections.OrderedDict({"resample_filter": None} | module._buffers),
        "_modules": children,
        "_init_args": (),
        "_init_kwargs": kwargs,
        "skip_scale": np.sqrt(0.5),
        "weight_init": {"init_mode": "xavier_uniform", "init_weight": np.sqrt(0.2)},
    }
    return Persistent(type(module).__name__, state)


def network_of(kwargs: dict[str, Any]) -> EDMPrecond:
    torch.manual_seed(3)
    network = EDMPrecond(**kwargs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def checkpoint(network: EDMPrecond, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a file of theirs holds; the network keeps its gradients, as an average of theirs does not."""
    easy = sys.modules["dnnlib.util"].EasyDict
    network = copy.deepcopy(network)
    ema = as_theirs(network, easy(kwargs))
    ema.state.update(
        sigma_min=0, sigma_max=float("inf"), sigma_data=0.5, **{k: kwargs[k] for k in kwargs if "img" in k}
    )
    return {
        "ema": ema,
        "loss_fn": Persistent("EDMLoss", {"P_mean": -1.2, "P_std": 1.2, "sigma_data": 0.5}),
        "augment_pipe": Persistent("AugmentPipe", {"p": 0.12, "xflip": 1e8, "_init_kwargs": easy(p=0.12)}),
        "dataset_kwargs": easy(path="cifar10.zip", use_labels=True, xflip=False),
    }


def write(path: Path, content: Any, forget: Callable[[], None], protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    forget()
    return path


def untouched() -> None:
    assert "RAN" not in os.environ
    assert not Path(MARK).exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kwargs", [SONG, ADM], ids=["song", "adm"])
def test_the_same_denoiser_comes_out(
    tmp_path: Path, their_modules: Callable[[], None], kwargs: dict[str, Any], protocol: int
) -> None:
    network = network_of(kwargs)
    source = write(tmp_path / "edm-mine.pkl", checkpoint(network, kwargs), their_modules, protocol)
    out = tmp_path / "deep/mine.safetensors"
    main(Options(str(source), str(out)))
    untouched()
    model = load_model(out)
    assert (model.name, model.sigma_min, model.sigma_max, model.sigma_data) == ("mine", 0.002, 80.0, 0.5)
    assert model.card["converted_from"] == "edm-mine.pkl"
    assert len(model.card["sha256"]) == 64
    assert "licence" not in model.card
    expected = network.state_dict()
    got = model.network.state_dict()
    assert list(got) == list(expected)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    x, sigma, labels = model.start([0, 1]), torch.tensor([30.0, 0.2]), model.labels([0, 1])
    with torch.no_grad():
        assert torch.equal(model.network(x, sigma, labels), network(x, sigma, labels, force_fp32=True))


def test_a_published_name_is_known(tmp_path: Path, their_modules: Callable[[], None], monkeypatch: Any) -> None:
    """The card says whose the weights are where name and sizes are those of a published checkpoint."""
    architecture, _ = read_checkpoint(
        write(tmp_path / "edm-known.pkl", checkpoint(network_of(SONG), SONG), their_modules), ""
    )
    assert (architecture.dataset, architecture.file) == ("unknown", None)
    known = {**ARCHITECTURES, "known": replace(architecture, dataset="Some", file="edm-known.pkl")}
    monkeypatch.setattr("apps.imagegen.convert.ARCHITECTURES", known)
    main(Options(str(tmp_path / "edm-known.pkl"), str(tmp_path / "out.safetensors"), name="renamed"))
    model = load_model(tmp_path / "out.safetensors")
    assert model.name == "renamed"
    assert "CC BY-NC-SA" in model.card["licence"]


def test_arguments_by_position(tmp_path: Path, their_modules: Callable[[], None]) -> None:
    network = network_of(SONG)
    content = checkpoint(network, SONG)
    state = content["ema"].state
    by_name = dict(state["_init_kwargs"])
    state["_init_args"] = tuple(by_name.pop(name) for name in ("img_resolution", "img_channels", "label_dim"))
    state["_init_kwargs"] = by_name
    architecture, tensors = read_checkpoint(write(tmp_path / "a.pkl", content, their_modules), "")
    assert (architecture.resolution, architecture.channels, architecture.label_dim) == (8, 2, 3)
    assert tensors.keys() == network.state_dict().keys()


def hostile(content: dict[str, Any], where: str, call: Any) -> Any:
    state = content["ema"].state
    if where == "outermost":
        return call
    if where == "beside":
        content["augment_pipe"] = call
    elif where == "arguments":
        state["_init_kwargs"]["dropout"] = call
    elif where == "weights":
        state["_modules"]["model"].state["_modules"]["enc"]._modules["8x8_conv"].state["_parameters"]["weight"] = call
    elif where == "source":
        content["ema"] = Persistent("EDMPrecond", {"state": call})
    return content


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "os.system": (os.system, (f"touch {MARK}",)),
    "builtins.exec": (exec, (f"open('{MARK}', 'w').close()",)),
    "builtins.eval": (eval, (f"open('{MARK}', 'w').close()",)),
    "builtins.getattr": (getattr, (os, "system")),
    "subprocess.Popen": (subprocess.Popen, (["touch", MARK],)),
    "io.open": (io.open, (MARK, "w")),
    "torch.load": (torch.load, (MARK,)),
    "builtins.__import__": (__import__, ("antigravity",)),
}


@pytest.mark.parametrize("where", ["outermost", "beside", "arguments", "weights", "source"])
@pytest.mark.parametrize("name", CALLS)
def test_what_a_file_asks_for_is_refused_by_name(
    tmp_path: Path, monkeypatch: Any, their_modules: Callable[[], None], name: str, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    function, arguments = CALLS[name]
    if name == "builtins.getattr":
        arguments = (0, "real")
    content = hostile(checkpoint(network_of(SONG), SONG), where, Call(function, *arguments))
    source = write(tmp_path / "evil.pkl", content, their_modules)
    asked = {"os.system": f"{os.name}.system", "torch.load": "torch.serialization.load"}.get(name, name)
    with pytest.raises(UserError, match=rf"expected tensors alone, got .*evil\.pkl, which asks for {asked}"):
        main(Options(str(source), "out.safetensors"))
    untouched()
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pkl"]


def without(content: dict, *path: str) -> None:
    state = content["ema"].state
    for name in path[:-1]:
        state = state[name] if not isinstance(state[name], Persistent) else state[name].state
    del state[path[-1]]


DAMAGES: dict[str, tuple[Callable[[dict], object], str]] = {
    "no average": (lambda content: content.pop("ema"), "expected a network under 'ema' .* got a mapping of loss_fn"),
    "average of text": (lambda content: content.update(ema="x"), "expected a network under 'ema'"),
    "other preconditioning": (lambda content: without(content, "sigma_data"), "expected EDM's preconditioning"),
    "no arguments": (lambda content: without(content, "_init_kwargs"), "its arguments are not recorded"),
    "no resolution": (lambda content: without(content, "_init_kwargs", "img_resolution"), "img_resolution .*got None"),
    "unknown argument": (
        lambda content: content["ema"].state["_init_kwargs"].update(widths=[1]),
        "keyword arguments of SongUNet, got 'widths'; it takes .*channel_mult",
    ),
    "unknown network": (
        lambda content: content["ema"].state["_init_kwargs"].update(model_type="DiT"),
        "expected a network among SongUNet, DhariwalUNet, got 'DiT'",
    ),
    "network of a list": (
        lambda content: content["ema"].state["_init_kwargs"].update(model_type=["SongUNet"]),
        "expected a network of EDM",
    ),
    "another width": (
        lambda content: content["ema"].state["_init_kwargs"].update(model_channels=16),
        r"of shape \(.*\) in place of \(",
    ),
    "another depth": (
        lambda content: content["ema"].state["_init_kwargs"].update(num_blocks=2),
        "without model.enc.8x8_block1.norm0.weight and [0-9]+ more",
    ),
    "more than the network": (
        lambda content: content["ema"].state["_buffers"].update(u=torch.zeros(3)),
        "unknown u",
    ),
    "a giant": (
        lambda content: content["ema"].state["_init_kwargs"].update(model_channels=10**9),
        "expected model_channels from 1 to 4096",
    ),
    "infinite data": (
        lambda content: content["ema"].state["_init_kwargs"].update(sigma_data=float("inf")),
        "sigma_data > 0",
    ),
    "noise of text": (
        lambda content: content["ema"].state["_init_kwargs"].update(sigma_max="much"),
        "could not convert string to float",
    ),
    "noise beyond all numbers": (
        lambda content: content["ema"].state["_init_kwargs"].update(sigma_max=10**400),
        "too large to convert to float",
    ),
    "a switch of two": (
        lambda content: content["ema"].state["_init_kwargs"].update(use_fp16=torch.zeros(2)),
        "is ambiguous",
    ),
    "a width of no network": (
        lambda content: content["ema"].state["_init_kwargs"].update(model_channels=9),
        "sizes that no network has .*groups divide, got 9",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_network_that_does_not_fit(tmp_path: Path, their_modules: Callable[[], None], damage: str) -> None:
    change, message = DAMAGES[damage]
    content = checkpoint(network_of(SONG), SONG)
    change(content)
    source = write(tmp_path / "other.pkl", content, their_modules)
    with pytest.raises(UserError, match=message) as refused:
        main(Options(str(source), str(tmp_path / "out.safetensors")))
    assert "other.pkl" in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["other.pkl"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9999])
def test_a_truncated_file(tmp_path: Path, their_modules: Callable[[], None], share: float) -> None:
    content = pickle.dumps(checkpoint(network_of(SONG), SONG))
    their_modules()
    (tmp_path / "cut.pkl").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"cut\.pkl, truncated or foreign"):
        main(Options(str(tmp_path / "cut.pkl"), str(tmp_path / "out.safetensors")))


@pytest.fixture(scope="module")
def pickled() -> bytes:
    """A small checkpoint's bytes, which name modules that are not there."""
    kwargs = {**SONG, "model_channels": 4, "channel_mult": [1], "attn_resolutions": [], "augment_dim": 0}
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    made = {name: types.ModuleType(name) for name in names}
    hook: Any = types.FunctionType((lambda meta: None).__code__, {}, "_reconstruct_persistent_obj")
    easy = type("EasyDict", (dict,), {})
    for module, value in (("torch_utils.persistence", hook), ("dnnlib.util", easy)):
        value.__module__, value.__qualname__ = module, value.__name__
        setattr(made[module], value.__name__, value)
    sys.modules.update(made)
    try:
        return pickle.dumps(checkpoint(network_of(kwargs), kwargs), protocol=4)
    finally:
        for name in names:
            sys.modules.pop(name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_is_told_in_words(tmp_path: Path, pickled: bytes, changes: list[tuple[float, int]]) -> None:
    content = bytearray(pickled)
    for share, value in changes:
        content[int(share * len(content))] = value
    (tmp_path / "damaged.pkl").write_bytes(content)
    try:
        architecture, tensors = read_checkpoint(tmp_path / "damaged.pkl", "")
    except UserError:
        return
    assert tensors.keys() == architecture.build("meta").state_dict().keys()


def test_outputs_that_cannot_be_written(tmp_path: Path, their_modules: Callable[[], None]) -> None:
    source = write(tmp_path / "edm-mine.pkl", checkpoint(network_of(SONG), SONG), their_modules)
    (tmp_path / "folder.safetensors").mkdir()
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"theirs")
    for src, out, message in (
        (source, taken, r"taken\.safetensors, which exists; choose another or pass --overwrite"),
        (source, tmp_path / "mine.pt", r"ends in \.safetensors"),
        (source, tmp_path / "folder.safetensors", "got the folder"),
        (source, source / "mine.safetensors", "got the file"),
        (tmp_path / "none.pkl", tmp_path / "new.safetensors", r"got no file .*none\.pkl"),
        (taken, tmp_path / "new.safetensors", "which asks for|truncated or foreign"),
    ):
        with pytest.raises(UserError, match=message):
            main(Options(str(src), str(out)))
    assert taken.read_bytes() == b"theirs"
    main(Options(str(source), str(taken), overwrite=True))
    assert load_model(taken).resolution == 8
    names = ["edm-mine.pkl", "folder.safetensors", "taken.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_as_a_user(tmp_path: Path, their_modules: Callable[[], None], run_cli: Callable[..., Any]) -> None:
    source = write(tmp_path / "edm-mine.pkl", checkpoint(network_of(SONG), SONG), their_modules)
    out = tmp_path / "mine.safetensors"
    done = run_cli("apps.imagegen.convert", str(source), str(out), "--name", "other")
    assert done.returncode == 0, done.stderr
    assert "other, a SongUNet of" in done.stdout
    assert "8 x 8 pixels, 2 channels, 3 classes" in done.stdout
    before = out.read_bytes()
    refused = run_cli("apps.imagegen.convert", str(source), str(out))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "which exists; choose another or pass --overwrite" in refused.stderr
    assert refused.stdout == ""
    assert out.read_bytes() == before

"""Pickles that ask for code, do not fit or are damaged: refused in words, and nothing in them runs."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.imagegen.convert import Options, main, read_checkpoint
from data_tools.cli import UserError

MARK = "spanlift-convert-ran"
"""File that calls would make."""


def hostile(nvidia: ModuleType, content: dict[str, Any], where: str, call: Any) -> Any:
    """The content with a call in the place."""
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
        content["ema"] = nvidia.Persistent("EDMPrecond", {"state": call})
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvidia: ModuleType, name: str, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    function, arguments = CALLS[name]
    if name == "builtins.getattr":
        arguments = (0, "real")
    call = nvidia.Call(function, *arguments)
    source = tmp_path / "evil.pkl"
    source.write_bytes(nvidia.pickled(change=lambda content: hostile(nvidia, content, where, call)))
    asked = {"os.system": f"{os.name}.system", "torch.load": "torch.serialization.load"}.get(name, name)
    with pytest.raises(UserError, match=rf"expected tensors alone, got .*evil\.pkl, which asks for {asked}"):
        main(Options(str(source), "out.safetensors"))
    nvidia.untouched()
    assert not Path(MARK).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pkl"]


def without(content: dict, *path: str) -> None:
    state = content["ema"].state
    for name in path[:-1]:
        state = getattr(state[name], "state", state[name])
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
def test_a_network_that_does_not_fit(tmp_path: Path, nvidia: ModuleType, damage: str) -> None:
    change, message = DAMAGES[damage]

    def changed(content: dict) -> dict:
        change(content)
        return content

    source = tmp_path / "other.pkl"
    source.write_bytes(nvidia.pickled(change=changed))
    with pytest.raises(UserError, match=message) as refused:
        main(Options(str(source), str(tmp_path / "out.safetensors")))
    assert "other.pkl" in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["other.pkl"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9999])
def test_a_truncated_file(tmp_path: Path, nvidia: ModuleType, share: float) -> None:
    content = nvidia.pickled()
    (tmp_path / "cut.pkl").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"cut\.pkl, truncated or foreign"):
        main(Options(str(tmp_path / "cut.pkl"), str(tmp_path / "out.safetensors")))


@pytest.fixture(scope="module")
def small(nvidia: ModuleType) -> bytes:
    sizes = {"model_channels": 4, "channel_mult": [1], "attn_resolutions": [], "augment_dim": 0}
    return nvidia.pickled({**nvidia.SONG, **sizes})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_is_told_in_words(tmp_path: Path, small: bytes, changes: list[tuple[float, int]]) -> None:
    content = bytearray(small)
    for share, value in changes:
        content[int(share * len(content))] = value
    (tmp_path / "damaged.pkl").write_bytes(content)
    try:
        architecture, tensors = read_checkpoint(tmp_path / "damaged.pkl", "")
    except UserError:
        return
    assert tensors.keys() == architecture.build("meta").state_dict().keys()

"""Checkpoints as NVIDIA's EDM pickles them: persistent objects with their source, in modules that are not here."""

from __future__ import annotations

import collections
import copy
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from apps.imagegen.models.edm import EDMPrecond

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


@contextmanager
def their_modules() -> Iterator[None]:
    """The modules that pickling names, for as long as a file is made."""
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
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


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


def pickled(
    kwargs: dict[str, Any] = SONG,
    change: Callable[[dict[str, Any]], Any] = lambda content: None,
    protocol: int = 4,
) -> bytes:
    """The file of a network of these arguments; `change` changes what it holds, in place or by what it returns."""
    with their_modules():
        content = checkpoint(network_of(kwargs), kwargs)
        changed = change(content)
        return pickle.dumps(content if changed is None else changed, protocol=protocol)


def untouched() -> None:
    """Nothing of a file has run."""
    assert "RAN" not in os.environ
    assert not Path(MARK).exists()

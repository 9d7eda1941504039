"""NVIDIA's EDM checkpoints as files of ours: `python -m apps.imagegen.convert edm-....pkl model.safetensors`.

Their pickles carry the source of the network, which their own loader runs. Here nothing of the file is run: its
tensors and numbers are read (`core.foreign`), the network is ours, and it must fit the tensors name by name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.imagegen.models.configurations import ARCHITECTURES, SIGMA_MAX, SIGMA_MIN, Architecture
from apps.imagegen.models.edm import EDMPrecond, network_config
from apps.imagegen.models.files import check_output, mismatch, save_model
from core.checkpoints import read_foreign_pickle
from core.foreign import module_tensors
from data_tools.cli import UserError, progress_bar, run

POSITIONAL = (
    "img_resolution",
    "img_channels",
    "label_dim",
    "use_fp16",
    "sigma_min",
    "sigma_max",
    "sigma_data",
    "model_type",
)
"""Arguments of EDM's preconditioning in their order; what else is given is the network's."""
LICENCE = "CC BY-NC-SA 4.0, NVIDIA; https://github.com/NVlabs/edm"
"""Of the published checkpoints."""


@dataclass(frozen=True)
class Options:
    """Options of the conversion.

    Attributes:
        src: the pickle, e.g. edm-cifar10-32x32-uncond-vp.pkl.
        out: the file to write, which ends in .safetensors.
        name: name of the model; that of the pickle without "edm-" where it is not given.
        overwrite: replace the output where it exists.
    """

    src: str
    out: str
    name: str = ""
    overwrite: bool = False


def read_checkpoint(path: Path, name: str) -> tuple[Architecture, dict[str, Tensor]]:
    """Architecture and float32 tensors of an EDM checkpoint; nothing of the file is run.

    Args:
        path: of the pickle.
        name: that the model gets.

    Raises:
        UserError: no such file; one that asks for anything but data, by name; no averaged network in it; another
            preconditioning than EDM's; a network of another kind, or whose tensors do not fit.
    """
    try:
        content = read_foreign_pickle(path)
    except ValueError as error:
        raise UserError(str(error)) from None
    state = content.get("ema") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not isinstance(state.get("_modules"), Mapping):
        raise UserError(
            f"expected a network under 'ema' in {path}, got {_kind(content)}; give a checkpoint of NVIDIA's EDM"
        )
    if "sigma_data" not in state:
        raise UserError(
            f"expected EDM's preconditioning in {path}, got another one, without sigma_data; "
            "give a checkpoint whose name begins with edm-"
        )
    try:
        architecture = _architecture(_arguments(state), path, name)
        tensors = module_tensors(state)
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"expected a network of EDM in {path}, got another one: {error}") from None
    wrong = mismatch(architecture, tensors)
    if wrong:
        raise UserError(f"expected the tensors of {architecture.network.model_type} in {path}, got {wrong}")
    return architecture, {key: value.float() for key, value in tensors.items()}


def _kind(content: Any) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    return f"a mapping of {', '.join(map(str, list(content)[:5]))}"[:120]


def _arguments(state: Mapping[str, Any]) -> dict[str, Any]:
    """What the preconditioning was built with."""
    by_position = state.get("_init_args", ())
    by_name = state.get("_init_kwargs")
    if not isinstance(by_position, list | tuple) or not isinstance(by_name, Mapping):
        raise ValueError("its arguments are not recorded")
    return {**dict(zip(POSITIONAL, by_position, strict=False)), **by_name}


def _architecture(arguments: Mapping[str, Any], path: Path, name: str) -> Architecture:
    values = {key: value for key, value in arguments.items() if key not in POSITIONAL}
    channels = arguments.get("img_channels")
    size = {"img_resolution": arguments.get("img_resolution"), "in_channels": channels, "out_channels": channels}
    labels = {"label_dim": arguments.get("label_dim", 0)}
    network = network_config(arguments.get("model_type", "DhariwalUNet"), {**values, **size, **labels})
    known = ARCHITECTURES.get(path.stem.removeprefix("edm-"))
    if known is not None and replace(known.network, dropout=network.dropout) != network:
        known = None
    least, most = float(arguments.get("sigma_min", 0)), float(arguments.get("sigma_max", math.inf))
    return Architecture(
        name=name or path.stem.removeprefix("edm-"),
        dataset=known.dataset if known else "unknown",
        network=network,
        use_fp16=bool(arguments.get("use_fp16", False)),
        # the published files say 0 to infinity, and are sampled between these
        sigma_min=least if least > 0 else SIGMA_MIN,
        sigma_max=most if most < math.inf else SIGMA_MAX,
        sigma_data=float(arguments.get("sigma_data", 0.5)),
        file=known.file if known else None,
    )


def filled(architecture: Architecture, tensors: Mapping[str, Tensor]) -> EDMPrecond:
    """The architecture's network with these weights, which are not copied."""
    network = architecture.build("meta")
    network.load_state_dict(dict(tensors), assign=True)
    return network


def main(options: Options) -> None:
    source, out = Path(options.src), Path(options.out)
    check_output(out, options.overwrite)
    with progress_bar() as bar:
        task = bar.add_task(f"Converting {source.name}", total=3, note="reading")
        architecture, tensors = read_checkpoint(source, options.name)
        bar.update(task, advance=1, note="hashing")
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        bar.update(task, advance=1, note="writing")
        card = {"converted_from": source.name, "sha256": digest, "torch": torch.__version__}
        if architecture.file is not None:
            card["licence"] = LICENCE
        network = filled(architecture, tensors)
        save_model(out, network, architecture, card)
        bar.update(task, advance=1, note="")
    count = sum(parameter.numel() for parameter in network.parameters())
    size, channels, kind = architecture.resolution, architecture.channels, architecture.network.model_type
    classes = f"{architecture.label_dim} classes" if architecture.label_dim else "unconditional"
    print(
        f"{out}: {architecture.name}, a {kind} of {count:,} parameters in {len(tensors)} tensors; "
        f"{size} x {size} pixels, {channels} channels, {classes}"
    )


if __name__ == "__main__":
    run(
        Options,
        main,
        prog="python -m apps.imagegen.convert",
        description="Convert a pickled checkpoint of NVIDIA's EDM into safetensors, without running anything of it.",
        examples="""examples:
  python -m apps.imagegen.convert edm-cifar10-32x32-uncond-vp.pkl cifar10.safetensors
  python -m apps.imagegen.sample --model cifar10.safetensors --nfe 5""",
        positional=[("src", "the pickle"), ("out", "the .safetensors file to write")],
    )

"""Image models in files, ready to sample: one safetensors file, its header the architecture and a card as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from apps.imagegen.models.configurations import ARCHITECTURES, Architecture, read_architecture
from apps.imagegen.models.edm import EDMPrecond
from apps.imagegen.models.frozen_model import FrozenModel, check_precision
from apps.imagegen.models.image_model import CORE_DTYPES, ImageModel, Precision, image_model
from apps.imagegen.models.latent.catalogue import is_latent
from apps.imagegen.models.latent.prompting import Prompting
from apps.processes import check_device
from core.fitting import write_atomically
from core.names import nearest
from data_tools.cli import UserError

__all__ = [
    "ImageModel",
    "Precision",
    "check_output",
    "check_precision",
    "image_model",
    "load_image_model",
    "load_model",
    "mismatch",
    "save_model",
    "shipped",
]

FORMAT, VERSION = "spanlift-image-model", "1"
ASSETS = Path(__file__).parents[1] / "assets"
"""The models that ship with the project."""

Storage = Literal["float32", "float16"]


def save_model(
    path: str | Path,
    network: EDMPrecond,
    architecture: Architecture,
    card: Mapping[str, Any],
    storage: Storage = "float32",
) -> Path:
    """Write a model, whole or not at all.

    Args:
        path: of the file, which ends in .safetensors.
        network: of this architecture.
        architecture: that builds it.
        card: where the weights come from: commands, data, seeds; anything that is JSON.
        storage: type of the weights in the file.

    Returns:
        The file written.

    Raises:
        UserError: the path ends otherwise, is a folder, or lies within a file.
        ValueError: the network is of another architecture.
    """
    path = Path(path)
    check_output(path, overwrite=True)
    dtype = CORE_DTYPES[storage]
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in network.state_dict().items()}
    wrong = mismatch(architecture, tensors)
    if wrong:
        raise ValueError(f"expected a network of {architecture.name} to save, got {wrong}; save it as what it is")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": json.dumps(architecture.written()),
        "card": json.dumps(dict(card)),
    }
    write_atomically(path, lambda temporary: save_file(tensors, temporary, header))
    return path


def check_output(path: Path, overwrite: bool) -> None:
    """Raise `UserError` unless a model may be written to `path`; call it before the long work."""
    if path.suffix != ".safetensors":
        raise UserError(f"expected an output that ends in .safetensors, got {path}; change its name")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise UserError(f"expected a folder to write into, got the file {parent}; choose another output path")
    if path.is_dir():
        raise UserError(f"expected a file as output, got the folder {path}; name a file in it")
    if path.exists() and not overwrite:
        raise UserError(f"expected a free output path, got {path}, which exists; choose another or pass --overwrite")


def load_model(
    name_or_path: str | Path,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    prompting: Prompting | None = None,
) -> FrozenModel:
    """A model by the name of one that ships, by its file, or a latent model of diffusers.

    Args:
        name_or_path: "digits", or a .safetensors file of ours, see `load_image_model`; else a name of
            `apps.imagegen.models.diffusers.CATALOGUE`, a pipeline's folder, or its name "owner/name" on the hub.
        device: where its network goes.
        precision: of the network.
        prompting: prompts, guidance and size of a latent model.

    Raises:
        UserError: see `load_image_model` and `load_latent`; prompts, guidance or size for a model of pixels.
    """
    if is_latent(name_or_path):
        from apps.imagegen.models.latent.loading import load_latent

        return load_latent(name_or_path, device, precision, prompting)
    model = load_image_model(name_or_path, device, precision)
    given = prompting or Prompting()
    for option in ("prompts", "train_prompts", "guidance", "size"):
        if getattr(given, option) is not None:
            raise UserError(
                f"expected no --{option} for {model.name}, a model of pixels without texts, got "
                f"{getattr(given, option)}; leave it out or take another --model"
            )
    return model


def load_image_model(
    name_or_path: str | Path, device: torch.device | str = "cpu", precision: Precision = "float32"
) -> ImageModel:
    """A model of pixels by the name of one that ships, or by its file.

    Args:
        name_or_path: "digits", or a .safetensors file of ours.
        device: where its network goes.
        precision: of the network between embedding and output; "float16" is what EDM's authors ran ADM in, on CUDA
            alone.

    Raises:
        UserError: no such model; a file that is truncated or foreign, or whose weights do not fit its architecture;
            float16 elsewhere than on CUDA; a device that this machine has not.
    """
    check_precision(precision, device)
    check_device(str(device))
    path = _find(name_or_path)
    header, tensors = _read(path)
    try:
        architecture = read_architecture(json.loads(header["architecture"]))
        card = json.loads(header["card"])
        if not isinstance(card, dict):
            raise TypeError(f"a card that is {type(card).__name__}")
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"expected an architecture in {path}, got another header ({error}); save it again") from None
    wrong = mismatch(architecture, tensors)
    if wrong:
        raise UserError(f"expected the weights of {architecture.name} in {path}, got {wrong}; convert or train again")
    network = architecture.build("meta")
    network.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
    return image_model(network, architecture, card, precision).to(device)


def mismatch(architecture: Architecture, tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with tensors as the state of an architecture; empty where nothing is."""
    try:
        network = architecture.build("meta")
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        return f"sizes that no network has ({error})"
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in tensors.items()}
    parts = []
    for title, names in (
        ("without", [name for name in expected if name not in got]),
        ("unknown", [name for name in got if name not in expected]),
    ):
        if names:
            parts.append(f"{title} {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}")
    for name in expected.keys() & got.keys():
        if expected[name] != got[name]:
            parts.append(f"{name} of shape {got[name]} in place of {expected[name]}")
            break
    parts += [f"{name} of type {value.dtype}" for name, value in tensors.items() if not value.is_floating_point()][:1]
    parts += [f"values of {name} that are not finite" for name, value in tensors.items() if not _finite(value)][:1]
    return ", ".join(parts)


def _finite(value: Tensor) -> bool:
    return value.device.type == "meta" or bool(value.isfinite().all())


def shipped() -> list[str]:
    """Names of the models that come with the project."""
    return sorted(path.stem for path in ASSETS.glob("*.safetensors") if _is_ours(path))


def _is_ours(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def _find(name_or_path: str | Path) -> Path:
    """The file of a name or a path."""
    path, name = Path(name_or_path), str(name_or_path)
    if os.path.isfile(path):
        return path
    known = shipped()
    if name in known:
        return ASSETS / f"{name}.safetensors"
    if name in ARCHITECTURES and ARCHITECTURES[name].file:
        file = ARCHITECTURES[name].file
        raise UserError(
            f"expected a model's file, got {name}, which does not ship; download {file} of NVIDIA's EDM, then "
            f"python -m apps.imagegen.convert {file} {name}.safetensors and give that file"
        )
    if path.suffix or len(path.parts) > 1:
        raise UserError(f"expected a model, got no file {path}; correct the path or take {' or '.join(known)}")
    raise UserError(f"expected a file or a model among {', '.join(known)}, got {name!r}{nearest(name, known)}")


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if path.suffix in (".pkl", ".pickle"):
        raise UserError(
            f"expected safetensors, got the pickle {path}; first run "
            f"python -m apps.imagegen.convert {path} {path.stem}.safetensors"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = cast(dict[str, str], file.metadata() or {})
            if header.get("format") != FORMAT or header.get("version") != VERSION:
                raise UserError(
                    f"expected a file of format {FORMAT} {VERSION}, got {path} of {header.get('format')} "
                    f"{header.get('version')}; give a model that train_model or convert wrote"
                )
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise UserError(
            f"expected a model in safetensors, got {path}, which is truncated or foreign ({error}); get it again"
        ) from None

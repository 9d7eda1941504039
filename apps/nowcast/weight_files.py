"""Our weights files: one network each, safetensors, with its sizes and provenance as JSON in the header."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from apps.nowcast.codec import Codec
from apps.nowcast.model import AlignmentConfig, AlignmentNetwork, AutoencoderConfig, CuboidTransformerUNet, UNetConfig
from core.fitting import write_atomically
from data_tools.cli import UserError

Kind = Literal["autoencoder", "unet", "alignment"]
"""What a file holds; it is also the usual name of the file."""
AnyConfig = AutoencoderConfig | UNetConfig | AlignmentConfig
Config = TypeVar("Config", AutoencoderConfig, UNetConfig, AlignmentConfig)


STAGES: dict[Kind, str] = {"autoencoder": "autoencoder", "unet": "diffusion", "alignment": "alignment"}
"""Which stage of training writes it."""


def weights_hash(module: nn.Module) -> str:
    """Hash of names, shapes and values of a module's state, in half precision: what weights files are stored in."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_weights(path: Path, module: nn.Module, kind: Kind, config: AnyConfig, card: dict, half: bool = True) -> None:
    """Write a module's state with its configuration and provenance in the header.

    `half` rounds it to half precision, which own trainings do not notice; weights of others are kept to the last bit.
    """
    tensors = {
        name: (value.half() if half and value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    header = {"kind": kind, "config": json.dumps(asdict(config)), "card": json.dumps(card, sort_keys=True)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, header))


def load_codec(path: Path) -> Codec:
    """Read `autoencoder.safetensors`; raises UserError for a missing or foreign file."""
    tensors, config = _read(path, "autoencoder")
    codec = Codec(_configured(AutoencoderConfig, config, path))
    _fill(codec, tensors, path)
    return codec.to(memory_format=torch.channels_last).eval()  # a third faster on a CPU, for the same values


def load_network(path: Path) -> CuboidTransformerUNet:
    """Read `unet.safetensors`; raises UserError for a missing or foreign file."""
    tensors, config = _read(path, "unet")
    network = CuboidTransformerUNet(_configured(UNetConfig, config, path))
    _fill(network, tensors, path)
    return network.eval()


def load_alignment(path: Path) -> AlignmentNetwork:
    """Read `alignment.safetensors`, frozen; raises UserError for a missing or foreign file."""
    tensors, config = _read(path, "alignment")
    network = AlignmentNetwork(_configured(AlignmentConfig, config, path))
    _fill(network, tensors, path)
    return network.requires_grad_(False).eval()


def read_card(path: Path) -> dict:
    """The provenance written beside the weights."""
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get("card", "{}"))


def _read(path: Path, kind: Kind) -> tuple[dict[str, Tensor], dict]:
    if not path.is_file():
        raise UserError(
            f"expected the weights {path.name} in {path.parent}, got no such file; "
            f"train the {STAGES[kind]} stage first, or convert a checkpoint of PreDiff"
        )
    try:
        with safe_open(path, "pt") as file:
            header = cast(dict[str, str], file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise UserError(
            f"expected a safetensors file at {path}, got a damaged one ({error}); copy or train it again"
        ) from None
    if header.get("kind") != kind:
        raise UserError(
            f"expected {path} to hold the {kind}, got {header.get('kind', 'something else')}; check the file"
        )
    try:
        config = json.loads(header["config"])
        return tensors, {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    except (KeyError, ValueError, AttributeError):
        raise UserError(f"expected the configuration of a {kind} in {path}, got none; train it again") from None


def _configured(kind: type[Config], values: dict, path: Path) -> Config:
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"expected a {kind.__name__} in {path}: {error}") from None


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    except RuntimeError as error:
        raise UserError(
            f"expected the tensors of its configuration in {path}, got others: {str(error)[:200]}"
        ) from None

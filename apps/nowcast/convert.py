"""Checkpoints of PreDiff as files of ours: `python -m apps.nowcast.convert CHECKPOINT.pt OUT`.

OUT is the folder of a model; converting the published autoencoder, UNet and alignment network into one folder makes
what `--model` of the other commands takes. Nothing of a checkpoint is executed (`torch.load(weights_only=True)`).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from apps.nowcast.codec import Codec
from apps.nowcast.model import AlignmentConfig, AlignmentNetwork, AutoencoderConfig, CuboidTransformerUNet
from apps.nowcast.prediff_checkpoints import Found, Weights, read_networks
from apps.nowcast.weight_files import Kind, save_weights, weights_hash
from data_tools.cli import UserError, check_outputs, progress_bar, run

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class ConvertOptions:
    """Options of the conversion.

    Attributes:
        src: the torch file: a bare state dict, or a checkpoint of Lightning.
        out: folder to write autoencoder.safetensors, unet.safetensors and alignment.safetensors to, those that the
            checkpoint holds; or a name that ends in .safetensors, where it holds one network.
        weights: raw, as they were trained, which is what PreDiff publishes and samples with, or ema, their running
            average, which checkpoints of Lightning hold beside them.
        quantity: what the frames were that the network was trained on.
        time_step: minutes between these frames; 10 in SEVIR-LR.
        target_frames: frames that the network predicts.
        groups: of the group normalisations.
        overwrite: replace files that exist.
    """

    src: str
    out: str
    weights: Weights = "raw"
    quantity: Literal["vil", "rainfall_rate"] = "vil"
    time_step: float = 10.0
    target_frames: int = 6
    groups: int = 32
    overwrite: bool = False


def main(options: ConvertOptions) -> None:
    """Read, check, write; nothing is written unless everything fits.

    Raises:
        UserError: a checkpoint that `read_networks` refuses, or outputs that exist.
    """
    _check(options)
    source = Path(options.src)
    with progress_bar() as bar:
        task = bar.add_task(f"Converting {source.name}", total=3, note="reading")
        found = read_networks(source, options.weights, options.target_frames, options.groups)
        paths = _paths(Path(options.out), found)
        check_outputs(list(paths.values()), options.overwrite)
        bar.update(task, advance=1, note="hashing")
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        bar.update(task, advance=1, note="writing")
        card = {
            "converted_from": source.name,
            "sha256": digest,
            "weights": options.weights,
            "data": {"quantity": options.quantity, "time_step_minutes": [options.time_step]},
            "torch": torch.__version__,
        }
        lines = _write(found, paths, card)
        bar.update(task, advance=1, note="")
    print("\n".join(lines))


def _check(options: ConvertOptions) -> None:
    for name in ("target_frames", "groups"):
        if getattr(options, name) < 1:
            raise UserError(f"expected --{name} of at least 1, got {getattr(options, name)}")
    if not 0 < options.time_step < math.inf:
        raise UserError(f"expected --time_step in minutes above 0, got {options.time_step}")


def _paths(out: Path, found: list[Found]) -> dict[Kind, Path]:
    """Where each network goes."""
    if out.suffix != SUFFIX:
        return {network.kind: out / f"{network.kind}{SUFFIX}" for network in found}
    if len(found) > 1:
        kinds = " and ".join(network.kind for network in found)
        raise UserError(f"expected a folder for the {kinds} of this checkpoint, got the file name {out}")
    return {found[0].kind: out}


def _write(found: list[Found], paths: dict[Kind, Path], card: dict) -> list[str]:
    """Write the networks, the autoencoder first; one that lies beside it in the checkpoint belongs to it."""
    lines = []
    for network in sorted(found, key=lambda network: network.kind != "autoencoder"):
        module = built(network)
        save_weights(paths[network.kind], module, network.kind, network.config, card, half=False)
        if network.kind == "autoencoder":
            card = {**card, "codec": weights_hash(module)}
        parameters = sum(parameter.numel() for parameter in module.parameters())
        lines.append(
            f"{paths[network.kind]}: {network.kind}, {parameters:,} parameters in {len(network.tensors)} tensors"
        )
    return lines


def built(network: Found) -> nn.Module:
    """The module with the tensors that were found, which are not copied. PreDiff's latents are used as they are."""
    tensors = network.tensors
    with torch.device("meta"):
        if isinstance(network.config, AutoencoderConfig):
            codec = Codec(network.config)
            channels = network.config.latent_channels
            scale = {
                "latent_mean": torch.zeros(channels, device="cpu"),
                "latent_std": torch.ones(channels, device="cpu"),
            }
            tensors = {**{f"autoencoder.{name}": value for name, value in tensors.items()}, **scale}
            module: nn.Module = codec
        elif isinstance(network.config, AlignmentConfig):
            module = AlignmentNetwork(network.config)
        else:
            module = CuboidTransformerUNet(network.config)
    module.load_state_dict(tensors, assign=True)
    return module


if __name__ == "__main__":
    run(
        ConvertOptions,
        main,
        prog="python -m apps.nowcast.convert",
        description="Convert PreDiff's autoencoder, UNet or alignment network into files that the nowcast loads.",
        examples="""examples:
  python -m apps.nowcast.convert pretrained_sevirlr_vae_8x8x64_v1.pt           out/prediff
  python -m apps.nowcast.convert pretrained_sevirlr_earthformerunet_v1.pt      out/prediff
  python -m apps.nowcast.convert pretrained_sevirlr_alignment_avg_x_cuboid_v1.pt out/prediff
  python -m apps.nowcast.convert lightning.ckpt out/own --weights ema
  python -m apps.nowcast.evaluate --model out/prediff --data sevir-lr.zarr --methods ddpm-1000,ddim-100""",
        positional=[("src", "the torch file"), ("out", "folder of the model, or a .safetensors file")],
    )

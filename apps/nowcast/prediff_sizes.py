"""Sizes of PreDiff's networks, read off the shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile

from torch import Tensor

from apps.nowcast.model import AlignmentConfig, AutoencoderConfig, UNetConfig

AnyConfig = AutoencoderConfig | UNetConfig | AlignmentConfig
Tensors = Mapping[str, Tensor]


def autoencoder_sizes(tensors: Tensors, groups: int) -> AutoencoderConfig:
    """Sizes of the autoencoder with these tensors.

    Raises:
        KeyError: a tensor that they are read off is missing.
        ValueError: sizes that do not fit each other.
    """
    levels = _counted(tensors, "encoder.down_blocks.{}.resnets.0.conv1.weight")
    return AutoencoderConfig(
        in_channels=tensors["encoder.conv_in.weight"].shape[1],
        block_out_channels=tuple(
            tensors[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)
        ),
        layers_per_block=_counted(tensors, "encoder.down_blocks.0.resnets.{}.conv1.weight"),
        latent_channels=tensors["post_quant_conv.weight"].shape[0],
        norm_num_groups=groups,
    )


def unet_sizes(tensors: Tensors, groups: int, target_frames: int) -> UNetConfig:
    """Sizes of the UNet with these tensors; raises what `autoencoder_sizes` raises."""
    frames, height, width = _shape(tensors)
    channels = tensors["final_proj.weight"].shape[0]
    if not 0 < target_frames < frames:
        raise ValueError(f"{frames} frames in all, of which {target_frames} cannot be the target's")
    return UNetConfig(
        context_shape=(frames - target_frames, height, width, channels),
        target_shape=(target_frames, height, width, channels),
        base_units=_units(tensors),
        depth=_depth(tensors),
        num_heads=_heads(tensors),
        time_embed_multiplier=_multiplier(tensors),
        norm_num_groups=groups,
        prediction="noise",
    )


def alignment_sizes(tensors: Tensors, groups: int) -> AlignmentConfig:
    """Sizes of the alignment network with these tensors; raises what `autoencoder_sizes` raises."""
    return AlignmentConfig(
        target_shape=(*_shape(tensors), tensors["first_proj.in_layers.0.weight"].shape[0]),
        base_units=_units(tensors),
        depth=_depth(tensors),
        num_heads=_heads(tensors),
        time_embed_multiplier=_multiplier(tensors),
        norm_num_groups=groups,
    )


def _counted(tensors: Tensors, name: str) -> int:
    """How many of name.format(0), name.format(1), ... there are."""
    return sum(1 for _ in takewhile(lambda index: name.format(index) in tensors, count()))


def _shape(tensors: Tensors) -> tuple[int, int, int]:
    """(frames, height, width)."""
    frames, height, width = (tensors[f"pos_embed.{axis}_embed.weight"].shape[0] for axis in "THW")
    return frames, height, width


def _units(tensors: Tensors) -> int:
    return tensors["pos_embed.T_embed.weight"].shape[1]


def _depth(tensors: Tensors) -> tuple[int, ...]:
    levels = _counted(tensors, "down_self_blocks.{}.0.attn_l.0.qkv.weight")
    return tuple(_counted(tensors, f"down_self_blocks.{level}." + "{}.attn_l.0.qkv.weight") for level in range(levels))


def _heads(tensors: Tensors) -> int:
    return tensors["down_self_blocks.0.0.attn_l.0.relative_position_bias_table"].shape[1]


def _multiplier(tensors: Tensors) -> int:
    return tensors["time_embed.layer.0.weight"].shape[0] // _units(tensors)

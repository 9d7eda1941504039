"""The U of both networks: an encoder and a decoder as dictionaries of named layers, and the way through them.

A layer's name is its resolution and its role, as in "16x16_block0"; published checkpoints and methods that hook into
a network know them by these names. Roles: `conv` makes features of the image; `down`, `up`, `in0`, `in1` and `block*`
are residual blocks, of which those named `block*` in the decoder also read what the encoder left at their place; those
that begin with `aux` carry the image itself down the encoder, or the output up the decoder.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apps.imagegen.models.edm.blocks import BlockStyle, UNetBlock
from apps.imagegen.models.edm.config import DecoderKind, EncoderKind, UNetConfig
from apps.imagegen.models.edm.layers import Convolution, GroupNorm, Resample


def encoder(config: UNetConfig, style: BlockStyle, kind: EncoderKind = "standard") -> tuple[nn.ModuleDict, list[int]]:
    """The layers down to the coarsest level, and the channels each leaves for the decoder."""
    layers, left = nn.ModuleDict(), []
    image, channels = config.in_channels, config.model_channels
    for level, (resolution, wide) in enumerate(config.levels):
        at = f"{resolution}x{resolution}"
        if level == 0:
            layers[f"{at}_conv"] = _convolution(image, channels, 3, style)
        else:
            layers[f"{at}_down"] = UNetBlock(channels, channels, style, resample="down")
            if kind == "skip":
                layers[f"{at}_aux_down"] = Resample("down", style.taps)
                layers[f"{at}_aux_skip"] = _convolution(image, channels, 1, style)
            if kind == "residual":
                auxiliary = Convolution(image, channels, 3, resample="down", taps=style.taps, convolve_first=True)
                style.initialise(auxiliary)
                layers[f"{at}_aux_residual"] = auxiliary
                image = channels
        left.append(channels)
        for index in range(config.num_blocks):
            attention = resolution in config.attn_resolutions
            layers[f"{at}_block{index}"] = UNetBlock(channels, wide, style, attention=attention)
            channels = wide
            left.append(channels)
    return layers, left


def decoder(
    config: UNetConfig, style: BlockStyle, left: list[int], *, kind: DecoderKind | None, attend_last: bool
) -> nn.ModuleDict:
    """The layers up to the finest level.

    Args:
        left: channels that the encoder leaves, in its order.
        kind: of the output layers; None has none.
        attend_last: of the blocks at a resolution with attention, only the last attends.
    """
    layers, left = nn.ModuleDict(), list(left)
    channels = left[-1]
    for level, (resolution, wide) in reversed(list(enumerate(config.levels))):
        at, coarsest = f"{resolution}x{resolution}", level == len(config.levels) - 1
        if coarsest:
            layers[f"{at}_in0"] = UNetBlock(channels, channels, style, attention=True)
            layers[f"{at}_in1"] = UNetBlock(channels, channels, style)
        else:
            layers[f"{at}_up"] = UNetBlock(channels, channels, style, resample="up")
        for index in range(config.num_blocks + 1):
            attention = resolution in config.attn_resolutions and (index == config.num_blocks or not attend_last)
            layers[f"{at}_block{index}"] = UNetBlock(channels + left.pop(), wide, style, attention=attention)
            channels = wide
        if kind == "skip" or (kind == "standard" and level == 0):
            if not coarsest and kind == "skip":
                layers[f"{at}_aux_up"] = Resample("up", style.taps)
            layers[f"{at}_aux_norm"] = GroupNorm(channels, style.eps)
            last = _convolution(channels, config.out_channels, 3, style, style.initialise.residual)
            layers[f"{at}_aux_conv"] = last
    return layers


def encode(layers: nn.ModuleDict, image: Tensor, embedding: Tensor) -> list[Tensor]:
    """What each layer of the encoder leaves, (B, C, H, W) each; the last is what the decoder begins with."""
    x = auxiliary = image
    left: list[Tensor] = []
    for name, layer in layers.items():
        role = name.partition("_")[2]
        if role == "aux_down":
            auxiliary = layer(auxiliary)
        elif role == "aux_skip":
            x = left[-1] = x + layer(auxiliary)
        elif role == "aux_residual":
            x = left[-1] = auxiliary = (x + layer(auxiliary)) * math.sqrt(0.5)
        else:
            x = layer(x) if role == "conv" else layer(x, embedding)
            left.append(x)
    return left


def decode(layers: nn.ModuleDict, left: list[Tensor], embedding: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features of the finest level, and the output where the decoder has layers for it."""
    left = list(left)
    x, output = left[-1], None
    normalised = x
    for name, layer in layers.items():
        role = name.partition("_")[2]
        if role == "aux_up":
            output = layer(output)
        elif role == "aux_norm":
            normalised = layer(x)
        elif role == "aux_conv":
            part = layer(F.silu(normalised))
            output = part if output is None else output + part
        else:
            x = layer(torch.cat([x, left.pop()], dim=1) if role.startswith("block") else x, embedding)
    return x, output


def _convolution(inward: int, outward: int, size: int, style: BlockStyle, gain: float = 1.0) -> Convolution:
    layer = Convolution(inward, outward, size)
    style.initialise(layer, gain)
    return layer

"""Layers of EDM's networks against their sums written out."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apps.imagegen.models.edm import EDMPrecond, SongConfig, SongUNet
from apps.imagegen.models.edm.blocks import UNetBlock
from apps.imagegen.models.edm.layers import Resample


def images(batch: int, size: int) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_a_residual_encoder_without_a_residual_halves_the_power() -> None:
    """x = (x + conv(image)) / sqrt(2), Karras et al. 2022, appendix F.1: no branch leaves x / sqrt(2)."""
    network = SongUNet(SongConfig(img_resolution=8, in_channels=3, out_channels=3, model_channels=8,
                                  channel_mult=(1, 1), num_blocks=1, encoder_type="residual"))  # fmt: skip
    seen: dict[str, Tensor] = {}
    for parameter in network.enc["4x4_aux_residual"].parameters():
        nn.init.zeros_(parameter)

    def after(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen["down"] = output

    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["block"] = inputs[0]

    network.enc["4x4_down"].register_forward_hook(after)
    network.enc["4x4_block0"].register_forward_pre_hook(before)
    network.eval()(images(2, 8), torch.tensor([0.2]))
    torch.testing.assert_close(seen["block"], seen["down"] * math.sqrt(0.5))


def test_resampling_by_the_box_filter() -> None:
    x = images(2, 6)
    assert torch.allclose(Resample("down", (1, 1))(x), F.avg_pool2d(x, 2), atol=1e-6)
    assert torch.allclose(Resample("up", (1, 1))(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3), atol=1e-6)


def test_resampling_by_a_longer_filter() -> None:
    """Against the sums written out, zeros beyond the border."""
    x, taps = images(1, 6)[:, :1], np.array([1, 3, 3, 1]) / 8
    padded = np.pad(x[0, 0].numpy(), 1)
    expected = np.array(
        [[taps @ padded[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] @ taps for j in range(3)] for i in range(3)]
    )
    got = Resample("down", (1, 3, 3, 1))(x)
    assert np.allclose(got[0, 0], expected, atol=1e-6)
    up = Resample("up", (1, 3, 3, 1))(x)
    back = torch.autograd.functional.vjp(Resample("down", (1, 3, 3, 1)), torch.zeros_like(up), x)[1]
    torch.testing.assert_close(up, 4 * back)  # each is the other's adjoint


def test_attention_against_sums() -> None:
    torch.manual_seed(0)
    sizes = {"model_channels": 128, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [8]}
    block = EDMPrecond(4, 3, model_type="DhariwalUNet", **sizes).eval().requires_grad_(False).model.dec["4x4_in0"]
    assert isinstance(block, UNetBlock)
    assert block.heads == 2
    x = torch.randn(1, 128, 2, 3)
    mixed = block.qkv(block.norm2(x))[0].reshape(2, 64, 3, 6).double().numpy()
    out = np.zeros((2, 64, 6))
    for head in range(2):
        query, key, value = (mixed[head, :, part] for part in range(3))
        for pixel in range(6):
            weights = np.exp([query[:, pixel] @ key[:, other] / 8 for other in range(6)])
            out[head, :, pixel] = value @ (weights / weights.sum())
    expected = block.proj(torch.from_numpy(out).float().reshape(1, 128, 2, 3))
    torch.testing.assert_close(block._attend(x), expected, rtol=1e-4, atol=1e-5)

"""Blocks of the UNet against formulas written out: axial attention, patch merging, normalisation, upsampling."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.nowcast.model.cuboid import (
    AxialAttention,
    CuboidBlock,
    FrameUpsample,
    PatchMerge,
    PositionEmbedding,
    merge_patches,
)
from apps.nowcast.model.residual import ResidualBlock, TimeEmbedding, group_norm, sinusoids

SHAPE = (3, 4, 5)


def shake(module: nn.Module, seed: int = 0) -> nn.Module:
    """Float64 and random everywhere, so that zero-initialised layers take part."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(attention: AxialAttention, x: Tensor, axis: int) -> Tensor:
    """One query, one head, one cell at a time; positions on the same line attend to one another and to none else."""
    channels, heads = x.shape[-1], attention.heads
    width = channels // heads
    table = attention.relative_position_bias_table
    normed = F.layer_norm(x, (channels,), attention.norm.weight, attention.norm.bias, 1e-5)
    q, k, v = (normed @ attention.qkv.weight[i * channels : (i + 1) * channels].T for i in range(3))
    mixed = torch.zeros_like(x)
    length = x.shape[1 + axis]
    for cell in ((b, t, i, j) for b in range(x.shape[0]) for t in range(3) for i in range(4) for j in range(5)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            line = [tuple(n if d == 1 + axis else c for d, c in enumerate(cell)) for n in range(length)]
            scores = torch.stack(
                [
                    q[cell][part] @ k[other][part] / math.sqrt(width) + table[cell[1 + axis] - n + length - 1, head]
                    for n, other in enumerate(line)
                ]
            )
            weights = scores.exp() / scores.exp().sum()
            mixed[cell][part] = sum(
                (w * v[other][part] for w, other in zip(weights, line, strict=True)), start=torch.zeros(width)
            )
    return mixed @ attention.proj.weight.T + attention.proj.bias


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axial_attention_is_attention_along_one_axis(axis: int) -> None:
    attention = shake(AxialAttention(6, 2, SHAPE[axis], axis, 0.5))
    assert isinstance(attention, AxialAttention)
    x = randn(2, *SHAPE, 6)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), brute_force(attention, x, axis), rtol=1e-10, atol=1e-12)


def test_cuboid_block_runs_time_height_width_each_with_its_feed_forward() -> None:
    block = shake(CuboidBlock(6, 2, SHAPE, 0.0))
    assert isinstance(block, CuboidBlock)
    x = expected = randn(2, *SHAPE, 6)
    with torch.no_grad():
        for axis in range(3):
            attention, ffn = block.attn_l[axis], block.ffn_l[axis]
            assert isinstance(attention, AxialAttention)
            expected = expected + brute_force(attention, expected, axis)
            normed = F.layer_norm(expected, (6,), ffn.layer_norm.weight, ffn.layer_norm.bias, 1e-5)
            inner = normed @ ffn.ffn_1.weight.T + ffn.ffn_1.bias
            gelu = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
            expected = expected + gelu @ ffn.ffn_2.weight.T + ffn.ffn_2.bias
        torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-12)


def test_cuboid_block_starts_as_identity() -> None:
    x = randn(2, *SHAPE, 6)
    assert torch.equal(CuboidBlock(6, 2, SHAPE, 0.0).double()(x), x)


def test_relative_positions_are_shifted_differences() -> None:
    index = AxialAttention(4, 2, 3, 0, 0.0).relative_position_index
    assert index.dtype == torch.int64
    assert index.tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_heads_must_divide_channels() -> None:
    with pytest.raises(ValueError, match="divisible by 4 heads, got 6"):
        AxialAttention(6, 4, 3, 0, 0.0)


def test_patches_merge_in_raster_order_with_channels_innermost() -> None:
    frame = torch.arange(16).reshape(1, 1, 4, 4, 1)
    assert merge_patches(frame)[0, 0].tolist() == [
        [[0, 1, 4, 5], [2, 3, 6, 7]],
        [[8, 9, 12, 13], [10, 11, 14, 15]],
    ]
    x = randn(2, 3, 4, 6, 5)
    assert torch.equal(
        merge_patches(x)[1, 2, 1, 2], torch.cat([x[1, 2, i, j] for i, j in ((2, 4), (2, 5), (3, 4), (3, 5))])
    )


def test_patch_merge_and_upsample_shapes() -> None:
    x = randn(2, 3, 4, 6, 8)
    merged = PatchMerge(8).double()(x)
    assert merged.shape == (2, 3, 2, 3, 16)
    assert FrameUpsample(16).double()(merged).shape == x.shape


def test_upsample_repeats_cells_of_every_frame_apart() -> None:
    upsample = FrameUpsample(2).double()
    with torch.no_grad():
        upsample.conv.weight.zero_()
        upsample.conv.weight[0, 1, 1, 1] = 1.0  # the centre tap of channel 1
        upsample.conv.bias.zero_()
        x = randn(2, 3, 4, 5, 2)
        expected = x[..., 1:].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        assert torch.equal(upsample(x), expected)


@pytest.mark.parametrize(
    ("channels", "wanted", "groups"), [(65, 32, 65), (48, 32, 48), (96, 32, 32), (9, 8, 9), (48, 8, 8)]
)
def test_group_norm_takes_the_groups_or_one_per_channel(channels: int, wanted: int, groups: int) -> None:
    norm = group_norm(channels, wanted)
    assert (norm.num_groups, norm.eps) == (groups, 1e-5)


def test_time_reaches_a_block_only_through_groups_of_several_channels() -> None:
    x, early, late = randn(1, 3, 4, 5, 8), randn(1, 3, seed=2), randn(1, 3, seed=3)
    with torch.no_grad():
        for groups, sees in ((4, True), (8, False)):
            block = shake(ResidualBlock(8, 8, groups, 0.0, embedding=3))
            assert torch.allclose(block(x, early), block(x, late), rtol=1e-9, atol=1e-9) is not sees


def test_residual_block_formula() -> None:
    block = shake(ResidualBlock(5, 7, 3, 0.5, embedding=3))
    assert isinstance(block, ResidualBlock)
    assert block.emb_layers is not None
    assert block.skip_connection is not None
    x, embedding = randn(2, 3, 4, 6, 5), randn(2, 3, seed=2)
    seen = x.permute(0, 4, 1, 2, 3)

    def half(layers: nn.Sequential, h: Tensor) -> Tensor:
        mean = h.mean(dim=(2, 3, 4), keepdim=True)  # three groups divide neither 5 nor 7: one per channel
        normed = (h - mean) / (h.var(dim=(2, 3, 4), keepdim=True, correction=0) + 1e-5).sqrt()
        affine = normed * layers[0].weight[:, None, None, None] + layers[0].bias[:, None, None, None]
        return F.conv3d(affine * affine.sigmoid(), layers[-1].weight, layers[-1].bias, padding=1)

    with torch.no_grad():
        shift = (embedding * embedding.sigmoid()) @ block.emb_layers[1].weight.T + block.emb_layers[1].bias
        h = half(block.out_layers, half(block.in_layers, seen) + shift[:, :, None, None, None])
        skip = torch.einsum("oi,bithw->bothw", block.skip_connection.weight[:, :, 0, 0, 0], seen)
        expected = (h + skip + block.skip_connection.bias[:, None, None, None]).permute(0, 2, 3, 4, 1)
        torch.testing.assert_close(block(x, embedding), expected, rtol=1e-10, atol=1e-12)


def test_position_embedding_adds_frame_row_and_column() -> None:
    table = shake(PositionEmbedding(6, SHAPE))
    assert isinstance(table, PositionEmbedding)
    x = randn(2, *SHAPE, 6)
    with torch.no_grad():
        added = table.T_embed.weight[2] + table.H_embed.weight[3] + table.W_embed.weight[1]
        torch.testing.assert_close(table(x)[1, 2, 3, 1], x[1, 2, 3, 1] + added)


def test_time_embedding_takes_whole_and_fractional_times() -> None:
    embed = TimeEmbedding(8, 12).double()
    assert torch.equal(embed(torch.tensor([3, 700])), embed(torch.tensor([3.0, 700.0])))
    assert embed(torch.tensor([2.5])).dtype == torch.float64
    low, middle, high = sinusoids(torch.tensor([2.0, 2.5, 3.0]), 8)[:, 2]  # a slow cosine falls between its neighbours
    assert low > middle > high

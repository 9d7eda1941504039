"""The UNet as a whole: what it takes, what it depends on, what it refuses, what it costs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from apps.nowcast.model import AutoencoderConfig, CuboidTransformerUNet, UNetConfig

TINY = UNetConfig(
    context_shape=(3, 4, 8, 5),
    target_shape=(2, 4, 8, 5),
    base_units=16,
    depth=(2, 1),
    num_heads=2,
    norm_num_groups=4,
)


@pytest.fixture(scope="module")
def unet() -> CuboidTransformerUNet:
    """A tiny network in float64, random everywhere, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    network = CuboidTransformerUNet(TINY).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *TINY.target_shape, generator=generator, dtype=torch.float64)
    cond = torch.randn(batch, *TINY.context_shape, generator=generator, dtype=torch.float64)
    return x, torch.linspace(3.5, 900.0, batch, dtype=torch.float64), cond


def test_indicator_is_the_last_channel_and_one_on_the_context(unet: CuboidTransformerUNet) -> None:
    x, _, cond = inputs()
    frames = unet.assemble(x, cond)
    assert frames.shape == (3, 5, 4, 8, 6)
    assert torch.equal(frames[:, :3, ..., :5], cond)
    assert torch.equal(frames[:, 3:, ..., :5], x)
    assert (frames[:, :3, ..., 5] == 1).all()
    assert (frames[:, 3:, ..., 5] == 0).all()


@torch.no_grad()
def test_output_depends_on_every_input(unet: CuboidTransformerUNet) -> None:
    x, t, cond = inputs()
    noise = unet(x, t, cond)
    assert noise.shape == x.shape
    for changed in (unet(x + 0.1, t, cond), unet(x, t + 0.5, cond)):
        assert (changed - noise).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-6
    for frame in range(3):
        other = cond.clone()
        other[:, frame, 0, 0, 0] += 1.0
        assert (unet(x, t, other) - noise).abs().max() > 1e-6


@torch.no_grad()
def test_samples_do_not_see_one_another(unet: CuboidTransformerUNet) -> None:
    x, t, cond = inputs()
    order = torch.tensor([2, 0, 1])
    noise = unet(x, t, cond)
    torch.testing.assert_close(unet(x[order], t[order], cond[order]), noise[order], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(unet(x[1:2], t[1:2], cond[1:2]), noise[1:2], rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_whole_times_may_be_integers_or_floats(unet: CuboidTransformerUNet) -> None:
    x, _, cond = inputs()
    t = torch.tensor([0, 7, 999])
    assert torch.equal(unet(x, t, cond), unet(x, t.double(), cond))


def test_every_parameter_gets_a_gradient(unet: CuboidTransformerUNet) -> None:
    unet.zero_grad()
    unet(*inputs()).square().mean().backward()
    lacking = [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert lacking == []


def test_gradient_with_respect_to_inputs_is_exact(unet: CuboidTransformerUNet) -> None:
    x, t, cond = inputs(1)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x.requires_grad_(True)
    (slope,) = torch.autograd.grad(unet(x, t, cond).sum(), x)
    with torch.no_grad():
        h = 1e-5
        difference = (unet(x + h * direction, t, cond).sum() - unet(x - h * direction, t, cond).sum()) / (2 * h)
    torch.testing.assert_close((slope * direction).sum(), difference, rtol=1e-6, atol=1e-8)


def test_dropout_acts_in_training_only(unet: CuboidTransformerUNet) -> None:
    call = inputs()
    with torch.no_grad():
        assert torch.equal(unet(*call), unet(*call))
        unet.train()
        try:
            assert not torch.equal(unet(*call), unet(*call))
        finally:
            unet.eval()


def test_wrong_shapes_are_named(unet: CuboidTransformerUNet) -> None:
    x, t, cond = inputs()
    with pytest.raises(ValueError, match=r"expected x of shape \(3, 2, 4, 8, 5\), got \(3, 5, 2, 4, 8\); latents are"):
        unet(x.movedim(-1, 1), t, cond)
    with pytest.raises(ValueError, match=r"expected cond of shape \(3, 3, 4, 8, 5\), got \(2, 3, 4, 8, 5\)"):
        unet(x, t, cond[:2])
    with pytest.raises(ValueError, match=r"expected t of shape \(3,\), got \(\); give one diffusion time per sample"):
        unet(x, t[0], cond)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_shape": (3, 4, 4, 5)}, "only the number of frames may differ"),
        ({"depth": (1, 1, 1, 1)}, "divisible by 8 for 4 levels"),
        ({"depth": ()}, "at least one attention block per level"),
        ({"depth": (1, 0)}, "at least one attention block per level"),
        ({"num_heads": 3}, "divisible by num_heads=3, got 16"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize("config", [UNetConfig.mini(), UNetConfig.mini(48), UNetConfig.prediff()])
def test_every_level_of_the_presets_sees_the_time(config: UNetConfig) -> None:
    assert all(channels >= 2 * config.norm_num_groups for channels in config.level_channels)
    assert all(channels % config.norm_num_groups == 0 for channels in config.level_channels)


@pytest.mark.parametrize("base_units", [32, 48, 56])
def test_mini_keeps_its_budget(base_units: int) -> None:
    config = UNetConfig.mini(base_units)
    with torch.device("meta"):
        unet = CuboidTransformerUNet(config).eval()
        x, cond = torch.empty(1, *config.target_shape), torch.empty(1, *config.context_shape)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            assert unet(x, torch.empty(1), cond).shape == (1, 6, 16, 16, 16)
    assert config.target_shape[-1] == AutoencoderConfig.mini().latent_channels
    assert sum(p.numel() for p in unet.parameters()) <= 4_000_000
    assert counter.get_total_flops() <= 15e9

"""The autoencoder: shapes at any size, the posterior's formulas, its blocks against formulas written out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from apps.nowcast.model import AutoencoderConfig, AutoencoderKL, DiagonalGaussian
from apps.nowcast.model.autoencoder import AttentionBlock, Downsample, Upsample

TINY = AutoencoderConfig(block_out_channels=(4, 8, 12), layers_per_block=1, latent_channels=3, norm_num_groups=2)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(TINY).double()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (24, 40), (40, 24), (128, 136)])
def test_mini_runs_on_any_multiple_of_eight(height: int, width: int) -> None:
    config = AutoencoderConfig.mini()
    mini = AutoencoderKL(config)
    assert sum(p.numel() for p in mini.parameters()) <= 1_500_000
    with torch.no_grad():
        posterior = mini.encode(torch.rand(2, 1, height, width))
        assert posterior.mean.shape == posterior.logvar.shape == (2, config.latent_channels, height // 8, width // 8)
        assert mini.decode(posterior.mode()).shape == (2, 1, height, width)


def test_frames_do_not_see_one_another(autoencoder: AutoencoderKL) -> None:
    frames = randn(3, 1, 12, 20)
    with torch.no_grad():
        together = autoencoder.encode(frames)
        alone = autoencoder.encode(frames[1:2])
        torch.testing.assert_close(together.mean[1:2], alone.mean)
        torch.testing.assert_close(autoencoder.decode(together.mean)[1:2], autoencoder.decode(alone.mean))


def test_kl_is_the_divergence_from_the_standard_normal() -> None:
    mean, logvar = randn(2, 3, 4, 5), randn(2, 3, 4, 5, seed=1)
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(posterior, prior).sum(dim=(1, 2, 3))
    torch.testing.assert_close(DiagonalGaussian(mean, logvar).kl(), expected)
    assert DiagonalGaussian(torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)).kl().tolist() == [0.0, 0.0]


def test_samples_follow_mean_and_variance_and_their_generator() -> None:
    mean, logvar = torch.tensor([[[[1.0, -2.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    posterior = DiagonalGaussian(mean.expand(20_000, 1, 1, 2), logvar.expand(20_000, 1, 1, 2))
    draws = posterior.sample(torch.Generator().manual_seed(3))
    assert torch.equal(draws, posterior.sample(torch.Generator().manual_seed(3)))
    assert not torch.equal(draws, posterior.sample(torch.Generator().manual_seed(4)))
    torch.testing.assert_close(draws.mean(0), mean[0], rtol=0, atol=0.08)
    torch.testing.assert_close(draws.var(0).log(), logvar[0], rtol=0, atol=0.08)
    assert torch.equal(posterior.mode(), posterior.mean)


def test_logvar_is_clamped(autoencoder: AutoencoderKL) -> None:
    loud = AutoencoderKL(TINY).double()
    loud.load_state_dict(autoencoder.state_dict())
    with torch.no_grad():
        assert loud.quant_conv.bias is not None
        loud.quant_conv.bias[3:] = torch.tensor([1e3, -1e3, 0.0])
        logvar = loud.encode(randn(2, 1, 8, 12)).logvar
    assert (logvar[:, 0] == 20.0).all()
    assert (logvar[:, 1] == -30.0).all()
    assert logvar[:, 2].abs().max() < 20.0


def test_downsample_pads_right_and_bottom_only() -> None:
    down = Downsample(2).double()
    x = randn(3, 2, 4, 6)
    padded = torch.zeros(3, 2, 5, 7, dtype=torch.float64)
    padded[:, :, :4, :6] = x
    with torch.no_grad():
        assert down(x).shape == (3, 2, 2, 3)
        corner = torch.einsum("oikl,nikl->no", down.conv.weight, padded[:, :, 2:5, 4:7]) + down.conv.bias
        torch.testing.assert_close(down(x)[:, :, 1, 2], corner)


def test_upsample_is_nearest_neighbour_before_the_convolution() -> None:
    up = Upsample(2).double()
    x = randn(3, 2, 4, 5)
    with torch.no_grad():
        repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        torch.testing.assert_close(up(x), F.conv2d(repeated, up.conv.weight, up.conv.bias, padding=1))


def test_attention_block_attends_over_all_cells() -> None:
    torch.manual_seed(1)
    block = AttentionBlock(6, 3).double()
    x = randn(2, 6, 3, 4)
    with torch.no_grad():
        expected = x.clone()
        normed = F.group_norm(x, 3, eps=1e-6)
        for n in range(2):
            cells = [normed[n, :, i, j] for i in range(3) for j in range(4)]
            keys = torch.stack([block.key(cell) for cell in cells])
            values = torch.stack([block.value(cell) for cell in cells])
            for place, cell in enumerate(cells):
                weights = torch.softmax(keys @ block.query(cell) / 6**0.5, dim=0)
                expected[n, :, place // 4, place % 4] += block.proj_attn(weights @ values)
        torch.testing.assert_close(block(x), expected, rtol=1e-6, atol=1e-7)  # its softmax is float32


def test_every_parameter_gets_a_gradient(autoencoder: AutoencoderKL) -> None:
    frames = randn(2, 1, 12, 8)
    autoencoder.zero_grad()
    reconstruction, posterior = autoencoder(frames, torch.Generator().manual_seed(0))
    assert reconstruction.shape == frames.shape
    ((reconstruction - frames).square().sum() + posterior.kl().sum()).backward()
    lacking = [name for name, p in autoencoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # A bias of the keys shifts all scores of a query alike, and softmax does not see it: rounding alone is left.
    assert [name for name in lacking if not name.endswith("key.bias")] == []


def test_wrong_shapes_are_named(autoencoder: AutoencoderKL) -> None:
    with pytest.raises(
        ValueError, match=r"multiples of 4, got \(2, 1, 12, 10\); put frames on the batch axis, and crop"
    ):
        autoencoder.encode(randn(2, 1, 12, 10))
    with pytest.raises(ValueError, match=r"expected frames \(N, 1, H, W\).* got \(2, 5, 8, 8\)"):
        autoencoder.encode(randn(2, 5, 8, 8))
    with pytest.raises(ValueError, match=r"expected latents \(N, 3, h, w\), got \(3, 2, 2\)"):
        autoencoder.decode(randn(3, 2, 2))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"divisible by norm_num_groups=8, got \[4, 12\]"):
        dataclasses.replace(TINY, norm_num_groups=8)
    with pytest.raises(ValueError, match="counts of at least one"):
        dataclasses.replace(TINY, layers_per_block=0)
    with pytest.raises(ValueError, match="at least one level"):
        dataclasses.replace(TINY, block_out_channels=())

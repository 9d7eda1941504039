"""The frozen model: files, layouts, seeds, and forecasts that depend on nothing but their seed and context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import core
from apps.nowcast.data import load_windows
from apps.nowcast.model import CuboidTransformerUNet
from apps.nowcast.nowcaster import Nowcaster, load_codec, load_network
from apps.nowcast.solvers import build_base
from data_tools.cli import UserError


def context(count: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 7, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_shapes_follow_the_files(nowcaster: Nowcaster) -> None:
    assert nowcaster.latent_shape == (3, 6, 8, 8)
    assert nowcaster.frame_size == (32, 32)
    assert (nowcaster.context_frames, nowcaster.target_frames) == (7, 6)
    assert not any(p.requires_grad for p in nowcaster.parameters())
    latents = nowcaster.encode(torch.rand(2, 5, 32, 32))
    assert latents.shape == (2, 3, 5, 8, 8)
    assert nowcaster.decode(latents).shape == (2, 5, 32, 32)


def test_the_configuration_says_what_the_network_predicts(nowcaster: Nowcaster) -> None:
    network = CuboidTransformerUNet(replace(nowcaster.network.config, prediction="v"))
    network.load_state_dict(nowcaster.network.state_dict())
    of_v = Nowcaster(nowcaster.codec, network)
    latents = torch.randn(2, 3, 7, 8, 8, generator=torch.Generator().manual_seed(2))
    x, t = nowcaster.noise([3, 4]), torch.tensor(0.6, dtype=torch.float64)
    alpha, sigma, d_alpha, d_sigma = (float(value) for value in nowcaster.schedule(t))
    noise_velocity, v_velocity = nowcaster.field(latents)(x, t), of_v.field(latents)(x, t)
    answer = (noise_velocity - d_alpha / alpha * x) / (d_sigma - d_alpha * sigma / alpha)  # what both networks say
    expected = d_alpha * (alpha * x - sigma * answer) + d_sigma * (sigma * x + alpha * answer)
    torch.testing.assert_close(v_velocity, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="expected a prediction of noise or v, got 'x0'"):
        replace(network.config, prediction="x0")


def test_frames_are_coded_one_by_one_in_their_order(nowcaster: Nowcaster) -> None:
    frames = torch.rand(2, 3, 32, 32)
    together = nowcaster.encode(frames)
    for b in range(2):
        for t in range(3):
            alone = nowcaster.encode(frames[b : b + 1, t : t + 1])[0, :, 0]
            torch.testing.assert_close(together[b, :, t], alone, atol=1e-5, rtol=1e-4)


def test_a_member_depends_on_its_seed_alone(nowcaster: Nowcaster) -> None:
    solver, grid, frames = build_base("ddim", nowcaster.schedule), nowcaster.grid(3), context(2)
    both = nowcaster.forecast(frames, solver, grid, [11, 12, 13, 14])
    assert both.nfe == 3
    assert both.frames.shape == (4, 6, 32, 32)
    alone = nowcaster.forecast(frames[1:], solver, grid, [14])
    torch.testing.assert_close(both.frames[3:], alone.frames, atol=1e-4, rtol=1e-3)
    other = nowcaster.forecast(frames[1:], solver, grid, [15])
    assert (other.frames - alone.frames).abs().max() > 1e-3


def test_ancestral_members_depend_on_their_seeds_too(nowcaster: Nowcaster) -> None:
    grid, frames = nowcaster.grid(4), context(1)
    both = core.build_solver("ddpm", schedule=nowcaster.schedule, seeds=(5, 6))
    one = core.build_solver("ddpm", schedule=nowcaster.schedule, seeds=(6,))
    pair = nowcaster.forecast(frames, both, grid, [5, 6]).frames
    torch.testing.assert_close(pair[1:], nowcaster.forecast(frames, one, grid, [6]).frames, atol=1e-4, rtol=1e-3)


def test_a_dry_context_gives_a_finite_nowcast(nowcaster: Nowcaster) -> None:
    forecast = nowcaster.forecast(
        torch.zeros(1, 7, 32, 32), build_base("ddim", nowcaster.schedule), nowcaster.grid(2), [3]
    )
    assert torch.isfinite(forecast.frames).all()
    assert forecast.frames.min() >= 0
    assert forecast.frames.max() <= 1


@pytest.mark.parametrize(
    ("shape", "seeds"), [((2, 6, 32, 32), [1, 2]), ((2, 7, 16, 32), [1, 2]), ((2, 7, 32, 32), [1])]
)
def test_a_context_of_another_shape_is_refused(nowcaster: Nowcaster, shape: tuple[int, ...], seeds: list[int]) -> None:
    with pytest.raises(ValueError, match="expected context"):
        nowcaster.forecast(torch.zeros(shape), build_base("ddim", nowcaster.schedule), nowcaster.grid(2), seeds)


def test_the_identity_tells_models_apart(
    nowcaster: Nowcaster, tiny_model: Path, model_factory: Callable[..., Path], tmp_path: Path
) -> None:
    assert Nowcaster.load(tiny_model).identity == nowcaster.identity
    assert Nowcaster.load(model_factory(tmp_path, seed=1)).identity != nowcaster.identity


def test_damaged_and_foreign_files_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    whole = (tiny_model / "unet.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_network(cut)
    with pytest.raises(UserError, match="no such file"):
        load_codec(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="to hold the autoencoder"):
        load_codec(tiny_model / "unet.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(2)}, foreign)
    with pytest.raises(UserError, match="something else"):
        load_network(foreign)


def test_windows_of_another_kind_are_refused(
    nowcaster: Nowcaster, store_factory: Callable[..., Path], tmp_path: Path
) -> None:
    vil = load_windows(str(store_factory(tmp_path / "vil.zarr", {"test": 1}, "vil")), "test", 13)
    with pytest.raises(UserError, match="rainfall_rate"):
        nowcaster.check(vil)
    large = load_windows(str(store_factory(tmp_path / "large.zarr", {"test": 1}, patch=64)), "test", 13)
    with pytest.raises(UserError, match="--patch 32"):
        nowcaster.check(large)
    assert np.isfinite(large.time_step_minutes).all()

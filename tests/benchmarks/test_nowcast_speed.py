"""How fast the shipped nowcast is. Run with `pytest tests/benchmarks --benchmark-enable --benchmark-only`."""

from __future__ import annotations

import pytest
import torch

import core
from apps.nowcast.nowcaster import ASSETS, Nowcaster, bound
from apps.nowcast.solvers import build_base


@pytest.fixture(scope="module")
def shipped() -> Nowcaster:
    return Nowcaster.load()


@pytest.fixture(scope="module")
def solver() -> core.Corrected:
    return core.load(ASSETS / "spanlift-teacher.safetensors")


def test_ten_members_of_six_frames(benchmark, shipped: Nowcaster, solver: core.Corrected) -> None:
    """From context frames to forecast frames, 128 x 128, five steps; at most 10 s on two cores."""
    context = torch.rand(1, 7, 128, 128) * 0.5
    forecast = benchmark(shipped.forecast, context, solver, solver.card.grid, list(range(10)))
    assert forecast.frames.shape == (10, 6, 128, 128)
    assert forecast.nfe == 5


@pytest.mark.parametrize("name", ["ddim", "spanlift"])
def test_sampling_of_ten_members(benchmark, shipped: Nowcaster, solver: core.Corrected, name: str) -> None:
    """Sampling alone with and without the operator, in one run: their ratio is what the operator costs."""
    chosen = solver if name == "spanlift" else build_base("ddim", shipped.schedule)
    latents = torch.randn(10, shipped.latent_shape[0], 7, *shipped.latent_shape[2:])
    field, noise = shipped.field(latents), shipped.noise(list(range(10)))

    @torch.no_grad()
    def sample() -> core.State:
        return core.integrate(field, bound(chosen, latents), noise, shipped.grid(5))

    assert torch.isfinite(benchmark(sample).x).all()

"""Heun's method: its step by hand, and its last one."""

from __future__ import annotations

import torch
from torch import Tensor

import core


def test_a_step_by_hand() -> None:
    """dx/dt = t x from t = 2 to 1: slopes 2 * 3 = 6 and 1 * (3 - 6) = -3, mean 1.5."""
    state = core.integrate(lambda x, t: t * x, core.Heun(), torch.full((2, 1), 3.0), torch.tensor([2.0, 1.0]))
    assert state.x.tolist() == [[1.5], [1.5]]
    assert state.nfe == 2
    torch.testing.assert_close(state.buffer[0].velocity, torch.full((2, 1), 6.0))


def test_the_step_to_the_data_is_an_euler_step() -> None:
    """Its second slope would divide by sigma = 0; EDM's sampler ends with the denoised state instead."""

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma**2)

    field, x = core.DenoiserField(denoiser), torch.full((2, 3), 5.0, dtype=torch.float64)
    states = list(core.trajectory(field, core.Heun(), x, torch.tensor([2.0, 0.5, 0.0])))
    torch.testing.assert_close(states[-1].x, denoiser(states[-2].x, torch.tensor(0.5)))
    assert states[-1].nfe == 3


def test_a_network_is_not_asked_beyond_its_table() -> None:
    asked: list[float] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        asked.append(float(time))
        return 0.1 * x

    schedule = core.DiscreteVP.scaled_linear()
    field = core.NoisePredictionField(network, schedule)
    for solver in (core.Heun(core.NoiseChart(schedule)), core.Heun()):
        state = core.integrate(field, solver, torch.ones(2, 3), core.build_grid("uniform", 4, 1.0, 0.0))
        assert bool(torch.isfinite(state.x).all())
    assert min(asked) > 0

"""Denoising to zero, and dynamic thresholding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import core
from core.solvers.thresholding import dynamic_threshold

F64 = torch.float64


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=F64)


@pytest.mark.parametrize("schedule", [core.EDM(), core.VP(), core.RectifiedFlow()])
def test_the_endpoint_is_the_predicted_data(schedule: core.Schedule) -> None:
    field = core.MixtureField(noise(3, 2, 5), [0.5, 0.2, 0.3], 0.4, schedule)
    grid, x = torch.tensor([0.9, 0.6, 0.3], dtype=F64), noise(4, 2, 5)
    plain = core.integrate(field, core.IPNDM(2), x, grid)
    state = core.integrate(field, core.IPNDM(2), x, grid, denoise=True)
    torch.testing.assert_close(state.x, field.data(plain.x, grid[-1]))
    assert (state.nfe, plain.nfe) == (3, 2)
    assert float(state.t) == 0
    guided = core.GuidedField(field, field, 2.0)
    assert core.integrate(guided, core.IPNDM(2), x, grid, denoise=True).nfe == 6


def test_denoising_needs_a_schedule_and_noise() -> None:
    x, grid = noise(4, 2), torch.tensor([2.0, 1.0])
    with pytest.raises(ValueError, match="expected a field with a schedule for denoise=True, got function"):
        core.integrate(lambda x, t: x, core.Euler(), x, grid, denoise=True)
    field = core.DenoiserField(lambda x, t: 0 * x)
    with pytest.raises(ValueError, match="expected noise in the last state for denoise=True, got none at t = 0"):
        core.integrate(field, core.Euler(), x, torch.tensor([2.0, 0.0]), denoise=True)


def test_a_network_that_breaks_while_denoising_is_told() -> None:
    field = core.DenoiserField(lambda x, t: x * (1 if t > 1 else float("nan")))
    with pytest.raises(FloatingPointError, match="in the denoised state, from t = 1;"):
        core.integrate(field, core.Euler(), noise(4, 2), torch.tensor([2.0, 1.0]), denoise=True)


def test_thresholding_clips_at_the_quantile_and_rescales() -> None:
    data = 3 * noise(2, 3, 7, 11)
    data[1] /= 30  # within [-1, 1]: it stays
    bound = torch.quantile(data[0].abs().flatten(), 0.995)
    expected = torch.stack([data[0].clamp(-bound, bound) / bound, data[1]])
    torch.testing.assert_close(dynamic_threshold(data), expected, rtol=1e-14, atol=0)
    assert torch.equal(dynamic_threshold(dynamic_threshold(data)), dynamic_threshold(data))
    assert dynamic_threshold(torch.tensor([[4.0], [-0.5]])).tolist() == [[1.0], [-0.5]]
    wide = noise(2, 401) * 5  # the place of the quantile is a whole number here: 0.995 * 400 = 398
    edge = wide.abs().sort(1).values[:, 398:399]
    torch.testing.assert_close(dynamic_threshold(wide), wide.clamp(-edge, edge) / edge, rtol=1e-12, atol=0)


def test_gradients_pass_through_thresholding() -> None:
    data = (3 * noise(2, 9)).requires_grad_()
    assert torch.autograd.gradcheck(dynamic_threshold, (data,))

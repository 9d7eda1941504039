"""Conversions between what networks predict, against the definitions of each target."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

import core
from core.parametrizations import Target
from core.schedules import Signal

SCHEDULES = (core.EDM(), core.VP(), core.Cosine(), core.DiscreteVP.scaled_linear(), core.RectifiedFlow(2.0))


def targets(data: Tensor, noise: Tensor, signal: Signal) -> dict[Target, Tensor]:
    return {
        "data": data,
        "noise": noise,
        "velocity": signal.d_alpha * data + signal.d_sigma * noise,
        "v": signal.alpha * noise - signal.sigma * data,
    }


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("t", [0.03, 0.5, 0.91])
def test_every_target_gives_every_other(schedule: core.Schedule, t: float) -> None:
    generator = torch.Generator().manual_seed(3)
    data, noise = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    signal = schedule(t)
    x = signal.alpha * data + signal.sigma * noise
    known = targets(data, noise, signal)
    for source, target in product(core.TARGETS, repeat=2):
        got = core.convert(known[source], x, signal, source, target)
        torch.testing.assert_close(got, known[target], rtol=1e-9, atol=1e-9)


def test_edm_by_hand() -> None:
    x, denoised = torch.tensor([[3.0]]), torch.tensor([[1.0]])
    assert core.convert(denoised, x, core.EDM()(4.0), "data", "velocity").item() == 0.5
    assert core.convert(denoised, x, core.EDM()(4.0), "data", "noise").item() == 0.5


def test_flow_at_both_ends() -> None:
    """velocity = noise - data needs no division at either end."""
    x, velocity = torch.tensor([[3.0]]), torch.tensor([[2.0]])
    assert core.convert(velocity, x, core.RectifiedFlow()(1.0), "velocity", "data").item() == 1.0
    assert core.convert(velocity, x, core.RectifiedFlow()(0.0), "velocity", "noise").item() == 5.0


def test_precision_is_that_of_the_state() -> None:
    x = torch.ones(2, 3)
    assert core.convert(x, x, core.VP()(0.5), "noise", "velocity").dtype == torch.float32


def test_unknown_target_is_refused() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="expected one of noise, data, velocity, v, got 'score'"):
        core.convert(x, x, core.EDM()(1.0), "noise", "score")  # pyright: ignore[reportArgumentType]

"""Ancestral sampling, against the update of DDPM written with its table of betas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import core
from core.solvers.ddpm import noise_generator

F64 = torch.float64


def network(x: Tensor, time: Tensor) -> Tensor:
    return torch.tanh(x * (1 + time / 1000)) * 0.9


def start(rows: int) -> Tensor:
    return torch.stack([torch.randn(2, 3, generator=torch.Generator().manual_seed(s), dtype=F64) for s in range(rows)])


def draw(seed: int, step: int) -> Tensor:
    return torch.randn(2, 3, generator=noise_generator(seed, step), dtype=F64)


def reference(x: Tensor, seeds: list[int], steps: int) -> Tensor:
    """Ho et al. 2020, algorithm 2 with the variance of eq. 7, over the last `steps` entries of the table."""
    beta = torch.linspace(1e-4**0.5, 2e-2**0.5, 1000, dtype=F64) ** 2
    survival = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1, dtype=F64), survival[:-1]])
    for step, m in enumerate(range(steps - 1, -1, -1)):
        noise = network(x, torch.tensor(float(m), dtype=F64))
        data = x / survival[m].sqrt() - (1 / survival[m] - 1).sqrt() * noise
        x = (
            beta[m] * before[m].sqrt() / (1 - survival[m]) * data
            + (1 - before[m]) * (1 - beta[m]).sqrt() / (1 - survival[m]) * x
        )
        if m > 0:
            spread = (beta[m] * (1 - before[m]) / (1 - survival[m])).sqrt()
            x = x + spread * torch.stack([draw(seed, step) for seed in seeds])
    return x


def test_the_full_table_is_sampled_as_in_ddpm() -> None:
    schedule = core.DiscreteVP.scaled_linear()
    field, solver = (
        core.NoisePredictionField(network, schedule),
        core.build_solver("ddpm", schedule=schedule, seeds=[7, 3]),
    )
    state = core.integrate(field, solver, start(2), core.build_grid("uniform", 1000, 1.0, 0.0))
    torch.testing.assert_close(state.x, reference(start(2), [7, 3], 1000), rtol=1e-9, atol=1e-9)
    assert state.nfe == 1000


def test_a_sample_depends_on_its_seed_alone() -> None:
    schedule, grid = core.VP(), core.build_grid("uniform", 6, 1.0, 1e-3)
    field, x = core.NoisePredictionField(network, schedule), start(4)
    together = core.integrate(field, core.DDPM(schedule, (5, 9, 2, 11)), x, grid).x
    for row, seed in enumerate((5, 9, 2, 11)):
        alone = core.integrate(field, core.DDPM(schedule, (seed,)), x[row : row + 1], grid).x
        torch.testing.assert_close(alone[0], together[row], rtol=1e-12, atol=1e-12)
    again = core.integrate(field, core.DDPM(schedule, (5, 9, 2, 12)), x, grid).x
    assert torch.equal(again[:3], together[:3])
    assert not torch.allclose(again[3], together[3])


def test_seeds_are_the_rows_where_none_are_given() -> None:
    schedule, grid = core.VP(), core.build_grid("uniform", 3, 1.0, 1e-3)
    field = core.NoisePredictionField(network, schedule)
    numbered = core.integrate(field, core.DDPM(schedule, (0, 1, 2)), start(3), grid).x
    assert torch.equal(core.integrate(field, core.DDPM(schedule), start(3), grid).x, numbered)


def test_noise_is_standard_and_new_at_every_step() -> None:
    draws = torch.stack([draw(seed, step) for seed in range(60) for step in range(50)])
    count = draws.numel()
    assert abs(float(draws.mean())) < 5 / count**0.5
    assert abs(float(draws.var()) - 1) < 5 * (2 / count) ** 0.5
    assert len({tuple(row.flatten().tolist()) for row in draws}) == 3000


def test_precision_changes_no_noise() -> None:
    schedule, grid = core.VP(), core.build_grid("uniform", 3, 1.0, 1e-3)
    field = core.NoisePredictionField(network, schedule)
    single = core.integrate(field, core.DDPM(schedule), start(3).float(), grid).x
    double = core.integrate(field, core.DDPM(schedule), start(3), grid).x
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_variance_of_a_gaussian_converges_with_first_order() -> None:
    """For Gaussian data a step is linear, x' = gain x + spread noise: both are read off two states, then propagated."""
    schedule, data_std = core.VP(), 0.5
    field, solver = core.MixtureField(torch.zeros(1, 1, 1, dtype=F64), [1.0], data_std, schedule), core.DDPM(schedule)
    unit, noise = torch.ones(1, 1, 1, dtype=F64), torch.randn(1, generator=noise_generator(0, 0), dtype=F64)

    def variance(steps: int) -> float:
        total = torch.ones((), dtype=F64)
        for t, t_next in core.build_grid("uniform", steps, 1.0, 0.0).unfold(0, 2, 1):
            added = solver.step(field, core.State(0 * unit, t, 0, (), 0), t_next).x
            gain = solver.step(field, core.State(unit, t, 0, (), 0), t_next).x - added
            total = gain.square().sum() * total + (added / noise).square().sum()
        return float(total)

    errors = [abs(variance(steps) - data_std**2) for steps in (100, 200)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)


def test_seeds_must_fit_the_batch() -> None:
    solver = core.build_solver("ddpm", schedule=core.VP(), seeds=[1, 2])
    field = core.NoisePredictionField(network, core.VP())
    with pytest.raises(ValueError, match="expected one seed per sample, got 2 for 3; give as many as rows"):
        core.integrate(field, solver, start(3), core.build_grid("uniform", 3, 1.0, 1e-3))

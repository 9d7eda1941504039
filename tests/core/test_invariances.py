"""What must not matter: a model's clock, the chart on straight flows, the batch; and what a residual can contain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import core

F64 = torch.float64
IN_THE_NOISE_CHART: list[tuple[str, dict[str, Any]]] = [
    ("euler", {}),
    ("ddim", {}),
    ("heun", {}),
    *(("ipndm", {"order": k}) for k in (1, 2, 3, 4)),
    *(("adams-bashforth", {"order": k}) for k in (1, 2, 3, 4)),
]
VP_SCHEDULES = {
    "vp": core.VP(),
    "cosine": core.Cosine(),
    "table": core.DiscreteVP.scaled_linear(),
    "cosine table": core.DiscreteVP.cosine(),
}


def network(x: Tensor, time: Tensor) -> Tensor:
    """Any smooth noise prediction that mixes space and time."""
    return 0.8 * torch.sin(x + x.flip(-1) / 3 + time / 500) + 0.1 * x


def noise(rows: int = 3) -> Tensor:
    return torch.randn(rows, 2, 5, generator=torch.Generator().manual_seed(0), dtype=F64)


def rescaled(schedule: core.Schedule) -> core.DenoiserField:
    """The same model in the variance-exploding clock: state x / alpha, time sigma / alpha."""

    def denoiser(y: Tensor, ratio: Tensor) -> Tensor:
        t = schedule.time_at(ratio)
        return y - ratio * network(y * schedule(t).alpha, schedule.network_time(t))

    return core.DenoiserField(denoiser)


@pytest.mark.parametrize(("name", "options"), [*IN_THE_NOISE_CHART, ("ddpm", {"seeds": [4, 1, 8]})])
@pytest.mark.parametrize("schedule", VP_SCHEDULES.values(), ids=VP_SCHEDULES.keys())
@pytest.mark.parametrize("t_min", [0.0, 0.0137])
@pytest.mark.parametrize("afs", [False, True])
def test_a_vp_model_and_its_rescaling_are_one(
    name: str, options: dict[str, Any], schedule: core.Schedule, t_min: float, afs: bool
) -> None:
    grid = core.build_grid("quadratic", 7, 0.97, t_min)
    preserving = core.build_solver(name, schedule=schedule, **options)
    exploding = core.build_solver(name, schedule=core.EDM() if name == "ddpm" else None, **options)
    x = core.integrate(core.NoisePredictionField(network, schedule), preserving, noise(), grid, afs)
    y = core.integrate(rescaled(schedule), exploding, noise() / schedule(grid[0]).alpha, schedule.ratio(grid), afs)
    torch.testing.assert_close(x.x, schedule(grid[-1]).alpha * y.x, rtol=1e-10, atol=1e-10)
    assert x.nfe == y.nfe


@pytest.mark.parametrize("schedule", [*VP_SCHEDULES.values(), core.RectifiedFlow(), core.EDM()])
def test_euler_in_the_noise_and_in_the_data_chart_are_both_ddim(schedule: core.Schedule) -> None:
    field, grid = core.NoisePredictionField(network, schedule), core.build_grid("uniform", 5, 0.93, 0.0)
    by_noise, by_data = (
        core.integrate(field, core.Euler(c(schedule)), noise(), grid).x for c in (core.NoiseChart, core.DataChart)
    )
    torch.testing.assert_close(by_noise, by_data, rtol=1e-10, atol=1e-10)


def test_ddim_is_its_formula() -> None:
    """Song et al. 2021, arXiv 2010.02502, eq. 12 with zero variance."""
    schedule = core.DiscreteVP.scaled_linear()
    grid = core.build_grid("uniform", 5, 1.0, 0.0)
    survival = torch.cumprod(1 - torch.tensor(schedule.betas, dtype=F64), 0)
    x = noise()
    for m, m_next in zip((999, 799, 599, 399, 199), (799, 599, 399, 199, None), strict=True):
        eps = network(x, torch.tensor(m, dtype=F64))
        there = survival[m_next] if m_next is not None else torch.ones(())
        x = there.sqrt() * (x - (1 - survival[m]).sqrt() * eps) / survival[m].sqrt() + (1 - there).sqrt() * eps
    got = core.integrate(
        core.NoisePredictionField(network, schedule), core.build_solver("ddim", schedule=schedule), noise(), grid
    )
    torch.testing.assert_close(got.x, x, rtol=1e-9, atol=1e-9)


STRAIGHT = [core.Euler, core.Heun, lambda chart: core.IPNDM(3, chart), lambda chart: core.AdamsBashforth(4, chart)]


@pytest.mark.parametrize("make", STRAIGHT)
@pytest.mark.parametrize(
    ("schedule", "charts"),
    [
        (core.EDM(), ("time", "noise", "data")),
        (core.RectifiedFlow(), ("time", "noise", "data")),
        (core.VP(), ("noise", "data")),
        (core.DiscreteVP.cosine(), ("noise", "data")),
    ],
)
def test_charts_agree_on_a_point_mass(make: Any, schedule: core.Schedule, charts: tuple[str, ...]) -> None:
    """Towards one point the flow is straight in these charts, so every method is exact, up to the point itself."""
    point = torch.linspace(-1, 1, 10, dtype=F64).view(1, 2, 5)
    field = core.MixtureField(point, [1.0], 0.0, schedule)
    made = {"time": core.TimeChart(), "noise": core.NoiseChart(schedule), "data": core.DataChart(schedule)}
    grid = core.build_grid("quadratic", 5, 0.96, 0.04)
    signal = schedule(grid[0]), schedule(grid[-1])
    exact = signal[1].alpha * point + signal[1].sigma / signal[0].sigma * (noise() - signal[0].alpha * point)
    for chart in charts:
        torch.testing.assert_close(
            core.integrate(field, make(made[chart]), noise(), grid).x, exact, rtol=1e-10, atol=1e-10
        )
        to_zero = torch.cat([grid, torch.zeros(1, dtype=F64)])
        end = core.integrate(field, make(made[chart]), noise(), to_zero).x
        torch.testing.assert_close(end, point.expand(3, 2, 5), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "options"), [*IN_THE_NOISE_CHART, ("ddpm", {})])
def test_a_sample_does_not_depend_on_its_batch(name: str, options: dict[str, Any]) -> None:
    schedule, grid = core.VP(), core.build_grid("uniform", 6, 1.0, 0.01)
    field, x = core.NoisePredictionField(network, schedule), noise(5)

    def endpoint(rows: list[int]) -> Tensor:
        seeds = [10 + row for row in rows] if name == "ddpm" else None
        return core.integrate(
            field, core.build_solver(name, schedule=schedule, **options, seeds=seeds), x[rows], grid
        ).x

    together = endpoint([0, 1, 2, 3, 4])
    torch.testing.assert_close(endpoint([3]), together[[3]], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(endpoint([4, 0]), together[[4, 0]], rtol=1e-12, atol=1e-12)


def second_difference(state: core.State, proposal: core.State) -> Tensor:
    """h r / 2 (v_i - v_{i-1}), r the ratio of this step to the one before: what Adams-Bashforth 2 adds to Euler."""
    if len(proposal.buffer) < 2:
        return torch.zeros_like(state.x)
    new, old = proposal.buffer[:2]
    h, h_old = proposal.t - state.t, new.t - old.t
    return h / 2 * (h / h_old) * (new.velocity - old.velocity)


second_difference.memory = 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("grid", ["uniform", "quadratic", "karras"])
def test_a_closed_form_residual_turns_euler_into_adams_bashforth(grid: str) -> None:
    field, nodes = rescaled(core.VP()), core.build_grid(grid, 9, 5.0, 0.05)
    corrected = core.Corrected(core.Euler(), second_difference)
    got, expected = (core.integrate(field, s, noise(), nodes) for s in (corrected, core.AdamsBashforth(2)))
    torch.testing.assert_close(got.x, expected.x, rtol=1e-12, atol=1e-12)
    assert got.nfe == expected.nfe == 9


@pytest.mark.parametrize(("name", "options"), [*IN_THE_NOISE_CHART, ("ddpm", {})])
@pytest.mark.parametrize("afs", [False, True])
def test_a_zero_residual_changes_no_bit(name: str, options: dict[str, Any], afs: bool) -> None:
    schedule, grid = core.VP(), core.build_grid("uniform", 6, 1.0, 0.0)
    field, solver = core.NoisePredictionField(network, schedule), core.build_solver(name, schedule=schedule, **options)
    corrected = core.Corrected(solver, lambda state, proposal: torch.zeros_like(proposal.x))
    a, b = (core.integrate(field, s, noise(), grid, afs) for s in (solver, corrected))
    assert torch.equal(a.x, b.x)
    assert a.nfe == b.nfe

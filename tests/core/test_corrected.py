"""A corrected solver is its base solver until its residual says otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.charts import DataChart
from core.fields import MixtureField
from core.grids import build_grid
from core.operators import Corrected, ResidualConfig, ScalarConfig, ScalarResidual, SpanLiftResidual, spanlift
from core.operators.scaling import chart_of
from core.schedules import EDM, VP, DiscreteVP
from core.solvers import DDPM, AdamsBashforth, Euler, build_solver
from core.state import Solver, State, integrate, trajectory

BETAS = DiscreteVP.scaled_linear(40)
BASES: dict[str, Solver] = {
    "euler": build_solver("euler"),
    "heun": build_solver("heun"),
    "ipndm3": build_solver("ipndm", order=3),
    "ab4": build_solver("adams-bashforth", order=4),
    "ddim": build_solver("ddim", schedule=VP()),
    "ddim-table": build_solver("ddim", schedule=BETAS),
    "heun-noise": build_solver("heun", schedule=VP()),
    "ab2-data": AdamsBashforth(2, DataChart(VP())),
    "ddpm": DDPM(VP(), seeds=tuple(range(6))),
}


def schedule_for(name: str):
    return BETAS if name == "ddim-table" else VP() if name in ("ddim", "heun-noise", "ab2-data", "ddpm") else EDM()


def problem(name: str, dtype: torch.dtype = torch.float64) -> tuple[MixtureField, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    schedule = schedule_for(name)
    x = torch.randn(6, 2, 4, 5, generator=generator, dtype=torch.float64)
    if isinstance(schedule, EDM):
        return MixtureField(means, torch.ones(3), 0.4), (3 * x).to(dtype), torch.tensor([3.0, 1.7, 0.9, 0.3, 0.05])
    return MixtureField(means, torch.ones(3), 0.4, schedule), x.to(dtype), torch.tensor([1.0, 0.7, 0.45, 0.1, 0.02])


RESIDUALS: dict[str, Callable[[Solver, object], object]] = {
    "spanlift": lambda base, schedule: SpanLiftResidual(
        ResidualConfig(2, width=8, steps=4),
        chart_of(base),
        schedule,  # type: ignore[arg-type]
    ),
    "any steps": lambda base, schedule: SpanLiftResidual(
        ResidualConfig(2, width=8, steps=None),
        chart_of(base),
        schedule,  # type: ignore[arg-type]
    ),
    "scalar": lambda base, schedule: ScalarResidual(ScalarConfig(4), chart_of(base)),
    "closed form": lambda base, schedule: lambda state, proposal: torch.zeros_like(state.x),
}


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_untrained_it_is_the_base_solver_bit_for_bit(name: str, residual: str, dtype: torch.dtype) -> None:
    field, x_T, grid = problem(name, dtype)
    base = BASES[name]
    corrected = Corrected(base, RESIDUALS[residual](base, schedule_for(name)))  # type: ignore[arg-type]
    assert corrected.order is None
    expected = list(trajectory(field, base, x_T, grid))
    got = list(trajectory(field, corrected, x_T, grid))
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a.x, b.x)
        assert a.nfe == b.nfe
        assert a.step == b.step
        assert len(a.buffer) == min(corrected.memory, a.step * (len(b.buffer) > 0))


@pytest.mark.parametrize("name", ["ddim", "ab2-data"])
def test_bit_for_bit_down_to_pure_data(name: str) -> None:
    field, x_T, grid = problem(name)
    grid = torch.cat([grid, torch.zeros(1)])
    base = BASES[name]
    corrected = spanlift(base, ResidualConfig(2, width=8, steps=5)).double()
    assert torch.equal(integrate(field, corrected, x_T, grid).x, integrate(field, base, x_T, grid).x)
    with torch.no_grad():
        for parameter in corrected.parameters():
            parameter.add_(0.1)
    assert torch.isfinite(integrate(field, corrected, x_T, grid).x).all()


@pytest.mark.parametrize("name", [name for name in BASES if name != "ddpm"])
def test_gradients_reach_every_parameter_once_what_starts_at_zero_has_moved(name: str) -> None:
    field, x_T, grid = problem(name)
    corrected = spanlift(BASES[name], ResidualConfig(2, width=8, steps=4), schedule_for(name)).double()
    integrate(field, corrected, x_T, grid).x.square().mean().backward()
    first = {key for key, p in corrected.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert first == {"residual.scale", "residual.head.weight", "residual.head.bias"}
    with torch.no_grad():
        for key, parameter in corrected.named_parameters():
            if "head" in key or "film" in key:
                parameter.add_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
    corrected.zero_grad()
    integrate(field, corrected, x_T, grid).x.square().mean().backward()
    for key, parameter in corrected.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


def test_under_autocast_states_and_scalars_keep_their_precision() -> None:
    field, x_T, grid = problem("euler", torch.float32)
    corrected = spanlift(Euler(), ResidualConfig(2, width=8, steps=None), EDM())
    with torch.autocast("cpu", torch.bfloat16):
        end = integrate(field, corrected, x_T, grid).x
        assert torch.equal(end, integrate(field, Euler(), x_T, grid).x)
    with torch.no_grad():
        corrected.residual.scalars.bias.copy_(torch.tensor([1e-3, 0.0]))
    with torch.autocast("cpu", torch.bfloat16):
        scaled = integrate(field, corrected, x_T, grid[:2]).x - x_T
        base = integrate(field, Euler(), x_T, grid[:2]).x - x_T
    assert end.dtype == torch.float32
    assert ((scaled - base).norm() / base.norm()).item() == pytest.approx(1e-3, rel=0.05)


class SecondDifference:
    """h^2 / (2 h_old) (v_0 - v_1): what turns Euler into Adams-Bashforth of two evaluations on any grid."""

    memory = 2

    def __call__(self, state: State, proposal: State) -> Tensor:
        if len(proposal.buffer) < 2:
            return torch.zeros_like(state.x)
        new, old = proposal.buffer
        h, h_old = proposal.t - state.t, new.t - old.t
        return h**2 / (2 * h_old) * (new.velocity - old.velocity)


def test_a_closed_form_residual_turns_euler_into_adams_bashforth() -> None:
    field, x_T, grid = problem("euler")
    got = integrate(field, Corrected(Euler(), SecondDifference()), x_T, grid)
    expected = integrate(field, AdamsBashforth(2), x_T, grid)
    torch.testing.assert_close(got.x, expected.x, atol=1e-13, rtol=0)
    assert got.nfe == expected.nfe == 4


def test_the_base_sees_its_own_buffer_and_the_residual_a_longer_one() -> None:
    lengths: list[tuple[int, int]] = []

    class Spy(Euler):
        def step(self, field, state: State, t_next: Tensor) -> State:
            lengths.append((len(state.buffer), -1))
            return super().step(field, state, t_next)

    class Reader:
        memory = 3

        def __call__(self, state: State, proposal: State) -> Tensor:
            lengths[-1] = (lengths[-1][0], len(proposal.buffer))
            times = [float(evaluation.t) for evaluation in proposal.buffer]
            assert times == sorted(times)  # newest first, time runs down
            assert proposal.buffer[0].t == state.t
            assert proposal.buffer[0].x is state.x
            return torch.zeros_like(state.x)

    field, x_T, grid = problem("euler")
    integrate(field, Corrected(Spy(), Reader()), x_T, grid)
    assert lengths == [(0, 1), (1, 2), (1, 3), (1, 3)]


def test_an_analytic_first_step_counts_as_history() -> None:
    field, x_T, grid = problem("euler")
    corrected = spanlift(Euler(), ResidualConfig(2, width=8, steps=4), EDM()).double()
    got = integrate(field, corrected, x_T, grid, afs=True)
    expected = integrate(field, Euler(), x_T, grid, afs=True)
    assert torch.equal(got.x, expected.x)
    assert got.nfe == expected.nfe == 3
    assert len(got.buffer) == 3


def conditioned(dimensions: int, frames: int = 0) -> Corrected:
    config = ResidualConfig(2, dimensions, width=8, condition_channels=6, frames=frames, steps=2)
    torch.manual_seed(0)
    corrected = spanlift(Euler(), config, EDM()).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in corrected.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return corrected


def steady(x: Tensor, t: Tensor) -> Tensor:
    return 0.1 * x


@pytest.mark.parametrize(("dimensions", "space", "frames"), [(2, (4, 5), 0), (3, (3, 4, 5), 0), (3, (3, 4, 5), 3)])
def test_a_bound_condition_acts_on_its_own_sample_only(dimensions: int, space: tuple[int, ...], frames: int) -> None:
    corrected = conditioned(dimensions, frames)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 2, *space, generator=generator, dtype=torch.float64)
    condition = torch.randn(4, 3, 2, 4, 5, generator=generator, dtype=torch.float64)
    grid = torch.tensor([2.0, 1.0, 0.5])
    together = integrate(steady, corrected.bind(condition), x, grid).x
    for row in range(4):
        alone = integrate(steady, corrected.bind(condition[row : row + 1]), x[row : row + 1], grid).x
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-12, rtol=0)
    shared = integrate(steady, corrected.bind(condition[:1]), x, grid).x  # one condition for all members
    torch.testing.assert_close(shared[:1], together[:1], atol=1e-12, rtol=0)
    assert (shared[1:] - together[1:]).abs().max() > 1e-3


def test_frames_read_the_condition_through_weights_of_their_own() -> None:
    x = torch.ones(1, 2, 3, 4, 5, dtype=torch.float64)
    condition = torch.ones(1, 6, 4, 5, dtype=torch.float64)
    centre = {}
    for frames in (0, 3):
        corrected = conditioned(3, frames)
        with torch.no_grad():
            for block in corrected.residual.blocks:  # no mixing of frames by the kernel
                block.depthwise.weight[:, :, [0, 2]] = 0
        end = integrate(steady, corrected.bind(condition), x, torch.tensor([2.0, 1.0])).x
        centre[frames] = end[0, 0, :, 2, 2]
    assert (centre[0].diff().abs() < 1e-12).all()
    assert (centre[3].diff().abs() > 1e-4).all()


def test_binding_shares_parameters_and_holds_none() -> None:
    corrected = conditioned(2)
    bound = corrected.bind(torch.ones(1, 6, 4, 5, dtype=torch.float64))
    assert list(bound.parameters()) == []
    assert bound.memory == corrected.memory
    x = torch.ones(1, 2, 4, 5, dtype=torch.float64)
    integrate(steady, bound, x, torch.tensor([2.0, 1.0])).x.sum().backward()
    grads = [p.grad for key, p in corrected.named_parameters() if "condition" in key]
    assert len(grads) == 2
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_conditions_that_do_not_fit() -> None:
    corrected = conditioned(2)
    x = torch.ones(1, 2, 4, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match="bound condition, got none"):
        integrate(steady, corrected, x, torch.tensor([2.0, 1.0]))
    with pytest.raises(ValueError, match="6 channels a position, got 5"):
        corrected.bind(torch.ones(1, 5, 4, 5))
    plain = spanlift(Euler(), ResidualConfig(2, width=8, steps=1), EDM()).double()
    bound = plain.bind(torch.ones(1, 5, 4, 5))  # an operator without condition channels takes any
    assert torch.equal(
        integrate(steady, bound, x, torch.tensor([2.0, 1.0])).x, integrate(steady, plain, x, torch.tensor([2.0, 1.0])).x
    )
    closed = Corrected(Euler(), SecondDifference())
    assert closed.bind(torch.ones(1, 5, 4, 5)) is closed


def test_a_learned_base_is_frozen() -> None:
    grid = build_grid("karras", 3, 8.0, 0.1)
    base = build_solver("dyweight", base=build_solver("ipndm", order=2), grid=grid)
    solver = spanlift(base, ResidualConfig(2, width=4), EDM())
    trained = {name for name, parameter in solver.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith("residual.") for name in trained)

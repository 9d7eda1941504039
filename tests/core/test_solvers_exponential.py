"""DPM-Solver++ and UniPC on exact problems: orders, both ends of a schedule, gradients, what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import core
from core.solvers.exponential import Exponential, phi_ratios
from core.specifications import from_specification, to_specification
from core.state import plan

F64 = torch.float64
METHODS: list[tuple[str, dict[str, Any]]] = [
    *(("dpm-solver++", {"order": k, "prediction": p}) for k in (1, 2, 3) for p in ("data", "noise")),
    *(("unipc", {"order": k, "prediction": "data", "variant": v}) for k in (1, 2, 3) for v in ("bh1", "bh2")),
    ("unipc", {"order": 3, "prediction": "noise"}),
]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=F64)


def mixture(schedule: core.Schedule, *, seed: int = 4) -> core.MixtureField:
    means = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return core.MixtureField(means, [0.5, 0.2, 0.3], [0.3, 0.5, 0.4], schedule)


def on_the_line(schedule: core.Schedule) -> core.MixtureField:
    """A mixture whose exact flow is known."""
    return core.MixtureField(
        torch.tensor([[-1.0], [0.4], [1.3]], dtype=F64), [0.3, 0.5, 0.2], [0.5, 0.35, 0.45], schedule
    )


def geometric_and_rough(steps: int, t_max: float, t_min: float) -> Tensor:
    """Even in log t but for lengths in turn 2 : 3."""
    lengths = torch.tensor([2.0, 3.0] * (steps // 2), dtype=F64)
    return t_max * (t_min / t_max) ** torch.cat([torch.zeros(1, dtype=F64), lengths.cumsum(0) / lengths.sum()])


@cache
def endpoint(schedule: core.Schedule, t_max: float, t_min: float) -> Tensor:
    first, last = torch.tensor([t_max, t_min], dtype=F64)
    return on_the_line(schedule).flow(schedule(t_max).sigma * noise(13, 1), first, last)


def order_of(solver: core.Solver, schedule: core.Schedule, t_max: float, t_min: float, known: int = 1) -> float:
    """Measured with the first `known` evaluations on the exact flow."""
    field, errors = on_the_line(schedule), []
    x = schedule(t_max).sigma * noise(13, 1)
    for steps in (48, 96):
        grid = geometric_and_rough(steps, t_max, t_min)
        planned, exact = plan(solver, grid), [x, *(field.flow(x, grid[0], t) for t in grid[1:known])]
        buffer = tuple(core.evaluate(field, y, t) for y, t in zip(exact[:-1], grid, strict=False))[::-1]
        state = core.State(exact[-1], grid[known - 1], known - 1, buffer, 0)
        for t_next in grid[known:]:
            state = planned.step(field, state, t_next)
        errors.append(float((state.x - endpoint(schedule, t_max, t_min)).square().mean().sqrt()))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize(("name", "options"), METHODS)
@pytest.mark.parametrize("final", [True, False])
def test_measured_order_is_the_declared_one(name: str, options: dict[str, Any], final: bool) -> None:
    for schedule, t_max, t_min in ((core.EDM(), 0.6, 0.3), (core.VP(), 0.3, 0.15), (core.RectifiedFlow(), 0.5, 0.25)):
        solver = core.build_solver(name, **options, schedule=schedule, lower_order_final=final)
        assert order_of(solver, schedule, t_max, t_min) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_dpm_solver_of_order_3_is_of_order_2_even_when_started_exactly(prediction: Literal["data", "noise"]) -> None:
    """As `DPMSolverPP` says of the published rule."""
    solver = core.DPMSolverPP(3, prediction=prediction, lower_order_final=False)
    assert order_of(solver, core.EDM(), 0.6, 0.3, known=3) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(("name", "options"), METHODS)
@pytest.mark.parametrize("afs", [False, True])
def test_vp_is_its_variance_exploding_rescaling(name: str, options: dict[str, Any], afs: bool) -> None:
    """x / alpha of the VP run is the EDM run through the same noise levels."""
    vp, grid = core.VP(), core.build_grid("uniform", 7, 0.8, 0.02)
    options = {**options, "thresholding": True}
    x = vp(grid[0]).sigma * noise(4, 2, 5)
    ours = core.integrate(mixture(vp), core.build_solver(name, **options, schedule=vp), x, grid, afs)
    other = core.integrate(
        mixture(core.EDM()), core.build_solver(name, **options), x / vp(grid[0]).alpha, vp.ratio(grid), afs
    )
    torch.testing.assert_close(ours.x / vp(grid[-1]).alpha, other.x, rtol=1e-10, atol=1e-10)
    assert ours.nfe == other.nfe == 7 - afs


@pytest.mark.parametrize("order", [1, 2, 3])
def test_first_order_is_ddim_and_the_second_is_written_out(order: int) -> None:
    """The second step by the formulas of the paper, in EDM; of order 2 even where 3 is asked."""
    field, grid = mixture(core.EDM()), torch.tensor([4.0, 1.5, 0.7, 0.4], dtype=F64)
    x0 = 4.0 * noise(4, 2, 5)
    solver = core.DPMSolverPP(order, lower_order_final=False)
    _, first, second, _ = core.trajectory(field, solver, x0, grid)
    torch.testing.assert_close(first.x, core.integrate(field, core.Euler(), x0, grid[:2]).x)
    m0, m1 = field.data(first.x, grid[1]), field.data(x0, grid[0])
    h, before = math.log(1.5 / 0.7), math.log(4.0 / 1.5)
    slope = m0 if order == 1 else m0 + (m0 - m1) * h / (2 * before)
    torch.testing.assert_close(second.x, first.x * 0.7 / 1.5 - math.expm1(-h) * slope)


def test_unipc_corrects_at_the_next_step() -> None:
    """Two steps of order 2 and "bh1" by hand: the first is a prediction, the second starts from the corrected state."""
    field, grid = mixture(core.EDM()), torch.tensor([4.0, 1.5, 0.7], dtype=F64)
    x0 = 4.0 * noise(4, 2, 5)
    solver = core.UniPC(2, variant="bh1", lower_order_final=False)
    _, first, second = core.trajectory(field, solver, x0, grid)
    m0, m1 = field.data(x0, grid[0]), field.data(first.x, grid[1])
    h0, h1 = math.log(4.0 / 1.5), math.log(1.5 / 0.7)
    predicted = x0 * 1.5 / 4 - math.expm1(-h0) * m0
    torch.testing.assert_close(first.x, predicted)
    corrected = predicted + h0 / 2 * (m1 - m0)
    slope = (m0 - m1) / (-h0 / h1)
    torch.testing.assert_close(second.x, corrected * 0.7 / 1.5 - math.expm1(-h1) * m1 + h1 / 2 * slope)


@pytest.mark.parametrize(("name", "options"), METHODS)
@pytest.mark.parametrize("schedule", [core.EDM(), core.VP(), core.RectifiedFlow()])
def test_the_last_step_to_zero_noise_gives_the_predicted_data(
    name: str, options: dict[str, Any], schedule: core.Schedule
) -> None:
    grid = torch.tensor([0.9, 0.5, 0.3, 0.2, 0.1, 0.0], dtype=F64)
    solver, field = core.build_solver(name, **options, schedule=schedule), mixture(schedule)
    states = list(core.trajectory(field, solver, schedule(0.9).sigma * noise(4, 2, 5), grid))
    assert states[-1].nfe == 5
    if name == "unipc":
        assert bool(torch.isfinite(states[-1].x).all())
    else:
        torch.testing.assert_close(states[-1].x, field.data(states[-2].x, grid[-2]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), [method for method in METHODS if method[1]["prediction"] == "data"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_rectified_flow_runs_from_pure_noise_to_data(name: str, options: dict[str, Any], shift: float) -> None:
    """From sigma = 1, where lambda is infinite, to sigma = 0, where it is again; finer grids come closer."""
    schedule, x, ends = core.RectifiedFlow(shift), noise(4, 2, 5), []
    solver, field = core.build_solver(name, **options, schedule=schedule), mixture(schedule)
    for steps in (10, 40):
        state = core.integrate(field, solver, x, core.build_grid("uniform", steps, 1.0, 0.0, schedule=schedule))
        assert state.nfe == steps
        ends.append(state.x)
    fine = core.integrate(field, core.Heun(), x, core.build_grid("uniform", 200, 1.0, 0.0, schedule=schedule)).x
    coarse_error, error = (float((end - fine).square().mean().sqrt()) for end in ends)
    assert error < 0.4 * coarse_error
    assert coarse_error < 0.5


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_the_correction_of_a_step_from_pure_noise(variant: Literal["bh1", "bh2"]) -> None:
    """From sigma = 1 to 0.4: with "bh2" the mean of both data predictions; "bh1" would be infinite and leaves it."""
    schedule, x = core.RectifiedFlow(), noise(4, 2, 5)
    solver, field = core.UniPC(1, schedule, variant=variant), mixture(schedule)
    grid = torch.tensor([1.0, 0.4, 0.1], dtype=F64)
    _, first, second = core.trajectory(field, solver, x, grid)
    m0, m1 = field.data(x, grid[0]), field.data(first.x, grid[1])
    torch.testing.assert_close(first.x, 0.4 * x + 0.6 * m0)
    corrected = 0.4 * x + 0.6 * ((m0 + m1) / 2 if variant == "bh2" else m0)
    torch.testing.assert_close(second.x, corrected / 4 + (0.9 - 0.6 / 4) * m1)


@pytest.mark.parametrize("name", ["dpm-solver++", "unipc"])
def test_noise_predictions_cannot_start_from_pure_noise(name: str) -> None:
    flow = core.RectifiedFlow()
    solver = core.build_solver(name, order=2, prediction="noise", schedule=flow)
    with pytest.raises(ValueError, match="expected alpha > 0 at the start of a step with predicted noise, got 0"):
        core.integrate(mixture(flow), solver, noise(4, 2, 5), core.build_grid("uniform", 3, 1.0, 0.0, schedule=flow))


@pytest.mark.parametrize(("name", "options"), METHODS)
@pytest.mark.parametrize("schedule", [core.EDM(), core.VP()])
def test_gradients_pass_to_times_and_states(name: str, options: dict[str, Any], schedule: core.Schedule) -> None:
    """And a grid that carries gradients gives the same bits as one that does not."""
    solver, field, h = core.build_solver(name, **options, schedule=schedule), mixture(schedule), 1e-6
    grid, x, bump = core.build_grid("uniform", 5, 0.9, 0.1), noise(4, 2, 5), torch.zeros(6, dtype=F64)
    bump[2] = h
    learned, start = grid.clone().requires_grad_(), x.clone().requires_grad_()
    end = core.integrate(field, solver, start, learned).x
    assert torch.equal(end, core.integrate(field, solver, x, grid).x)
    by_grid, by_start = torch.autograd.grad(end.square().sum(), (learned, start))

    def difference(dx: Tensor, dt: Tensor) -> float:
        up, down = (core.integrate(field, solver, x + s * dx, grid + s * dt).x.square().sum() for s in (1, -1))
        return float((up - down) / (2 * h))

    assert float(by_grid[2]) == pytest.approx(difference(torch.zeros_like(x), bump), rel=1e-5)
    direction = x.cos()
    assert float((by_start * direction).sum()) == pytest.approx(difference(h * direction, 0 * bump), rel=1e-6)


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_written_down_and_read_back(name: str, options: dict[str, Any]) -> None:
    solver = core.build_solver(name, **options, schedule=core.VP(), thresholding=True, lower_order_final=False)
    assert isinstance(solver, Exponential)
    again = from_specification(to_specification(solver))
    assert again == solver
    assert again.plan(torch.tensor([0.5, 0.4, 0.3], dtype=F64)) == replace(solver, steps=2)


@pytest.mark.parametrize("name", ["dpm-solver++", "unipc"])
@pytest.mark.parametrize("afs", [False, True])
def test_thresholding_bounds_what_is_predicted(name: str, afs: bool) -> None:
    """Data far outside [-1, 1] end inside; predicted noise is left alone, as in the published samplers."""
    field = core.MixtureField(torch.full((1, 2, 50), 7.0, dtype=F64), [1.0], 0.1)
    grid, x = core.build_grid("logsnr", 6, 80.0, 0.002), 80 * noise(3, 2, 50)
    ends = {
        (p, bounded): core.integrate(field, core.build_solver(name, prediction=p, thresholding=bounded), x, grid, afs)
        .x.abs()
        .max()
        for p in ("data", "noise")
        for bounded in (True, False)
    }
    assert float(ends["data", True]) < 1.01 + 80 * 0.002
    assert float(ends["data", False]) > 5
    assert torch.equal(ends["noise", True], ends["noise", False])


@pytest.mark.parametrize("z", [-30.0, -1.5, -1.0, -0.9, -1e-2, -1e-6, 1e-6, 1e-3, 0.5, 1.0, 1.7, 12.0])
def test_phi_functions_keep_their_precision(z: float) -> None:
    """Against the integral of the definition, (q + 1)! phi_(q+2) = (q + 1) int_0^1 e^(z (1 - s)) s^q ds."""
    s, w = gauss_legendre(60)
    means = [float((w * (z * (1 - s)).exp() * s**q).sum()) / math.factorial(q) for q in range(4)]
    for q, ratio in enumerate(phi_ratios(z, 3), start=1):
        assert ratio == pytest.approx(means[q] / means[0], rel=1e-12)
    tensor = phi_ratios(torch.tensor(z, dtype=F64), 3)
    assert [float(value) for value in tensor] == phi_ratios(z, 3)


def gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1] (Golub & Welsch 1969)."""
    k = torch.arange(1, n, dtype=F64)
    beta = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return (values + 1) / 2, vectors[0] ** 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: core.build_solver("dpm-solver++", order=4), "expected an order from 1 to 3, got 4"),
        (lambda: core.build_solver("unipc", order=0), "expected an order from 1 to 3, got 0"),
        (lambda: core.UniPC(2, variant="bh3"), "expected variant 'bh1' or 'bh2', got 'bh3'"),  # pyright: ignore
        (lambda: core.DPMSolverPP(2, prediction="v"), "expected prediction 'data' or 'noise', got 'v'"),  # pyright: ignore
        (lambda: core.build_solver("dpm-solver++", variant="bh1"), "expected no variant for 'dpm-solver\\+\\+'"),
    ],
)
def test_impossible_wishes_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_number_of_steps_must_be_known() -> None:
    field, x, t = mixture(core.EDM()), noise(4, 2, 5), torch.tensor([0.5, 0.4, 0.3], dtype=F64)
    state = core.State(x, t[0], 0, (), 0)
    with pytest.raises(ValueError, match="expected a solver that knows its number of steps, got none"):
        core.DPMSolverPP(1).step(field, state, t[1])
    stepped = core.DPMSolverPP(1, lower_order_final=False).step(field, state, t[1])
    assert torch.equal(stepped.x, core.integrate(field, core.DPMSolverPP(1), x, t[:2]).x)


@pytest.mark.parametrize(("name", "options"), [method for method in METHODS if method[1]["order"] == 2])
def test_a_zero_residual_changes_nothing(name: str, options: dict[str, Any]) -> None:
    """SpanLift over an exponential method, whose evaluations it reads, with an analytic first step."""
    solver, field = core.build_solver(name, **options, thresholding=True), mixture(core.EDM())
    grid, x = core.build_grid("karras", 5, 4.0, 0.0), 4 * noise(4, 2, 5)
    corrected = core.Corrected(solver, lambda state, proposal: torch.zeros_like(proposal.x))
    assert torch.equal(
        core.integrate(field, corrected, x, grid, afs=True).x, core.integrate(field, solver, x, grid, afs=True).x
    )

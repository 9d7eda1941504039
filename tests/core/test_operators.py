"""Residual operators: sizes, scaling of the inputs, classes, and what each must not do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.charts import Chart, DataChart, NoiseChart, TimeChart
from core.fields import MixtureField
from core.grids import build_grid
from core.operators import Corrected, ResidualConfig, ScalarConfig, ScalarResidual, SpanLiftResidual, spanlift
from core.operators.embedding import step_features
from core.operators.scaling import Scaling, move
from core.schedules import EDM, VP, DiscreteVP, RectifiedFlow, Schedule
from core.solvers import AdamsBashforth, Euler, build_solver
from core.state import Evaluation, integrate

DISCRETE = DiscreteVP.scaled_linear(50)
CHARTS = [
    (TimeChart(), EDM()),
    (TimeChart(), RectifiedFlow()),
    (TimeChart(), VP()),
    (NoiseChart(VP()), VP()),
    (NoiseChart(DISCRETE), DISCRETE),
    (DataChart(VP()), VP()),
]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(solver: Corrected, seed: int = 0) -> Corrected:
    """The solver in float64, all parameters off their initial values."""
    generator = torch.Generator().manual_seed(seed)
    solver.double()  # the initial values are torch's own draw: only that they are moved matters
    with torch.no_grad():
        for parameter in solver.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return solver


def test_budget_at_3_by_64_by_64() -> None:
    operator = SpanLiftResidual(ResidualConfig(channels=3, steps=9), TimeChart(), EDM())
    count = sum(parameter.numel() for parameter in operator.parameters())
    assert 0.105e6 <= count <= 0.12e6


@pytest.mark.parametrize(("chart", "schedule"), CHARTS)
@pytest.mark.parametrize("fraction", [0.9, 0.4, 0.05])
def test_inputs_and_output_have_unit_order(chart: Chart, schedule: Schedule, fraction: float) -> None:
    """Of independent data and noise the scaled fields have variance one and are uncorrelated."""
    t = torch.tensor(fraction * schedule.t_max, dtype=torch.float64)
    signal = schedule(t)
    data, noise = 0.5 * randn(2, 200_000, seed=1), randn(2, 200_000, seed=2)
    x = signal.alpha * data + signal.sigma * noise
    velocity = signal.d_alpha * data + signal.d_sigma * noise
    node = Scaling(chart, schedule, data_std=0.5).at(t)
    news = node.velocity * velocity + node.drift * x
    assert (node.state * x).square().mean().item() == pytest.approx(1, abs=0.02)
    assert news.square().mean().item() == pytest.approx(1, abs=0.02)
    assert (node.state * x * news).mean().item() == pytest.approx(0, abs=0.01)
    # what is left of the chart's slope is known from the state alone
    rest = chart.slope(Evaluation(t, x, velocity)) - node.slope * news
    torch.testing.assert_close(rest, rest[0, 0] / x[0, 0] * x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("chart", "schedule"), CHARTS)
def test_a_step_is_two_numbers(chart: Chart, schedule: Schedule) -> None:
    t, t_next = (torch.tensor(part * schedule.t_max, dtype=torch.float64) for part in (0.7, 0.2))
    x, slope = randn(2, 3, 4, seed=1), randn(2, 3, 4, seed=2)
    step = move(chart, t, t_next)
    torch.testing.assert_close(step.keep * x + step.gain * slope, chart.move(x, t, t_next, slope))
    unchanged = chart.back(chart.to(x, t)[0], t_next)
    torch.testing.assert_close(step.keep * x, unchanged)
    y, s = chart.to(x, t)
    assert step.length == pytest.approx(float(chart.to(x, t_next)[1] - s))
    torch.testing.assert_close(chart.back(y + step.length * slope, t_next), step.keep * x + step.gain * slope)


@pytest.mark.parametrize("chart", [NoiseChart(VP()), DataChart(VP()), NoiseChart(DISCRETE)])
def test_a_step_to_pure_data_is_finite(chart: Chart) -> None:
    step = move(chart, torch.tensor(0.3), torch.tensor(0.0))
    assert math.isfinite(step.keep)
    assert math.isfinite(step.gain)
    assert step_features(0.3, math.inf, step.length)[1] == 1


@pytest.mark.parametrize("history", [1, 3])
def test_missing_history_is_zero_filled_and_masked(history: int) -> None:
    """The stem on what is there equals the stem on zero-filled slopes with mask channels, written out."""
    operator = moved(spanlift(Euler(), ResidualConfig(2, history=history, width=8, steps=4), EDM())).residual
    assert isinstance(operator, SpanLiftResidual)
    seen: list[Tensor] = []
    operator.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    field = MixtureField(randn(3, 2, 4, 5), torch.ones(3), 0.3)
    corrected = Corrected(Euler(), operator)
    x_T, grid = 3.0 * randn(6, 2, 4, 5, seed=4), torch.tensor([3.0, 1.0, 0.5])
    with torch.no_grad():
        final = integrate(field, corrected, x_T, grid)
    # second step: the state is the newest evaluation's
    evaluations = final.buffer
    blank = torch.zeros_like(x_T)
    present = [1.0 if k < len(evaluations) else 0.0 for k in range(history)]
    # EDM's preconditioning for data of unit variance
    channels = [evaluations[0].x / math.sqrt(1 + float(evaluations[0].t) ** 2)]
    for k in range(history):
        if k < len(evaluations):
            t, x, velocity = evaluations[k]
            denoised = x - t * velocity
            channels.append((x / (1 + t**2) - denoised) / (t / (1 + t**2).sqrt()))
        else:
            channels.append(blank)
    masks = [torch.full_like(x_T[:, :1], value) for value in present]
    z = torch.cat([*channels, *masks], dim=1)
    expected = torch.einsum("oc,bchw->bhwo", operator.stem.weight, z) + operator.stem.bias
    torch.testing.assert_close(seen[1], expected.detach())
    assert sum(present) == min(history, 2)


def influence(kernel: int, dimensions: int) -> set[tuple[int, ...]]:
    """Positions of the buffered velocity on which the correction at the centre of a 9-wide field depends."""
    space = (9, 11) if dimensions == 2 else (5, 9, 11)
    solver = moved(spanlift(Euler(), ResidualConfig(2, dimensions, width=4, kernel=kernel, blocks=1, steps=2), EDM()))
    x = randn(1, 2, *space, seed=3)
    velocity = randn(1, 2, *space, seed=5).requires_grad_()
    end = integrate(lambda x, t: velocity, solver, x, torch.tensor([2.0, 1.0])).x
    centre = tuple(size // 2 for size in space)
    end[(0, 0, *centre)].backward()
    assert velocity.grad is not None
    reached = velocity.grad[0].abs().sum(0).nonzero()
    return {tuple((position - torch.tensor(centre)).tolist()) for position in reached}


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_the_kernel_bounds_what_a_position_sees(kernel: int) -> None:
    reach = 2 * (kernel // 2)  # one depthwise convolution and the head
    positions = influence(kernel, 2)
    assert positions == {(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)}


def test_in_3d_the_depthwise_kernel_spans_frames_too() -> None:
    positions = influence(3, 3)
    assert {position[0] for position in positions} == {-1, 0, 1}
    assert {position[1] for position in positions} == set(range(-2, 3))


def test_one_operator_for_every_number_of_steps() -> None:
    field = MixtureField(randn(3, 2, 4, 5), torch.ones(3), 0.3)
    x_T = 3.0 * randn(6, 2, 4, 5, seed=4)
    base = build_solver("ipndm", order=2)
    solver = spanlift(base, ResidualConfig(2, width=8, steps=None), EDM()).double()
    grids = [build_grid("karras", steps, 3.0, 0.1, rho=7.0) for steps in (2, 5)]
    for grid in grids:
        assert torch.equal(integrate(field, solver, x_T, grid).x, integrate(field, base, x_T, grid).x)
    moved(solver)
    for grid in grids:
        assert (integrate(field, solver, x_T, grid).x - integrate(field, base, x_T, grid).x).abs().max() > 1e-3


def test_scalar_residual_contains_adams_bashforth() -> None:
    """Euler with the right weights is Adams-Bashforth: step i adds h (w_0 - 1) slope_0 + h w_1 slope_1."""
    field = MixtureField(randn(3, 2, 4, 5), torch.ones(3), 0.3)
    x_T, grid = 3.0 * randn(6, 2, 4, 5, seed=4), torch.tensor([3.0, 2.2, 1.0, 0.7])
    residual = ScalarResidual(ScalarConfig(steps=3, history=2), TimeChart()).double()
    with torch.no_grad():
        for step in (1, 2):
            ratio = float((grid[step + 1] - grid[step]) / (grid[step] - grid[step - 1])) / 2
            residual.weights[step] = torch.tensor([ratio, -ratio])
    got = integrate(field, Corrected(Euler(), residual), x_T, grid).x
    torch.testing.assert_close(got, integrate(field, AdamsBashforth(2), x_T, grid).x, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dimensions": 4}, "dimensions 2 or 3, got 4"),
        ({"kernel": 4}, "odd kernel"),
        ({"width": 0}, "width >= 1"),
        ({"steps": 0}, "steps >= 1"),
        ({"frames": 6}, "frames=0"),
    ],
)
def test_sizes_are_checked(change: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ResidualConfig(**{"channels": 2, **change})


def test_a_time_chart_needs_a_schedule() -> None:
    with pytest.raises(ValueError, match="expected a schedule"):
        spanlift(Euler(), ResidualConfig(2))


def test_too_many_steps_are_refused() -> None:
    field = MixtureField(randn(3, 2, 4, 5), torch.ones(3), 0.3)
    grid = torch.tensor([3.0, 1.0, 0.5])
    for residual in (
        SpanLiftResidual(ResidualConfig(2, width=8, steps=1), TimeChart(), EDM()),
        ScalarResidual(ScalarConfig(steps=1), TimeChart()),
    ):
        with pytest.raises(ValueError, match="at most 1 steps, got step 2"):
            integrate(field, Corrected(Euler(), residual), randn(1, 2, 4, 5), grid)

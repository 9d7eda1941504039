"""Projections against numpy's least squares; orders by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.analysis import (
    Refined,
    analyse_corrections,
    correction_sizes,
    error_against_nfe,
    local_floors,
    measured_order,
    project,
    relative_magnitude,
)
from core.fields import MixtureField
from core.grids import build_grid
from core.intervals import bootstrap_mean
from core.operators import Corrected, ResidualConfig, ScalarConfig, ScalarResidual, spanlift
from core.operators.scaling import chart_of
from core.schedules import EDM, VP
from core.solvers import build_solver
from core.state import State, integrate


def test_projection_is_the_least_squares_fit_of_each_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    update = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    # slopes of very different size
    directions = [
        10.0 ** (4 * k) * torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64) for k in range(-1, 2)
    ]
    split = project(update, directions)
    for b in range(3):
        basis = np.stack([d[b].numpy().ravel() for d in directions], axis=1)
        coefficients = np.linalg.lstsq(basis, update[b].numpy().ravel(), rcond=None)[0]
        expected = basis @ coefficients
        np.testing.assert_allclose(split.inside[b].numpy().ravel(), expected, atol=1e-10)
        outside = update[b].numpy().ravel() - expected
        assert split.ratio[b].item() == pytest.approx(
            np.linalg.norm(outside) / np.linalg.norm(update[b].numpy()), abs=1e-12
        )
    torch.testing.assert_close(split.inside + split.outside, update)


def test_projection_survives_dependent_and_zero_directions() -> None:
    generator = torch.Generator().manual_seed(1)
    d = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    update = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    alone = project(update, [d])
    again = project(update, [d, -2 * d, torch.zeros_like(d)])
    torch.testing.assert_close(alone.inside, again.inside, atol=1e-12, rtol=0)
    assert project(3 * d, [d]).ratio.max() < 1e-12
    assert project(torch.zeros_like(d), [d]).ratio.tolist() == [0, 0]
    torch.testing.assert_close(project(update, [torch.zeros_like(d)]).ratio, torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="at least one direction"):
        project(update, [])


def test_relative_magnitude_ignores_the_chord() -> None:
    chord = torch.tensor([[1.0, 0, 0]])
    residual = torch.tensor([[5.0, 3, 4]])
    base = torch.tensor([[-7.0, 0, 20]])
    assert relative_magnitude(residual, base, chord).item() == pytest.approx(5 / 20)


@pytest.mark.parametrize("schedule", [None, VP()])
def test_scalar_corrections_lie_in_the_span_and_spatial_ones_do_not(schedule: VP | None) -> None:
    generator = torch.Generator().manual_seed(2)
    means = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    field = MixtureField(means, torch.ones(3) / 3, 0.3, schedule)
    base = build_solver("adams-bashforth", order=2, schedule=schedule)
    x_T = torch.randn(6, 2, 4, 5, generator=generator, dtype=torch.float64)
    grid = torch.tensor([1.0, 0.8, 0.5, 0.2])
    torch.manual_seed(0)
    scalar = Corrected(base, ScalarResidual(ScalarConfig(3), chart_of(base))).double()
    spatial = spanlift(base, ResidualConfig(2, width=8, steps=3), schedule or EDM()).double()
    with torch.no_grad():
        for parameter in (*scalar.parameters(), *spatial.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    endpoint = integrate(field, build_solver("heun", schedule=schedule), x_T, torch.linspace(1, 0.2, 60)).x
    for solver, lowest, highest in ((scalar, 0, 1e-9), (spatial, 0.3, 1)):
        rows = analyse_corrections(field, solver, x_T, grid, endpoint)
        assert [row.step for row in rows] == [0, 1, 2]
        assert all(lowest <= row.out_of_span <= highest for row in rows)
        assert all(0 < row.magnitude < 10 for row in rows)
    sizes = correction_sizes(field, spatial, x_T, grid, endpoint)
    for row, mean in zip(sizes, analyse_corrections(field, spatial, x_T, grid, endpoint), strict=True):
        assert row.out_of_span.shape == row.magnitude.shape == (6,)
        assert (float(row.out_of_span.mean()), float(row.magnitude.mean())) == mean[1:]
    analytic = correction_sizes(field, spatial, x_T, grid, endpoint, afs=True)
    assert [row.step for row in analytic] == [0, 1, 2]
    assert not torch.equal(analytic[0].out_of_span, sizes[0].out_of_span)
    untrained = spanlift(base, ResidualConfig(2, width=8, steps=3), schedule or EDM())
    assert {row[1:] for row in analyse_corrections(field, untrained, x_T, grid, endpoint)} == {(0, 0)}


@pytest.mark.parametrize("schedule", [None, VP()])
def test_the_mismatch_of_a_step_in_the_span_is_pythagorean_and_that_of_an_exact_step_is_zero(
    schedule: VP | None,
) -> None:
    """SpanLift, equations 6 to 8, with a flow that is known: one Gaussian."""
    generator = torch.Generator().manual_seed(3)
    field = MixtureField(torch.randn(1, 2, 3, 4, generator=generator, dtype=torch.float64), [1.0], 0.4, schedule)
    x_T = torch.randn(5, 2, 3, 4, generator=generator, dtype=torch.float64)
    grid = torch.tensor([0.9, 0.6, 0.3, 0.1], dtype=torch.float64)
    base = build_solver("adams-bashforth", order=2, schedule=schedule)
    rows = local_floors(field, base, x_T, grid, field.flow)
    assert [row.step for row in rows] == [0, 1, 2]
    for row in rows:
        torch.testing.assert_close(row.mismatch**2, row.inside**2 + row.floor**2, rtol=1e-9, atol=1e-20)
        assert (row.target > 0).all()
        assert (row.mismatch >= row.floor).all()

    class Exact:
        order, memory, chart = None, 2, chart_of(base)

        def step(self, field: MixtureField, state: State, t_next: torch.Tensor) -> State:
            after = base.step(field, state, t_next)
            return replace(after, x=field.flow(state.x, state.t, t_next))

    for row in local_floors(field, Exact(), x_T, grid, field.flow):
        assert row.mismatch.max() < 1e-13
        torch.testing.assert_close(row.inside, torch.zeros_like(row.inside), atol=1e-12, rtol=0)


def test_the_floor_is_what_remains_of_the_target_after_the_best_weights() -> None:
    generator = torch.Generator().manual_seed(4)
    means = torch.randn(3, 2, 3, 4, generator=generator, dtype=torch.float64)
    field = MixtureField(means, [1.0, 2.0, 1.0], 0.3)
    x_T = 2 * torch.randn(4, 2, 3, 4, generator=generator, dtype=torch.float64)
    grid = torch.tensor([2.0, 1.0, 0.4], dtype=torch.float64)
    flow = Refined(field, build_solver("heun"), steps=400)
    solver = build_solver("ipndm", order=2)
    row = local_floors(field, solver, x_T, grid, flow)[1]
    middle = integrate(field, solver, x_T, grid[:2]).x
    target = (
        integrate(field, build_solver("heun"), middle, torch.linspace(1.0, 0.4, 800, dtype=torch.float64)).x - middle
    )
    for b in range(4):
        slopes = torch.stack([field(x_T, grid[0])[b].flatten(), field(middle, grid[1])[b].flatten()], dim=1)
        best = torch.linalg.lstsq(slopes, target[b].flatten()[:, None]).solution
        rest = (target[b].flatten()[:, None] - slopes @ best).norm()
        assert float(row.floor[b]) == pytest.approx(float(rest), rel=1e-3)
        assert float(row.target[b]) == pytest.approx(float(target[b].norm()), rel=1e-4)


def test_a_refined_flow_reaches_zero_noise() -> None:
    field = MixtureField(torch.full((1, 2, 3), 0.5, dtype=torch.float64), [1.0], 0.4)
    x = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start, end = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    found = Refined(field, build_solver("heun"), steps=100)(x, start, end)
    torch.testing.assert_close(found, field.flow(x, start, end), atol=1e-3, rtol=0)


def test_bootstrap_interval_of_a_mean() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    found = bootstrap_mean(values)
    assert found.mean == pytest.approx(float(values.mean()))
    half = 1.96 * float(values.std()) / 20
    assert found.low == pytest.approx(found.mean - half, abs=0.02)
    assert found.high == pytest.approx(found.mean + half, abs=0.02)
    assert bootstrap_mean(values) == found
    with pytest.raises(ValueError, match="values"):
        bootstrap_mean(values[:0])


def test_measured_order_of_a_power_law() -> None:
    steps = [7, 10, 19, 40]
    assert measured_order(steps, [3.0 * n**-2.5 for n in steps]) == pytest.approx(2.5)
    with pytest.raises(ValueError, match="two or more"):
        measured_order([4], [0.1])
    with pytest.raises(ValueError, match="positive errors"):
        measured_order([4, 8], [0.1, 0.0])


def test_error_against_nfe_counts_both_stages_of_heun() -> None:
    generator = torch.Generator().manual_seed(2)
    field = MixtureField(torch.randn(3, 2, 4, generator=generator, dtype=torch.float64), torch.ones(3) / 3, 0.3)
    x_T = 2.0 * torch.randn(5, 2, 4, generator=generator, dtype=torch.float64)
    grids = [build_grid("karras", steps, 2.0, 0.1, rho=7.0) for steps in (4, 8, 16)]
    reference = integrate(field, build_solver("heun"), x_T, build_grid("karras", 200, 2.0, 0.1, rho=7.0)).x
    points = error_against_nfe(field, build_solver("heun"), x_T, grids, reference)
    assert [point.nfe for point in points] == [8, 16, 32]
    assert measured_order([4, 8, 16], [point.error for point in points]) == pytest.approx(2, abs=0.3)

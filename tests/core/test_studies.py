"""The controlled studies: their problems have the solutions they claim, and their findings are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import core
from core.studies import CoefficientStudy, CoupledDrift, CouplingStudy, SineField, study_coefficients, study_coupling
from core.studies.coupled_drift import FreeCoefficients

F64 = torch.float64


def test_the_coupled_drift_has_the_solutions_it_claims() -> None:
    field = CoupledDrift(problems=2, dimension=5, degree=3, generator=torch.Generator().manual_seed(0))
    off = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=F64)
    start, end = torch.tensor(1.0, dtype=F64), torch.tensor(0.0, dtype=F64)
    grid = core.build_grid("uniform", 50, 1.0, 0.1)
    found = core.integrate(field, core.build_solver("rk4"), field.exact(off, start), grid).x
    torch.testing.assert_close(found, field.exact(off, grid[-1]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(field.truth(end)[:, 0], field.coefficients.sum(-1))  # the clock is 1 - t


def test_free_coefficients_start_as_adams_bashforth() -> None:
    field = CoupledDrift(2, 5, 3, torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=F64)
    grid = core.build_grid("uniform", 6, 1.0, 0.0)
    steps = list(core.trajectory(field, core.IPNDM(3), x, grid))
    free = FreeCoefficients(3, 6, 2)
    state = core.State(steps[2].x, steps[2].t, 2, steps[2].buffer, 2)
    for expected, t_next in zip(steps[3:], grid.unbind()[3:], strict=True):
        state = free.step(field, state, t_next)
        assert torch.equal(state.x, expected.x)


def test_fitted_coefficients_beat_those_of_the_books_on_held_out_starts(tmp_path: Path) -> None:
    study = CoefficientStudy(problems=4, dimension=50, starts=2, held_out=3, iterations=60, learning_rate=2e-2)
    rows = study_coefficients(study, [(12, 7)], tmp_path, orders=(1, 2))
    assert [(row.degree, row.steps, row.order) for row in rows] == [(12, 7, 1), (12, 7, 2)]
    for row in rows:
        assert row.gain.low > 0
        assert row.truth_optimised.mean < row.truth_standard.mean
        assert row.optimised.low <= row.optimised.mean <= row.optimised.high < row.standard.mean
    assert rows[1].standard.mean < rows[0].standard.mean
    with pytest.raises(ValueError, match="at least 4 steps"):
        study_coefficients(study, [(12, 3)], tmp_path)


def test_the_flow_of_the_sine_field_is_exact() -> None:
    field = SineField(7, 3.0)
    torch.testing.assert_close(field.modes @ field.modes, torch.eye(7, dtype=F64))
    assert float(field.variance.mean()) == pytest.approx(1)
    x = field.draw(3, 2.0, torch.Generator().manual_seed(0))
    grid = core.build_grid("uniform", 40, 2.0, 0.5)
    found = core.integrate(field, core.build_solver("rk4"), x, grid).x
    torch.testing.assert_close(found, field.flow(x, grid[0], grid[-1]), rtol=1e-6, atol=1e-6)
    many = field.draw(4000, 2.0, torch.Generator().manual_seed(1))
    assert float(many.var()) == pytest.approx(1 + 4, rel=0.02)


def test_scalar_updates_stop_at_the_floor_and_the_spatial_operator_goes_below(tmp_path: Path) -> None:
    study = CouplingStudy(size=8, correlation=6.0, iterations=80, batch=8, width=8, seeds=(0,), held_out=48)
    base, scalar, spatial = study_coupling(study, [1], tmp_path, ("base", "scalar", "spatial-3"))
    assert base.excess.low > scalar.excess.high > scalar.excess.low >= 0
    assert scalar.mismatch.mean < 1.1 * scalar.floor.mean  # at the floor, which it cannot pass
    assert spatial.excess.high < 0
    assert spatial.endpoint.high < scalar.endpoint.low < base.endpoint.mean

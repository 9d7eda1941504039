"""The studies of the span: floors as numbers, the decomposition on the controlled ODE, operators over several bases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import core
from core.analysis import LocalFloor, Refined, correction_sizes, local_floors, local_parts, project
from core.studies import CoupledDrift, CouplingStudy, DecompositionStudy, SineField, floor_rows, study_bases
from core.studies.bases import build_base
from core.studies.decomposition import study_decomposition

F64 = torch.float64


def mixture() -> core.MixtureField:
    means = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    return core.MixtureField(means, [1.0, 2.0, 1.0], 0.3)


def test_one_table_for_all_samples_lies_between_the_floor_and_what_any_table_leaves() -> None:
    field, grid = mixture(), core.build_grid("karras", 4, 10.0, 0.1)
    x_T = 10 * torch.randn(6, 2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=F64)
    flow = Refined(field, core.RK4(), 8)
    for order in (1, 2, 3):
        for row in local_floors(field, core.IPNDM(order), x_T, grid, flow):
            sums = [float(size.square().sum()) for size in (row.floor, row.shared, row.mismatch)]
            assert sums == sorted(sums)
            assert bool((row.floor <= row.shared * (1 + 1e-9)).all())
    last, slopes = list(local_parts(field, core.IPNDM(3), x_T, grid, flow))[-1]
    matrix = torch.stack([slope.flatten() for slope in slopes], 1)
    best = torch.linalg.lstsq(matrix, last.target.flatten()[:, None]).solution
    left = (last.target.flatten() - (matrix @ best)[:, 0]).view(6, -1).norm(dim=1)
    torch.testing.assert_close(local_floors(field, core.IPNDM(3), x_T, grid, flow)[-1].shared, left)


def test_floors_as_fractions_and_as_root_mean_squares() -> None:
    target = torch.tensor([2.0, 4.0], dtype=F64)
    floors = [LocalFloor(step, target, 0.1 * target, 0.2 * target, 0.3 * target, 0.25 * target) for step in (0, 1)]
    first, second, mean = floor_rows(floors)
    assert (first.step, second.step, mean.step) == (0, 1, None)
    assert [part.mean for part in mean[1:]] == pytest.approx([0.3, 0.1, 0.25, 0.2])
    assert [part.mean for part in floor_rows(floors, 9)[0][1:]] == pytest.approx([0.3, 0.1, 0.25, 0.2])  # times 3 / 3
    assert [part.low for part in floor_rows(floors, 36)[0][1:]] == pytest.approx([0.1, 0.1 / 3, 0.25 / 3, 0.2 / 3])


def test_many_values_need_no_matrix_of_their_square() -> None:
    """A state of 3 x 256 x 256 numbers would have a projection of 288 GiB."""
    update, slope = torch.randn(2, 1, 3, 256, 256, generator=torch.Generator().manual_seed(0)).unbind()
    split = project(update, [slope])
    share = (update * slope).sum() / slope.square().sum()
    torch.testing.assert_close(split.inside, share * slope, rtol=1e-4, atol=1e-6)


def test_the_exact_continuation_of_the_coupled_drift() -> None:
    field = CoupledDrift(2, 5, 3, torch.Generator().manual_seed(0))
    off = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=F64)
    one, half, end = torch.tensor([1.0, 0.4, 0.1], dtype=F64)
    torch.testing.assert_close(field.flow(field.exact(off, one), one, half), field.exact(off, half))
    torch.testing.assert_close(field.flow(field.exact(off, half), half, end), field.exact(off, end))
    off_the_path = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(2), dtype=F64)
    grid = torch.linspace(0.4, 0.1, 60, dtype=F64)
    found = core.integrate(field, core.RK4(), off_the_path, grid).x
    torch.testing.assert_close(field.flow(off_the_path, half, end), found, rtol=1e-7, atol=1e-7)


def test_coefficients_lower_what_is_inside_and_not_the_floor(tmp_path: Path) -> None:
    study = DecompositionStudy(problems=4, dimension=30, starts=3, held_out=2, iterations=60)
    rows = {row.coefficients: row for row in study_decomposition(study, [(12, 6)], tmp_path)}
    books, best, learned = rows["standard"], rows["best"], rows["learned"]
    assert best.inside.high < 0.3 * books.inside.low
    assert best.floor.mean > 0.7 * books.floor.mean
    assert best.mismatch.mean >= best.floor.mean > 0
    assert learned.endpoint.high < books.endpoint.low
    assert learned.last_inside.high < books.last_inside.low
    assert learned.last_floor.mean > 0.5 * books.last_floor.mean
    with pytest.raises(ValueError, match="at least 4 steps"):
        study_decomposition(study, [(12, 3)], tmp_path)


def test_trained_to_its_end_the_endpoint_is_better_than_with_the_best_steps_and_the_steps_are_worse(
    tmp_path: Path,
) -> None:
    study = DecompositionStudy(problems=4, dimension=30, starts=3, held_out=2, iterations=1000, learning_rate=5e-2)
    books, best, learned = study_decomposition(study, [(12, 6)], tmp_path)
    assert learned.endpoint.high < best.endpoint.low < books.endpoint.low
    assert learned.inside.low > books.inside.high > best.inside.high


def test_an_operator_helps_each_base_and_its_corrections_are_told_by_step(tmp_path: Path) -> None:
    study = CouplingStudy(size=8, correlation=6.0, iterations=60, batch=8, width=8, seeds=(0,), held_out=24)
    rows = {row.base: row for row in study_bases(study, [2], tmp_path, ("euler", "heun", "dyweight"))}
    assert {base: row.nfe for base, row in rows.items()} == {"euler": 2, "heun": 4, "dyweight": 2}
    for row in rows.values():
        assert row.gain.low > 0
        assert [correction.step for correction in row.corrections] == [0, 1]
        for correction in row.corrections:
            assert 0 < correction.out_of_span.mean <= 1
            assert -1 <= correction.aim.mean <= 1
    assert rows["dyweight"].alone.high < rows["euler"].alone.low


def test_a_correction_that_is_the_missing_part_aims_at_it() -> None:
    field = SineField(6, 4.0)
    grid = core.build_grid("karras", 2, 5.0, 0.1)

    class Missing:
        """What the base step lacks, times a sign."""

        memory = 2

        def __init__(self, sign: float) -> None:
            self.sign = sign

        def __call__(self, state: core.State, proposal: core.State) -> torch.Tensor:
            return self.sign * (field.flow(state.x, state.t, proposal.t) - proposal.x)

    x_T = field.draw(5, 5.0, torch.Generator().manual_seed(0))
    exact = field.flow(x_T, grid[0], grid[-1])
    for sign in (1.0, -0.5):
        solver = core.Corrected(build_base("ipndm", grid), Missing(sign))
        for row in correction_sizes(field, solver, x_T, grid, exact, flow=field.flow):
            assert row.aim is not None
            torch.testing.assert_close(row.aim, torch.full_like(row.aim, 1.0 if sign > 0 else -1.0))
        assert correction_sizes(field, solver, x_T, grid, exact)[0].aim is None

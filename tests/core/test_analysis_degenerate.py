"""Spans of slopes that are collinear, zero, rounded, of other shapes or not finite; corrections of learned bases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import core
from core.analysis import Refined, analyse_corrections, local_floors, project, relative_magnitude

F64 = torch.float64


def drawn(seed: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_a_multiple_is_no_direction_whatever_rounding_makes_of_it(dtype: torch.dtype) -> None:
    update, d = drawn(0, dtype), drawn(1, dtype)
    alone = project(update, [d])
    for other in (3.3 * d, -d / 7, (d.double() * math.pi).to(dtype)):
        again = project(update, [d, other])
        torch.testing.assert_close(again.ratio, alone.ratio, rtol=1e-6, atol=0)
        torch.testing.assert_close(again.inside, alone.inside, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_a_small_difference_is_a_direction(dtype: torch.dtype) -> None:
    """Slopes of neighbouring steps differ by little; an update along their difference is within reach."""
    d, change = drawn(1, dtype), drawn(2, dtype)
    near = d + 1e-4 * change
    split = project(near - d, [d, near])
    assert float(split.ratio.max()) < (1e-9 if dtype == F64 else 1e-5)


def test_samples_do_not_mix() -> None:
    update, slopes = drawn(0), [drawn(1), drawn(2)]
    slopes[1][0] = 2 * slopes[0][0]  # the first sample has one direction, the second none, the third two
    slopes[0][1] = slopes[1][1] = 0
    together = project(update, slopes)
    for b in range(3):
        alone = project(update[b : b + 1], [slope[b : b + 1] for slope in slopes])
        torch.testing.assert_close(together.outside[b : b + 1], alone.outside)
    assert float(together.ratio[1]) == 1


def test_single_precision_is_as_good_as_its_numbers() -> None:
    update, slopes = drawn(0, torch.float32), [10.0**k * drawn(k, torch.float32) for k in (1, 2, 3)]
    single, double = project(update, slopes), project(update.double(), [slope.double() for slope in slopes])
    assert single.ratio.dtype == single.inside.dtype == torch.float32
    torch.testing.assert_close(single.ratio.double(), double.ratio, rtol=1e-6, atol=0)
    torch.testing.assert_close(single.outside.double(), double.outside, rtol=0, atol=1e-6)


def test_what_is_not_finite_is_not_called_zero() -> None:
    good, bad = drawn(0), drawn(1)
    bad[1, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="expected a finite update"):
        project(bad, [good])
    with pytest.raises(ValueError, match="expected a finite direction"):
        project(good, [good, bad])


@pytest.mark.parametrize("other", [drawn(1)[:1], drawn(1)[:, :1], drawn(1)[..., 0]])
def test_directions_of_another_shape_are_refused(other: Tensor) -> None:
    """A batch of one would have been taken for all samples."""
    with pytest.raises(ValueError, match=r"expected a direction of the update's shape \(3, 2, 4, 5\)"):
        project(drawn(0), [drawn(1), other])


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_relative_magnitudes_where_nothing_is_left(dtype: torch.dtype) -> None:
    residual, chord = drawn(0, dtype), drawn(1, dtype)
    nothing = torch.zeros_like(residual)
    for base in (nothing, chord, 3.3 * chord):
        assert relative_magnitude(residual, base, chord).tolist() == [math.inf] * 3
        assert relative_magnitude(nothing, base, chord).tolist() == [0.0] * 3
    # without a chord nothing is taken away
    torch.testing.assert_close(relative_magnitude(residual, 2 * residual, nothing), torch.full((3,), 0.5, dtype=dtype))


@pytest.mark.parametrize("schedule", [None, core.VP()])
@pytest.mark.parametrize("kind", ["dyweight", "dpm-solver++", "deis"])
def test_corrections_of_bases_that_need_the_grid(kind: str, schedule: core.VP | None) -> None:
    """SpanLift over DyWeight is the paper's own; its steps end at times that it shifts."""
    generator = torch.Generator().manual_seed(2)
    field = core.MixtureField(torch.randn(3, 2, 4, 5, generator=generator, dtype=F64), [1.0, 1.0, 2.0], 0.3, schedule)
    grid = torch.tensor([1.0, 0.8, 0.5, 0.2], dtype=F64)
    if kind == "dyweight":
        base = core.build_solver(kind, grid=grid, history=2, schedule=schedule)
        with torch.no_grad():
            base.weights.add_(0.05 * base.band * torch.randn(3, 3, generator=generator))  # pyright: ignore
    else:
        base = core.build_solver(kind, order=2, schedule=schedule)
    solver = core.spanlift(base, core.ResidualConfig(2, width=8, steps=3), schedule or core.EDM()).double()
    with torch.no_grad():
        for parameter in solver.residual.parameters():  # pyright: ignore
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=F64))
    x_T = torch.randn(6, 2, 4, 5, generator=generator, dtype=F64)
    endpoint = core.integrate(field, core.build_solver("rk4", schedule=schedule), x_T, grid).x
    rows = analyse_corrections(field, solver, x_T, grid, endpoint)
    assert [row.step for row in rows] == [0, 1, 2]
    assert all(0.2 < row.out_of_span <= 1 and 0 < row.magnitude < math.inf for row in rows)
    floors = local_floors(field, base, x_T, grid, Refined(field, core.Heun(), 16, 1.0))
    for floor in floors:  # a base of one evaluation a step stays in the span of its buffer
        torch.testing.assert_close(floor.mismatch**2, floor.inside**2 + floor.floor**2, rtol=1e-6, atol=1e-12)

"""Grids: shape, ends, order, and the function of time each is even in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import core


def test_the_grid_of_the_edm_sampler() -> None:
    grid = core.build_grid("karras", steps=5, t_max=80.0, t_min=0.002, rho=7.0)
    assert grid.shape == (6,)
    assert grid.dtype == torch.float64
    assert grid[0] == 80.0
    assert grid[-1] == 0.002
    i = torch.arange(6, dtype=torch.float64)
    expected = (80 ** (1 / 7) + i / 5 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(grid, expected, rtol=1e-12, atol=0)


EVEN_IN: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": lambda t: t,
    "quadratic": torch.sqrt,
    "karras": lambda t: core.VP().ratio(t) ** (1 / 5),
    "logsnr": lambda t: core.VP().log_snr(t),
    "shifted": lambda t: t / (4 - 3 * t),
}


@pytest.mark.parametrize("name", core.GRIDS)
def test_each_grid_is_even_in_its_own_function_of_time(name: str) -> None:
    grid = core.build_grid(name, steps=6, t_max=0.9, t_min=0.01, rho=5.0, shift=4.0, schedule=core.VP())
    gaps = EVEN_IN[name](grid).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(6), rtol=1e-9, atol=1e-12)


def test_default_ends_are_the_schedules() -> None:
    assert core.build_grid("karras", 3)[[0, -1]].tolist() == [80.0, 0.002]
    assert core.build_grid("uniform", 3, schedule=core.VP())[[0, -1]].tolist() == [1.0, 1e-3]
    assert core.build_grid("shifted", 4, shift=3.0).tolist() == [1.0, 0.9, 0.75, 0.5, 0.0]


def test_uniform_grid_of_a_table_falls_on_its_nodes() -> None:
    schedule = core.DiscreteVP.scaled_linear()
    times = schedule.network_time(core.build_grid("uniform", 5, 1.0, 0.0))
    torch.testing.assert_close(times[:-1], torch.tensor([999.0, 799.0, 599.0, 399.0, 199.0], dtype=torch.float64))


@given(
    name=st.sampled_from(sorted(core.GRIDS)),
    steps=st.integers(1, 60),
    t_max=st.floats(0.2, 1.0),
    part=st.floats(1e-4, 0.9),
    rho=st.floats(1.0, 9.0),
    shift=st.floats(0.2, 8.0),
    schedule=st.sampled_from([core.EDM(), core.VP(), core.Cosine(), core.RectifiedFlow(), core.DiscreteVP.linear()]),
)
def test_grids_descend_strictly(
    name: str, steps: int, t_max: float, part: float, rho: float, shift: float, schedule: core.Schedule
) -> None:
    t_max = min(t_max, schedule.t_max, 0.999)
    grid = core.build_grid(name, steps, t_max, part * t_max, rho=rho, shift=shift, schedule=schedule)
    assert grid.shape == (steps + 1,)
    assert bool((grid.diff() < 0).all())
    assert bool(torch.isfinite(grid).all())


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"expected a grid among uniform, .*, got 'linear'; choose one of these"):
        core.build_grid("linear", 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "karras", "steps": 0}, "expected steps >= 1, got 0"),
        ({"name": "karras", "steps": 5, "t_max": 1.0, "t_min": 2.0}, "expected 0 <= t_min < t_max"),
        ({"name": "karras", "steps": 5, "t_max": 1.0, "t_min": -0.1}, "expected 0 <= t_min < t_max"),
        ({"name": "karras", "steps": 5, "rho": 0.0}, "and rho > 0, got"),
        ({"name": "logsnr", "steps": 5, "t_max": 1.0, "t_min": 0.0}, "expected finite log-SNR at both ends"),
        ({"name": "logsnr", "steps": 5, "schedule": core.RectifiedFlow()}, "expected finite log-SNR at both ends"),
        ({"name": "shifted", "steps": 5, "t_max": 80.0}, "expected t_max <= 1 and shift > 0"),
        ({"name": "shifted", "steps": 5, "shift": -1.0}, "expected t_max <= 1 and shift > 0"),
    ],
)
def test_impossible_options_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.build_grid(**arguments)

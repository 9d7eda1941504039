"""Grids: shape, ends, order, and the function of time each is even in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import core
from core.clocks import VPClock


def test_the_grid_of_the_edm_sampler() -> None:
    grid = core.build_grid("karras", steps=5, t_max=80.0, t_min=0.002, rho=7.0)
    assert grid.shape == (6,)
    assert grid.dtype == torch.float64
    assert grid[0] == 80.0
    assert grid[-1] == 0.002
    i = torch.arange(6, dtype=torch.float64)
    expected = (80 ** (1 / 7) + i / 5 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(grid, expected, rtol=1e-12, atol=0)


def vp_time(t: Tensor) -> Tensor:
    ratio = core.VP().ratio(t)
    return VPClock(float(ratio[0]), float(ratio[-1])).time_at(ratio)


EVEN_IN: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": lambda t: t,
    "quadratic": torch.sqrt,
    "karras": lambda t: core.VP().ratio(t) ** (1 / 5),
    "logsnr": lambda t: core.VP().log_snr(t),
    "vp-uniform": lambda t: vp_time(t),
    "vp-quadratic": lambda t: vp_time(t).sqrt(),
    "discrete": core.DiscreteVP.linear().network_time,
    "shifted": lambda t: t / (4 - 3 * t),
}


@pytest.mark.parametrize("name", EVEN_IN)
def test_each_grid_is_even_in_its_own_function_of_time(name: str) -> None:
    schedule = core.DiscreteVP.linear() if name == "discrete" else core.VP()
    grid = core.build_grid(name, steps=6, t_max=0.9, t_min=0.01, rho=5.0, shift=4.0, schedule=schedule)
    gaps = EVEN_IN[name](grid).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(6), rtol=1e-9, atol=1e-12)


def test_what_exists() -> None:
    assert set(core.GRIDS) == {*EVEN_IN, "gits", "dmn", "ays"}


def test_grids_are_the_published_ones(shared: Path) -> None:
    """The reference does not put the last time back to what was asked, hence the absolute tolerance."""
    names = {"poly7": "karras", "logsnr": "logsnr", "tu1": "vp-uniform", "tu2": "vp-quadratic"}
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        found = [name.split("/") for name in arrays.files if name.startswith("sched/") and name.endswith("f64")]
        assert len(found) == 32
        for _, name, points, _ in found:
            expected = torch.from_numpy(arrays[f"sched/{name}/{points}/f64"])
            grid = core.build_grid(names[name], steps=int(points[1:]) - 1, t_max=80.0, t_min=0.002, rho=7.0)
            torch.testing.assert_close(grid, expected, rtol=1e-12, atol=1e-12)


def test_a_discrete_grid_starts_and_ends_with_entries_of_the_table() -> None:
    schedule = core.DiscreteVP.scaled_linear(1000)
    grid = core.build_grid("discrete", 3, schedule=schedule)
    torch.testing.assert_close(
        schedule.network_time(grid), torch.tensor([999.0, 666.0, 333.0, 0.0], dtype=torch.float64), atol=1e-9, rtol=0
    )


def test_vp_grids_serve_every_clock() -> None:
    """They are even in the time of one VP model, so in that model's own clock they are plain."""
    vp = core.VP()
    for name, plain in (("vp-uniform", "uniform"), ("vp-quadratic", "quadratic")):
        first, last = float(vp.ratio(1.0)), float(vp.ratio(1e-3))
        grid = core.build_grid(name, 5, first, last)
        torch.testing.assert_close(grid, vp.ratio(core.build_grid(plain, 5, 1.0, 1e-3)), rtol=1e-9, atol=1e-12)
        flow = core.RectifiedFlow()
        there = core.build_grid(name, 5, first / (1 + first), last / (1 + last), schedule=flow)
        torch.testing.assert_close(flow.ratio(there), grid, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("t_min", [0.0, 0.002, 0.1])
@pytest.mark.parametrize("t_max", [2.0, 14.6, 80.0])
def test_vp_grids_descend_wherever_there_is_a_clock(t_max: float, t_min: float) -> None:
    if t_max == 2.0 and t_min == 0.1:
        with pytest.raises(ValueError, match="expected a wide range"):
            core.build_grid("vp-uniform", 9, t_max, t_min)
        return
    for name in ("vp-uniform", "vp-quadratic"):
        grid = core.build_grid(name, 9, t_max, t_min)
        assert bool((grid.diff() < 0).all())
        assert grid[[0, -1]].tolist() == [t_max, t_min]


def test_default_ends_are_the_schedules() -> None:
    assert core.build_grid("karras", 3)[[0, -1]].tolist() == [80.0, 0.002]
    assert core.build_grid("uniform", 3, schedule=core.VP())[[0, -1]].tolist() == [1.0, 1e-3]
    assert core.build_grid("shifted", 4, shift=3.0).tolist() == [1.0, 0.9, 0.75, 0.5, 0.0]


def test_uniform_grid_of_a_table_falls_on_its_nodes() -> None:
    schedule = core.DiscreteVP.scaled_linear()
    times = schedule.network_time(core.build_grid("uniform", 5, 1.0, 0.0))
    torch.testing.assert_close(times[:-1], torch.tensor([999.0, 799.0, 599.0, 399.0, 199.0], dtype=torch.float64))


@given(
    name=st.sampled_from(sorted(set(EVEN_IN) - {"discrete", "vp-uniform", "vp-quadratic"})),
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
    with pytest.raises(ValueError, match=r"expected a grid among uniform, .*, got 'zigzag'; choose one of these"):
        core.build_grid("zigzag", 5)
    with pytest.raises(ValueError, match=r"got 'karas'; did you mean 'karras'\?"):
        core.build_grid("karas", 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "karras", "steps": 0}, "expected steps >= 1, got 0"),
        ({"name": "karras", "steps": 5, "t_max": 1.0, "t_min": 2.0}, "expected 0 <= t_min < t_max"),
        ({"name": "karras", "steps": 5, "t_max": 1.0, "t_min": -0.1}, "expected 0 <= t_min < t_max"),
        ({"name": "karras", "steps": 5, "rho": 0.0}, "and rho > 0, got"),
        ({"name": "logsnr", "steps": 5, "t_max": 1.0, "t_min": 0.0}, "expected finite log-SNR at both ends"),
        ({"name": "logsnr", "steps": 5, "schedule": core.RectifiedFlow()}, "expected finite log-SNR at both ends"),
        ({"name": "vp-uniform", "steps": 5, "schedule": core.RectifiedFlow()}, "expected 0 <= ratio_min < ratio_max"),
        ({"name": "vp-quadratic", "steps": 5, "t_min": 70.0}, "expected a wide range of sigma / alpha for a VP clock"),
        ({"name": "discrete", "steps": 5}, "expected a DiscreteVP schedule for 'discrete', got EDM"),
        ({"name": "shifted", "steps": 5, "t_max": 80.0}, "expected t_max <= 1 and shift > 0"),
        ({"name": "shifted", "steps": 5, "shift": -1.0}, "expected t_max <= 1 and shift > 0"),
    ],
)
def test_impossible_options_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.build_grid(**arguments)

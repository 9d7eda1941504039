"""Time grids: the discrete times t_0 > ... > t_N of a sampling run. A grid is not a schedule: it only reads one.

Each named grid is even in some function of time:

    uniform    t
    quadratic  sqrt(t)                                          more steps near the data
    karras     (sigma / alpha)^(1 / rho)                        Karras et al. 2022, eq. 5
    logsnr     log(sigma / alpha)                               Lu et al. 2022, arXiv 2206.00927
    shifted    t / (shift - (shift - 1) t): rectified flow, more steps near the noise (Esser et al. 2024, eq. 23)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from core.schedules import EDM, RectifiedFlow, Schedule


@dataclass(frozen=True, slots=True)
class GridOptions:
    """What a grid is made from: fractions u (steps+1,) from 0 to 1 and the options of `build_grid`."""

    u: Tensor
    t_max: float
    t_min: float
    rho: float
    shift: float
    schedule: Schedule


def uniform(options: GridOptions) -> Tensor:
    return _between(options.t_max, options.t_min, options.u)


def quadratic(options: GridOptions) -> Tensor:
    return _between(options.t_max**0.5, options.t_min**0.5, options.u) ** 2


def karras(options: GridOptions) -> Tensor:
    first, last = (options.schedule.ratio(t) ** (1 / options.rho) for t in (options.t_max, options.t_min))
    return options.schedule.time_at(_between(first, last, options.u) ** options.rho)


def logsnr(options: GridOptions) -> Tensor:
    first, last = (options.schedule.ratio(t).log() for t in (options.t_max, options.t_min))
    if not torch.isfinite(first - last):
        raise ValueError(
            f"expected finite log-SNR at both ends, got t_max = {options.t_max}, t_min = {options.t_min}; "
            "keep away from the times without noise or without data"
        )
    return options.schedule.time_at(_between(first, last, options.u).exp())


def shifted(options: GridOptions) -> Tensor:
    if options.t_max > 1 or options.shift <= 0:
        raise ValueError(
            f"expected t_max <= 1 and shift > 0, got {options.t_max} and {options.shift}; it is for rectified flow"
        )
    return RectifiedFlow(options.shift)(uniform(options)).sigma


GRIDS: Mapping[str, Callable[[GridOptions], Tensor]] = MappingProxyType(
    {"uniform": uniform, "quadratic": quadratic, "karras": karras, "logsnr": logsnr, "shifted": shifted}
)
"""The grids that `build_grid` knows."""


def build_grid(
    name: str,
    steps: int,
    t_max: float | None = None,
    t_min: float | None = None,
    *,
    rho: float = 7.0,
    shift: float = 3.0,
    schedule: Schedule | None = None,
) -> Tensor:
    """A grid of steps + 1 descending times, float64 on the CPU.

    Args:
        name: one of `GRIDS`.
        steps: number of steps, at least 1.
        t_max, t_min: first and last time; the schedule's own ends where not given.
        rho: exponent of "karras".
        shift: of "shifted"; the ends t = 1 and t = 0 stay where they are.
        schedule: the clock; EDM, or rectified flow for "shifted", where not given.

    Raises:
        ValueError: an unknown name, or options that give no descending grid.
    """
    if name not in GRIDS:
        raise ValueError(f"expected a grid among {', '.join(GRIDS)}, got {name!r}; choose one of these")
    if steps < 1:
        raise ValueError(f"expected steps >= 1, got {steps}; ask for at least one")
    if schedule is None:
        schedule = RectifiedFlow() if name == "shifted" else EDM()
    t_max = schedule.t_max if t_max is None else t_max
    t_min = schedule.t_min if t_min is None else t_min
    if not 0 <= t_min < t_max or rho <= 0:
        raise ValueError(
            f"expected 0 <= t_min < t_max and rho > 0, got t_min = {t_min}, t_max = {t_max}, rho = {rho}; "
            "give the noise end as t_max"
        )
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    grid = GRIDS[name](GridOptions(u, t_max, t_min, rho, shift, schedule))
    if name != "shifted":
        grid[0], grid[-1] = t_max, t_min  # free of the rounding of roots and logarithms
    return grid


def _between(first: Tensor | float, last: Tensor | float, u: Tensor) -> Tensor:
    return first + u * (last - first)

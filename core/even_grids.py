"""Grids that are even in some function of time, and the options that all grids are made from. See `core.grids`."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from core.clocks import VP_END, VPClock
from core.schedules import DiscreteVP, RectifiedFlow, Schedule
from core.searched_grids.gits import Metric
from core.state import Solver, VelocityField


@dataclass(frozen=True, slots=True)
class GridOptions:
    """What a grid is made from: the options of `build_grid`, described there; None where not given."""

    steps: int
    t_max: float
    t_min: float
    rho: float
    shift: float
    schedule: Schedule
    field: VelocityField | None = None
    x_T: Tensor | None = None
    teacher: Solver | None = None
    teacher_grid: Tensor | None = None
    metric: Metric | None = None
    discount: float | None = None
    afs: bool | None = None
    power: int | None = None
    data: Tensor | None = None
    resolution: float | None = None
    seed: int | None = None

    @property
    def u(self) -> Tensor:
        """Even fractions (steps + 1,) from 0 to 1."""
        return torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the options of searched grids that were given."""
        return tuple(f.name for f in fields(self) if f.default is None and getattr(self, f.name) is not None)


def uniform(options: GridOptions) -> Tensor:
    return _between(options.t_max, options.t_min, options.u)


def quadratic(options: GridOptions) -> Tensor:
    return _between(options.t_max**0.5, options.t_min**0.5, options.u) ** 2


def karras(options: GridOptions) -> Tensor:
    first, last = (options.schedule.ratio(t) ** (1 / options.rho) for t in (options.t_max, options.t_min))
    return options.schedule.time_at(_between(first, last, options.u) ** options.rho)


def logsnr(options: GridOptions) -> Tensor:
    check_log_snr(options)
    first, last = (options.schedule.ratio(t).log() for t in (options.t_max, options.t_min))
    return options.schedule.time_at(_between(first, last, options.u).exp())


def vp_uniform(options: GridOptions) -> Tensor:
    return _in_vp_time(options, 1)


def vp_quadratic(options: GridOptions) -> Tensor:
    return _in_vp_time(options, 2)


def discrete(options: GridOptions) -> Tensor:
    if not isinstance(options.schedule, DiscreteVP):
        raise ValueError(
            f"expected a DiscreteVP schedule for 'discrete', got {type(options.schedule).__name__}; "
            "pass the table of the model, or use 'uniform'"
        )
    return uniform(options)  # what the network is told is linear in t


def shifted(options: GridOptions) -> Tensor:
    if options.t_max > 1 or options.shift <= 0:
        raise ValueError(
            f"expected t_max <= 1 and shift > 0, got {options.t_max} and {options.shift}; it is for rectified flow"
        )
    return RectifiedFlow(options.shift)(uniform(options)).sigma


def check_log_snr(options: GridOptions) -> None:
    first, last = (options.schedule.ratio(t).log() for t in (options.t_max, options.t_min))
    if not torch.isfinite(first - last):
        raise ValueError(
            f"expected finite log-SNR at both ends, got t_max = {options.t_max}, t_min = {options.t_min}; "
            "keep away from the times without noise or without data"
        )


def _in_vp_time(options: GridOptions, power: int) -> Tensor:
    first, last = (float(options.schedule.ratio(t)) for t in (options.t_max, options.t_min))
    tau = _between(1.0, VP_END ** (1 / power), options.u) ** power
    return options.schedule.time_at(VPClock(first, last).ratio(tau))


def _between(first: Tensor | float, last: Tensor | float, u: Tensor) -> Tensor:
    return first + u * (last - first)

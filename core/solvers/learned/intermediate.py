"""Evaluations between the ends of a step, at a noise level that the network may be told wrong on purpose: what AMED and
EPD share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.charts import Chart, NoiseChart, TimeChart
from core.schedules import Schedule
from core.solvers.dpm_solver_2 import DPMSolver2, inner_ratio
from core.state import Solver, State, VelocityField, nfe_of, observe, push

Number = float | Tensor
"""One number: a float, a 0-dim tensor, or a tensor (B, 1, ..., 1) of one a sample."""


def chart_of_base(base: Solver | None, schedule: Schedule | None) -> Chart:
    """The chart of a plugin's base, or the one that handcrafted solvers have for this schedule."""
    if base is not None:
        return getattr(base, "chart", TimeChart())
    return TimeChart() if schedule is None else NoiseChart(schedule)


def check_base(base: Solver | None, known: tuple[type, ...], schedule: Schedule | None) -> None:
    """Raise ValueError for a base that the plugin is not for, or a schedule beside the one that the base has."""
    if base is not None and type(base) not in known:
        raise ValueError(
            f"expected a base among {', '.join(kind.__name__ for kind in known)}, got {type(base).__name__}; "
            "the plugin needs a handcrafted solver whose evaluations it knows"
        )
    if base is not None and schedule is not None:
        raise ValueError(f"expected no schedule beside a base, got {schedule}; build the base with it")


def start_schedule(base: Solver | None, schedule: Schedule | None) -> Schedule | None:
    """The schedule of a solver that starts as DPM-Solver-2, which may be named as its base.

    Raises:
        ValueError: another base.
    """
    if base is None:
        return schedule
    check_base(base, (DPMSolver2,), schedule)
    assert isinstance(base, DPMSolver2)
    if base.r != 0.5:
        raise ValueError(f"expected DPM-Solver-2 with r = 1/2 to start from, got {base.r}; leave the base out")
    return base.schedule


def check_place(r: float | Tensor) -> None:
    """Raise ValueError unless every place is strictly between the ends of a step."""
    value = torch.as_tensor(r, dtype=torch.float64).detach()
    if not bool(((value > 0) & (value < 1)).all()):
        raise ValueError(f"expected r strictly between 0 and 1, got {value.tolist()}; 1/2 is the geometric middle")


def time_between(schedule: Schedule | None, t: Tensor, t_next: Tensor, r: Number) -> Tensor:
    """The time at s_next^r s^(1 - r), s = sigma / alpha, or the time itself where there is no schedule; of r's shape.

    In EDM it is the time at the fraction r of the step on the scale of log-SNR.
    """
    if schedule is None:
        return inner_ratio(t, t_next, r)
    return schedule.time_at(inner_ratio(schedule.ratio(t), schedule.ratio(t_next), r))


@dataclass(frozen=True, eq=False)
class TimeScaled:
    """A field whose network is told `scale` times the noise level that the state has.

    With x = alpha (data + s noise), s = sigma / alpha, the network is given the state as it would be at the level
    scale * s and its expected data there are kept; the velocity is that of the state on its way to these data. In EDM:
    (x - D(x; scale * t)) / t, as in AMED and EPD. At scale 1 it is the field itself, bit for bit.

    Attributes:
        field: the field.
        scale: factor of the noise level.
        schedule: of the model; without it alpha = 1, sigma = t, which also holds for straight flows in their own time.
    """

    field: VelocityField
    scale: Number
    schedule: Schedule | None = None

    @property
    def evaluations_per_call(self) -> int:
        return nfe_of(self.field)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self.schedule is None:
            return self.scale * self.field(x, self.scale * t)
        ratio = self.schedule.ratio(t)
        told = t + (self.schedule.time_at(self.scale * ratio) - self.schedule.time_at(ratio))  # exactly t at scale 1
        here, there = self.schedule(t), self.schedule(told)
        zoom = there.alpha / here.alpha
        velocity = self.field(zoom * x, told)
        # dx/dt = (d_alpha / alpha) x + (d_sigma - d_alpha s) noise, and the noise of these data is scale * noise there
        gain = (
            self.scale * (here.d_sigma - here.d_alpha * ratio) / (there.d_sigma - there.d_alpha * (self.scale * ratio))
        )
        rest = here.d_alpha / here.alpha - gain * zoom * there.d_alpha / there.alpha
        return gain * velocity + rest * x


def observed(field: VelocityField, state: State, memory: int) -> State:
    """The same state, its buffer headed by the evaluation there and that one counted: a solver's first one is free."""
    evaluation, calls = observe(field, state)
    return State(state.x, state.t, state.step, push(evaluation, state.buffer, memory), state.nfe + calls)


def rescaled(chart: Chart, start: State, end: State, factor: Number) -> Tensor:
    """The state of `end` had the slope from `start` been `factor` times as large; bit for bit that of `end` at 1."""
    still = chart.move(start.x, start.t, end.t, torch.zeros_like(start.x))
    return end.x + (factor - 1) * (end.x - still)


def row(rows: Number, step: int) -> Number:
    """The number of a step, of one number for all or of one a step."""
    return rows[step] if isinstance(rows, Tensor) and rows.ndim else rows


def check_rows(rows: Mapping[str, float | Tensor | None], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless each is one number or a tensor of this shape."""
    for name, value in rows.items():
        own = () if value is None else torch.as_tensor(value).shape
        if own not in ((), shape):
            raise ValueError(
                f"expected {name} as one number or of shape {shape}, steps first, got {tuple(own)}; "
                "use the number of steps that it is for"
            )


def place_around(start: float | Tensor, raw: Tensor) -> Tensor:
    """sigmoid(logit(start) + raw), in (0, 1): `start` at 0, to the last bit where that is 1/2."""
    return (torch.as_tensor(start, dtype=torch.float64).logit().to(raw) + raw).sigmoid()


def around(start: float | Tensor, raw: Tensor, bound: float) -> Tensor:
    """start * (1 + bound * tanh(raw / 2)): `start` at 0, to the last bit, and within `bound` of it relatively."""
    return torch.as_tensor(start, dtype=torch.float64).to(raw) * (1 + bound * (raw / 2).tanh())

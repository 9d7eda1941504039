"""What a pipeline's times and model outputs mean: the border between diffusers' words and ours.

    kind    the model predicts        clock t                 what the pipeline calls a timestep
    flow    noise - data              sigma in [0, 1]         train_steps * sigma
    noise   the noise                 DiscreteVP of betas     the table index, M t - 1
    v       alpha noise - sigma data  DiscreteVP of betas     the table index, M t - 1
    data    the data                  DiscreteVP of betas     the table index, M t - 1

Timesteps are floats: a network of continuous time is told where the solver asks, not the integer below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

import core
from core.parametrizations import Conversion, Target

TARGETS: Mapping[str, Target] = MappingProxyType({"flow": "velocity", "noise": "noise", "v": "v", "data": "data"})
"""Kinds of models, and what each predicts."""


@dataclass(frozen=True)
class Clock:
    """The clock of a model in a pipeline.

    Attributes:
        kind: of `TARGETS`.
        schedule: RectifiedFlow() in the clock sigma, or DiscreteVP.
        scale: timesteps of the pipeline for one unit of the schedule's network time.
    """

    kind: str
    schedule: core.RectifiedFlow | core.DiscreteVP
    scale: float

    @property
    def to_velocity(self) -> Conversion:
        """(model output, x, t) -> dx/dt."""
        return Conversion(self.schedule, TARGETS[self.kind], "velocity")

    @property
    def chart_schedule(self) -> core.DiscreteVP | None:
        """What handcrafted multistep solvers take as schedule: none in a flow, where the chart is that of time."""
        return self.schedule if isinstance(self.schedule, core.DiscreteVP) else None

    def timesteps(self, t: Tensor) -> Tensor:
        """What the pipeline is told for times t, in single precision: to the bit what our own loop tells the network,
        whose time is rounded before it is multiplied."""
        return self.scale * self.schedule.network_time(t).float()

    def times(self, timesteps: Tensor) -> Tensor:
        """The times t of the pipeline's timesteps."""
        if isinstance(self.schedule, core.DiscreteVP):
            return (timesteps + 1) / len(self.schedule)
        return timesteps / self.scale

    def sigmas(self, t: Tensor) -> Tensor:
        """What pipelines call sigmas: sigma of a flow, sigma / alpha of a table."""
        return self.schedule.ratio(t) if isinstance(self.schedule, core.DiscreteVP) else t


def flow_clock(train_steps: int) -> Clock:
    return Clock("flow", core.RectifiedFlow(), float(train_steps))


def table_clock(kind: str, betas: Sequence[float]) -> Clock:
    """The clock of a table of betas; grids end at its first entry by default.

    Raises:
        ValueError: a table that ends without any data, as after rescaling to zero terminal SNR.
    """
    if not betas or not all(0 < beta < 1 for beta in betas):
        raise ValueError(
            "expected betas strictly between 0 and 1, got others; tables rescaled to zero terminal SNR have no noise "
            "prediction at their end"
        )
    return Clock(kind, core.DiscreteVP(tuple(betas), t_min=1 / len(betas)), 1.0)

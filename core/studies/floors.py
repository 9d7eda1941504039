"""Local floors of a rollout as numbers to show: fractions of the exact update, with intervals over samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from core.analysis import LocalFloor
from core.intervals import Interval, bootstrap_mean


class FloorRow(NamedTuple):
    """One step, or the mean over steps where `step` is None; see `floor_rows` for the unit.

    Attributes:
        step: index of the step.
        mismatch: how far the solver's update is off (SpanLift, equation 7).
        inside: the part of that in the span, which other coefficients could mend.
        shared: what the best coefficients that are the same for all samples leave, see `LocalFloor`.
        floor: what the best coefficients of each sample leave (SpanLift, equation 8).
    """

    step: int | None
    mismatch: Interval
    inside: Interval
    shared: Interval
    floor: Interval


def floor_rows(floors: Sequence[LocalFloor], values: int | None = None) -> list[FloorRow]:
    """Means over samples of what `local_floors` finds, with bootstrap intervals; the mean over steps is the last row.

    Args:
        floors: of the steps.
        values: numbers in a state: sizes are then root mean squares over them, in the units of the state. Else they are
            fractions of the exact update |Delta*|, most of which at high noise is noise taken away.
    """
    parts = [floor.relative() if values is None else floor.scaled(values**-0.5) for floor in floors]
    each = [torch.stack([part.mismatch, part.inside, part.shared, part.floor]).double() for part in parts]
    rows = [FloorRow(floor.step, *map(bootstrap_mean, values)) for floor, values in zip(floors, each, strict=True)]
    return [*rows, FloorRow(None, *map(bootstrap_mean, torch.stack(each).mean(0)))]

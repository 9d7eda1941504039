"""Rows of a study's table: mean errors with intervals, and what a method gains over another on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from core.intervals import Interval, bootstrap_mean


class Row(NamedTuple):
    """One method at one number of network calls.

    Attributes:
        group: what the rows of a block have in common, e.g. the grid.
        method, nfe: which.
        error: of held-out samples, with its interval over samples, mean over trainings.
        gain: part of the reference's error that is gone, paired by sample: 0 for none, 1 for all, below 0 where the
            method is worse; None for the reference itself.
        trainings: mean error of each training, one a seed.
    """

    group: str
    method: str
    nfe: int
    error: Interval
    gain: Interval | None
    trainings: tuple[float, ...]


def row(group: str, method: str, nfe: int, errors: Tensor, reference: Tensor | None = None) -> Row:
    """The row of errors (trainings, samples), compared with those of a reference, of the same shape or (1, samples)."""
    mean = errors.mean(0)
    gain = None
    if reference is not None:
        other = reference.mean(0)
        gain = bootstrap_mean((other - mean) / other.mean())
    return Row(group, method, nfe, bootstrap_mean(mean), gain, tuple(errors.mean(1).tolist()))


def frame(rows: Sequence[Row], gains: bool = False) -> pd.DataFrame:
    """Errors `mean [low, high]`, or gains in percent: methods down, network calls across."""
    cells = {}
    for found in rows:
        shown = found.gain if gains else found.error
        if shown is not None:
            key = (found.group, found.method) if found.group else found.method
            cells.setdefault(f"NFE {found.nfe}", {})[key] = percent(shown) if gains else interval(shown)
    table = pd.DataFrame(cells)
    order = dict.fromkeys((r.group, r.method) if r.group else r.method for r in rows)
    return table.reindex([key for key in order if key in table.index]).fillna("-")


def interval(found: Interval) -> str:
    """`0.123 [0.120, 0.126]`."""
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def percent(found: Interval) -> str:
    """`12 % [10, 14]`."""
    return f"{100 * found.mean:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]"

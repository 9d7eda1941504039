"""The options that solvers are built from by name, and what a value of each may be.

Ranges that depend on the method (orders of one, rows of another) are the method's own to refuse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from core.charts import Chart, NoiseChart, TimeChart
from core.model_statistics import ModelStatistics
from core.operators.residual import ResidualConfig
from core.operators.scalar import ScalarConfig
from core.schedules import Schedule
from core.state import Solver

SHOWN = 60
"""Characters of a refused value that a message repeats."""


@dataclass(frozen=True, slots=True)
class SolverOptions:
    """The options of `core.build_solver`, described there; None where not given."""

    order: int | None = None
    schedule: Schedule | None = None
    seeds: tuple[int, ...] | None = None
    r: float | Tensor | None = None
    prediction: Literal["data", "noise"] | None = None
    variant: Literal["bh1", "bh2"] | None = None
    thresholding: bool | None = None
    lower_order_final: bool | None = None
    reference_compatible: bool | None = None
    base: Solver | None = None
    grid: Tensor | None = None
    history: int | None = None
    points: int | None = None
    weights: Tensor | None = None
    time_scale: Tensor | None = None
    scale_dir: float | Tensor | None = None
    scale_time: float | Tensor | None = None
    statistics: ModelStatistics | None = None
    operator: ResidualConfig | ScalarConfig | None = None

    @property
    def chart(self) -> Chart:
        return TimeChart() if self.schedule is None else NoiseChart(self.schedule)


class Kind(NamedTuple):
    """What an option must be: in words, and as a reading of a value, None where it is another."""

    expected: str
    read: Callable[[Any], Any]


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    found = _integer(value)
    return found if found is not None and found >= 1 else None


def _integers(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
        return None
    found = [_integer(item) for item in value]
    return None if None in found else tuple(item for item in found if item is not None)


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _finite(value: Any) -> Tensor | None:
    good = isinstance(value, Tensor) and not value.is_complex() and value.dtype != torch.bool
    return value if good and bool(torch.isfinite(value).all()) else None


def _table(value: Any) -> Tensor | None:
    found = _finite(value)
    return found if found is not None and found.numel() and found.ndim else None


def _numbers(value: Any) -> float | Tensor | None:
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else None
    return _finite(value)


def _positive(value: Any) -> float | Tensor | None:
    found = _numbers(value)
    return found if found is not None and bool(torch.as_tensor(found > 0).all()) else None


def _grid(value: Any) -> Tensor | None:
    found = _finite(value)
    if found is None or found.ndim != 1 or len(found) < 2:
        return None
    return found if bool((found.diff() < 0).all()) and bool(found[-1] >= 0) else None


def _with(*names: str) -> Callable[[Any], Any]:
    """A reading of objects, not classes, that have these attributes."""

    def read(value: Any) -> Any:
        good = not isinstance(value, type) and all(hasattr(value, name) for name in names)
        return value if good else None

    return read


def _of(*kinds: type) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, kinds) else None


def _one_of(*words: str) -> Kind:
    return Kind(
        " or ".join(map(repr, words)), lambda value: value if isinstance(value, str) and value in words else None
    )


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "order": Kind("an integer", _integer),
        "schedule": Kind("a schedule, e.g. core.VP()", _with("ratio", "time_at", "t_max")),
        "seeds": Kind("integers, one per sample", _integers),
        "r": Kind("a finite number, or a tensor of some", _numbers),
        "prediction": _one_of("data", "noise"),
        "variant": _one_of("bh1", "bh2"),
        "thresholding": Kind("True or False", _truth),
        "lower_order_final": Kind("True or False", _truth),
        "reference_compatible": Kind("True or False", _truth),
        "base": Kind("a solver, e.g. core.build_solver('ipndm', order=3)", _with("step", "memory", "order")),
        "grid": Kind("a tensor of two or more descending times, none below 0, e.g. core.build_grid(...)", _grid),
        "history": Kind("an integer of at least 1", _count),
        "points": Kind("an integer of at least 1", _count),
        "weights": Kind("a table of finite numbers, a tensor", _table),
        "time_scale": Kind("a row of finite numbers, a tensor", _table),
        "scale_dir": Kind("a finite number, or a tensor of some", _numbers),
        "scale_time": Kind("a positive number, or a tensor of some", _positive),
        "statistics": Kind("model statistics, e.g. core.load_statistics(path)", _of(ModelStatistics)),
        "operator": Kind(
            "sizes of an operator, e.g. core.ResidualConfig(channels=3)", _of(ResidualConfig, ScalarConfig)
        ),
    }
)
"""Every option of `core.build_solver`."""


def read_options(name: str, values: Mapping[str, Any]) -> SolverOptions:
    """The options of a solver, numbers of other libraries made plain ones.

    Raises:
        ValueError: a value that is none of its option's.
    """
    read = {option: value for option, value in values.items() if value is not None}
    for option, value in read.items():
        kind = KINDS[option]
        read[option] = kind.read(value)
        if read[option] is None:
            raise ValueError(f"expected {option} of {name!r} as {kind.expected}, got {shown(value)}; pass one")
    return SolverOptions(**read)


def shown(value: Any) -> str:
    """A value in one short line."""
    if isinstance(value, Tensor) and value.numel() != 1:
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    line = " ".join(repr(value).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."

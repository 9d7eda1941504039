"""Solvers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from core.charts import Chart, NoiseChart, TimeChart
from core.schedules import Schedule
from core.solvers.adams_bashforth import AdamsBashforth
from core.solvers.ddpm import DDPM
from core.solvers.euler import Euler
from core.solvers.heun import Heun
from core.solvers.ipndm import IPNDM
from core.state import Solver

DEFAULT_ORDER = 4


@dataclass(frozen=True, slots=True)
class SolverOptions:
    """The options of `build_solver`."""

    order: int | None
    schedule: Schedule | None
    seeds: tuple[int, ...] | None

    @property
    def chart(self) -> Chart:
        return TimeChart() if self.schedule is None else NoiseChart(self.schedule)

    @property
    def memory(self) -> int:
        return DEFAULT_ORDER if self.order is None else self.order


def _ddpm(options: SolverOptions) -> Solver:
    if options.schedule is None:
        raise ValueError('expected a schedule for "ddpm", got None; pass the schedule that the model was trained with')
    return DDPM(options.schedule, options.seeds)


SOLVERS: Mapping[str, Callable[[SolverOptions], Solver]] = MappingProxyType(
    {
        "euler": lambda options: Euler(options.chart),
        "ddim": lambda options: Euler(options.chart),
        "ddpm": _ddpm,
        "heun": lambda options: Heun(options.chart),
        "ipndm": lambda options: IPNDM(options.memory, options.chart),
        "adams-bashforth": lambda options: AdamsBashforth(options.memory, options.chart),
    }
)
"""The solvers that `build_solver` knows."""

ONE_ORDER = {"euler": 1, "ddim": 1, "ddpm": None, "heun": 2}
STOCHASTIC = {"ddpm"}


def build_solver(
    name: str, *, order: int | None = None, schedule: Schedule | None = None, seeds: Sequence[int] | None = None
) -> Solver:
    """A solver by name.

    Args:
        name: one of `SOLVERS`.
        order: evaluations that "ipndm" and "adams-bashforth" extrapolate from, 1 to 4; 4 where not given.
        schedule: the solver works in the noise chart of this schedule; without it in the model's time. For EDM's
            clock both are one, for VP the noise chart is where DDIM is Euler.
        seeds: of "ddpm", one per sample.

    Raises:
        ValueError: an unknown name, an order the method has not, "ddpm" without its schedule, seeds for a method
            without noise.
    """
    if name not in SOLVERS:
        raise ValueError(f"expected a solver among {', '.join(SOLVERS)}, got {name!r}; choose one of these")
    if order is not None and order != ONE_ORDER.get(name, order):
        raise ValueError(f"expected order {ONE_ORDER[name]} for {name!r}, got {order}; leave it out")
    if seeds is not None and name not in STOCHASTIC:
        raise ValueError(f"expected no seeds for {name!r}, got {len(seeds)}; it draws no noise")
    return SOLVERS[name](SolverOptions(order, schedule, None if seeds is None else tuple(seeds)))

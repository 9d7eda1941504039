"""Time grids: the discrete times t_0 > ... > t_N of a sampling run. A grid is not a schedule: it only reads one.

Each named grid is even in some function of time:

    uniform       t
    quadratic     sqrt(t)                                       more steps near the data
    karras        (sigma / alpha)^(1 / rho)                     Karras et al. 2022, eq. 5
    logsnr        log(sigma / alpha)                            Lu et al. 2022, arXiv 2206.00927
    vp-uniform    tau, the time of the VP schedule through both ends (`core.clocks`)
    vp-quadratic  sqrt(tau)
    discrete      what the network of a table of betas is told, an entry of it at both ends
    shifted       t / (shift - (shift - 1) t): rectified flow, more steps near the noise (Esser et al. 2024, eq. 23)

(`core.even_grids`) or is searched for (`core.searched_grids`):

    gits          from the trajectories of a teacher, by dynamic programming
    dmn           from a bound on the error of multistep methods, without a network
    ays           from a bound on the divergence of the sampled distribution, by Monte Carlo
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from core import even_grids as even
from core.charts import NoiseChart, TimeChart
from core.even_grids import GridOptions, check_log_snr
from core.names import nearest
from core.schedules import EDM, DiscreteVP, RectifiedFlow, Schedule
from core.searched_grids import ays, dmn, gits
from core.state import Solver, VelocityField


def searched_by_gits(options: GridOptions) -> Tensor:
    assert options.field is not None
    assert options.x_T is not None
    schedule, grid = options.schedule, options.teacher_grid
    if grid is None:
        fine = even.karras if torch.isfinite(schedule.ratio(options.t_max)) else even.uniform
        grid = fine(replace(options, steps=gits.TEACHER_STEPS))
    return gits.search(
        options.field,
        options.x_T,
        options.steps,
        grid,
        options.teacher,
        gits.METRIC if options.metric is None else options.metric,
        gits.DISCOUNT if options.discount is None else options.discount,
        bool(options.afs),
        TimeChart() if isinstance(schedule, EDM | RectifiedFlow) else NoiseChart(schedule),
    )


def searched_by_dmn(options: GridOptions) -> Tensor:
    check_log_snr(options)
    first, last = (float(options.schedule.ratio(t)) for t in (options.t_max, options.t_min))
    power = dmn.POWER if options.power is None else options.power
    return options.schedule.time_at(dmn.search(first, last, options.steps, power))


def searched_by_ays(options: GridOptions) -> Tensor:
    check_log_snr(options)
    assert options.field is not None
    assert options.data is not None
    seed = 0 if options.seed is None else options.seed
    divergence = ays.Divergence(options.field, options.schedule, options.data, seed, options.resolution)
    first, last = (float(options.schedule.ratio(t)) for t in (options.t_max, options.t_min))
    return options.schedule.time_at(ays.search(divergence, first, last, options.steps))


@dataclass(frozen=True, slots=True)
class GridEntry:
    """A grid that `build_grid` knows.

    Attributes:
        build: options -> times (steps + 1,).
        takes: options of searched grids that it reads.
        needs: those of them without a default.
        exact_ends: whether the first and last time are t_max and t_min, whatever rounding says.
    """

    build: Callable[[GridOptions], Tensor]
    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    exact_ends: bool = True


GRIDS: Mapping[str, GridEntry] = MappingProxyType(
    {
        "uniform": GridEntry(even.uniform),
        "quadratic": GridEntry(even.quadratic),
        "karras": GridEntry(even.karras),
        "logsnr": GridEntry(even.logsnr),
        "vp-uniform": GridEntry(even.vp_uniform),
        "vp-quadratic": GridEntry(even.vp_quadratic),
        "discrete": GridEntry(even.discrete),
        "shifted": GridEntry(even.shifted, exact_ends=False),
        "gits": GridEntry(
            searched_by_gits,
            ("field", "x_T", "teacher", "teacher_grid", "metric", "discount", "afs"),
            needs=("field", "x_T"),
            exact_ends=False,
        ),
        "dmn": GridEntry(searched_by_dmn, ("power",)),
        "ays": GridEntry(searched_by_ays, ("field", "data", "resolution", "seed"), needs=("field", "data")),
    }
)
"""The grids that `build_grid` knows."""

ADVICE = {
    "field": "pass the model's velocity field, see core.fields",
    "x_T": "pass initial states at t_max, as for core.integrate; some 256 are usual",
    "data": "pass samples of the data, as many as fit the network at once",
}
"""What to do about an option that is missing."""


def build_grid(
    name: str, steps: int, t_max: float | None = None, t_min: float | None = None, *,
    rho: float = 7.0, shift: float = 3.0, schedule: Schedule | None = None, field: VelocityField | None = None,
    x_T: Tensor | None = None, teacher: Solver | None = None, teacher_grid: Tensor | None = None,
    metric: gits.Metric | None = None, discount: float | None = None, afs: bool | None = None,
    power: int | None = None, data: Tensor | None = None, resolution: float | None = None, seed: int | None = None,
) -> Tensor:  # fmt: skip
    """A grid of steps + 1 descending times, float64 on the CPU.

    Args:
        name: one of `GRIDS`.
        steps: number of steps, at least 1.
        t_max, t_min: first and last time; the schedule's own ends where not given, for "discrete" the last and the
            first entry of its table.
        rho: exponent of "karras".
        shift: of "shifted"; the ends t = 1 and t = 0 stay where they are.
        schedule: the clock; that of the field where it has one, rectified flow for "shifted", else EDM.
        field: of "gits" and "ays": the model.
        x_T: of "gits": initial states (B, *space) at t_max.
        teacher, teacher_grid: of "gits": whose trajectories, on which times (M + 1,), M >= steps: the nodes are chosen
            among them. iPNDM 4 on 60 Karras steps.
        metric: of "gits": distance between a jump and the teacher; "l2".
        discount: of "gits": what a later step's error counts, for each step; 1.15.
        afs: of "gits": whether the grid is for sampling with an analytic first step.
        power: of "dmn": 1 for pixels, 2 for latents.
        data: of "ays": samples (B, *space).
        resolution: of "ays": sigma / alpha below which differences do not count; 0.3 standard deviations of the data.
        seed: of "ays": of its random numbers; 0.

    Raises:
        ValueError: an unknown name, options that the grid does not take or lacks, or that give no descending grid.
    """
    if name not in GRIDS:
        raise ValueError(f"expected a grid among {', '.join(GRIDS)}, got {name!r}{nearest(name, GRIDS)}")
    if steps < 1:
        raise ValueError(f"expected steps >= 1, got {steps}; ask for at least one")
    schedule = _schedule(name, field) if schedule is None else schedule
    t_max, t_min = _ends(name, schedule, t_max, t_min, rho)
    options = GridOptions(
        steps, t_max, t_min, rho, shift, schedule, field=field, x_T=x_T, teacher=teacher, teacher_grid=teacher_grid,
        metric=metric, discount=discount, afs=afs, power=power, data=data, resolution=resolution, seed=seed,
    )  # fmt: skip
    entry = GRIDS[name]
    _check(name, entry, options)
    grid = entry.build(options)
    if entry.exact_ends:
        grid[0], grid[-1] = t_max, t_min  # free of the rounding of roots and logarithms
    return grid


def _schedule(name: str, field: VelocityField | None) -> Schedule:
    """The clock where none is given."""
    return RectifiedFlow() if name == "shifted" else getattr(field, "schedule", EDM())


def _ends(name: str, schedule: Schedule, t_max: float | None, t_min: float | None, rho: float) -> tuple[float, float]:
    """First and last time, the schedule's own where not given; ValueError where no grid lies between them."""
    t_max = schedule.t_max if t_max is None else t_max
    if t_min is None:
        t_min = 1 / len(schedule) if name == "discrete" and isinstance(schedule, DiscreteVP) else schedule.t_min
    if not 0 <= t_min < t_max or rho <= 0:
        raise ValueError(
            f"expected 0 <= t_min < t_max and rho > 0, got t_min = {t_min}, t_max = {t_max}, rho = {rho}; "
            "give the noise end as t_max"
        )
    return t_max, t_min


def _check(name: str, entry: GridEntry, options: GridOptions) -> None:
    """Raise ValueError for an option of searched grids that this one does not take or lacks."""
    for option in options.given:
        if option not in entry.takes:
            known = f"it takes {', '.join(entry.takes)}" if entry.takes else "it takes none of a searched grid"
            raise ValueError(f"expected no {option} for {name!r}, got one; {known}")
    for option in entry.needs:
        if option not in options.given:
            raise ValueError(f"expected {option} for {name!r}, got none; {ADVICE[option]}")

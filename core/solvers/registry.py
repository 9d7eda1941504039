"""Solvers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from types import MappingProxyType
from typing import Any, Literal, Never

from torch import Tensor

import core.operators.corrected as corrected  # the module: it reads the multistep methods and is not whole yet
from core.model_statistics import ModelStatistics
from core.names import nearest
from core.operators.residual import ResidualConfig
from core.operators.scalar import ScalarConfig, ScalarResidual
from core.operators.scaling import chart_of
from core.schedules import EDM, Schedule
from core.solvers.adams_bashforth import AdamsBashforth
from core.solvers.ddpm import DDPM
from core.solvers.deis import DEIS
from core.solvers.dpm_solver_2 import DPMSolver2
from core.solvers.dpm_solver_pp import DPMSolverPP
from core.solvers.dpm_solver_v3 import HIGHEST_ORDER, DPMSolverV3
from core.solvers.euler import Euler
from core.solvers.exponential import MOST_ORDER
from core.solvers.heun import Heun
from core.solvers.ipndm import IPNDM
from core.solvers.learned import amed, dyweight, epd, ld3
from core.solvers.learned.bns import NonStationary
from core.solvers.learned.dlms import DynamicConfig, DynamicMultistep
from core.solvers.learned.increments import builder
from core.solvers.learned.s4s_alt import AlternatingConfig, S4SAlternating
from core.solvers.learned.s4s_lms import S4SMultistep
from core.solvers.learned.s4s_pc import S4SPredictorCorrector
from core.solvers.learned.s4s_ss import S4SSingleStep
from core.solvers.options import SolverOptions, read_options, shown
from core.solvers.rk4 import RK4
from core.solvers.unipc import UniPC
from core.state import Solver

DEFAULT_ORDER = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """A solver that `build_solver` knows.

    Attributes:
        build: options -> solver.
        takes: the options it reads.
        needs: those of them without a default.
        order: the only order that the method has, where it does not take one.
    """

    build: Callable[[SolverOptions], Solver]
    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    order: int | None = None


def _order(options: SolverOptions) -> int:
    return DEFAULT_ORDER if options.order is None else options.order


def _ddpm(options: SolverOptions) -> Solver:
    assert options.schedule is not None
    return DDPM(options.schedule, options.seeds)


def _dpm_solver_v3(options: SolverOptions) -> Solver:
    assert options.statistics is not None
    order = HIGHEST_ORDER if options.order is None else options.order
    final = options.lower_order_final is not False
    return DPMSolverV3(order, options.statistics, options.schedule or EDM(), lower_order_final=final)


def _dpm_solver_2(options: SolverOptions) -> Solver:
    r = 0.5 if options.r is None else options.r
    if isinstance(r, Tensor) and r.numel() != 1:
        raise ValueError(f"expected one r for 'dpm-solver-2', got a tensor {tuple(r.shape)}; all steps share it")
    return DPMSolver2(float(r), options.schedule or EDM())


def _dpm_solver_pp(options: SolverOptions) -> Solver:
    return DPMSolverPP(
        memory=MOST_ORDER if options.order is None else options.order,
        schedule=options.schedule or EDM(),
        prediction=options.prediction or "data",
        thresholding=bool(options.thresholding),
        lower_order_final=options.lower_order_final is not False,
    )


def _unipc(options: SolverOptions) -> Solver:
    return UniPC(
        memory=MOST_ORDER if options.order is None else options.order,
        schedule=options.schedule or EDM(),
        prediction=options.prediction or "data",
        thresholding=bool(options.thresholding),
        lower_order_final=options.lower_order_final is not False,
        variant=options.variant or "bh2",
        reference_compatible=bool(options.reference_compatible),
    )


def _spanlift(options: SolverOptions) -> Solver:
    base, operator = options.base, options.operator
    assert base is not None
    assert operator is not None
    if isinstance(operator, ScalarConfig):
        return corrected.Corrected(corrected.frozen(base), ScalarResidual(operator, chart_of(base)))
    return corrected.spanlift(base, operator, options.schedule)


AMED_NUMBERS = ("r", "scale_dir", "scale_time")
EXPONENTIAL = ("order", "schedule", "prediction", "thresholding", "lower_order_final")

STUDENT = ("base", "grid", "prediction", "schedule")
"""Options that learned solvers over any handcrafted one take."""

SOLVERS: Mapping[str, Entry] = MappingProxyType(
    {
        "euler": Entry(lambda o: Euler(o.chart), ("schedule",), order=1),
        "ddim": Entry(lambda o: Euler(o.chart), ("schedule",), order=1),
        "ddpm": Entry(_ddpm, ("schedule", "seeds"), needs=("schedule",)),
        "heun": Entry(lambda o: Heun(o.chart), ("schedule",), order=2),
        "rk4": Entry(lambda o: RK4(o.chart), ("schedule",), order=4),
        "dpm-solver-2": Entry(_dpm_solver_2, ("r", "schedule"), order=2),
        "dpm-solver++": Entry(_dpm_solver_pp, EXPONENTIAL),
        "unipc": Entry(_unipc, (*EXPONENTIAL, "variant", "reference_compatible")),
        "ipndm": Entry(lambda o: IPNDM(_order(o), o.chart), ("order", "schedule")),
        "dpm-solver-v3": Entry(
            _dpm_solver_v3, ("order", "statistics", "schedule", "lower_order_final"), needs=("statistics",)
        ),
        "adams-bashforth": Entry(
            lambda o: AdamsBashforth(_order(o), o.chart, bool(o.reference_compatible)),
            ("order", "schedule", "reference_compatible"),
        ),
        "deis": Entry(
            lambda o: DEIS(_order(o), o.schedule or EDM(), bool(o.reference_compatible)),
            ("order", "schedule", "reference_compatible"),
        ),
        "amed": Entry(amed.build, ("base", "grid", "schedule", *AMED_NUMBERS)),
        "amed-plugin": Entry(amed.build_plugin, ("base", "grid", *AMED_NUMBERS), needs=("base",)),
        "epd": Entry(epd.build, ("base", "grid", "schedule", "points", "weights", *AMED_NUMBERS)),
        "epd-plugin": Entry(epd.build_plugin, ("base", "grid", "points", "weights", *AMED_NUMBERS), needs=("base",)),
        "s4s-lms": Entry(builder(S4SMultistep), (*STUDENT, "order"), needs=("base", "grid")),
        "s4s-ss": Entry(builder(S4SSingleStep), STUDENT, needs=("base", "grid")),
        "s4s-pc": Entry(builder(S4SPredictorCorrector), (*STUDENT, "order"), needs=("base", "grid")),
        "s4s-alt": Entry(builder(S4SAlternating, AlternatingConfig), (*STUDENT, "order"), needs=("base", "grid")),
        "bns": Entry(builder(NonStationary), STUDENT, needs=("base", "grid")),
        "dlms": Entry(builder(DynamicMultistep, DynamicConfig), (*STUDENT, "history"), needs=("base", "grid")),
        "ld3": Entry(ld3.build, ("base", "grid", "schedule", "reference_compatible"), needs=("base", "grid")),
        "dyweight": Entry(
            dyweight.build,
            ("base", "grid", "history", "weights", "time_scale", "schedule", "reference_compatible"),
        ),
        "spanlift": Entry(_spanlift, ("base", "operator", "schedule"), needs=("base", "operator")),
    }
)
"""The solvers that `build_solver` knows."""

ADVICE = {
    "schedule": "pass the schedule that the model was trained with",
    "base": "pass the solver to start from, e.g. core.build_solver('ipndm', order=3)",
    "statistics": "estimate them with core.estimate_statistics, or read them with core.load_statistics",
    "operator": "pass its sizes, e.g. core.ResidualConfig(channels=3)",
    "grid": "pass the grid that will be sampled on, see core.build_grid",
}
"""What to do about an option that is missing."""


def build_solver(
    name: str, *,
    order: int | None = None, schedule: Schedule | None = None, seeds: Sequence[int] | None = None,
    r: float | Tensor | None = None, prediction: Literal["data", "noise"] | None = None,
    variant: Literal["bh1", "bh2"] | None = None, thresholding: bool | None = None,
    lower_order_final: bool | None = None, reference_compatible: bool | None = None, base: Solver | None = None,
    grid: Tensor | None = None, history: int | None = None, points: int | None = None, weights: Tensor | None = None,
    time_scale: Tensor | None = None, scale_dir: float | Tensor | None = None,
    scale_time: float | Tensor | None = None, statistics: ModelStatistics | None = None,
    operator: ResidualConfig | ScalarConfig | None = None, **unknown: Never,
) -> Solver:  # fmt: skip
    """A solver by name. Each name takes some of the options; what it does not take is refused.

    Args:
        name: one of `SOLVERS`.
        order: nominal order of a method that has several: evaluations it extrapolates from.
        schedule: handcrafted solvers work in the noise chart of this schedule, exponential ones in its log-SNR; without
            it in the model's time, for EDM's clock. For VP the noise chart is where DDIM is Euler.
        seeds: of "ddpm", one per sample.
        r: place of the intermediate point of a two-stage method between the ends of a step on the log scale, in (0, 1);
            for the learned ones per step, and per point.
        prediction: whether an exponential method extrapolates the data or the noise.
        variant: B(h) of "unipc".
        thresholding: dynamic thresholding of the predicted data, for pixels in [-1, 1].
        lower_order_final: lower the order of the last steps, which steadies few-step sampling.
        reference_compatible: reproduce the bug of the published code that the class documents, for comparison.
        base: solver that a learned one starts as.
        grid: times (N + 1,) that a learned solver is for.
        history: evaluations that a learned multistep method weighs, the newest included.
        points: parallel evaluations per step.
        statistics: empirical statistics of the model, of "dpm-solver-v3"; see `core.model_statistics`.
        operator: sizes of the residual operator of "spanlift".
        weights, time_scale, scale_dir, scale_time: learned numbers, where they are known; see the class.

    Raises:
        ValueError: an unknown name, an option that the method does not take or lacks, a value it cannot have.
        TypeError: a word that is no option of any method.
    """
    if name not in SOLVERS:
        raise ValueError(f"expected a solver among {', '.join(SOLVERS)}, got {name!r}{nearest(name, SOLVERS)}")
    entry = SOLVERS[name]
    if unknown:
        wrong, takes = next(iter(unknown)), entry.takes
        raise TypeError(
            f"expected an option among {', '.join(takes)} for {name!r}, got {wrong!r}{nearest(wrong, takes)}"
        )
    given = {
        "order": order, "schedule": schedule, "seeds": seeds, "r": r, "prediction": prediction, "variant": variant,
        "thresholding": thresholding, "lower_order_final": lower_order_final,
        "reference_compatible": reference_compatible, "base": base, "grid": grid, "history": history,
        "points": points, "weights": weights, "time_scale": time_scale, "scale_dir": scale_dir,
        "scale_time": scale_time, "statistics": statistics, "operator": operator,
    }  # fmt: skip
    _check(name, entry, given)
    return entry.build(read_options(name, given))


def _check(name: str, entry: Entry, values: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that the method does not take or lacks."""
    given = {option: value for option, value in values.items() if value is not None}
    for option, value in given.items():
        only_order = option == "order" and isinstance(value, Integral) and value == entry.order
        if option not in entry.takes and not only_order:
            raise ValueError(
                f"expected no {option} for {name!r}, got {shown(value)}; it takes {', '.join(entry.takes)}"
            )
    for option in entry.needs:
        if option not in given:
            raise ValueError(f"expected {option} for {name!r}, got none; {ADVICE[option]}")

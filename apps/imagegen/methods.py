"""What a solver of an image model is asked to be: its options, and how it spends network calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import core
from core.names import nearest
from core.solvers.learned import LEARNED
from data_tools.cli import UserError

if TYPE_CHECKING:  # models look at methods for the grids that suit them
    from apps.imagegen.models import FrozenModel

OperatorClass = Literal["spatial", "pointwise", "scalar"]

DEFAULT_NFE, DEFAULT_ORDER, HISTORY = 3, 3, 3
"""As in the published tables of few-step sampling: iPNDM(3M), DPM-Solver++(3M), UniPC(3M), DyWeight with K = 3."""

LEARNED_NAMES = tuple(name for name in core.SOLVERS if name in LEARNED or name == "spanlift")
"""Solvers that are trained."""

BASES = {
    "dlms": "ipndm", "ld3": "ipndm", "s4s-lms": "ipndm", "s4s-alt": "ipndm", "s4s-pc": "unipc", "s4s-ss": "heun",
    "bns": "euler", "amed-plugin": "ipndm", "epd-plugin": "ipndm", "dyweight": "ipndm", "spanlift": "dyweight",
}  # fmt: skip
"""What a learned solver starts as, where no other base is asked for. AMED and EPD start as DPM-Solver-2."""

CALLS = {"heun": 2, "dpm-solver-2": 2, "rk4": 4, "amed": 2, "amed-plugin": 2}
"""Network calls a step of those that take more than one."""

GRIDS = {"dpm-solver++": "logsnr", "unipc": "logsnr", "dpm-solver-v3": "logsnr"}
"""Grids that authors recommend for their methods in the clock sigma; Karras' for all others."""

ALL_ORDERS = ("ipndm", "adams-bashforth", "deis", "dpm-solver++", "unipc", "dpm-solver-v3")
WEIGHED = ("s4s-lms", "s4s-pc", "s4s-alt")
"""Learned solvers whose order is the number of evaluations they weigh."""

ON_SCHEDULE = ("dpm-solver++", "unipc", "deis", "dpm-solver-v3", "ddpm")
"""Solvers that are defined on a noise schedule; all others take their steps in a chart of the model's."""
FROM_DATA = ("deis", "dpm-solver-v3")
"""Those of them that can not start where there is no data in the state, as rectified flow does."""


@dataclass(frozen=True)
class MethodOptions:
    """What a solver is built from.

    Attributes:
        solver: a name of `core.SOLVERS`, or the file or folder of a trained solver, which brings all else with it.
        nfe: network calls per image; 3 where not given. That of a trained solver must agree.
        order: of solvers that have several; evaluations that S4S weighs. 3 where not given.
        afs: analytic first step, which costs no call. Where not given: only where the calls do not come out otherwise.
        grid: name of the time grid; where not given the model's own for the method.
        rho: exponent of Karras' grid.
        denoise: end with one more call, for the data predicted from the last state.
        base: name of what a learned solver starts as, or corrects.
        base_path: file of the trained solver that SpanLift corrects.
        operator: class of SpanLift's operator.
        kernel: spatial support of the spatial operator.
        width: its hidden channels.
        points: parallel evaluations a step of EPD, each of which counts; those that fit where not given.
        statistics: file of DPM-Solver-v3's statistics, see `core.save_statistics`.
        seed: of initial weights.
    """

    solver: str = "ipndm"
    nfe: int | None = None
    order: int | None = None
    afs: bool | None = None
    grid: str | None = None
    rho: float = 7.0
    denoise: bool = False
    base: str | None = None
    base_path: str | None = None
    operator: OperatorClass = "spatial"
    kernel: int = 3
    width: int = 128
    points: int | None = None
    statistics: str | None = None
    seed: int = 0

    @property
    def base_name(self) -> str | None:
        """Name of the base; None of those without one."""
        return self.base or BASES.get(self.solver)


class Budget(NamedTuple):
    """How network calls are spent: steps, an analytic first one or not, parallel evaluations a step (of EPD)."""

    steps: int
    afs: bool
    points: int = 0


def underlying(spec: MethodOptions) -> MethodOptions:
    """The method whose calls a method makes and whose grid it likes: that of its base, where it has one of its own."""
    if spec.solver in BASES and not spec.solver.endswith("plugin"):
        return underlying(replace(spec, solver=spec.base_name or "", base=None))
    return spec


def calls_of(spec: MethodOptions, points: int = 0) -> int:
    """Network calls a step of a method, before an analytic start saves one."""
    name = underlying(spec).solver
    return 1 + points if name.startswith("epd") else CALLS.get(name, 1)


def budget(spec: MethodOptions, clean: bool = False) -> Budget:
    """How the calls are spent.

    Args:
        spec: the method.
        clean: the grid ends where there is no noise, as that of rectified flow: the last step is then one call, for
            there is no level between its ends, and none is asked at the last.

    Raises:
        UserError: the method cannot take so many.
    """
    nfe = DEFAULT_NFE if spec.nfe is None else spec.nfe
    starts = (False, True) if spec.afs is None else (spec.afs,)
    epd = underlying(spec).solver.startswith("epd")
    parallel = (0,) if not epd else (2, 3) if spec.points is None else (spec.points,)
    for points in parallel:
        calls = calls_of(spec, points)
        for afs in starts:
            steps, rest = divmod(nfe - spec.denoise + afs + clean * (calls - 1), calls)
            if rest == 0 and steps >= 1 and nfe >= 1:
                return Budget(steps, afs, points)
    calls = calls_of(spec, parallel[0])
    saved = clean * (calls - 1) - spec.denoise
    possible = sorted({s * calls - afs - saved for s in range(1, 4) for afs in starts})
    possible = [str(number) for number in possible if number > 0]
    raise UserError(
        f"expected --nfe {', '.join(possible)}, ... for {spec.solver}, which calls the network "
        f"{calls} time{'s' if calls > 1 else ''} a step, got {nfe}; change it or the analytic first step"
    )


def grid_name(spec: MethodOptions, model: FrozenModel | None = None) -> str:
    """The grid that is asked for, or that suits the method on this model; in the clock sigma where none is given."""
    solver = underlying(spec).solver
    return spec.grid or (GRIDS.get(solver, "karras") if model is None else model.default_grid(solver))


def finite_start(model: FrozenModel) -> bool:
    """Whether there is data in the states that runs start from; there is none in rectified flow, where alpha = 0."""
    return bool(model.schedule(model.schedule.t_max).alpha > 0)


def ends_noisy(model: FrozenModel) -> bool:
    """Whether there is noise left in the states that runs end in; rectified flow ends without."""
    return bool(model.grid(model.default_grid("euler"), 1)[-1] > 0)


def check_method(spec: MethodOptions, model: FrozenModel) -> None:
    """Raise UserError for names that are unknown and options that method and model do not have."""
    if spec.solver not in core.SOLVERS:
        raise UserError(
            f"expected a solver among {', '.join(core.SOLVERS)}, or the file of a trained one, got "
            f"{spec.solver!r}{nearest(spec.solver, core.SOLVERS)}"
        )
    if spec.grid is not None and spec.grid not in model.grids:
        raise UserError(
            f"expected a grid among {', '.join(model.grids)}, got {spec.grid!r}{nearest(spec.grid, model.grids)}"
        )
    if spec.base is not None and spec.solver not in BASES:
        raise UserError(f"expected no --base for {spec.solver}, got {spec.base}; leave it out")
    base = spec.base_name
    known = [
        n for n in core.SOLVERS if n not in ("spanlift", "ddpm") and (spec.solver == "spanlift" or n not in LEARNED)
    ]
    if base is not None and base not in known:
        raise UserError(f"expected a base of {spec.solver} among {', '.join(known)}, got {base!r}")
    if spec.base_path is not None and spec.solver != "spanlift":
        raise UserError(f"expected --base_path with the solver spanlift alone, got it with {spec.solver}; leave it out")
    if spec.order is not None and spec.solver not in (*ALL_ORDERS, *WEIGHED) and base not in ALL_ORDERS:
        raise UserError(f"expected no --order for {spec.solver}, got {spec.order}; leave it out")
    if not finite_start(model) and underlying(spec).solver in FROM_DATA:
        raise UserError(
            f"expected a solver that starts from pure noise, as {model.name} does, got {underlying(spec).solver}; take "
            "ipndm, adams-bashforth, dpm-solver++ or unipc"
        )
    if spec.denoise and not ends_noisy(model):
        raise UserError(f"expected no --denoise for {model.name}, whose last state has no noise, got it; leave it out")
    if spec.solver == "dpm-solver-v3" and spec.statistics is None:
        raise UserError("expected --statistics of the model for dpm-solver-v3, got none; estimate them first")

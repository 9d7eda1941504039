"""How every method of the comparison is built for a number of network calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from core.grids import build_grid
from core.model_statistics import ModelStatistics
from core.operators import Corrected, ResidualConfig, ScalarConfig, ScalarResidual, spanlift
from core.operators.scaling import chart_of
from core.schedules import EDM
from core.solvers import build_solver
from core.state import Solver

SIGMA_MAX, SIGMA_MIN = 80.0, 0.002
HISTORY = 3


@dataclass(frozen=True)
class Problem:
    """What a solver is built for.

    Attributes:
        grid: of its steps.
        channels, dimensions: of the states.
        statistics: of the field, for DPM-Solver-v3.
        points: parallel evaluations inside a step.
    """

    grid: Tensor
    channels: int
    dimensions: int
    statistics: ModelStatistics | None = None
    points: int = 0

    @property
    def steps(self) -> int:
        return len(self.grid) - 1


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        build: problem -> solver, untrained.
        base: what a learned method starts as, in words; empty for handcrafted ones.
        calls: network calls a step; 0 where they depend on the parallel evaluations.
        rate: learning rate.
        pretrained: a learned method that is trained first and then frozen as the base.
        weight: how long its training takes, relatively.
    """

    build: Callable[[Problem], Solver]
    base: str = ""
    calls: int = 1
    rate: float = 0.0
    pretrained: str | None = None
    weight: int = 1

    @property
    def learned(self) -> bool:
        return bool(self.base)


@dataclass(frozen=True)
class Budget:
    """How a number of network calls is spent: steps, an analytic first one or not, parallel evaluations a step."""

    steps: int
    afs: bool
    points: int = 0

    @property
    def grid(self) -> Tensor:
        return build_grid("karras", self.steps, SIGMA_MAX, SIGMA_MIN)


def budget(method: Method, nfe: int) -> Budget | None:
    """The budget of a cell; None where the method cannot take so many calls.

    Methods of two calls a step take odd numbers with an analytic first step, as AMED does. Those with parallel
    evaluations, all of which count, take two of them a step where that fits, else three.
    """
    if method.calls == 1:
        return Budget(nfe, afs=False)
    if method.calls == 2:
        return Budget((nfe + 1) // 2, afs=nfe % 2 == 1) if nfe > 1 else None
    for points in (2, 3):
        for afs in (False, True):
            if nfe + afs >= 1 + points and (nfe + afs) % (1 + points) == 0:
                return Budget((nfe + afs) // (1 + points), afs, points)
    return None


def _ipndm() -> Solver:
    return build_solver("ipndm", order=HISTORY)


def _scalar(problem: Problem) -> Solver:
    base = _ipndm()
    return Corrected(base, ScalarResidual(ScalarConfig(problem.steps, HISTORY), chart_of(base)))


def _spanlift(problem: Problem, base: Solver | None = None, kernel: int = 3) -> Solver:
    config = ResidualConfig(
        problem.channels, history=HISTORY, width=32, kernel=kernel, steps=problem.steps, data_std=0.5
    )
    return spanlift(_ipndm() if base is None else base, config, EDM())


def _over(name: str, base: Callable[[], Solver]) -> Callable[[Problem], Solver]:
    return lambda problem: build_solver(name, base=base(), grid=problem.grid)


def _plain(name: str, order: int | None = None) -> Callable[[Problem], Solver]:
    return lambda problem: build_solver(name, order=order)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "euler": Method(_plain("euler")),
        "heun": Method(_plain("heun"), calls=2),
        "dpm-solver-2": Method(_plain("dpm-solver-2"), calls=2),
        "dpm-solver++": Method(_plain("dpm-solver++", 2)),
        "unipc": Method(_plain("unipc", 2)),
        "deis": Method(_plain("deis", 3)),
        "ipndm": Method(_plain("ipndm", HISTORY)),
        "dpm-solver-v3": Method(lambda p: build_solver("dpm-solver-v3", order=2, statistics=p.statistics)),
        "ld3": Method(_over("ld3", _ipndm), "ipndm", rate=3e-2),
        "s4s-lms": Method(_over("s4s-lms", _ipndm), "ipndm", rate=3e-2),
        "s4s-pc": Method(_over("s4s-pc", lambda: build_solver("unipc", order=2)), "unipc", rate=5e-2),
        "s4s-ss": Method(_over("s4s-ss", lambda: build_solver("heun")), "heun", calls=2, rate=3e-2),
        "s4s-alt": Method(_over("s4s-alt", _ipndm), "ipndm", rate=1e-2),
        "bns": Method(_over("bns", lambda: build_solver("euler")), "euler", rate=1e-2),
        "dlms": Method(_over("dlms", _ipndm), "ipndm", rate=3e-2),
        "amed": Method(lambda p: build_solver("amed", grid=p.grid), "dpm-solver-2", calls=2, rate=5e-2),
        "amed-plugin": Method(_over("amed-plugin", _ipndm), "ipndm", calls=2, rate=5e-2),
        "epd": Method(lambda p: build_solver("epd", grid=p.grid, points=p.points), "dpm-solver-2", calls=0, rate=5e-2),
        "epd-plugin": Method(
            lambda p: build_solver("epd-plugin", base=_ipndm(), grid=p.grid, points=p.points),
            "ipndm",
            calls=0,
            rate=5e-2,
        ),
        "scalar": Method(_scalar, "ipndm", rate=3e-2),
        "dyweight": Method(
            lambda p: build_solver("dyweight", base=_ipndm(), grid=p.grid, history=HISTORY), "ipndm", rate=3e-2
        ),
        "pointwise": Method(lambda p: _spanlift(p, kernel=1), "ipndm", rate=5e-3, weight=4),
        "spanlift": Method(_spanlift, "ipndm", rate=5e-3, weight=4),
        "spanlift-dyweight": Method(_spanlift, "dyweight", rate=1e-3, pretrained="dyweight", weight=5),
    }
)
"""All rows: handcrafted methods, then learned ones over them."""


def build(method: Method, problem: Problem, seed: int, base: Solver | None = None) -> Solver:
    """The untrained solver, its weights drawn with the seed; over `base` where it was trained before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _spanlift(problem, base) if base is not None else method.build(problem)

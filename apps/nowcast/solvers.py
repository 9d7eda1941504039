"""The handcrafted solvers of the nowcast: bases that operators correct, and the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import core

MULTISTEP_ORDER = 2
"""Order of multistep bases and teachers in the noise chart."""

TEACHER_SOLVER, TEACHER_STEPS = "ipndm", 24
TEACHER = f"{TEACHER_SOLVER}-{TEACHER_STEPS}"
"""The many-step sampler that teaches operators, NAME-STEPS: as near to the exact solution as 100 steps of DDIM."""

DEFAULT_BASE: Mapping[str, str] = MappingProxyType({"teacher": "ipndm", "target": "ddim"})
"""Base solver by supervision: an operator does best where it starts near to what it is trained for."""


def build_base(name: str, schedule: core.DiscreteVP) -> core.Solver:
    """A handcrafted solver in the noise chart of the schedule, where DDIM is Euler."""
    order = None if name in {"ddim", "heun"} else MULTISTEP_ORDER
    return core.build_solver(name, order=order, schedule=schedule)

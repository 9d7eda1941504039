"""The handcrafted solvers of the nowcast: bases that operators correct, and the teacher."""

from __future__ import annotations

import core

MULTISTEP_ORDER = 2
"""Order of multistep bases and teachers in the noise chart."""

TEACHER = "ddim-100"
"""The many-step reference that operators are taught by, NAME-STEPS."""


def build_base(name: str, schedule: core.DiscreteVP) -> core.Solver:
    """A handcrafted solver in the noise chart of the schedule, where DDIM is Euler."""
    order = None if name in {"ddim", "heun"} else MULTISTEP_ORDER
    return core.build_solver(name, order=order, schedule=schedule)

"""Solvers: rules that take a state one step down in time. One method per file; `build_solver` makes them by name."""

from __future__ import annotations

from core.solvers.adams_bashforth import AdamsBashforth
from core.solvers.ddpm import DDPM
from core.solvers.euler import Euler
from core.solvers.heun import Heun
from core.solvers.ipndm import IPNDM
from core.solvers.registry import SOLVERS, build_solver

__all__ = ["DDPM", "IPNDM", "SOLVERS", "AdamsBashforth", "Euler", "Heun", "build_solver"]

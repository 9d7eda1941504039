"""Solvers: rules that take a state one step down in time. One method per file; `build_solver` makes them by name."""

from __future__ import annotations

from core.solvers.adams_bashforth import AdamsBashforth
from core.solvers.ddpm import DDPM
from core.solvers.deis import DEIS
from core.solvers.dpm_solver_2 import DPMSolver2
from core.solvers.dpm_solver_pp import DPMSolverPP
from core.solvers.dpm_solver_v3 import DPMSolverV3
from core.solvers.euler import Euler
from core.solvers.heun import Heun
from core.solvers.ipndm import IPNDM
from core.solvers.learned.amed import AMED
from core.solvers.learned.epd import EPD
from core.solvers.registry import SOLVERS, build_solver
from core.solvers.rk4 import RK4
from core.solvers.started import Started
from core.solvers.unipc import UniPC

__all__ = [
    "AMED",
    "DDPM",
    "DEIS",
    "EPD",
    "IPNDM",
    "RK4",
    "SOLVERS",
    "AdamsBashforth",
    "DPMSolver2",
    "DPMSolverPP",
    "DPMSolverV3",
    "Euler",
    "Heun",
    "Started",
    "UniPC",
    "build_solver",
]

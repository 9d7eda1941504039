"""What a cell is made of: the solver of a row for a number of network calls, or what is lacking for it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import core
from apps.imagegen.methods import MethodOptions
from apps.imagegen.models import FrozenModel
from apps.imagegen.sampling import Sampler, build_sampler
from apps.imagegen.solvers import build_method
from apps.imagegen.tables.lines import BASE, Line
from core.checkpoints import FILE_NAME
from core.operators.residual import SpanLiftResidual
from data_tools.cli import UserError


@dataclass(frozen=True, eq=False)
class Ready:
    """A method that can be measured; `source` is the file of its solver, empty for handcrafted ones."""

    sampler: Sampler
    source: str = ""

    def identity(self, model: FrozenModel) -> dict[str, Any]:
        """All that its samples depend on beside the seeds."""
        return {"model": model.identity, "precision": model.precision, "sampler": self.sampler.written()}


@dataclass(frozen=True)
class Missing:
    """A solver that was not trained yet, and the command that does it."""

    command: str


@dataclass(frozen=True)
class Impossible:
    """A cell that the method cannot have, and why."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """A solver that is there but damaged, of another model, or not of this row and column: why, in one line."""

    reason: str


Found = Ready | Missing | Impossible | Refused


def folder_of(model: FrozenModel) -> str:
    """Where solvers of a model are kept unless the user says otherwise: apart from those of any other model."""
    return f"out/solvers/{safe_name(model.name)}-{model.identity[:8]}"


def safe_name(name: str) -> str:
    """A model's name as part of a folder's."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)


def find(model: FrozenModel, name: str, line: Line, nfe: int, folder: str, base: Line = BASE, also: str = "") -> Found:
    """The ingredients of a cell.

    Args:
        model: frozen.
        name: what it is called on a command line.
        line: row.
        nfe: column.
        folder: of trained solvers.
        base: row of the learned base of SpanLift.
        also: further options of trainings, as the model's prompts.
    """
    spent, afs = line.spent(nfe), line.analytic(nfe)
    if not line.learned:
        spec = MethodOptions(line.solver, spent, line.order, afs=afs, grid=line.grid)
        try:
            return Ready(build_sampler(model, spec))
        except UserError as error:
            return Impossible(str(error))
    spec = MethodOptions(
        line.solver, spent, line.order, afs=afs, grid=line.grid, base=line.base,
        operator="pointwise" if line.operator == "pointwise" else "spatial", kernel=line.kernel,
    )  # fmt: skip
    path = trained(Path(line.place(nfe, folder)))
    if path is None:
        # a method that cannot take these calls is not worth a command; a grid that is searched is not worth the search
        searched = line.grid is not None and core.GRIDS[line.grid].needs
        try:
            build_method(model, replace(spec, grid=None) if searched else spec)
        except UserError as error:
            return Impossible(str(error))
        command = line.train_command(name, nfe, folder, also)
        if line.base == base.solver and trained(Path(base.place(spent, folder))) is None:
            command = f"{base.train_command(name, spent, folder, also)} && {command}"
        return Missing(command)
    try:
        sampler = build_sampler(model, MethodOptions(str(path), spent))
        _check(sampler, line, nfe, path)
    except UserError as error:
        return Refused(str(error))
    return Ready(sampler, str(path))


def trained(folder: Path) -> Path | None:
    """The file of the trained solver of a folder of `apps.imagegen.train`, None where there is none."""
    path = folder / FILE_NAME
    return path if path.is_file() else None


def _check(sampler: Sampler, line: Line, nfe: int, path: Path) -> None:
    """Refuse a solver that is of another row: a folder may hold anything.

    Raises:
        UserError: another kind of solver, operator or base, or a first step of the other kind.
    """
    got = kind_of(sampler.solver)
    wanted = line.solver
    if line.solver == "spanlift":
        size = "pointwise" if line.operator == "pointwise" else f"kernel {line.kernel}"
        wanted = f"spanlift, {size}, over {line.base}"
    if got != wanted:
        raise UserError(f"expected the solver of {line.label!r} ({wanted}) in {path}, got {got}; train it there anew")
    if line.analytic(nfe) not in (None, sampler.afs):
        raise UserError(
            f"expected --afs {str(line.analytic(nfe)).lower()} for {line.label!r} in {path}, got "
            f"{str(sampler.afs).lower()}; train it there anew"
        )


def kind_of(solver: core.Solver) -> str:
    """A learned solver in words: its method, and of SpanLift the operator and the base."""
    if not isinstance(solver, core.Corrected):
        return getattr(solver, "kind", "") or re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(solver).__name__).lower()
    if not isinstance(solver.residual, SpanLiftResidual):
        return "spanlift, scalar"
    kernel = solver.residual.config.kernel
    size = "pointwise" if kernel == 1 else f"kernel {kernel}"
    return f"spanlift, {size}, over {kind_of(solver.solver)}"

"""Ways to forecast by name and from files: persistence and the baselines of pysteps, handcrafted solvers, trained
operators at one or more numbers of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import core
from apps.nowcast.aligned import AlignedDDPM, Alignment
from apps.nowcast.baselines import Forecaster, Persistence
from apps.nowcast.nowcaster import Nowcaster, Observing
from apps.nowcast.pysteps_methods import FORECASTERS
from apps.nowcast.solvers import TEACHER, build_base
from apps.nowcast.step_counts import StepRange
from core.operators import Corrected, SpanLiftResidual
from data_tools.cli import UserError

HANDCRAFTED = ("ddim", "ddpm", "heun", "ipndm", "adams-bashforth", "aligned-ddpm")


@dataclass(frozen=True, eq=False)
class Method:
    """A way to forecast.

    Attributes:
        label: unique name in pictures and logs.
        name: name in the table.
        supervision: of a learned solver.
        steps: of the sampler; None for what needs no model.
        solver: member seeds -> solver, or what makes one of observed frames; None for what needs no model.
        grid: times the sampler visits; None for what needs no model.
        forecaster: what needs no model; None for what does, and for methods of which a store has the scores alone.
    """

    label: str
    name: str
    supervision: str | None = None
    steps: int | None = None
    solver: Callable[[Sequence[int]], core.Solver | Observing] | None = None
    grid: Tensor | None = None
    forecaster: Forecaster | None = None


def parse_methods(text: str, nowcaster: Nowcaster, alignment: Alignment | None = None) -> list[Method]:
    """Methods of a line like `persistence,steps,ddim-100,teacher,ddim-5`; `alignment` is what aligned-ddpm takes.

    Raises:
        UserError: a name that is not known, steps that are no positive number, aligned-ddpm without an alignment, a
            method of pysteps without it.
    """
    methods = []
    for word in (part.strip() for part in text.split(",") if part.strip()):
        if word == "persistence":
            methods.append(Method("persistence", "persistence", forecaster=Persistence()))
            continue
        if word in FORECASTERS:
            forecaster = FORECASTERS[word]
            forecaster.warm_up()
            methods.append(Method(word, forecaster.label, forecaster=forecaster))
            continue
        name, _, count = (TEACHER if word == "teacher" else word).rpartition("-")
        if name not in HANDCRAFTED or not count.isdecimal() or int(count) < 1:
            raise UserError(
                f"expected --methods among persistence, {', '.join(FORECASTERS)}, teacher and NAME-STEPS with NAME in "
                f"{', '.join(HANDCRAFTED)}, got {word!r}"
            )
        label = f"teacher ({TEACHER})" if word == "teacher" else word
        shown = f"teacher ({name})" if word == "teacher" else name
        grid = nowcaster.grid(int(count))
        methods.append(Method(label, shown, None, int(count), _handcrafted(name, nowcaster, alignment), grid))
    return methods


def _handcrafted(
    name: str, nowcaster: Nowcaster, alignment: Alignment | None
) -> Callable[[Sequence[int]], core.Solver | Observing]:
    if name == "aligned-ddpm":
        if alignment is None:
            raise UserError("expected --anticipated, the mean intensity that aligned-ddpm is drawn towards, got none")
        return lambda seeds: AlignedDDPM(alignment, nowcaster.schedule, tuple(seeds))
    if name == "ddpm":
        return lambda seeds: core.build_solver("ddpm", schedule=nowcaster.schedule, seeds=tuple(seeds))
    solver = build_base(name, nowcaster.schedule)
    return lambda seeds: solver


def load_methods(paths: Sequence[str], nowcaster: Nowcaster, device: str, counts: Sequence[int] = ()) -> list[Method]:
    """Trained solvers as methods.

    Args:
        paths: files, or folders that hold solver.safetensors.
        nowcaster: the model they must have been trained on.
        device: where to sample.
        counts: numbers of steps that the operators of a range are sampled with, the ends of their range by default; a
            solver of one number of steps keeps to it.

    Raises:
        UserError: no such file, a foreign one, a solver of another model, a count outside an operator's range, or
            counts without an operator of a range.
    """
    methods: list[Method] = []
    solvers = [_load(path, nowcaster, device) for path in paths]
    if counts and not any(_range(solver) for solver in solvers):
        raise UserError(
            "expected an operator of a range of steps in --solver to sample with --nfe, got none; train one with "
            "apps.nowcast.train --nfe 2:10, or leave --nfe out"
        )
    kinds = [_kind(solver) for solver in solvers]
    for path, solver, kind in zip(paths, solvers, kinds, strict=True):
        methods += _methods(solver, path, nowcaster, counts, alone=kinds.count(kind) == 1)
    return methods


def _load(path: str, nowcaster: Nowcaster, device: str) -> Corrected:
    try:
        solver = core.load(path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # whatever a forged header leads to
        raise UserError(f"expected a trained solver at {path}: {error}") from None
    if not isinstance(solver, Corrected) or solver.card is None:
        raise UserError(f"expected a SpanLift solver at {path}, got another; train one with apps.nowcast.train")
    if solver.card.field_identity != nowcaster.identity:
        raise UserError(
            f"expected a solver trained for model {nowcaster.identity}, got one for {solver.card.field_identity} at "
            f"{path}; train it on this model or give its own --model"
        )
    return solver.to(device)


def _range(solver: Corrected) -> StepRange | None:
    """The numbers of steps an operator serves, where they are many."""
    return solver.residual.config.counts if isinstance(solver.residual, SpanLiftResidual) else None


def _kind(solver: Corrected) -> tuple[str, StepRange | None, int]:
    """What a solver is called after: supervision, range and, where it has one, its number of steps."""
    assert solver.card is not None
    span = _range(solver)
    return solver.card.supervision, span, 0 if span else solver.card.steps


def _methods(solver: Corrected, path: str, nowcaster: Nowcaster, counts: Sequence[int], alone: bool) -> list[Method]:
    """One method, or one for each count; solvers of one kind that are not alone are told apart by their places."""
    card, span = solver.card, _range(solver)
    assert card is not None
    if span is None:
        wanted = {card.steps: card.grid}
    else:
        low, high = span
        outside = [count for count in counts if not low <= count <= high]
        if outside:
            raise UserError(
                f"expected --nfe within {low} to {high}, which the operator at {path} was trained for, got "
                f"{outside[0]}; leave it out or train another range"
            )
        wanted = {count: nowcaster.grid(count) for count in counts or dict.fromkeys(span)}
    place = Path(path)
    told = card.supervision
    if not alone:
        told = place.parent.name if place.suffix and place.stem == "solver" else place.stem
    of = "" if span is None else f" of {span[0]}:{span[1]}"
    name = f"SpanLift{of}" if alone else f"SpanLift{of} ({told})"
    return [
        Method(f"spanlift-{count}{of} ({told})", name, card.supervision, count, lambda seeds: solver, grid)
        for count, grid in wanted.items()
    ]

"""How a solver is built for an image model and a number of network calls: a name, or the file of a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import core
from apps.imagegen.methods import (
    ALL_ORDERS,
    DEFAULT_ORDER,
    HISTORY,
    LEARNED_NAMES,
    ON_SCHEDULE,
    WEIGHED,
    Budget,
    MethodOptions,
    budget,
    check_method,
    ends_noisy,
    grid_name,
)
from apps.imagegen.models import FrozenModel
from core.operators.residual import SpanLiftResidual
from core.solvers.learned.dyweight import DyWeight, DyWeightConfig
from core.solvers.options import shown
from data_tools.cli import UserError, console

__all__ = ["LEARNED_NAMES", "Method", "MethodOptions", "build_method", "is_trained", "load_trained", "seeded"]

FLOW_SCALES = (0.5, 1.5)
"""Bounds of DyWeight's time scales for rectified flow (Zhao et al. 2026, arXiv 2603.11607, its variant for FLUX)."""

SEARCH_SEED, SEARCH_SAMPLES, AYS_SAMPLES = 3 << 30, 64, 16
"""Seeds and number of the noises that grids are searched with, apart from those of images and of training. AYS
evaluates its samples some thousand times."""


class Method(NamedTuple):
    """A solver with the grid it runs on and how: `core.integrate(field, solver, x_T, grid, afs, denoise)`."""

    solver: core.Solver
    grid: Tensor
    afs: bool
    denoise: bool


def build_method(model: FrozenModel, spec: MethodOptions) -> Method:
    """The solver for this model, on its device; learned ones by name are untrained, which is to say their base.

    Raises:
        UserError: an unknown name, calls that the method cannot take, options that do not fit it, or a trained solver
            of another model.
    """
    if is_trained(spec.solver):
        return _trained(model, spec)
    check_method(spec, model)
    spent = budget(spec, clean=not ends_noisy(model))
    try:
        grid = _grid(model, spec, spent)
        solver = _build(model, spec, spent, grid)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Method(_on(model, solver), grid, spent.afs, spec.denoise)


def is_trained(solver: str) -> bool:
    """Whether it names the file of a trained solver, there or not, in place of a method."""
    return solver not in core.SOLVERS and (Path(solver).exists() or Path(solver).suffix != "" or "/" in solver)


def seeded(solver: core.Solver, seeds: Sequence[int]) -> core.Solver:
    """The solver for images of these seeds: a stochastic one draws its noise by them, others are as they were."""
    return replace(solver, seeds=tuple(seeds)) if isinstance(solver, core.DDPM) else solver


class Sampling(NamedTuple):
    """How a trained solver is sampled, beyond its grid; None where its card does not say.

    Attributes:
        afs: whether its first step is analytic.
        denoise: whether it ends with a call for the predicted data.
        nfe: network calls per image.
    """

    afs: bool | None = None
    denoise: bool | None = None
    nfe: int | None = None


def sampling_card(method: Method, nfe: int) -> dict[str, Any]:
    """What a trained solver's card says of its sampling: `card.extra["sampling"]`, see `Sampling`."""
    return Sampling(method.afs, method.denoise, nfe)._asdict()


def sampling_of(card: core.Card, path: str) -> Sampling:
    """What the card of the file says of its sampling.

    Raises:
        UserError: values of other kinds, as only a card has that no command wrote.
    """
    written = card.extra.get("sampling", {})
    if isinstance(written, dict):
        found = Sampling(*(written.get(name) for name in Sampling._fields))
        truths = all(value is None or isinstance(value, bool) for value in (found.afs, found.denoise))
        if truths and (found.nfe is None or (type(found.nfe) is int and found.nfe >= 1)):
            return found
    raise UserError(
        f"expected sampling with afs and denoise of true or false and nfe of at least 1 in the card of {path}, got "
        f"{shown(written)}; train the solver again"
    )


def load_trained(model: FrozenModel, path: str) -> tuple[core.Solver, core.Card]:
    """A trained solver on the model's device, with its card.

    Raises:
        UserError: no such file, a damaged or foreign one, or one that was trained for another model.
    """
    try:
        solver = core.load(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    card: core.Card | None = getattr(solver, "card", None)
    if card is None or card.field_identity != model.identity:
        raise UserError(
            f"expected a solver trained for the model {model.name} ({model.identity[:12]}), got {path}, trained for "
            f"{'none' if card is None else card.field_identity[:12]}{_alike(model, card)}; train one with "
            "python -m apps.imagegen.train"
        )
    residual = getattr(solver, "residual", None)
    if isinstance(residual, SpanLiftResidual) and residual.config.channels != model.channels:
        raise UserError(
            f"expected an operator on {model.channels} channels, as {model.name} has, got one on "
            f"{residual.config.channels} in {path}; train it again"
        )
    return _on(model, solver), card


def _alike(model: FrozenModel, card: core.Card | None) -> str:
    """What may differ where a solver was trained for a model of the same name."""
    same = card is not None and card.extra.get("model") == model.name
    return ", of this name with other weights, guidance or size" if same else ""


def _trained(model: FrozenModel, spec: MethodOptions) -> Method:
    solver, card = load_trained(model, spec.solver)
    sampling = sampling_of(card, spec.solver)
    for name in ("order", "grid", "base", "base_path", "points", "statistics"):
        if getattr(spec, name) is not None:
            raise UserError(f"expected no --{name} beside the trained solver {spec.solver}, which has its own; drop it")
    for name in ("nfe", "afs"):
        asked, own = getattr(spec, name), getattr(sampling, name)
        if asked is not None and own is not None and asked != own:
            raise UserError(f"expected --{name} {own}, as {spec.solver} was trained with, got {asked}; train another")
    return Method(solver, card.grid, bool(sampling.afs), spec.denoise or bool(sampling.denoise))


def _grid(model: FrozenModel, spec: MethodOptions, spent: Budget) -> Tensor:
    """The grid; one that is searched with the network is searched once for all solvers of a process."""
    name = grid_name(spec, model)
    if "field" not in core.GRIDS[name].needs:
        return _built(model, spec, spent, name)
    key = (
        name, spent.steps, spent.afs, spec.rho, spec.seed, SEARCH_SAMPLES, model.identity, model.conditions,
        model.precision, str(model.device),
    )  # fmt: skip
    if key not in _searched:
        console.print(f"searching {spent.steps} steps of the grid {name}", highlight=False)
        _searched[key] = _built(model, spec, spent, name)
    return _searched[key].clone()


_searched: dict[tuple[Any, ...], Tensor] = {}
"""Grids by all that their search depends on. Each costs some 4,000 network calls, and is a few numbers."""


def _built(model: FrozenModel, spec: MethodOptions, spent: Budget, name: str) -> Tensor:
    takes = core.GRIDS[name].takes
    seeds = range(SEARCH_SEED, SEARCH_SEED + (AYS_SAMPLES if "data" in takes else SEARCH_SAMPLES))
    if core.GRIDS[name].needs:
        model.prepare(seeds)
    data = None
    if "data" in takes:  # what the model itself makes of noise stands for data
        with torch.no_grad():
            start, fine = model.start(seeds), model.grid(model.default_grid("heun"), 18)
            data = core.integrate(model.field(model.labels(seeds)), core.build_solver("heun"), start, fine).x
    return model.grid(
        name,
        spent.steps,
        rho=spec.rho,
        x_T=model.start(seeds) if "x_T" in takes else None,
        afs=spent.afs if "afs" in takes else None,
        data=data,
        seed=spec.seed if "seed" in takes else None,
    )


def _build(model: FrozenModel, spec: MethodOptions, spent: Budget, grid: Tensor) -> core.Solver:
    name = spec.solver
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        if name == "spanlift":
            return core.build_solver(
                name, base=_base(model, spec, spent, grid), operator=_operator(model, spec, spent.steps),
                schedule=None if spec.operator == "scalar" else model.schedule,
            )  # fmt: skip
        if name not in LEARNED_NAMES:
            return _handcrafted(model, name, spec)
        if name in ("amed", "epd"):
            return core.build_solver(name, grid=grid, points=spent.points or None, schedule=model.chart)
        base = _handcrafted(model, spec.base_name or "", spec)
        history = max(HISTORY, spec.order or 0) if name == "dyweight" else None
        if name == "dyweight" and isinstance(model.schedule, core.RectifiedFlow):
            return DyWeight(
                DyWeightConfig(grid, base, history, schedule=model.schedule, bounds=FLOW_SCALES)  # pyright: ignore
            )
        weighed = min(spec.order or DEFAULT_ORDER, spent.steps) if name in WEIGHED else None
        timed = name == "ld3" and not isinstance(model.schedule, core.EDM)
        return core.build_solver(
            name, base=base, grid=grid, order=weighed, points=spent.points or None, history=history,
            schedule=model.schedule if timed else None,
        )  # fmt: skip


def _handcrafted(model: FrozenModel, name: str, spec: MethodOptions) -> core.Solver:
    order = (spec.order or DEFAULT_ORDER) if name in ALL_ORDERS else None
    schedule = model.schedule if name in ON_SCHEDULE else model.chart
    if name == "dpm-solver-v3":
        statistics = core.load_statistics(spec.statistics or "")
        return core.build_solver(name, order=order, statistics=statistics, schedule=schedule)
    return core.build_solver(name, order=order, schedule=schedule)


def _base(model: FrozenModel, spec: MethodOptions, spent: Budget, grid: Tensor) -> core.Solver:
    """What SpanLift corrects: the trained solver of `base_path`, else `base`, untrained where it is a learned one."""
    if spec.base_path is None:
        return _build(model, replace(spec, solver=spec.base_name or "", base=None), spent, grid)
    solver, card = load_trained(model, spec.base_path)
    own, asked = bool(sampling_of(card, spec.base_path).afs), spent.afs
    if len(card.grid) != len(grid) or not torch.allclose(card.grid, grid) or own != asked:
        raise UserError(
            f"expected a base trained for {spent.steps} steps of this grid, analytic first step: {asked}, got "
            f"{spec.base_path} for {card.steps} steps, analytic: {own}; train it with the same --nfe, --grid and --afs"
        )
    return solver


def _operator(model: FrozenModel, spec: MethodOptions, steps: int) -> core.ResidualConfig | core.ScalarConfig:
    if spec.operator == "scalar":
        return core.ScalarConfig(steps, HISTORY)
    return core.ResidualConfig(
        model.channels,
        history=HISTORY,
        width=spec.width,
        kernel=1 if spec.operator == "pointwise" else spec.kernel,
        steps=steps,
        data_std=model.sigma_data,
    )


def _on(model: FrozenModel, solver: core.Solver) -> core.Solver:
    return solver.to(model.device) if isinstance(solver, nn.Module) else solver  # pyright: ignore

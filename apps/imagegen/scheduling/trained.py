"""What the file of a trained solver says of the model that it is for, and whether a pipeline is that model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import core
from apps.imagegen.scheduling.clock import TARGETS, Clock, flow_clock, table_clock
from apps.imagegen.scheduling.options import betas_of, translated
from core.checkpoints import FILE_NAME
from core.operators.residual import SpanLiftResidual

PACKED = 4
"""Values of a 2 x 2 patch, which FLUX's pipelines keep in channels."""
SAME_BETAS = 1e-5
"""Relative: diffusers keeps them in single precision."""


class Trained(NamedTuple):
    """A trained solver and the clock of its model."""

    solver: nn.Module
    card: core.Card
    clock: Clock


def read(path: str, kind: str, train_steps: int) -> Trained:
    """The solver of a file.

    Args:
        path: see `core.load`.
        kind: what the model predicts; "flow" says nothing of a model with a table of betas.
        train_steps: timesteps of a flow's pipeline.

    Raises:
        ValueError: no such file, one that cannot run in a pipeline, or one that does not say what its model predicts.
    """
    solver = core.load(path)
    assert isinstance(solver, nn.Module)
    card: core.Card | None = getattr(solver, "card", None)
    assert card is not None
    sampling = card.extra.get("sampling")
    for name, what in (("afs", "an analytic first step"), ("denoise", "a last denoising")):
        if isinstance(sampling, Mapping) and sampling.get(name):
            raise ValueError(
                f"expected a solver of one network call a step, got {path}, which was trained with {what}; "
                "sample with python -m apps.imagegen.sample, or train one without"
            )
    return Trained(solver, card, _clock(path, solver, card, kind, train_steps))


def flexible(solver: core.Solver) -> bool:
    """Whether a trained solver serves several grids: an operator without scalars of its own for each step."""
    residual = getattr(solver, "residual", None)
    own_grid = isinstance(getattr(solver, "solver", None), nn.Module)
    return isinstance(residual, SpanLiftResidual) and residual.config.steps is None and not own_grid


def operator_of(solver: core.Solver | nn.Module) -> SpanLiftResidual | None:
    """The spatial operator of a solver, where it has one."""
    residual = getattr(solver, "residual", None)
    return residual if isinstance(residual, SpanLiftResidual) else None


def shift_of(grid: Tensor) -> float | None:
    """The s of a grid sigma = s u / (1 + (s - 1) u) with even u from 1 to 0; None for another grid, or one step."""
    if len(grid) < 3 or grid[0] != 1 or grid[-1] != 0:
        return None
    u = torch.linspace(1, 0, len(grid), dtype=torch.float64)[1]
    shift = float(f"{grid[1] * (1 - u) / (u * (1 - grid[1])):.9g}")  # 3, not 3.0000000000000018
    same = torch.allclose(core.build_grid("shifted", len(grid) - 1, shift=shift), grid, atol=1e-6)
    return shift if same else None


def name_of(grid: Tensor, clock: Clock) -> str | None:
    """The name in `core.GRIDS` of this grid, so that it can be had with other numbers of steps; None for another."""
    if clock.kind == "flow" and shift_of(grid) is not None:
        return "shifted"
    schedule = clock.schedule
    for name in ("discrete", "logsnr", "uniform", "quadratic", "karras"):
        try:
            like = core.build_grid(name, len(grid) - 1, schedule.t_max, schedule.t_min, schedule=schedule)
        except ValueError:  # one that this clock cannot have
            continue
        if torch.allclose(like, grid, rtol=0, atol=1e-6):
            return name
    return None


def check_pipeline(trained: Trained, path: str, pipeline: Any, packed: bool) -> None:
    """Raise ValueError unless the pipeline's model has the channels, the kind and the betas of the solver's.

    Weights are not compared: a pipeline's may be cast or quantised.
    """
    network = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    if network is None:
        raise ValueError(
            f"expected a pipeline with a transformer or a unet, got {type(pipeline).__name__}; leave pipeline out"
        )
    operator, channels = operator_of(trained.solver), network.config.in_channels
    if operator is not None and operator.config.channels not in (channels, channels / PACKED):
        raise ValueError(
            f"expected a solver of a model with {channels} latent channels, as {type(pipeline).__name__} has here, got "
            f"{path}, trained on {operator.config.channels}; train one for this model"
        )
    if operator is not None and operator.config.channels != channels and not packed:
        raise ValueError(packed_needed("latents of this pipeline"))
    said = translated(pipeline.scheduler.config)
    if said["kind"] != trained.clock.kind:
        raise ValueError(
            f"expected a solver of a {said['kind']!r} model, as this pipeline has, got {path}, trained on a "
            f"{trained.clock.kind!r} model; train one for this model"
        )
    if trained.clock.kind != "flow":
        assert isinstance(trained.clock.schedule, core.DiscreteVP)
        own, theirs = trained.clock.schedule.betas, betas_of(said)
        if len(own) != len(theirs) or not torch.allclose(torch.tensor(own), torch.tensor(theirs), rtol=SAME_BETAS):
            raise ValueError(f"expected a solver of this pipeline's betas, got {path}, trained on others; train one")


def packed_needed(what: str) -> str:
    return (
        f"expected latents (B, C, H, W) for a spatial operator, got packed {what}; pass packed=(rows, columns), the "
        "image's height and width over 16, or sample with python -m apps.imagegen.sample"
    )


def write_beside(trained: Trained, folder: str | os.PathLike[str]) -> None:
    """Write the solver into the folder of a configuration."""
    card = trained.card
    core.save(
        Path(folder) / FILE_NAME, trained.solver, grid=card.grid, field_identity=card.field_identity,
        supervision=card.supervision, loss=card.loss, metrics=card.metrics, extra=card.extra,
    )  # fmt: skip


def file_beside(folder: str, subfolder: str | None, options: Mapping[str, Any]) -> str:
    """The file of the trained solver that lies beside a configuration, fetched where that is on a hub."""
    for place in (Path(folder, subfolder or ""), Path(folder)):
        if (place / FILE_NAME).is_file() or (Path(folder).is_dir() and place == Path(folder)):
            return str(place / FILE_NAME)
    from huggingface_hub import hf_hub_download

    known = {name: options[name] for name in ("cache_dir", "revision", "token", "local_files_only") if name in options}
    return hf_hub_download(folder, FILE_NAME, subfolder=subfolder, **known)


def _clock(path: str, solver: nn.Module, card: core.Card, kind: str, train_steps: int) -> Clock:
    schedule = _schedule(solver)
    if isinstance(schedule, core.RectifiedFlow) or (schedule is None and card.grid[0] <= 1):
        if kind != "flow":
            raise ValueError(f"expected kind='flow' for {path}, which was trained on a flow, got {kind!r}; drop it")
        return flow_clock(train_steps)
    if not isinstance(schedule, core.DiscreteVP):
        name = "EDM" if schedule is None else type(schedule).__name__
        raise ValueError(
            f"expected a solver of a flow or of a table of betas, got {path}, trained on a model with the schedule "
            f"{name}; sample with python -m apps.imagegen.sample"
        )
    told = card.extra.get("kind") if kind == "flow" else kind
    if not isinstance(told, str) or told not in TARGETS or told == "flow":
        raise ValueError(
            f"expected kind='noise' or 'v' for {path}, which was trained on a model with a table of betas and does not "
            f"say what that predicts, got {told or kind!r}; pass its pipeline, or kind"
        )
    return table_clock(told, schedule.betas)


def _schedule(solver: Any) -> core.Schedule | None:
    """The schedule that a solver works with, wherever it keeps it."""
    if isinstance(solver, core.Corrected):
        own = getattr(solver.residual, "schedule", None)
        return own or getattr(getattr(solver.residual, "chart", None), "schedule", None) or _schedule(solver.solver)
    config = getattr(solver, "config", None)
    places = (solver, getattr(solver, "chart", None), config, getattr(config, "chart", None))
    return next((found for place in places if (found := getattr(place, "schedule", None)) is not None), None)

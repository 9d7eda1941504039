"""The grid of a run in a pipeline: from a number of steps, or from sigmas or timesteps that the caller gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

import core
from apps.imagegen.compatible import COMPATIBLE, Shift
from apps.imagegen.models.frozen_model import EXPONENTIAL
from apps.imagegen.scheduling.clock import Clock

SAME_GRID = 1e-4
"""How far times may lie apart that count as the same: pipelines hand them on in single precision."""


@dataclass(frozen=True)
class Request:
    """What a pipeline asks of `set_timesteps`.

    Attributes:
        steps: how many; None where times are given.
        sigmas: of a flow before the shift, of a table sigma / alpha; the clean end is appended.
        timesteps: what the network is to be told; the clean end is appended.

    Raises:
        ValueError: nothing asked, or two things.
    """

    steps: int | None = None
    sigmas: Sequence[float] | None = None
    timesteps: Sequence[float] | None = None

    def __post_init__(self) -> None:
        given = self.sigmas if self.timesteps is None else self.timesteps
        if self.steps is not None and not isinstance(self.steps, Integral):
            raise ValueError(f"expected num_inference_steps as an integer, got {self.steps!r}; pass one")
        if self.sigmas is not None and self.timesteps is not None:
            raise ValueError("expected sigmas or timesteps, got both; pass one of them")
        if given is None and self.steps is None:
            raise ValueError("expected num_inference_steps, sigmas or timesteps, got none; pass one of them")
        if given is not None and self.steps is not None and len(given) != self.steps:
            raise ValueError(f"expected {self.steps} times, got {len(given)}; pass as many as num_inference_steps")
        if self.count < 1:
            raise ValueError(f"expected at least one step, got {self.count}; ask for some")

    @property
    def count(self) -> int:
        given = self.sigmas if self.timesteps is None else self.timesteps
        return int(self.steps or 0) if given is None else len(given)


def default_grid(clock: Clock, solver: str) -> str:
    if clock.kind == "flow":
        return "shifted"
    return "logsnr" if solver in EXPONENTIAL else "discrete"


def build(clock: Clock, name: str, request: Request, shift: Shift, terminal: float | None) -> Tensor:
    """Times (N + 1,) in the clock, descending.

    Args:
        clock: of the model.
        name: of `core.GRIDS`, where no times are given.
        request: what the pipeline asks.
        shift: of a flow.
        terminal: where the last sigma of a flow before 0 is stretched to; None leaves it.

    Raises:
        ValueError: a grid that needs a network, or times that do not descend or lie outside the clock.
    """
    if request.timesteps is not None:
        return _given(clock, clock.times(_numbers(request.timesteps)))
    if request.sigmas is not None:
        sigmas = _numbers(request.sigmas)
        if clock.kind != "flow":
            return _given(clock, clock.schedule.time_at(sigmas))
        return _given(clock, _stretched(shift(sigmas), terminal))
    needs = core.GRIDS[name].needs if name in core.GRIDS else ()
    if needs:
        raise ValueError(
            f"expected a grid that needs no network, got {name!r}, which needs {needs[0]}; build it with "
            "core.build_grid and pass its sigmas or timesteps to the pipeline"
        )
    schedule = clock.schedule
    grid = core.build_grid(name, request.count, schedule.t_max, schedule.t_min, shift=shift.factor, schedule=schedule)
    return _given(clock, _stretched(grid[:-1], terminal)) if terminal and clock.kind == "flow" else grid


def compatible(name: str, request: Request, shift: Shift, train_steps: int) -> tuple[Tensor, Tensor]:
    """(grid, timesteps) of a scheduler of diffusers, see `apps.imagegen.compatible`.

    Raises:
        ValueError: timesteps, which these take apart from sigmas.
    """
    if request.timesteps is not None:
        raise ValueError(f"expected no timesteps for compatible={name!r}, got some; pass sigmas or a number of steps")
    times = COMPATIBLE[name](request.count, shift, train_steps, request.sigmas)
    return _descending(times.sigmas), times.timesteps


def check_trained(trained: Tensor, request: Request, wanted: Tensor | None) -> None:
    """Raise ValueError unless a run on `trained` (N + 1,) is what the pipeline asks for.

    Args:
        trained: the grid of a trained solver.
        request: what the pipeline asks.
        wanted: the grid it asks for; None where it only says how many steps.
    """
    steps = len(trained) - 1
    if request.count != steps:
        raise ValueError(
            f"expected num_inference_steps={steps}, which this solver was trained for, got {request.count}; pass "
            f"{steps}, or train one for {request.count} with python -m apps.imagegen.train --nfe {request.count}"
        )
    if wanted is None:
        return
    apart = (wanted - trained).abs()
    if float(apart.max()) > SAME_GRID:
        node = int(apart.argmax())
        raise ValueError(
            f"expected the grid of the solver's training, with time {float(trained[node]):.5g} at node {node}, got "
            f"{float(wanted[node]):.5g}; leave out sigmas and timesteps, and keep the image size of the training"
        )


def even(sigmas: Sequence[float] | None) -> bool:
    """Whether these are the sigmas that FLUX pipelines pass unasked: even from 1 to 1 / N."""
    if sigmas is None:
        return False
    found, count = _numbers(sigmas), len(sigmas)
    return bool(torch.allclose(found, torch.linspace(1, 1 / count, count, dtype=torch.float64), atol=SAME_GRID))


def _stretched(sigmas: Tensor, terminal: float | None) -> Tensor:
    """Sigmas (N,) whose last is `terminal`: 1 - sigma is scaled (as in LTX-Video)."""
    if not terminal:
        return sigmas
    return 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])


def _given(clock: Clock, times: Tensor) -> Tensor:
    """The grid of given times (N,), its clean end appended where it is not there.

    Raises:
        ValueError: a time outside the clock.
    """
    most = clock.schedule.t_max
    if not bool(((times >= 0) & (times <= most + SAME_GRID)).all()):
        raise ValueError(
            f"expected times of a {clock.kind!r} model between the data and t = {most:g}, got "
            f"{[round(value, 5) for value in times.tolist()]}; pass times of this model"
        )
    times = times.clamp(max=most)
    return _descending(times if times[-1] == 0 else torch.cat([times, times.new_zeros(1)]))


def _descending(times: Tensor) -> Tensor:
    if len(times) < 2 or not bool((times.diff() < 0).all()):
        raise ValueError(
            f"expected strictly descending times, got {[round(value, 5) for value in times.tolist()]}; order them from "
            "noise to data, each once"
        )
    return times


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)

"""One sampling run of a pipeline: the solver's state between the calls of `step`."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

import core
from apps.imagegen.models.latent.flux import packed, unpacked
from apps.imagegen.scheduling.clock import Clock
from apps.imagegen.scheduling.queries import ModelOutput, Query
from apps.imagegen.scheduling.trained import operator_of, packed_needed
from core.state import plan

PATCH = 2
"""Edge of the patches whose values FLUX's pipelines put into channels."""


class Run:
    """A solver on its way down a grid, a model output at a time.

    The state is kept in float32 at least, whatever the pipeline's latents are in: where a pipeline hands back what it
    was given, the run goes on from its own state, of which that is a rounding; where a callback has changed the
    latents, from what it made of them.

    Args:
        solver: not yet planned.
        grid: (N + 1,) times.
        queries: N of them, see `find_queries`.
        clock: of the model.
        device: of the latents.
        patches: rows and columns of FLUX's packed latents (B, rows * columns, 4 C), which the solver then sees as
            (B, C, 2 rows, 2 columns); None takes latents as they come.
    """

    def __init__(
        self,
        solver: core.Solver,
        grid: Tensor,
        queries: Sequence[Query],
        clock: Clock,
        device: torch.device,
        patches: tuple[int, int] | None = None,
    ) -> None:
        own = deepcopy(solver).to(device) if isinstance(solver, nn.Module) else solver
        self.solver: core.Solver = plan(own, grid)  # pyright: ignore[reportArgumentType]
        self.times = grid.double().unbind()
        self.queries = queries
        self.clock = clock
        self.patches = patches
        self.state: core.State | None = None
        self._to_velocity = clock.to_velocity
        self._handed: Tensor | None = None
        self._copy: Tensor | None = None
        self._version = 0
        self._shown = False

    @property
    def done(self) -> int:
        """Steps done."""
        return 0 if self.state is None else self.state.step

    def show(self, sample: Tensor) -> Tensor:
        """What the model is to be shown of latents (B, *space): a multiple of them."""
        self._shown = True
        scale = self.queries[self.done].scale if self.done < len(self.queries) else 1.0
        return sample if scale == 1 else sample * scale

    def step(self, output: Tensor, sample: Tensor) -> Tensor:
        """The latents after the next step, in the precision of `sample`.

        Args:
            output: what the model says of `sample`, of its shape.
            sample: (B, *space) the latents before it.

        Raises:
            ValueError: more steps than the grid has, shapes that do not fit, or a pipeline that does not ask
                `scale_model_input` where the solver needs it.
        """
        index = self.done
        if index >= len(self.queries):
            raise ValueError(f"expected {len(self.queries)} steps, got one more; call set_timesteps before each run")
        if output.shape != sample.shape:
            raise ValueError(
                f"expected a model output of the latents' shape {tuple(sample.shape)}, got {tuple(output.shape)}; "
                "hand on the half that predicts"
            )
        query = self.queries[index]
        if query.scale != 1 and not self._shown:
            raise ValueError(
                "expected a pipeline that calls scale_model_input, which this solver needs, got one that does not; "
                "sample with python -m apps.imagegen.sample"
            )
        state = self._state(sample)
        answer = ModelOutput(self._unpacked(output), query, self._to_velocity, self.clock)
        self.state = self.solver.step(answer, state, self.times[index + 1])
        self._shown = False
        return self._hand(self.state.x, sample)

    def _state(self, sample: Tensor) -> core.State:
        """The state to go on from."""
        if self.state is not None and self._is_handed(sample):
            return self.state
        x = self._unpacked(sample)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.state is not None:
            return replace(self.state, x=x)
        _check_shape(self.solver, x)
        return core.State(x=x, t=self.times[0], step=0, buffer=(), nfe=0)

    def _is_handed(self, sample: Tensor) -> bool:
        """Whether these are the latents that the last step gave; compared by value only where they may be others."""
        handed = self._handed
        if handed is None or (sample.shape, sample.dtype, sample.device) != (handed.shape, handed.dtype, handed.device):
            return False
        if self._copy is not None:
            return torch.equal(sample, self._copy)
        return handed._version == self._version and (sample is handed or torch.equal(sample, handed))

    def _hand(self, x: Tensor, like: Tensor) -> Tensor:
        """The state as latents like those that came, and a note of them."""
        given = x if self.patches is None else packed(x)
        given = given.to(like.dtype)
        self._handed = given
        self._copy = given.clone() if given.is_inference() else None  # of which torch counts no changes in place
        self._version = 0 if given.is_inference() else given._version
        return given

    def _unpacked(self, x: Tensor) -> Tensor:
        return x if self.patches is None else unpack(x, *self.patches)


def unpack(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, rows * columns, 4 C), as FLUX's pipelines keep latents -> (B, C, 2 rows, 2 columns).

    Raises:
        ValueError: latents of another size.
    """
    if x.ndim != 3 or x.shape[1] != rows * columns or x.shape[2] % PATCH**2:
        raise ValueError(
            f"expected packed latents (B, {rows * columns}, 4 C) for packed=({rows}, {columns}), got {tuple(x.shape)}; "
            "set packed to the image's height and width over 16"
        )
    return unpacked(x, rows * PATCH, columns * PATCH)


def _check_shape(solver: core.Solver, x: Tensor) -> None:
    """Raise ValueError unless a solver's operator can work on states (B, *space)."""
    operator = operator_of(solver)
    if operator is None:
        return
    config = operator.config
    if x.ndim == 3 and config.dimensions == 2:
        raise ValueError(packed_needed(str(tuple(x.shape))))
    if x.ndim != config.dimensions + 2 or x.shape[1] != config.channels:
        raise ValueError(
            f"expected latents of {config.channels} channels in {config.dimensions} dimensions, which this solver was "
            f"trained on, got {tuple(x.shape)}; train one for this model"
        )

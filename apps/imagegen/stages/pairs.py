"""Pairs of noise and endpoint that image solvers are trained on, computed once and kept on disk.

teacher  noise of a seed, and where a many-step solver takes it
path     the same, with the teacher's states at all nodes of the student's grid
target   an image of the data, and the noise that the model's own flow, run backward in many steps, leads it to:
         the pairing under which an exact solver would return the image
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import core
from apps.imagegen.data import Images
from apps.imagegen.methods import ALL_ORDERS, LEARNED_NAMES, MethodOptions, calls_of, ends_noisy, grid_name
from apps.imagegen.models import FrozenModel, ImageModel
from apps.imagegen.models.seeds import FIRST_SEED, HELD_OUT, SEEDS_OF_A_RUN
from apps.imagegen.solvers import Method, build_method
from core.path_supervision import PathTeacher, refined
from core.supervision import Example, Teacher
from data_tools.cli import UserError, progress_bar

__all__ = ["FIRST_SEED", "HELD_OUT", "SEEDS_OF_A_RUN", "TEACHERS", "PairOptions", "Pairs", "Supervision"]

Supervision = Literal["teacher", "target", "path"]

TEACHERS = tuple(name for name in core.SOLVERS if name not in (*LEARNED_NAMES, "ddpm", "dpm-solver-v3"))
"""Deterministic handcrafted solvers."""


@dataclass(frozen=True)
class PairOptions:
    """Where endpoints come from.

    Attributes:
        supervision: see the module.
        teacher: solver of the many-step rollouts; it denoises its last state, where there is noise in that.
        teacher_nfe: its evaluations: network calls, where guidance does not take two for each.
        teacher_order: its order, where it has several.
        grid: name of its grid; that of the student where not given.
        rho: exponent of Karras' grid.
        pairs, held_out: how many to train on, and to measure on.
        seed: says which.
    """

    supervision: Supervision
    teacher: str
    teacher_nfe: int
    teacher_order: int
    grid: str | None
    rho: float
    pairs: int
    held_out: int
    seed: int


@dataclass(frozen=True)
class Backward:
    """A field run from data to noise: dx/ds at s = `ends` - t, where ends is the sum of the first and last time."""

    field: core.VelocityField
    ends: float

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return -self.field(x, self.ends - t)


class Pairs:
    """Examples of a student by key, from a cache in `folder` that `fill` completes.

    Args:
        model: frozen.
        options: see `PairOptions`.
        student: what will be trained, for the nodes of its path.
        spec: that it was built from.
        folder: of the cache.
        images: data of target supervision.

    Raises:
        UserError: a teacher that cannot be, too few images, or a folder of another teacher.
    """

    def __init__(
        self,
        model: FrozenModel,
        options: PairOptions,
        student: Method,
        spec: MethodOptions,
        folder: Path,
        images: Images | None = None,
    ) -> None:
        self.model, self.options, self.images = model, options, images
        if images is not None and not isinstance(model, ImageModel):
            raise UserError(
                f"expected a model of pixels for --supervision target, got {model.name}, which has latents; use teacher"
            )
        if images is not None:
            images.check(model.resolution, model.channels, model.label_dim)
            if len(images) < options.pairs + options.held_out:
                raise UserError(
                    f"expected at least {options.pairs + options.held_out} images in {images.name} to train and "
                    f"measure on, got {len(images)}; lower --pairs or --held_out, or give more --data"
                )
        count = SEEDS_OF_A_RUN // 2
        if not 0 < options.pairs <= count or not 0 < options.held_out <= count:
            raise UserError(
                f"expected --pairs and --held_out from 1 to {count}, got {options.pairs} and {options.held_out}"
            )
        if options.teacher not in TEACHERS:
            raise UserError(f"expected a teacher among {', '.join(TEACHERS)}, got {options.teacher!r}; choose one")
        try:
            self._teacher = self._build(student, spec, folder)
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def name(self) -> str:
        """What a card calls it."""
        return "target" if self.options.supervision == "target" else self._teacher.name

    @property
    def keys(self) -> list[str]:
        """Of the training pairs: seeds, or rows of the data."""
        return self._keys(self.options.pairs, False)

    @property
    def held_out(self) -> list[str]:
        return self._keys(self.options.held_out, True)

    def _keys(self, count: int, held_out: bool) -> list[str]:
        if self.images is None:
            first = FIRST_SEED + self.options.seed * SEEDS_OF_A_RUN + held_out * HELD_OUT
            return [str(first + index) for index in range(count)]
        generator = torch.Generator().manual_seed(self.options.seed)
        order = torch.randperm(len(self.images), generator=generator).tolist()
        return [str(row) for row in (order[-count:] if held_out else order[:count])]

    def fill(self, batch: int) -> None:
        """Compute what is missing, `batch` pairs at once, and before them what labels stand for."""
        keys = [*self.keys, *self.held_out]
        if self.images is None:
            self.model.prepare([int(key) for key in keys])
        missing = self._teacher.missing(keys)
        if not missing:
            return
        with progress_bar() as bar:
            task = bar.add_task(f"{self.name} pairs", total=len(missing), note="")
            self._teacher.fill(keys, self._start, batch=batch, report=lambda done, _: bar.update(task, completed=done))

    def example(self, keys: Sequence[str]) -> Example:
        """The pairs of these keys on the model's device; the condition is their labels."""
        found = self._teacher.endpoints(keys).to(self.model.device)
        if self.images is not None:
            return Example(found, self._labels(keys), self._pixels(keys))
        return Example(self.model.start([int(key) for key in keys]), self._labels(keys), found)

    def _start(self, keys: Sequence[str]) -> tuple[core.VelocityField, Tensor]:
        field = self.model.field(self._labels(keys))
        if self.images is not None:
            return Backward(field, self._ends), self._pixels(keys)
        return field, self.model.start([int(key) for key in keys])

    def _labels(self, keys: Sequence[str]) -> Tensor | None:
        if self.images is None or not self.model.label_dim:
            return self.model.labels([int(key) for key in keys])
        return self.images.one_hot([int(key) for key in keys], self.model.label_dim).to(self.model.device)

    def _pixels(self, keys: Sequence[str]) -> Tensor:
        assert self.images is not None
        return self.images.scaled([int(key) for key in keys]).to(self.model.device)

    def _build(self, student: Method, spec: MethodOptions, folder: Path) -> Teacher:
        options, kind = self.options, self.options.supervision
        order = options.teacher_order if options.teacher in ALL_ORDERS else None
        name = grid_name(spec, self.model) if options.grid is None else options.grid
        calls, noisy = calls_of(MethodOptions(options.teacher)), ends_noisy(self.model)
        denoise = kind == "teacher" and noisy
        saved = 0 if noisy else calls - 1  # see `budget`
        steps = (options.teacher_nfe - denoise + saved) // calls
        if steps < 1:
            raise UserError(
                f"expected --teacher_nfe of at least {calls + denoise - saved}, got {options.teacher_nfe}; use more"
            )
        nfe = steps * calls + denoise - saved
        spent = MethodOptions(options.teacher, nfe, order, False, name, options.rho, denoise)
        solver, grid, _, _ = build_method(self.model, spent)
        of: dict[str, Any] = {"model": self.model.identity, "precision": self.model.precision}
        if self.model.conditions:
            of["conditions"] = self.model.conditions
        if kind == "teacher":
            return Teacher(solver, grid, folder, of, denoise)
        if kind == "path":
            inserted = max(1, -(-steps // (len(student.grid) - 1)) - 1)
            fine = refined(student.grid, inserted, options.rho if name == "karras" else 1.0)
            return PathTeacher(solver, fine, student.grid, folder, of)
        assert self.images is not None
        self._ends = float(grid[0]) + float(grid[-1])
        backward = self._ends - grid.flip(0)
        return Teacher(solver, backward, folder, {**of, "data": self.images.fingerprint})

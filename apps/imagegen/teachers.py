"""Endpoints of a many-step teacher, that few-step methods are held against: the one score that needs no network to
look at images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import core
from apps.imagegen.methods import ALL_ORDERS, MethodOptions, ends_noisy
from apps.imagegen.models.frozen_model import FrozenModel
from apps.imagegen.references import Report, silent
from apps.imagegen.sampling import Sampler, build_sampler
from apps.imagegen.stages.pairs import TEACHERS
from apps.imagegen.train_options import default_teacher
from core.names import nearest
from core.specifications import to_specification
from core.state import nfe_of
from core.supervision import Teacher
from data_tools.cli import UserError


def build_teacher(model: FrozenModel, solver: str | None, nfe: int | None, order: int | None) -> Sampler:
    """The many-step solver that is asked for; what is not said is as in the published teacher for such a model.

    It ends with the predicted data where its last state has noise, and that call is one of `nfe`.

    Raises:
        UserError: a solver that no teacher can be, or calls that it cannot take.
    """
    published = default_teacher(model)
    name, calls = solver or published.solver, nfe or published.nfe
    if name not in TEACHERS:
        raise UserError(f"expected a teacher among {', '.join(TEACHERS)}, got {name!r}{nearest(name, TEACHERS)}")
    if calls < 1 or (order is not None and order < 1):
        raise UserError(f"expected --teacher_nfe and --teacher_order of at least 1, got {calls} and {order}")
    weighed = (order or published.order) if name in ALL_ORDERS else None
    return build_sampler(model, MethodOptions(name, calls, weighed, False, denoise=ends_noisy(model)))


class Endpoints:
    """Where a many-step solver takes the noise of each seed: computed once, kept on disk, read as often as needed.

    Args:
        model: frozen.
        sampler: the teacher, see `build_teacher`.
        folder: of all teachers' endpoints; this one's lie in a folder of their own in it.
        class_index: class of all samples; None draws it from the seed, where there are classes.

    Raises:
        UserError: its folder holds something else.
    """

    def __init__(self, model: FrozenModel, sampler: Sampler, folder: Path, class_index: int | None = None) -> None:
        self.model, self.sampler, self.class_index = model, sampler, class_index
        of: dict[str, Any] = {"model": model.identity, "precision": model.precision, "class": class_index}
        if model.conditions:
            of["conditions"] = model.conditions
        described = {"solver": to_specification(sampler.solver), "grid": sampler.grid.tolist(), "of": of}
        digest = hashlib.sha256(json.dumps([described, sampler.denoise], sort_keys=True).encode()).hexdigest()
        self.directory = folder / f"{sampler.name}-{sampler.nfe}-{digest[:12]}"
        try:
            self._kept = Teacher(sampler.solver, sampler.grid, self.directory, of, sampler.denoise)
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def calls(self) -> int:
        """Network calls of an endpoint."""
        labels = self.model.labels([0], self.class_index)
        return self.sampler.nfe * nfe_of(self.model.field(labels))

    def missing(self, seeds: Sequence[int]) -> int:
        """How many of the seeds' endpoints are not there yet."""
        return len(self._kept.missing(_keys(seeds)))

    def fill(self, seeds: Sequence[int], batch: int, report: Report = silent) -> None:
        """Compute what is missing; `report` is told the number of endpoints done, batch by batch.

        Raises:
            FloatingPointError: an endpoint is not finite.
        """
        done = 0

        def told(count: int, total: int) -> None:
            nonlocal done
            report(count - done)
            done = count

        self._kept.fill(_keys(seeds), self._start, batch=batch, report=told)

    def __call__(self, seeds: Sequence[int]) -> Tensor:
        """Endpoints (B, C, H, W) of these seeds on the model's device.

        Raises:
            ValueError: one is not there, or damaged.
        """
        return self._kept.endpoints(_keys(seeds)).to(self.model.device)

    def _start(self, keys: Sequence[str]) -> tuple[core.VelocityField, Tensor]:
        seeds = [int(key) for key in keys]
        labels = self.model.labels(seeds, self.class_index)
        return self.model.field(labels), self.model.start(seeds, t=float(self.sampler.grid[0]))


def root_mean_square(x: Tensor, y: Tensor) -> Tensor:
    """Of the difference of states (B, C, H, W), one number a sample: (B,) float64."""
    return (x.double() - y.double()).square().flatten(1).mean(1).sqrt()


def _keys(seeds: Sequence[int]) -> list[str]:
    return [str(seed) for seed in seeds]

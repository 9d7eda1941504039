"""A latent model with all that looks at its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from apps.imagegen.evaluation import Evaluator, Scorer, check_seeds, load_reference
from apps.imagegen.features import Features
from apps.imagegen.methods import ALL_ORDERS, MethodOptions
from apps.imagegen.models import FrozenModel
from apps.imagegen.references import fingerprint_of
from apps.imagegen.sampling import build_sampler
from apps.imagegen.scored import ERROR, Scored
from apps.imagegen.tables.ingredients import Ready
from apps.imagegen.tables.latent_lines import SCORERS, TeacherRecipe
from apps.imagegen.tables.quality import QualityRecipe, interval_of
from apps.imagegen.tables.store import Result
from apps.imagegen.teachers import Endpoints
from core.intervals import Interval
from data_tools.cli import UserError, console, progress_bar


class LatentBench:
    """A latent model with all that looks at its samples, each prepared when the first cell needs it.

    Args:
        model: frozen.
        recipe: samples of a cell.
        batch: images at once, which no number depends on.
        teacher: see `TeacherRecipe`.
        folder: of teachers' endpoints.
        features: network that looks at sets of images.
        reference: source of the images that the distance is to; None where there are none.
        scorers: of single images, by the metric's name.

    Raises:
        UserError: numbers that cannot be, or a teacher that the model cannot have.
    """

    def __init__(
        self,
        model: FrozenModel,
        recipe: QualityRecipe,
        batch: int,
        teacher: TeacherRecipe,
        folder: Path,
        features: Features | None = None,
        reference: str | None = None,
        scorers: Mapping[str, Scorer] | None = None,
    ) -> None:
        for name, value, least in (("samples", recipe.samples, 2), ("blocks", recipe.blocks, 1), ("batch", batch, 1)):
            if value < least:
                raise UserError(f"expected --{name} of at least {least}, got {value}")
        check_seeds(recipe.seed, recipe.blocks * recipe.samples)
        self.model, self.recipe, self.batch = model, recipe, batch
        self.features, self.reference, self.scorers = features, reference, scorers or {}
        self._source = "" if reference is None else fingerprint_of(reference, model)
        order = teacher.order if teacher.solver in ALL_ORDERS else None
        sampler = build_sampler(model, MethodOptions(teacher.solver, teacher.nfe, order, afs=False))
        self.teacher = Endpoints(model, sampler, folder)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Of all that is there, its text embeddings and the teacher's endpoints computed."""
        reference = None
        if self.reference is not None and self.features is not None:
            with console.status("features of the reference"):
                reference = load_reference(self.reference, self.model, self.features, names=_names(self.model))
        recipe = self.recipe
        evaluator = Evaluator(
            self.model, None if reference is None else self.features, reference, recipe.samples, recipe.blocks,
            recipe.seed, self.batch, pictured=1, scorers=self.scorers, teacher=self.teacher,
        )  # fmt: skip
        evaluator.prepare()
        with progress_bar() as bar:
            missing = self.teacher.missing(evaluator.seeds)
            task = bar.add_task(f"teacher {self.teacher.sampler.label}", total=missing, note="")
            self.teacher.fill(evaluator.seeds, self.batch, lambda count: bar.advance(task, count))
        return evaluator

    def has(self, metric: str) -> bool:
        """Whether there is what the metric takes."""
        if metric == "fid":
            return self.reference is not None and self.features is not None
        return metric == "teacher" or metric in self.scorers

    def identity(self, ready: Ready, metric: str) -> dict[str, Any]:
        """All that a number depends on."""
        seen: dict[str, Any] = {"metric": metric, "conditions": self.model.conditions}
        if metric == "fid":
            assert self.features is not None
            seen |= {"features": self.features.name, "reference": self._source}
        elif metric == "teacher":
            seen |= {"teacher": self.teacher.directory.name}
        else:
            seen |= {"scorer": self.scorers[metric].name}
        return {"table": "latent", **ready.identity(self.model), **seen, **asdict(self.recipe)}

    def measure(self, ready: Ready, metrics: Sequence[str], report: Callable[[int], object]) -> dict[str, Result]:
        """Each metric of a method, from one set of samples; where there are none, as of states that are not finite,
        why."""
        evaluator = replace(
            self.evaluator,
            features=self.evaluator.features if "fid" in metrics else None,
            reference=self.evaluator.reference if "fid" in metrics else None,
            scorers={metric: scorer for metric, scorer in self.scorers.items() if metric in metrics},
            teacher=self.teacher if "teacher" in metrics else None,
        )
        try:
            scored = evaluator.score(ready.sampler, report)
        except (ValueError, FloatingPointError) as error:
            return {metric: {"failed": str(error)} for metric in metrics}
        return {metric: self._result(scored, metric) for metric in metrics}

    def _result(self, scored: Scored, metric: str) -> Result:
        if metric == "fid":
            found = interval_of(scored.fd.tolist())
        else:
            found = scored.mean(ERROR if metric == "teacher" else metric)
            if found.low != found.low:  # one prompt has no interval
                found = Interval(found.mean, found.mean, found.mean)
        counts = {"calls": scored.nfe, "evaluations": scored.evaluations, "seconds": round(scored.seconds, 3)}
        return {"value": list(found), **counts}


def _names(model: FrozenModel) -> list[str]:
    """Stems of the reference images of the prompts for evaluation, where the prompts came with ids."""
    prompts = model.prompts
    return [] if prompts is None else [prompts.ids[text] for text in prompts.evaluation if text in prompts.ids]


def find_scorers(metrics: Sequence[str], device: str) -> tuple[dict[str, Scorer], dict[str, str]]:
    """Scorers by metric, and for each metric without one what it lacks, in one line."""
    from apps.imagegen.rewards import SCORERS as LOADERS  # what they need is optional

    found: dict[str, Scorer] = {}
    lacking: dict[str, str] = {}
    for metric in metrics:
        if metric in SCORERS:
            try:
                found[metric] = LOADERS[SCORERS[metric]](device)
            except UserError as error:
                lacking[metric] = f"{metric}: {error}"
    return found, lacking

"""Scores of sampling methods on the same seeds: of sets of images against one reference, and of single images.

A block of seeds is a whole experiment: a Fréchet distance depends on the number of samples, so that blocks have one
size and the interval is Student's over blocks. What is known of each image by itself, such as a reward or the distance
from a teacher's endpoint, is averaged over all of them. Methods share seeds, so that their differences are paired.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from apps.imagegen.features import Features
from apps.imagegen.metrics import Moments, PrecisionRecall, frechet_distance, precision_recall
from apps.imagegen.models.frozen_model import FrozenModel
from apps.imagegen.models.seeds import FIRST_SEED
from apps.imagegen.references import (
    MOST_NEIGHBOURS,
    Reference,
    Report,
    load_reference,
    own_reference,
    reference_of_images,
    silent,
)
from apps.imagegen.rewards.scorer import Scorer
from apps.imagegen.sampling import Sampler, batches, to_uint8
from apps.imagegen.scored import ERROR, Block, Scored, over_blocks, over_images
from apps.imagegen.teachers import Endpoints, root_mean_square
from core.state import nfe_of
from data_tools.cli import UserError

__all__ = [
    "ERROR",
    "Block",
    "Evaluator",
    "Reference",
    "Scored",
    "check_seeds",
    "load_reference",
    "over_blocks",
    "over_images",
    "own_reference",
    "reference_of_images",
]

NEIGHBOURS = 3
"""k of precision and recall."""


def check_seeds(first: int, count: int) -> None:
    """Raise `UserError` unless so many seeds from `first` on are seeds that no solver was trained on."""
    if first < 0 or first + count > FIRST_SEED:
        raise UserError(
            f"expected --seed from 0, and all seeds below {FIRST_SEED}, where those that solvers are trained on begin, "
            f"got {count} from {first}; choose another"
        )


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Scores methods of one model.

    Attributes:
        model: what samples.
        features, reference: what looks, what is held against; None where no distance is asked for.
        samples: images of a block.
        blocks: number of blocks.
        seed: first seed; block b has the seeds from seed + b samples on.
        batch: images sampled at once.
        class_index: class of all images; None draws it from the seed, where there are classes.
        pictured: images of the first block that are kept.
        scorers: rate every image by its prompt, by what their scores are called, see `apps.imagegen.rewards`.
        teacher: whose endpoints every state is held against.
    """

    model: FrozenModel
    features: Features | None
    reference: Reference | None
    samples: int
    blocks: int = 3
    seed: int = 0
    batch: int = 128
    class_index: int | None = None
    pictured: int = 16
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    teacher: Endpoints | None = None

    @property
    def seeds(self) -> range:
        """Of all images."""
        return range(self.seed, self.seed + self.blocks * self.samples)

    def warm_up(self, sampler: Sampler) -> None:
        """A batch that is not scored: the first method timed shall not pay for what all share."""
        self._states(sampler, range(self.seed, self.seed + min(self.batch, self.samples)))

    def prepare(self) -> None:
        """Compute what all methods share and is not there yet: what labels of the seeds stand for. It shows a bar."""
        self.model.prepare(self.seeds)

    def score(self, sampler: Sampler | Endpoints, report: Report = silent) -> Scored:
        """Sample and score every block; `report` is told the number of images done, batch by batch.

        `prepare` comes first. A teacher's endpoints, which must be there, are scored as they are.

        Raises:
            FloatingPointError: an image is not finite.
        """
        blocks, pictured, nfe = [], [], 0
        values: dict[str, list[Tensor]] = {}
        for index in range(self.blocks):
            first = self.seed + index * self.samples
            look = _Look(self.features, self.reference)
            seconds = 0.0
            for seeds, x, images, calls, spent in self._batches(sampler, range(first, first + self.samples)):
                look.add(images)
                for name, found in self._values(seeds, x, images):
                    values.setdefault(name, []).append(found)
                seconds, nfe = seconds + spent, calls
                if index == 0 and sum(map(len, pictured)) < self.pictured:
                    pictured.append(images.cpu())
                report(len(images))
            blocks.append(look.block(seconds))
        return Scored(
            sampler.sampler if isinstance(sampler, Endpoints) else sampler,
            nfe,
            blocks,
            torch.cat(pictured)[: self.pictured],
            nfe_of(self.model.field(self.model.labels([self.seed], self.class_index))),
            {name: torch.cat(found) for name, found in values.items()},
            self._groups(),
            isinstance(sampler, Endpoints),
        )

    def _batches(
        self, sampler: Sampler | Endpoints, seeds: Sequence[int]
    ) -> Iterator[tuple[list[int], Tensor, Tensor, int, float]]:
        """(seeds, states, images uint8, network calls, seconds) of every batch."""
        for part in batches(seeds, self.batch):
            start = time.perf_counter()
            x, images, nfe = self._states(sampler, part)
            yield part, x, images, nfe, time.perf_counter() - start

    @torch.no_grad()
    def _states(self, sampler: Sampler | Endpoints, seeds: Sequence[int]) -> tuple[Tensor, Tensor, int]:
        if isinstance(sampler, Endpoints):
            x, nfe = sampler(seeds), sampler.calls
        else:
            x, nfe = sampler.endpoint(self.model, seeds, self.class_index)
        images = to_uint8(self.model.decode(x))
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return x, images, nfe

    def _values(self, seeds: Sequence[int], x: Tensor, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What is known of each image by itself."""
        if self.teacher is not None:
            yield ERROR, root_mean_square(x, self.teacher(seeds)).cpu()
        if self.scorers:
            texts = self.model.texts(seeds)
            assert texts is not None, "rewards are of prompts"
            coloured = images.expand(-1, 3, -1, -1)
            for name, scorer in self.scorers.items():
                yield name, scorer(coloured, texts).double().cpu()

    def _groups(self) -> Tensor | None:
        texts = self.model.texts(self.seeds)
        if texts is None:
            return None
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        return torch.tensor([places[text] for text in texts])


class _Look:
    """The images of one block as their features see them, batch by batch."""

    def __init__(self, features: Features | None, reference: Reference | None) -> None:
        self._features, self._reference = features, reference
        self._moments = None if features is None else Moments.empty(features.dim)
        self._kept: list[Tensor] = []

    def add(self, images: Tensor) -> None:
        if self._features is None or self._moments is None:
            return
        found = self._features(images)
        self._moments = self._moments.merge(Moments.of(found))
        if sum(map(len, self._kept)) < MOST_NEIGHBOURS:
            self._kept.append(found)

    def block(self, seconds: float) -> Block:
        if self._moments is None or self._reference is None:
            return Block(None, None, seconds)
        fd = frechet_distance(self._moments, self._reference.moments)
        return Block(fd, self._neighbours(torch.cat(self._kept)), seconds)

    def _neighbours(self, features: Tensor) -> PrecisionRecall | None:
        real = None if self._reference is None else self._reference.features
        if real is None or min(len(real), len(features)) <= NEIGHBOURS:
            return None
        return precision_recall(real, features[:MOST_NEIGHBOURS].to(real), NEIGHBOURS)

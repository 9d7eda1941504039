"""What came of a method: its scores over blocks of images and over single images, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from apps.imagegen.metrics import PrecisionRecall
from apps.imagegen.sampling import Sampler
from core import Card
from core.intervals import Interval, bootstrap_mean, student_mean

ERROR = "endpoint error"
"""Root mean square of the difference from the teacher's endpoint, as states, of each image; low is good."""
FEW, MANY = 30, 2000
"""Between so many values the interval is a bootstrap's. Percentiles of fewer would be too narrow; with more, Student's
interval is the same to a few hundredths of its width, without the seconds that resampling takes."""


@dataclass(frozen=True)
class Block:
    """Scores of one block of seeds: the distance is None without a reference, precision and recall are where that has
    no images."""

    fd: float | None
    neighbours: PrecisionRecall | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Scored:
    """A method and what came of it.

    Attributes:
        sampler: the method.
        nfe: counted network calls per image.
        blocks: scores of each.
        pictured: a few of its images, uint8 (n, C, H, W).
        guidance: network calls of one evaluation: 2 where guidance doubles the batch.
        values: (images,) float64 in the order of seeds, by the name of the scorer, or `ERROR`.
        groups: (images,), which prompt an image is of; None where each is on its own.
        teacher: whether it is the teacher, whose endpoints were read and not timed.
    """

    sampler: Sampler
    nfe: int
    blocks: Sequence[Block]
    pictured: Tensor
    guidance: int = 1
    values: Mapping[str, Tensor] = field(default_factory=dict)
    groups: Tensor | None = None
    teacher: bool = False

    @property
    def label(self) -> str:
        return f"teacher {self.sampler.label}" if self.teacher else self.sampler.label

    @property
    def trained_with(self) -> str:
        """Fingerprint of the prompts that the solver was trained with, after its card; empty where that has none."""
        card: Card | None = getattr(self.sampler.solver, "card", None)
        return "" if card is None else str(card.extra.get("prompts", ""))

    @property
    def evaluations(self) -> int:
        """Evaluations of the field per image, as papers count: one is two network calls where guidance doubles."""
        return self.nfe // self.guidance

    @property
    def seconds(self) -> float:
        """Of sampling and decoding all blocks, without features and scores."""
        return sum(block.seconds for block in self.blocks)

    @property
    def fd(self) -> Tensor:
        """(blocks,) float64; empty without a reference."""
        return torch.tensor([block.fd for block in self.blocks if block.fd is not None], dtype=torch.float64)

    def neighbours(self, name: str) -> Tensor | None:
        """Precision or recall (blocks,), by its name."""
        found = [block.neighbours for block in self.blocks]
        values = [getattr(value, name) for value in found if value is not None]
        return torch.tensor(values, dtype=torch.float64) if values else None

    @property
    def independent(self) -> int:
        """What intervals of single images are over: so many prompts, or images where there are none."""
        return len(next(iter(self.values.values()), ())) if self.groups is None else len(self.groups.unique())

    def mean(self, name: str, minus: Scored | None = None) -> Interval:
        """The mean of values by their name, or of their differences from another method's on the same images."""
        values = self.values[name] if minus is None else self.values[name] - minus.values[name]
        return over_images(values, self.groups)


def over_blocks(values: Tensor) -> Interval:
    """Mean of the blocks with Student's interval; without one (NaN) where there is one block."""
    if len(values) == 1:
        return Interval(float(values[0]), float("nan"), float("nan"))
    return student_mean(values)


def over_images(values: Tensor, groups: Tensor | None = None) -> Interval:
    """Mean of values (n,) with its interval over groups, of one prompt each: images of one are not independent.

    Values are averaged within a group first, so that every group counts once. See `interval_kind`; without an interval
    (NaN) where there is one group.
    """
    if groups is not None:
        found, place = groups.unique(return_inverse=True)
        sums = torch.zeros(len(found), dtype=torch.float64).index_add(0, place, values.double())
        values = sums / place.bincount()
    return bootstrap_mean(values) if interval_kind(len(values)) == "bootstrap" else over_blocks(values)


def interval_kind(count: int) -> str:
    """What the interval of so many independent values is: bootstrap, student-t, or none of one."""
    return "none" if count < 2 else "bootstrap" if FEW <= count <= MANY else "student-t"

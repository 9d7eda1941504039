"""Scores of sampling methods: disjoint blocks of seeds, the same for every method, against one reference.

A block is a whole experiment: a Fréchet distance depends on the number of samples, so that blocks have one size and
the interval is Student's over blocks. Methods share seeds, so that their differences are paired.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from apps.imagegen.data import DIGITS, Images, Split, load_images
from apps.imagegen.features import Features
from apps.imagegen.metrics import HasMoments, Moments, PrecisionRecall, frechet_distance, load_moments, precision_recall
from apps.imagegen.models import ImageModel
from apps.imagegen.sampling import Sampler, batches, to_uint8
from apps.imagegen.stages.pairs import FIRST_SEED
from core.intervals import Interval, student_mean
from data_tools.cli import UserError

NEIGHBOURS = 3
"""k of precision and recall."""
MOST_NEIGHBOURS = 10_000
"""Precision and recall look at so many images of each set at most: they compare all pairs."""
FEATURE_BATCH = 256


@dataclass(frozen=True, eq=False)
class Reference:
    """What samples are held against.

    Attributes:
        name: for people.
        moments: of its features.
        features: (m, d), at most `MOST_NEIGHBOURS` of them; None where only moments are known.
        images: number of images; None where only moments are known.
        fingerprint: of its images; empty where only moments are known.
    """

    name: str
    moments: HasMoments
    features: Tensor | None = None
    images: int | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Block:
    """Scores of one block of seeds; precision and recall are None where the reference has no images."""

    fd: float
    neighbours: PrecisionRecall | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Scored:
    """A method, its counted network calls per image, its blocks, and a few of its images, uint8 (n, C, H, W)."""

    sampler: Sampler
    nfe: int
    blocks: Sequence[Block]
    pictured: Tensor

    @property
    def seconds(self) -> float:
        """Of sampling all blocks, without features."""
        return sum(block.seconds for block in self.blocks)

    @property
    def fd(self) -> Tensor:
        """(blocks,) float64."""
        return torch.tensor([block.fd for block in self.blocks], dtype=torch.float64)

    def neighbours(self, name: str) -> Tensor | None:
        """Precision or recall (blocks,), by its name."""
        found = [block.neighbours for block in self.blocks]
        values = [getattr(value, name) for value in found if value is not None]
        return torch.tensor(values, dtype=torch.float64) if values else None


def check_seeds(first: int, count: int) -> None:
    """Raise `UserError` unless so many seeds from `first` on are seeds that no solver was trained on."""
    if first < 0 or first + count > FIRST_SEED:
        raise UserError(
            f"expected --seed from 0, and all seeds below {FIRST_SEED}, where those that solvers are trained on begin, "
            f"got {count} from {first}; choose another"
        )


def own_reference(model: ImageModel) -> str | None:
    """The source of the images that a model learned from, after its card, where it comes with the project."""
    data = model.card.get("data")
    name = data.get("name") if isinstance(data, Mapping) else None
    return DIGITS if name == f"{DIGITS} (train)" else None


def over_blocks(values: Tensor) -> Interval:
    """Mean of the blocks with Student's interval; without one (NaN) where there is one block."""
    if len(values) == 1:
        return Interval(float(values[0]), float("nan"), float("nan"))
    return student_mean(values)


def reference_of_images(
    images: Images, features: Features, report: Callable[[int], object] = lambda count: None
) -> Reference:
    """The reference that a set of images is; `report` is told the number of images done, batch by batch."""
    moments, kept = Moments.empty(features.dim), []
    for first in range(0, len(images), FEATURE_BATCH):
        found = features(torch.from_numpy(images.pixels[first : first + FEATURE_BATCH]))
        moments = moments.merge(Moments.of(found))
        if first < MOST_NEIGHBOURS:
            kept.append(found)
        report(len(found))
    return Reference(images.name, moments, torch.cat(kept)[:MOST_NEIGHBOURS], len(images), images.fingerprint)


def load_reference(
    source: str,
    model: ImageModel,
    features: Features,
    split: Split = "train",
    report: Callable[[int], object] = lambda count: None,
) -> Reference:
    """The reference of a source: an npz with `mu` and `sigma`, else images as `load_images` reads them.

    Raises:
        UserError: a source that is neither, is of other features, or whose images are unlike the model's.
    """
    path = Path(source)
    if path.suffix == ".npz" and "," not in source and not _holds_images(path):
        return Reference(source, load_moments(path, features.name, features.dim))
    images = load_images(source, split, model.resolution)
    images.check(model.resolution, model.channels)
    if len(images) < 2:
        raise UserError(f"expected at least 2 reference images, got {len(images)} in {source}; give more")
    return reference_of_images(images, features, report)


def _holds_images(path: Path) -> bool:
    """Whether an npz lists an array `images`; its table of contents is enough to tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "images.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Scores methods of one model against one reference.

    Attributes:
        model, features, reference: what samples, what looks, what is held against.
        samples: images of a block.
        blocks: number of blocks.
        seed: first seed; block b has the seeds from seed + b samples on.
        batch: images sampled at once.
        class_index: class of all images; None draws it from the seed, where there are classes.
        pictured: images of the first block that are kept.
    """

    model: ImageModel
    features: Features
    reference: Reference
    samples: int
    blocks: int = 3
    seed: int = 0
    batch: int = 128
    class_index: int | None = None
    pictured: int = 16

    def warm_up(self, sampler: Sampler) -> None:
        """A batch that is not scored: the first method timed shall not pay for what all share."""
        self._sample(sampler, range(self.seed, self.seed + min(self.batch, self.samples)))

    def score(self, sampler: Sampler, report: Callable[[int], object] = lambda count: None) -> Scored:
        """Sample and score every block; `report` is told the number of images done, batch by batch.

        Raises:
            FloatingPointError: an image is not finite.
        """
        blocks, pictured, nfe = [], [], 0
        for index in range(self.blocks):
            first = self.seed + index * self.samples
            moments, kept, seconds = Moments.empty(self.features.dim), [], 0.0
            for images, calls, spent in self._batches(sampler, range(first, first + self.samples)):
                found = self.features(images)
                moments = moments.merge(Moments.of(found))
                if sum(map(len, kept)) < MOST_NEIGHBOURS:
                    kept.append(found)
                seconds, nfe = seconds + spent, calls
                if index == 0 and sum(map(len, pictured)) < self.pictured:
                    pictured.append(images.cpu())
                report(len(images))
            fd = frechet_distance(moments, self.reference.moments)
            blocks.append(Block(fd, self._neighbours(torch.cat(kept)), seconds))
        return Scored(sampler, nfe, blocks, torch.cat(pictured)[: self.pictured])

    def _batches(self, sampler: Sampler, seeds: Sequence[int]) -> Iterator[tuple[Tensor, int, float]]:
        """(images uint8, network calls, seconds) of every batch."""
        for part in batches(seeds, self.batch):
            start = time.perf_counter()
            images, nfe = self._sample(sampler, part)
            yield images, nfe, time.perf_counter() - start

    def _sample(self, sampler: Sampler, seeds: Sequence[int]) -> tuple[Tensor, int]:
        x, nfe = sampler.sample(self.model, seeds, self.class_index)
        images = to_uint8(x)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return images, nfe

    def _neighbours(self, features: Tensor) -> PrecisionRecall | None:
        real = self.reference.features
        if real is None or min(len(real), len(features)) <= NEIGHBOURS:
            return None
        return precision_recall(real, features[:MOST_NEIGHBOURS].to(real), NEIGHBOURS)

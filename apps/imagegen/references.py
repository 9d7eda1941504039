"""What samples are held against: sets of images, or the moments of their features."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from apps.imagegen.data import DIGITS, Images, Split, load_images
from apps.imagegen.features import Features
from apps.imagegen.image_files import SUFFIXES, read_image
from apps.imagegen.metrics import HasMoments, Moments, load_moments
from apps.imagegen.models.frozen_model import FrozenModel
from data_tools.cli import UserError

MOST_NEIGHBOURS = 10_000
"""Precision and recall look at so many images of each set at most: they compare all pairs."""
FEATURE_BATCH = 256
DECODED_BATCH = 16
"""Reference images of a latent model at once, which are large."""


class HasImages(Protocol):
    """As much of a `FrozenModel` as a reference looks at: sizes of states, and of what they are decoded to."""

    @property
    def channels(self) -> int: ...
    @property
    def resolution(self) -> int: ...
    @property
    def image_channels(self) -> int: ...
    @property
    def image_resolution(self) -> int: ...


Report = Callable[[int], object]


def silent(count: int) -> None:
    """A report that tells nobody."""


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


def own_reference(model: FrozenModel) -> str | None:
    """The source of the images that a model learned from, after its card, where it comes with the project."""
    data = model.card.get("data")
    name = data.get("name") if isinstance(data, Mapping) else None
    return DIGITS if name == f"{DIGITS} (train)" else None


def decodes(model: HasImages) -> bool:
    """Whether its states are latents, and not the images themselves."""
    return (model.image_channels, model.image_resolution) != (model.channels, model.resolution)


def reference_of_images(images: Images, features: Features, report: Report = silent) -> Reference:
    """The reference that a set of images is; `report` is told the number of images done, batch by batch."""
    parts = (images.pixels[first : first + FEATURE_BATCH] for first in range(0, len(images), FEATURE_BATCH))
    moments, kept = _seen(map(torch.from_numpy, parts), features, report)
    return Reference(images.name, moments, kept, len(images), images.fingerprint)


def load_reference(
    source: str,
    model: HasImages,
    features: Features,
    split: Split = "train",
    report: Report = silent,
    names: Sequence[str] = (),
) -> Reference:
    """The reference of a source: an npz with `mu` and `sigma`, else images as `load_images` reads them.

    Images of a folder for a latent model are read one by one, and may be of any size: `fitted` cuts and resizes them.

    Args:
        source: a folder, an npz, `digits`, or several of them, comma-separated.
        model, features: what samples, what looks.
        split: of the digits.
        report: see `reference_of_images`.
        names: stems of the files that belong to the prompts that are sampled; where a folder of a latent model has any
            of them, only those are read. MJHQ-30K's are the ids of its prompts.

    Raises:
        UserError: a source that is neither, is of other features, or whose images are unlike the model's.
    """
    path = Path(source)
    if path.suffix == ".npz" and "," not in source and not _holds_images(path):
        return Reference(source, load_moments(path, features.name, features.dim))
    if decodes(model) and os.path.isdir(source):
        return _folder(path, model, features, report, names)
    images = load_images(source, split, model.image_resolution)
    images.check(model.image_resolution, model.image_channels)
    if len(images) < 2:
        raise UserError(f"expected at least 2 reference images, got {len(images)} in {source}; give more")
    return reference_of_images(images, features, report)


def fingerprint_of(source: str, model: HasImages) -> str:
    """Which reference a source is: the hash of the file, of a folder's names and files, or of the images."""
    if os.path.isfile(source):  # a long list is no file name
        with Path(source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if decodes(model) and os.path.isdir(source):
        return _fingerprint(Path(source), _files(Path(source)))
    return load_images(source, "train", model.image_resolution).fingerprint


def fitted(pixels: np.ndarray, side: int) -> np.ndarray:
    """An image (H, W, C) uint8 as (C, side, side): its central square, resized with Lanczos' filter where it must be.

    As ADM's ImageNet and LSUN were cut (Dhariwal & Nichol 2021), but for their filter.
    """
    height, width = pixels.shape[:2]
    if (height, width) == (side, side):
        return pixels.transpose(2, 0, 1)
    cut = min(height, width)
    left, top = (width - cut) // 2, (height - cut) // 2
    inner = pixels[top : top + cut, left : left + cut]  # what is cut off must not show through the filter
    image = Image.fromarray(inner[..., 0] if inner.shape[-1] == 1 else inner)
    resized = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))
    return (resized[..., None] if resized.ndim == 2 else resized).transpose(2, 0, 1)


def _folder(path: Path, model: HasImages, features: Features, report: Report, names: Sequence[str]) -> Reference:
    found, wanted = _files(path), set(names)
    named = [file for file in found if file.stem in wanted]
    chosen = named or found
    if len(chosen) < 2:
        raise UserError(f"expected at least 2 reference images, got {len(chosen)} in {path}; give more")
    side, channels = model.image_resolution, model.image_channels

    def images() -> Iterator[Tensor]:
        for first in range(0, len(chosen), DECODED_BATCH):
            yield torch.stack([_read(file, side, channels) for file in chosen[first : first + DECODED_BATCH]])

    moments, kept = _seen(images(), features, report)
    name = f"{path} ({len(named)} images of {len(wanted)} prompts)" if named else str(path)
    return Reference(name, moments, kept, len(chosen), _fingerprint(path, chosen))


def _files(folder: Path) -> list[Path]:
    """Its PNG and JPEG files, and those in folders below.

    Raises:
        UserError: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not found:
        raise UserError(f"expected PNG or JPEG images in {folder}, got none; check the folder")
    return found


def _read(path: Path, side: int, channels: int) -> Tensor:
    """One image (channels, side, side); grey ones are repeated in colour."""
    pixels = fitted(read_image(path), side)
    if len(pixels) not in (1, channels):
        raise UserError(f"expected grey images, got RGB at {path}; convert it first, or choose another model")
    return torch.from_numpy(np.broadcast_to(pixels, (channels, side, side)).copy())


def _fingerprint(folder: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\n".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def _seen(images: Iterator[Tensor], features: Features, report: Report) -> tuple[Moments, Tensor]:
    """Moments of all, features (m, d) of the first, of images that come in batches (B, C, H, W) uint8."""
    moments, kept, count = Moments.empty(features.dim), [], 0
    for part in images:
        found = features(part)
        moments = moments.merge(Moments.of(found))
        if count < MOST_NEIGHBOURS:
            kept.append(found)
        count += len(found)
        report(len(found))
    return moments, torch.cat(kept)[:MOST_NEIGHBOURS]


def _holds_images(path: Path) -> bool:
    """Whether an npz lists an array `images`; its table of contents is enough to tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "images.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False

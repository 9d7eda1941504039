"""Sets of images: what image models are trained on and measured against.

Three kinds of source, one form: scikit-learn's handwritten digits, folders of image files, `.npz` archives. Pixels stay
uint8 until they are used; `Images.scaled` is the only place where they become the [-1, 1] of the networks.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from apps.imagegen.image_files import read_archive, read_folder
from data_tools.cli import UserError

Split = Literal["train", "test"]

DIGITS = "digits"
"""The name that stands for scikit-learn's handwritten digits where a file is expected."""

DIGITS_RESOLUTION = 16
"""Pixels of a side that the digits have unless another number is asked for; they were scanned to 8."""

TEST_SHARE = 6
"""One digit in so many is a test image."""


@dataclass(frozen=True, eq=False)
class Images:
    """Square images of one size.

    Attributes:
        pixels: (n, C, H, W) uint8, C = 1 (grey) or 3 (RGB), H = W.
        labels: class of each image, (n,) int64 from 0, or None.
        name: what they are, for people.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    name: str

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def channels(self) -> int:
        return self.pixels.shape[1]

    @property
    def resolution(self) -> int:
        return self.pixels.shape[-1]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of shape, pixels and labels: says which data a number belongs to."""
        digest = hashlib.sha256(f"{self.pixels.shape};{self.labels is not None};".encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()[:16]

    def scaled(self, rows: Sequence[int] | slice | np.ndarray) -> Tensor:
        """The images of these rows as networks see them: (len(rows), C, H, W) float32 in [-1, 1]."""
        return torch.from_numpy(self.pixels[rows].astype(np.float32)) / 127.5 - 1.0

    def one_hot(self, rows: Sequence[int] | slice | np.ndarray, label_dim: int) -> Tensor:
        """The labels of these rows, (len(rows), label_dim) float32; `check` says whether there are such labels."""
        assert self.labels is not None, "check comes first"
        return functional.one_hot(torch.from_numpy(self.labels[rows]), label_dim).float()

    def check(self, resolution: int, channels: int, label_dim: int = 0) -> None:
        """Refuse images that a model cannot take.

        Raises:
            UserError: another size or number of channels than the model's, or, where label_dim > 0, no labels or
                labels that reach beyond it.
        """
        if self.resolution != resolution:
            raise UserError(
                f"expected images of {resolution} x {resolution} pixels, got {self.resolution} x {self.resolution} in "
                f"{self.name}; resize them first, or choose another model"
            )
        if self.channels != channels:
            raise UserError(
                f"expected {_colours(channels)} images, got {_colours(self.channels)} in {self.name}; "
                "convert them first, or choose another model"
            )
        if label_dim and self.labels is None:
            raise UserError(
                f"expected labels of {label_dim} classes for a conditional model, got none in {self.name}; "
                "add `labels` to the .npz, a dataset.json to the folder, or take an unconditional model"
            )
        if label_dim and self.labels is not None and self.labels.max() >= label_dim:
            raise UserError(
                f"expected labels from 0 to {label_dim - 1}, got {self.labels.max()} in {self.name}; "
                "number the classes from 0, or choose another model"
            )


def load_images(source: str, split: Split = "train", resolution: int | None = None) -> Images:
    """Read images.

    Args:
        source: `digits`; a folder of PNG and JPEG files (`read_folder`); an `.npz` (`read_archive`); or several of
            them, comma-separated, that go together.
        split: of the digits, a sixth of which are test images, drawn by a hash of their pixels. Folders and archives
            are taken whole: their names say which split they are.
        resolution: pixels of a side; the digits are enlarged to it (16 by default), other images must have it.

    Raises:
        UserError: a source is missing, damaged, empty or not of images; sizes, channels or the presence of labels
            differ between sources; or images are not of `resolution`.
    """
    if split not in ("train", "test"):
        raise UserError(f"expected the split train or test, got {split}")
    # os.path, for a long list is no file name
    names = [source] if os.path.exists(source) else [name.strip() for name in source.split(",")]
    parts = [_read(name, split, resolution) for name in names]
    first = parts[0]
    for part in parts[1:]:
        if part.pixels.shape[1:] != first.pixels.shape[1:]:
            raise UserError(
                f"expected images of one size, got {_shape(first)} in {first.name} and {_shape(part)} in {part.name}; "
                "name sources that go together"
            )
        if (part.labels is None) != (first.labels is None):
            raise UserError(
                f"expected labels in all sources or in none, got them in one of {first.name} and {part.name}; "
                "add or remove the others"
            )
    if resolution is not None:
        first.check(resolution, first.channels)
    labels = [part.labels for part in parts if part.labels is not None]
    return Images(
        np.concatenate([part.pixels for part in parts]) if len(parts) > 1 else first.pixels,
        np.concatenate(labels) if labels else None,
        ", ".join(part.name for part in parts),
    )


def _read(source: str, split: Split, resolution: int | None) -> Images:
    path = Path(source or "no name")
    if source == DIGITS:
        return _digits(split, DIGITS_RESOLUTION if resolution is None else resolution)
    if os.path.isdir(path):
        return Images(*read_folder(path), source)
    if os.path.isfile(path) and path.suffix == ".npz":
        return Images(*read_archive(path), source)
    found = "another file" if os.path.isfile(path) else "nothing there"
    raise UserError(f"expected `{DIGITS}`, a folder of images or an .npz, got {path} ({found})")


def _digits(split: Split, resolution: int) -> Images:
    """scikit-learn's 1797 handwritten digits (Alpaydin & Kaynak 1998), grey on black, enlarged bicubically."""
    from sklearn.datasets import load_digits  # half a second that other data do not need

    if not 8 <= resolution <= 256:
        raise UserError(f"expected digits of 8 to 256 pixels a side, got {resolution}")
    values, classes = load_digits(return_X_y=True)
    scanned = np.asarray(values, np.float32).reshape(-1, 8, 8)  # whole numbers from 0 to 16
    chosen = np.array([_is_test(image) == (split == "test") for image in scanned])
    grey = torch.from_numpy(scanned[chosen])[:, None] * (255 / 16)
    if resolution != grey.shape[-1]:
        grey = functional.interpolate(grey, size=(resolution, resolution), mode="bicubic")
    pixels = grey.round().clamp(0, 255).to(torch.uint8).numpy()
    return Images(pixels, np.asarray(classes, np.int64)[chosen], f"{DIGITS} ({split})")


def _is_test(image: np.ndarray) -> bool:
    """By content, so that equal images never stand on both sides."""
    digest = hashlib.sha256(b"split of the digits, 0;" + image.astype(np.uint8).tobytes()).digest()
    return int.from_bytes(digest[:8], "little") % TEST_SHARE == 0


def _shape(images: Images) -> str:
    return f"{images.resolution} x {images.resolution} {_colours(images.channels)}"


def _colours(channels: int) -> str:
    return {1: "grey", 3: "RGB"}.get(channels, f"{channels}-channel")

"""Readers of image files: folders of PNG and JPEG, and `.npz` archives. Both give (pixels, labels) and distrust what
they read: a file is looked at before it is unpacked, and nothing in it is executed."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.cli import UserError, progress_bar

SUFFIXES = {".png", ".jpg", ".jpeg"}
FORMATS = ("PNG", "JPEG")
MODES = {"L": "L", "RGB": "RGB", "P": "RGB"}
"""Pillow's name of a file's colours -> what they are read as."""

MAX_SIDE = 4096
"""Larger images are refused before they are unpacked."""

MANY = 1000
"""Reading more files than this shows a progress bar."""

LABELS = "dataset.json"
"""Beside the images, as EDM's data set tool writes it: {"labels": [["00000/img00000000.png", 6], ...]}."""

Arrays = tuple[np.ndarray, np.ndarray | None]
"""Pixels (n, C, H, W) uint8 and labels (n,) int64, or None."""

_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, struct.error, zlib.error)


def read_folder(folder: Path) -> Arrays:
    """All PNG and JPEG files in a folder and its subfolders, in the order of their names.

    Labels come from `dataset.json` where there is one.

    Raises:
        UserError: no images, a damaged one, one of another size or colour than the first, one that is not square, or a
            `dataset.json` that does not label them all.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not found:
        raise UserError(f"expected PNG or JPEG images in {folder}, got none; check the folder")
    first = read_image(found[0])
    height, width, channels = first.shape
    if height != width:
        raise UserError(f"expected square images, got {width} x {height} in {found[0]}; crop them first")
    pixels = np.empty((len(found), channels, height, width), np.uint8)
    bar = progress_bar()
    task = bar.add_task(f"reading {folder.name}", total=len(found), visible=len(found) > MANY, note="")
    with bar:
        for row, path in enumerate(found):
            pixels[row] = _like(first, read_image(path, size=(width, height)), path, found[0]).transpose(2, 0, 1)
            bar.advance(task)
    return pixels, _labels(folder, found)


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """One PNG or JPEG as (H, W, C) uint8, C = 1 or 3.

    Args:
        path: of the file.
        size: (width, height) that it must have, known before it is unpacked.

    Raises:
        UserError: another kind of file, a damaged one, one that is neither grey nor RGB, or of another size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which are not read
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, image.size, size)
                if image.mode not in MODES:
                    raise UserError(
                        f"expected a grey or RGB image of 8 bits at {path}, got mode {image.mode}; convert it first"
                    )
                values = np.asarray(image.convert(MODES[image.mode]))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"expected images of at most {MAX_SIDE} pixels a side, got a larger one at {path}") from None
    except _DAMAGED as error:
        raise UserError(f"expected a PNG or JPEG image at {path}, got another or a damaged file ({error})") from None
    return values if values.ndim == 3 else values[..., None]


def _check_size(path: Path, got: tuple[int, int], expected: tuple[int, int] | None) -> None:
    if max(got) > MAX_SIDE:
        raise UserError(
            f"expected images of at most {MAX_SIDE} pixels a side, got {got[0]} x {got[1]} at {path}; resize it first"
        )
    if expected is not None and got != expected:
        raise UserError(
            f"expected images of one size, {expected[0]} x {expected[1]} as the first, got {got[0]} x {got[1]} "
            f"at {path}; resize or remove it"
        )


def _like(first: np.ndarray, values: np.ndarray, path: Path, first_path: Path) -> np.ndarray:
    if values.shape[-1] != first.shape[-1]:
        kinds = {1: "grey", 3: "RGB"}
        raise UserError(
            f"expected images of one kind, {kinds[first.shape[-1]]} as {first_path}, got {kinds[values.shape[-1]]} "
            f"at {path}; convert or remove it"
        )
    return values


def _labels(folder: Path, found: list[Path]) -> np.ndarray | None:
    path = folder / LABELS
    if not path.is_file():
        return None
    try:
        listed = json.loads(path.read_text())["labels"]
        classes = None if listed is None else dict(listed)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f'expected {{"labels": [["name.png", 0], ...]}} in {path}, got other content') from None
    if classes is None:
        return None
    names = [image.relative_to(folder).as_posix() for image in found]
    for name in names:
        label = classes.get(name)
        if type(label) is not int or not 0 <= label < 2**31:
            raise UserError(f"expected a class from 0 for {name} in {path}, got {label}; label every image or none")
    return np.array([classes[name] for name in names], np.int64)


def read_archive(path: Path) -> Arrays:
    """The arrays `images`, (n, H, W[, C]) uint8, and maybe `labels`, (n,) whole numbers, of an `.npz`.

    Raises:
        UserError: not such an archive, a damaged one, or arrays of another form.
    """
    try:
        with path.open("rb") as file:  # np.load would leave a damaged archive open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("one array without a name")
            if "images" not in archive:
                raise UserError(f"expected an array `images` in {path}, got {', '.join(archive.files) or 'nothing'}")
            images = archive["images"]
            labels = archive.get("labels")
    except (*_DAMAGED, zipfile.BadZipFile, NotImplementedError, RuntimeError, MemoryError) as error:
        raise UserError(
            f"expected a readable .npz of arrays at {path}, got another or a damaged file ({error})"
        ) from None
    return _pixels(images, path), None if labels is None else _classes(labels, len(images), path)


def _pixels(images: np.ndarray, path: Path) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[-1] in (1, 3)
    if not fits or images.shape[1] != images.shape[2] or not images.size:
        raise UserError(
            f"expected `images` of (n, H, W[, C]) uint8, square, grey or RGB, in {path}, got {images.shape} of "
            f"{images.dtype}; convert them first"
        )
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _classes(labels: np.ndarray, count: int, path: Path) -> np.ndarray:
    whole = np.issubdtype(labels.dtype, np.integer)
    if labels.shape != (count,) or not whole or labels.min() < 0 or labels.max() >= 2**31:
        raise UserError(
            f"expected `labels` of ({count},) classes from 0 in {path}, got {labels.shape} of {labels.dtype}"
        )
    return labels.astype(np.int64)

"""Images as PNG files, and many of them side by side."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from core.fitting import write_atomically


def tiled(pixels: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Images (n, C, H, W) uint8 in rows, as one (C, H', W') with white lines between them.

    Args:
        pixels: at least one image.
        columns: images in a row; by default as many as make the whole about square.
        gap: pixels between neighbours.
    """
    count, channels, height, width = pixels.shape
    across = min(count, columns or math.ceil(math.sqrt(count)))
    down = math.ceil(count / across)
    canvas = np.full((channels, down * (height + gap) - gap, across * (width + gap) - gap), 255, np.uint8)
    for index, image in enumerate(pixels):
        top, left = index // across * (height + gap), index % across * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


def enlarged(image: np.ndarray, side: int = 1024, most: int = 4) -> np.ndarray:
    """An image (C, H, W), its pixels repeated up to `most` times each way while its larger side stays below `side`."""
    factor = max(1, min(most, side // max(image.shape[1:])))
    return image.repeat(factor, 1).repeat(factor, 2)


def write_png(path: Path, image: np.ndarray) -> Path:
    """Write one image (C, H, W) uint8, grey or RGB, whole or not at all; returns the path."""
    values = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    write_atomically(path, lambda temporary: Image.fromarray(values).save(temporary, format="PNG"))
    return path

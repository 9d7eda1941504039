"""Images as PNG files, and many of them side by side, with words where they need them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.fitting import write_atomically

CELL, LEAST_CELL, WIDEST = 320, 96, 4096
"""Pixels of a side of a sheet's images, of one among many columns, and of the whole sheet."""
FONT, MOST_LINES, GAP = 16, 3, 8
"""Pixels of a sheet's letters, lines of a text, and pixels between neighbours."""


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


def sheet(pixels: np.ndarray, names: Sequence[str], captions: Sequence[str]) -> np.ndarray:
    """A table of images as one (3, H', W') uint8: a name above each column, a caption beneath each row.

    Images are brought to one size: small ones by repeating pixels, large ones with Lanczos' filter. Texts that are too
    long for three lines end in an ellipsis.

    Args:
        pixels: (rows, columns, C, H, W) uint8, grey or RGB.
        names: of the columns.
        captions: of the rows.

    Raises:
        ValueError: not a name for each column, or a caption for each row.
    """
    rows, columns = pixels.shape[:2]
    if (len(captions), len(names)) != (rows, columns):
        raise ValueError(
            f"expected {rows} captions and {columns} names, got {len(captions)} and {len(names)}; give one for each"
        )
    side = max(LEAST_CELL, min(CELL, WIDEST // columns - GAP))
    font, width = _font(), columns * (side + GAP) - GAP
    heads = [_wrapped(name, side, font) for name in names]
    texts = [_wrapped(caption, width, font) for caption in captions]
    line = math.ceil(1.3 * FONT)
    top = line * max(map(len, heads)) + GAP
    below = line * max(map(len, texts)) + 2 * GAP
    canvas = Image.new("RGB", (width, top + rows * (side + below)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, head in enumerate(heads):
        _write(draw, head, column * (side + GAP), 0, line, font)
    for row, text in enumerate(texts):
        y = top + row * (side + below)
        for column in range(columns):
            image = _cell(pixels[row, column], side)
            left, above = (side - image.width) // 2, (side - image.height) // 2
            canvas.paste(image, (column * (side + GAP) + left, y + above))
        _write(draw, text, 0, y + side + GAP // 2, line, font)
    return np.asarray(canvas).transpose(2, 0, 1)


def write_png(path: Path, image: np.ndarray) -> Path:
    """Write one image (C, H, W) uint8, grey or RGB, whole or not at all; returns the path."""
    values = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    write_atomically(path, lambda temporary: Image.fromarray(values).save(temporary, format="PNG"))
    return path


def _cell(pixels: np.ndarray, side: int) -> Image.Image:
    """An image (C, H, W) in colour, its larger side as near to `side` as its pixels can be repeated, or just that."""
    height, width = pixels.shape[1:]
    image = Image.fromarray(np.broadcast_to(pixels, (3, height, width)).transpose(1, 2, 0).copy())
    factor = side // max(height, width)
    if factor >= 1:
        return image.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    scale = side / max(height, width)
    return image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)


def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib: Latin, Greek, Cyrillic and more; a box stands for what it lacks."""
    from matplotlib import get_data_path  # half a second that pictures without words do not need

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FONT)


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Lines of at most `width` pixels, at most `MOST_LINES`; words that are longer than a line are cut."""
    letters = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    lines: list[str] = []
    while letters and len(lines) < MOST_LINES:
        last = len(lines) == MOST_LINES - 1
        fits = _fitting(letters, width, font)
        if fits < len(letters) and last:
            return [*lines, letters[: _fitting(letters, width, font, "…")].rstrip() + "…"]
        space = letters.rfind(" ", 1, fits + 1) if fits < len(letters) else -1
        cut = fits if space < 0 else space
        lines.append(letters[:cut].rstrip())
        letters = letters[cut:].lstrip()
    return lines or [""]


def _fitting(letters: str, width: int, font: ImageFont.FreeTypeFont, end: str = "") -> int:
    """How many of the first letters fit into the width with `end` after them; at least one."""
    low, high = 1, min(len(letters), width)  # no letter is narrower than a pixel
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(letters[:middle] + end) <= width else (low, middle - 1)
    return low


def _write(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, line: int, font: ImageFont.FreeTypeFont
) -> None:
    for index, text in enumerate(lines):
        draw.text((x, y + index * line), text, fill="black", font=font)

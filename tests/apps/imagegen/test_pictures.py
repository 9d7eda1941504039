"""Many images in one, and one in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.imagegen.pictures import tiled, write_png


def test_images_lie_in_rows_with_white_between_and_after() -> None:
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones((5, 3, 4, 6), np.uint8)
    sheet = tiled(pixels, columns=2, gap=3)
    assert sheet.shape == (3, 3 * 4 + 2 * 3, 2 * 6 + 3)
    for index in range(5):
        top, left = index // 2 * 7, index % 2 * 9
        assert (sheet[:, top : top + 4, left : left + 6] == index).all()
    assert (sheet[:, 4:7] == 255).all()
    assert (sheet[:, :, 6:9] == 255).all()
    assert (sheet[:, 14:, 9:] == 255).all()


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (9, 3, 3), (7, 3, 3), (2, 1, 2)])
def test_about_square_by_default(count: int, rows: int, columns: int) -> None:
    assert tiled(np.zeros((count, 1, 5, 5), np.uint8), gap=1).shape == (1, 6 * rows - 1, 6 * columns - 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_holds_the_pixels(tmp_path: Path, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (channels, 4, 7), dtype=np.uint8)
    path = write_png(tmp_path / "sub/a.png", image)
    with Image.open(path) as read:
        assert read.format == "PNG"
        values = np.asarray(read).reshape(4, 7, channels)
    assert np.array_equal(values.transpose(2, 0, 1), image)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]

"""Tables of images with words: every image is where it belongs, every text fits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from apps.imagegen.pictures import (
    CELL,
    GAP,
    MOST_LINES,
    WIDEST,
    _font,
    _wrapped,
    sheet,
    write_png,
)


def flat(rows: int, columns: int, channels: int, side: int) -> np.ndarray:
    """Images of one colour each, all different."""
    colours = np.arange(rows * columns * channels).reshape(rows, columns, channels) * 5 + 20
    return np.broadcast_to(colours[..., None, None], (rows, columns, channels, side, side)).astype(np.uint8)


def cells(table: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Rows and columns of a table that is searched for the images' colours, wherever they are: (rows, columns, 2)."""
    found = np.empty((*pixels.shape[:2], 2))
    for row, column in np.ndindex(*pixels.shape[:2]):
        colour = np.broadcast_to(pixels[row, column, :, 0, 0], (3,))
        where = np.argwhere((table == colour[:, None, None]).all(0))
        assert len(where) > 0
        assert len(where) == np.prod(np.ptp(where, axis=0) + 1)  # a full square and nothing else
        found[row, column] = where.mean(0)
    return found


@pytest.mark.parametrize(("channels", "side"), [(3, 8), (1, 5), (3, 700)])
def test_images_stand_in_their_row_and_column(channels: int, side: int) -> None:
    pixels = flat(3, 4, channels, side)
    table = sheet(pixels, [""] * 4, [""] * 3)  # greys of letters' edges would be taken for images
    assert table.dtype == np.uint8
    assert table.shape[0] == 3
    places = cells(table, pixels)
    assert np.ptp(places[:, :, 0], axis=1).max() == 0
    assert np.ptp(places[:, :, 1], axis=0).max() == 0
    assert (np.diff(places[:, 0, 0]) > CELL).all()
    assert np.allclose(np.diff(places[0, :, 1]), CELL + GAP)


def test_words_are_drawn_above_and_beneath() -> None:
    pixels = np.full((2, 3, 3, 8, 8), 128, np.uint8)
    silent, said = (
        sheet(pixels, names, texts) for names, texts in ((["", "", ""], ["", ""]), (["a", "", ""], ["", "b"]))
    )
    assert said.shape == silent.shape
    rows = np.flatnonzero((said != silent).any((0, 2)))
    columns = np.flatnonzero((said != silent).any((0, 1)))
    image = np.flatnonzero((silent == 128).all(0).any(1))
    assert rows.min() < image.min()  # the name
    assert rows.max() > image.max()  # the caption of the last row
    assert columns.max() < CELL
    assert (said[:, image] == silent[:, image]).mean() > 0.99  # no word on an image


def test_many_columns_stay_within_the_widest_sheet() -> None:
    table = sheet(flat(1, 23, 1, 9)[:, :, :1] % 200, [str(index) for index in range(23)], ["x"])
    assert table.shape[-1] <= WIDEST


def test_a_text_and_a_name_are_wanted_for_each() -> None:
    with pytest.raises(ValueError, match="expected 2 captions and 3 names, got 1 and 3"):
        sheet(flat(2, 3, 1, 4), ["a", "b", "c"], ["one"])


@given(st.text(max_size=400), st.integers(40, 900))
def test_any_text_fits_in_three_lines(text: str, width: int) -> None:
    font = _font()
    lines = _wrapped(text, width, font)
    assert 1 <= len(lines) <= MOST_LINES
    assert all(font.getlength(line) <= width for line in lines)
    kept = "".join(lines).replace(" ", "")
    words = "".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    assert kept == words or (kept.endswith("…") and words.startswith(kept[:-1]))


def test_lines_break_between_words() -> None:
    font = _font()
    width = math.ceil(font.getlength("a photograph of"))
    assert _wrapped("a photograph of a heron", width, font) == ["a photograph of", "a heron"]
    assert _wrapped("line\nbreaks\tand\x00 controls", 4000, font) == ["line breaks and controls"]
    assert _wrapped("", width, font) == [""]
    assert _wrapped("word " * 10_000, width, font)[-1].endswith("…")


def test_a_sheet_is_a_png(tmp_path: Path) -> None:
    table = sheet(flat(1, 2, 3, 8), ["a", "b"], ["c"])
    with Image.open(write_png(tmp_path / "s.png", table)) as image:
        assert np.array_equal(np.asarray(image).transpose(2, 0, 1), table)

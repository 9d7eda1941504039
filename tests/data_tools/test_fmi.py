from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_tools.archive import MISSING
from data_tools.cli import UserError
from data_tools.fmi import EARTH_RADIUS, Fmi, parse_pgm, rate_of_dbz
from data_tools.projection import spherical_stereographic

TIMES = np.array(["2016-02-29T23:55:00", "2016-03-01T00:00:00"], dtype="datetime64[s]")


def pgm(pixels: np.ndarray, *, between: bytes = b"\n", maximum: int = 255) -> bytes:
    rows, columns = pixels.shape
    return b"P5" + between + f"{columns}\t{rows} {maximum}\n".encode() + pixels.tobytes()


images = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)


@given(images, st.dictionaries(words, words, max_size=4), st.integers(1, 255))
def test_an_image_is_parsed_as_it_was_written(pixels: np.ndarray, comments: dict[str, str], maximum: int) -> None:
    text = "".join(f"#  {key} {value} \n" for key, value in comments.items())
    image = parse_pgm(pgm(pixels, between=b" \n" + text.encode(), maximum=maximum))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert (image.maximum, image.comments) == (maximum, comments)


@given(images, st.data())
def test_an_image_cut_short_is_refused(pixels: np.ndarray, data: st.DataObject) -> None:
    whole = pgm(pixels, between=b"\n# obstime 201603010000\n")
    kept = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match=r"it does not begin|breaks off|pixels, not"):
        parse_pgm(whole[:kept])


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_or_make_an_image(content: bytes) -> None:
    try:
        pixels = parse_pgm(b"P5 " + content).pixels
    except ValueError:
        return
    assert content.endswith(pixels.tobytes())
    assert str(pixels.shape[0]).encode() in content


@pytest.mark.parametrize("maximum", [0, 256, 65535])
def test_other_depths_are_refused(maximum: int) -> None:
    with pytest.raises(ValueError, match=f"greatest value is {maximum}"):
        parse_pgm(pgm(np.zeros((2, 3), np.uint8), maximum=maximum))


def test_rates_follow_the_relation() -> None:
    rates = np.array([0.2, 1.0, 10.0, 100.0])
    np.testing.assert_allclose(rate_of_dbz(10 * np.log10(223.0 * rates**1.53)), rates, rtol=1e-12)
    np.testing.assert_array_equal(rate_of_dbz(np.array([-32.0, 0.0, 7.5])), 0.0)
    assert 0.09 < float(rate_of_dbz(np.array(8.0))) < 0.1


def test_reflectivity_becomes_rate(tmp_path: Path, fmi_archive: Callable[..., list[Path]]) -> None:
    codes = np.arange(252).reshape(2, 18, 7)
    codes[0, 0, 0] = 255
    first, second = Fmi().read(fmi_archive(tmp_path, TIMES, codes))
    assert first.dtype == np.uint16
    assert first[0, 0] == MISSING
    assert (first.ravel()[1:80] == 0).all()  # to 7.5 dBZ
    dbz = (codes[1] - 64) / 2
    expected = np.minimum(np.rint(100 * (10 ** (dbz / 10) / 223) ** (1 / 1.53)), MISSING - 1)
    np.testing.assert_array_equal(second, expected)


def test_the_grid_is_that_of_the_header(tmp_path: Path, fmi_archive: Callable[..., list[Path]]) -> None:
    (path,) = fmi_archive(tmp_path, TIMES[:1], np.zeros((1, 11, 7)))
    grid = Fmi().grid(path)
    assert (grid.shape, grid.units) == ((11, 7), "m")
    assert grid.pixel_size == (999.674053, -999.62859)
    west, south = spherical_stereographic(18.6, 57.93, central_longitude=25.0, true_latitude=60.0, radius=EARTH_RADIUS)
    assert (grid.x0, grid.y0) == (west, south + 11 * 999.62859)


def test_the_projection_agrees_with_pyproj() -> None:
    pyproj = pytest.importorskip("pyproj")
    projection = pyproj.Proj(f"+proj=stere +lat_0=90 +lon_0=25 +lat_ts=60 +R={EARTH_RADIUS}")
    for longitude, latitude in [(18.6, 57.93), (34.903, 69.005), (25.0, 60.0), (-120.0, 80.0), (0.0, 90.0)]:
        own = spherical_stereographic(
            longitude, latitude, central_longitude=25.0, true_latitude=60.0, radius=EARTH_RADIUS
        )
        np.testing.assert_allclose(own, projection(longitude, latitude), atol=1e-6)


def break_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def make_text(path: Path) -> None:
    path.write_text("<html>404</html>")


def flip_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40:60] = bytes(20)
    path.write_bytes(data)


def lose_rows(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-20]))


@pytest.mark.parametrize("damage", [break_off, make_text, flip_bytes, lose_rows])
def test_damaged_files_are_told_in_words(
    tmp_path: Path, fmi_archive: Callable[..., list[Path]], damage: Callable[[Path], None]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, size=(2, 30, 20))
    paths = fmi_archive(tmp_path, TIMES, noise)
    damage(paths[1])
    frames = Fmi().read(paths)
    assert next(frames).shape == (30, 20)
    with pytest.raises(UserError, match="truncated or foreign") as caught:
        next(frames)
    assert paths[1].name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_time_or_product_is_refused(tmp_path: Path, fmi_archive: Callable[..., list[Path]]) -> None:
    (path,) = fmi_archive(tmp_path, TIMES[:1], np.zeros((1, 5, 4)), obstime="201602292350")
    with pytest.raises(UserError, match="obstime 2016-02-29T23:50:00 in the header"):
        next(Fmi().read([path]))
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content.replace(b"CorrectedReflectivity", b"RadialVelocity")))
    with pytest.raises(UserError, match="expected a reflectivity, got 'RadialVelocity'"):
        next(Fmi().read([path]))
    path.write_bytes(gzip.compress(content.replace(b"2350", b"2355").replace(b"# bottomleft", b"# topright")))
    with pytest.raises(UserError, match="lacks 'bottomleft'"):
        Fmi().grid(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"bottomleft 18.6", b"bottomleft 18.7", "x0 .* like the first, got"),
        (b"centrallongitude 25", b"centrallongitude 24", "straight_vertical_longitude_from_pole 25.0 .* got 24.0"),
        (b"metersperpixel_x 999.67", b"metersperpixel_x 989.67", "pixel width 999.674053 .* got 989.674053"),
        (b"centrallatitude 90", b"centrallatitude 60", "north polar stereographic grid, got stereographic at 60.0"),
        (b"bottomleft", b"topright", "lacks 'bottomleft'"),
    ],
)
def test_a_file_on_another_grid_is_refused(
    tmp_path: Path, fmi_archive: Callable[..., list[Path]], old: bytes, new: bytes, words: str
) -> None:
    paths = fmi_archive(tmp_path, TIMES, np.zeros((2, 5, 4)))
    content = gzip.decompress(paths[1].read_bytes())
    assert old in content
    paths[1].write_bytes(gzip.compress(content.replace(old, new)))
    frames = Fmi().read(paths)
    assert next(frames).shape == (5, 4)
    with pytest.raises(UserError, match=words) as caught:
        next(frames)
    assert paths[1].name in str(caught.value)


def test_the_real_archive(shared: Path) -> None:
    path = shared / "radar" / "fmi" / "20170509" / "201705091045_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz"
    (frame,) = Fmi().read([path])
    grid = Fmi().grid(path)
    assert frame.shape == grid.shape == (1226, 760)
    raw = np.frombuffer(gzip.decompress(path.read_bytes())[-1226 * 760 :], np.uint8).reshape(1226, 760)
    np.testing.assert_array_equal(frame == MISSING, raw == 255)
    np.testing.assert_array_equal((frame == 0), raw < 80)
    # the header names the upper right corner too: pixel sizes, sphere and lower left corner must lead there
    right, top = spherical_stereographic(
        34.903, 69.005, central_longitude=25.0, true_latitude=60.0, radius=EARTH_RADIUS
    )
    assert abs(grid.x0 + 760 * grid.pixel_size[0] - right) < 100.0
    assert abs(grid.y0 - top) < 100.0

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_tools import mrms
from data_tools.archive import MISSING
from data_tools.cli import UserError
from data_tools.mrms import Mrms

TIMES = np.array(["2019-06-10T23:58:00", "2019-06-11T00:00:00", "2019-06-11T00:02:00"], dtype="datetime64[s]")


def make_rates(count: int) -> np.ndarray:
    rates = np.random.default_rng(0).integers(0, 900, size=(count, 13, 17)) / 10.0
    rates[:, 2, 3], rates[:, 4, 5] = -3.0, -1.0
    return rates


def expected_codes(rates: np.ndarray) -> np.ndarray:
    return np.where(rates < 0, MISSING, np.rint(100 * rates)).astype(np.uint16)


def test_rates_are_read_in_the_order_asked_for(tmp_path: Path, mrms_archive: Callable[..., list[Path]]) -> None:
    rates = make_rates(3)
    paths = mrms_archive(tmp_path, TIMES, rates)
    for order in ([0, 1, 2], [2, 0]):
        frames = list(Mrms().read([paths[i] for i in order]))
        assert frames[0].dtype == np.uint16
        np.testing.assert_array_equal(frames, expected_codes(rates[order]))


def test_the_grid_is_that_of_the_header(tmp_path: Path, mrms_archive: Callable[..., list[Path]]) -> None:
    (path,) = mrms_archive(tmp_path, TIMES[:1], make_rates(1))
    grid = Mrms().grid(path)
    assert (grid.shape, grid.x0, grid.y0, grid.units) == ((13, 17), -130.0, 55.0, "degrees")
    assert grid.pixel_size == (0.01, -0.01)
    assert grid.crs["grid_mapping_name"] == "latitude_longitude"


def break_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def make_text(path: Path) -> None:
    path.write_text("<html>404</html>")


def scramble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[16:-4] = b"\x55" * (len(data) - 20)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [break_off, make_text, scramble])
def test_damaged_files_are_told_in_words(
    tmp_path: Path, mrms_archive: Callable[..., list[Path]], damage: Callable[[Path], None]
) -> None:
    paths = mrms_archive(tmp_path, TIMES, make_rates(3))
    damage(paths[1])
    frames = Mrms().read(paths)
    assert next(frames).shape == (13, 17)
    with pytest.raises(UserError, match="truncated or foreign") as caught:
        next(frames)
    assert paths[1].name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_product_or_time_is_refused(tmp_path: Path, mrms_archive: Callable[..., list[Path]]) -> None:
    (path,) = mrms_archive(tmp_path / "hail", TIMES[:1], make_rates(1), parameter=28)
    with pytest.raises(UserError, match=r"got parameter \(209, 6, 28\)"):
        next(Mrms().read([path]))
    (path,) = mrms_archive(tmp_path / "rain", TIMES[:1], make_rates(1))
    moved = path.rename(path.with_name("PrecipRate_00.00_20190610-235600.grib2"))
    with pytest.raises(UserError, match="got 20190610-235800 in the header"):
        next(Mrms().read([moved]))


def test_a_worker_that_dies_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mrms, "find_spec", lambda name: name)
    monkeypatch.setattr(mrms.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="the GRIB decoder died"):
        next(Mrms().read([tmp_path / "a.grib2"]))


def test_without_eccodes_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mrms, "find_spec", lambda name: None)
    for call in (lambda: Mrms().grid(tmp_path / "a.grib2"), lambda: next(Mrms().read([tmp_path / "a.grib2"]))):
        with pytest.raises(UserError, match=r"pip install 'spanlift\[geo\]'"):
            call()


def test_a_file_on_another_grid_is_refused(tmp_path: Path, mrms_archive: Callable[..., list[Path]]) -> None:
    paths = mrms_archive(tmp_path, TIMES, make_rates(3))
    script = (
        "import sys, eccodes; file = open(sys.argv[1], 'rb'); message = eccodes.codes_grib_new_from_file(file); "
        "eccodes.codes_set(message, 'latitudeOfFirstGridPointInDegrees', 44.995); "
        "eccodes.codes_set(message, 'latitudeOfLastGridPointInDegrees', 44.875); "
        "eccodes.codes_write(message, open(sys.argv[1] + '.new', 'wb'))"
    )
    subprocess.run([sys.executable, "-c", script, str(paths[2])], check=True, capture_output=True)
    paths[2].with_name(paths[2].name + ".new").replace(paths[2])
    frames = Mrms().read(paths)
    assert next(frames).shape == next(frames).shape == (13, 17)
    with pytest.raises(UserError, match=rf"y0 55\.0 like the first, got 45\.0 in {paths[2].name}"):
        next(frames)


def test_eccodes_stays_in_the_workers(tmp_path: Path, mrms_archive: Callable[..., list[Path]]) -> None:
    (path,) = mrms_archive(tmp_path, TIMES[:1], make_rates(1))
    script = (
        "import sys; from pathlib import Path; from data_tools.mrms import Mrms; "
        "next(Mrms().read([Path(sys.argv[1])])); print('eccodes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_real_archive(shared: Path) -> None:
    path = shared / "radar" / "mrms" / "PrecipRate_00.00_20190610-000000.grib2"
    if mrms.find_spec("eccodes") is None:
        pytest.skip("no eccodes")
    (frame,) = Mrms().read([path])
    assert frame.shape == (3500, 7000)
    seen = frame[frame != MISSING]
    assert 1.0 - seen.size / frame.size == pytest.approx(0.357938, abs=1e-6)
    assert int(seen.max()) == 14880
    assert (frame.astype(np.int64) % 10 == 0)[frame != MISSING].all()

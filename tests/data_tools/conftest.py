"""Small radar archives in the formats of their publishers, written from scratch."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

ArchiveWriter = Callable[..., list[Path]]

_GRIB_SCRIPT = """
import sys
import eccodes, numpy as np
archive = np.load(sys.argv[1])
for name, stamp, field in zip(archive["names"], archive["stamps"], archive["fields"]):
    rows, columns = field.shape
    message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    keys = {
        "centre": 161, "discipline": 209, "parameterCategory": 6, "parameterNumber": int(sys.argv[2]),
        "dataDate": int(stamp[:8]), "hour": int(stamp[8:10]), "minute": int(stamp[10:12]), "second": int(stamp[12:]),
        "Ni": columns, "Nj": rows, "iScansNegatively": 0, "jScansPositively": 0,
        "latitudeOfFirstGridPointInDegrees": 54.995, "longitudeOfFirstGridPointInDegrees": 230.005,
        "latitudeOfLastGridPointInDegrees": 54.995 - 0.01 * (rows - 1),
        "longitudeOfLastGridPointInDegrees": 230.005 + 0.01 * (columns - 1),
        "iDirectionIncrementInDegrees": 0.01, "jDirectionIncrementInDegrees": 0.01,
        "bitsPerValue": 16, "decimalScaleFactor": 1,
    }
    for key, value in keys.items():
        eccodes.codes_set(message, key, value)
    eccodes.codes_set_values(message, field.astype(np.float64).ravel())
    with open(name, "wb") as file:
        eccodes.codes_write(message, file)
    eccodes.codes_release(message)
"""


def _digits(time: np.datetime64) -> str:
    return "".join(mark for mark in str(time.astype("datetime64[s]")) if mark.isdigit())


@pytest.fixture(scope="session")
def knmi_archive() -> ArchiveWriter:
    """`knmi_archive(folder, times, codes)`: codes are uint16 pixel values (0.01 mm in 5 minutes, 65535 missing)."""

    def write(folder: Path, times: np.ndarray, codes: np.ndarray, parameter: str = "PRECIPITATION") -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for time, pixels in zip(times, codes, strict=True):
            path = folder / f"RAD_NL25_RAP_5min_{_digits(time)[:12]}.h5"
            with h5py.File(path, "w") as file:
                geographic = file.create_group("geographic").attrs
                geographic["geo_number_rows"], geographic["geo_number_columns"] = [pixels.shape[0]], [pixels.shape[1]]
                geographic["geo_pixel_size_x"], geographic["geo_pixel_size_y"] = np.float32([1.0]), np.float32([-1.0])
                geographic["geo_column_offset"], geographic["geo_row_offset"] = np.float32([3]), np.float32([3650])
                projection = file.create_group("geographic/map_projection").attrs
                proj4 = "+proj=stere +lat_0=90 +lon_0=0.0 +lat_ts=60.0 +a=6378.137 +b=6356.752 +x_0=0 +y_0=0"
                projection["projection_proj4_params"] = np.bytes_(proj4)
                file.create_group("image1").attrs["image_geo_parameter"] = np.bytes_(f"ACCUMULATED_{parameter}_[MM]")
                file.create_dataset("image1/image_data", data=pixels.astype(np.uint16), compression="gzip")
                calibration = file.create_group("image1/calibration").attrs
                calibration["calibration_formulas"] = np.bytes_("GEO=0.01*PV+0.0")
                calibration["calibration_missing_data"] = calibration["calibration_out_of_image"] = [65535]
                overview = file.create_group("overview").attrs
                begin = time - np.timedelta64(300, "s")
                for key, moment in (("start", begin.item()), ("end", time.item())):
                    month = "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC"[3 * moment.month - 3 : 3 * moment.month]
                    text = f"{moment.day:02d}-{month}-{moment:%Y;%H:%M:%S}.000"
                    overview[f"product_datetime_{key}"] = np.bytes_([text])
            paths.append(path)
        return paths

    return write


@pytest.fixture(scope="session")
def fmi_archive() -> ArchiveWriter:
    """`fmi_archive(folder, times, codes)`: codes are uint8 pixel values (dBZ = (PV - 64) / 2, 255 missing)."""

    def write(folder: Path, times: np.ndarray, codes: np.ndarray, obstime: str = "") -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for time, pixels in zip(times, codes, strict=True):
            stamp = _digits(time)[:12]
            comments = (
                f"# obstime {obstime or stamp}\n# param CorrectedReflectivity\n# metersperpixel_x 999.674053\n"
                "# metersperpixel_y 999.62859\n# projection radar {\n# type stereographic\n# centrallongitude 25\n"
                "# centrallatitude 90\n# truelatitude 60\n# bottomleft 18.600000 57.930000\n# }\n"
            )
            header = f"P5\n{comments}{pixels.shape[1]} {pixels.shape[0]}\n255\n"
            path = folder / f"{stamp}_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz"
            path.write_bytes(gzip.compress(header.encode() + pixels.astype(np.uint8).tobytes()))
            paths.append(path)
        return paths

    return write


@pytest.fixture(scope="session")
def mrms_archive(tmp_path_factory: pytest.TempPathFactory) -> ArchiveWriter:
    """`mrms_archive(folder, times, rates)`: rates in mm/h, -3 where no radar sees."""
    if find_spec("eccodes") is None:
        pytest.skip("no eccodes to write GRIB with")

    def write(folder: Path, times: np.ndarray, rates: np.ndarray, parameter: int = 1) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        stamps = [_digits(time) for time in times]
        paths = [folder / f"PrecipRate_00.00_{stamp[:8]}-{stamp[8:]}.grib2" for stamp in stamps]
        bundle = tmp_path_factory.mktemp("grib") / "fields.npz"
        np.savez(bundle, names=[str(path) for path in paths], stamps=stamps, fields=rates)
        subprocess.run(
            [sys.executable, "-c", _GRIB_SCRIPT, str(bundle), str(parameter)], check=True, capture_output=True
        )
        return paths

    return write


@pytest.fixture(scope="session")
def sevir_archive() -> Callable[..., dict[str, np.ndarray]]:
    """`sevir_archive(folder, events=13, side=24, frames=49)` writes SEVIR's layout; returns (T, H, W) codes by id.

    Events alternate between reported storms and random ones, and between files of 2018 (train) and 2019 (test). Their
    first file has nothing missing, the second has pixels of code 255.
    """

    def write(folder: Path, events: int = 13, side: int = 24, frames: int = 49) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(events)
        half = (events + 1) // 2
        offsets = ":".join(str(minute) for minute in range(-118, 123, 5))
        lines = ["id,file_name,file_index,img_type,time_utc,minute_offsets,pct_missing,llcrnrlat,llcrnrlon"]
        content = {}
        for year, numbers in ((2018, range(half)), (2019, range(half, events))):
            name = f"vil/{year}/SEVIR_VIL_STORMEVENTS_{year}_0701_1231.h5"
            ids = [f"{'RS'[number % 2]}{number}" for number in numbers]
            codes = generator.integers(0, 255 + (year == 2019), (len(ids), side, side, frames), dtype=np.uint8)
            path = folder / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file["vil"], file["id"] = codes, np.array(ids, dtype="S7")
            for index, event in enumerate(ids):
                place = f"{year}-07-{1 + index % 28:02d} 12:02:00,{offsets},0,{30 + 0.1 * index},-95.5"
                lines.append(f"{event},{name},{index},vil,{place}")
                content[event] = np.moveaxis(codes[index], -1, 0)
        (folder / "CATALOG.csv").write_text("\n".join(lines) + "\n")
        return content

    return write

"""Throughput and memory of a conversion of SEVIR.

The archive is SPANLIFT_CONVERT_MB of HDF5 (default 60; 20000 is 20 GB, in the temporary folder, and takes its time to
make). With --benchmark-json the figures are in `extra_info`: MB/s of HDF5, and the most memory of any process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from data_tools.store import EventStore

ROOT = Path(__file__).resolve().parents[2]
SIDE, FRAMES = 384, 49
EVENT = SIDE * SIDE * FRAMES
SIZE = float(os.environ.get("SPANLIFT_CONVERT_MB", "60")) * 1e6
LIMIT = 2e9  # bytes a process


def storm(seed: int) -> np.ndarray:
    """(H, W, T) codes: cells on a dry ground, as compressible as radar (about three quarters dry, grainy within)."""
    generator = np.random.default_rng(seed)
    smooth = gaussian_filter(generator.standard_normal((SIDE // 4, SIDE // 4)), 4)
    wet = np.kron(smooth / smooth.std() - 0.6, np.ones((4, 4)))[..., None] + np.linspace(-0.2, 0.2, FRAMES)
    codes = wet * 90 + generator.integers(0, 12, (SIDE, SIDE, 1))
    return np.where(wet > 0, codes, 0).clip(0, 254).astype(np.uint8)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of `SIZE` bytes in one file, written event by event."""
    folder = tmp_path_factory.mktemp("sevir")
    count = max(2, round(SIZE / EVENT))
    name = "vil/2018/SEVIR_VIL_STORMEVENTS_2018_0101_0630.h5"
    (folder / "data" / name).parent.mkdir(parents=True)
    lines = ["id,file_name,file_index,img_type,time_utc,pct_missing,llcrnrlat,llcrnrlon"]
    made = [storm(seed) for seed in range(4)]
    with h5py.File(folder / "data" / name, "w") as file:
        codes = file.create_dataset("vil", (count, SIDE, SIDE, FRAMES), dtype=np.uint8)
        file["id"] = np.array([f"S{index:06d}" for index in range(count)], dtype="S7")
        for index in range(count):
            codes[index] = np.roll(made[index % 4], 7 * index, axis=index % 2)
            lines.append(f"S{index:06d},{name},{index},vil,2018-05-01 12:00:00,0,35,-97")
    (folder / "CATALOG.csv").write_text("\n".join(lines) + "\n")
    return folder


def peaks(pids: set[int]) -> dict[int, int]:
    """Greatest resident memory so far of each living process, in bytes."""
    found = {}
    for pid in pids:
        try:
            match = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        except OSError:
            continue
        if match:
            found[pid] = int(match.group(1)) * 1024
    return found


def family(pid: int) -> set[int]:
    """A process and all that it started."""
    children = set()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children |= {int(text) for text in tasks.read_text().split()}
        except OSError:
            continue
    return {pid}.union(*(family(child) for child in children))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc to read memory from")
@pytest.mark.parametrize("workers", [0, 2])
def test_conversion(benchmark, archive: Path, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out.zarr"
    most: dict[int, int] = {}

    def convert() -> None:
        command = [sys.executable, "-m", "data_tools.convert", str(archive), str(out), "--workers", str(workers)]
        with subprocess.Popen([*command, "--block", "4"], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                for pid, peak in peaks(family(process.pid)).items():
                    most[pid] = max(peak, most.get(pid, 0))
                time.sleep(0.2)
        assert process.returncode == 0

    begin = time.perf_counter()
    benchmark.pedantic(convert, rounds=1)
    seconds = time.perf_counter() - begin
    store = EventStore.open(out)
    with h5py.File(next((archive / "data").rglob("*.h5")), "r") as file:
        last = len(store) - 1
        np.testing.assert_array_equal(store.read_codes(last), np.moveaxis(file["vil"][last], -1, 0))  # type: ignore[index]
    size = len(store) * EVENT
    packed = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    benchmark.extra_info.update(
        mb_per_second=size / 1e6 / seconds, peak_mb=max(most.values()) / 1e6, ratio=size / packed, events=len(store)
    )
    print(benchmark.extra_info)
    assert max(most.values()) < LIMIT
    assert len(most) > workers

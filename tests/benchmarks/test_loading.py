"""What a 13-frame sample costs out of our store, and out of SEVIR-style HDF5 as the published loaders read it.

All on the same synthetic events in one run, files in the page cache, one process without workers. The CPU time is what
counts, since training has the cores busy. Three floors and ceilings: `contiguous` HDF5, which only copies (5 times the
disk), `gzip` HDF5 in chunks of an event, and `limit`, the decompression of the needed chunks of our store alone.

    pytest tests/benchmarks/test_loading.py --benchmark-enable -s

SPANLIFT_BENCH_EVENTS events of SEVIR (default 1; 4 or more for a figure to quote) and six times as many of SEVIR-LR.
They are made to be as wet and as hard to pack as the real events at hand: a third to a half of the pixels dry, packed
not quite two fold by zstd.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import pytest
import torch
from numcodecs import blosc
from torch import Tensor

from data_tools.layout import create_group, create_values, write_beside
from data_tools.loading import SevirWindows
from data_tools.quantities import VIL
from data_tools.schema import Event
from data_tools.sevir import CRS
from data_tools.split_files import Part, Window
from data_tools.store import EventStore

EVENTS = int(os.environ.get("SPANLIFT_BENCH_EVENTS", "1"))
FRAMES, STRIDE = 13, 6
SIZES = {"sevirlr": (6 * EVENTS, 25, 128, 25), "sevir": (EVENTS, 49, 384, 7)}
"""(events, frames, pixels a side, frames of a chunk of our store)."""


def make_event(frames: int, side: int, seed: int) -> np.ndarray:
    """(frames, side, side) uint8: a drifting, changing field with a power spectrum of k^-3.2, rough in its wet part."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    wavenumber = np.hypot(rows, columns)
    amplitude = np.where(wavenumber > 0, wavenumber, 1.0) ** -1.6
    drift = np.exp(-2j * np.pi * (2 * rows + 3 * columns))
    spectrum, codes = 0.0, np.empty((frames, side, side), np.uint8)
    for moment in range(frames):
        fresh = np.fft.rfft2(rng.standard_normal((side, side))) * amplitude
        spectrum = fresh if moment == 0 else 0.97 * drift * spectrum + 0.24 * fresh
        field = np.fft.irfft2(spectrum, s=(side, side))
        wet = 60.0 * ((field - field.mean()) / field.std() + 0.25)
        codes[moment] = np.where(wet > 0, wet + rng.normal(0, 5, wet.shape), 0).clip(0, 254)
    return codes


@dataclass(frozen=True)
class Archive:
    """The same events in every form.

    Attributes:
        store: ours.
        hdf5: `contiguous` and `gzip`, (N, H, W, T).
        part: the windows in a shuffled order.
    """

    store: EventStore
    hdf5: Path
    part: Part

    def published(self, name: str) -> Callable[[int], Tensor]:
        """The published loaders' way: the whole event as float32, then the window, scaled, laid out as (T, H, W, C)."""
        # no chunk cache: it holds 8 MB, most of a small archive, and as good as nothing of the real one
        file = h5py.File(self.hdf5, "r", rdcc_nbytes=0)
        places = {event: index for index, event in enumerate(self.store.ids)}
        data = cast(h5py.Dataset, file[name])

        def read(item: int) -> Tensor:
            event, start = self.part.windows[item]
            slab = data[places[event] : places[event] + 1].astype(np.float32)
            window = torch.from_numpy(slab[..., start : start + FRAMES])
            return ((1 / 255) * (window + 0))[0].permute(2, 0, 1).unsqueeze(-1).contiguous()

        return read

    def limit(self, item: int) -> None:
        """Read and decompress the chunks that hold the window, and nothing else."""
        event, start = self.part.windows[item]
        fields, index = self.store.fields, self.store.ids.index(event)
        for number in range(start // fields.chunks[1], (start + FRAMES - 1) // fields.chunks[1] + 1):
            data = (self.store.path / f"vil/c/{index}/{number}/0/0").read_bytes()
            blosc.decompress(data[:-4])  # the checksum follows

    def readers(self) -> dict[str, Callable[[int], object]]:
        ours = SevirWindows(self.store, self.part)
        names = ("contiguous", "gzip")
        return {"ours": ours.__getitem__, **{name: self.published(name) for name in names}, "limit": self.limit}


@pytest.fixture(scope="module", params=SIZES)
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    count, frames, side, chunk_frames = SIZES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    codes = np.stack([make_event(frames, side, seed) for seed in range(count)])
    interleaved = np.ascontiguousarray(np.moveaxis(codes, 1, -1))
    with h5py.File(folder / "events.h5", "w") as file:
        file["contiguous"] = interleaved
        chunk = (1, *interleaved.shape[1:])
        file.create_dataset("gzip", data=interleaved, chunks=chunk, compression="gzip", compression_opts=4)
    times = np.datetime64("2019-05-01T00:00:00") + np.arange(frames) * np.timedelta64(300, "s")
    rows = [Event(f"R{seed:03d}", times, np.empty(0), "train", "made", 0.0, 0.0) for seed in range(count)]
    group = create_group(folder / "events.zarr", VIL, 300.0, {"source": "made", "licence": "CC0"})
    create_values(group, VIL, codes.shape, 300.0, chunk_frames)[...] = codes
    write_beside(group, rows, codes.shape, CRS, (1000.0, 1000.0), "m")
    windows = [Window(row.id, start) for row in rows for start in range(0, frames - FRAMES + 1, STRIDE)]
    order = np.random.default_rng(0).permutation(len(windows))
    part = Part(frames, FRAMES, tuple(windows[k] for k in order))
    return Archive(EventStore.open(folder / "events.zarr"), folder / "events.h5", part)


def cpu_ms(readers: dict[str, Callable[[int], object]], items: int, rounds: int) -> dict[str, float]:
    """CPU milliseconds a sample, the best of several rounds in which all take their turns."""
    best = dict.fromkeys(readers, float("inf"))
    for _ in range(rounds):
        for name, read in readers.items():
            begin = time.process_time()
            for item in range(items):
                read(item)
            best[name] = min(best[name], 1000 * (time.process_time() - begin) / items)
    return best


def test_a_sample_costs_half_of_gzip_hdf5(benchmark, archive: Archive) -> None:
    readers = archive.readers()
    for item in range(0, len(archive.part), 5):
        assert torch.equal(cast(Tensor, readers["ours"](item)), cast(Tensor, readers["gzip"](item)))
    benchmark(readers["ours"], 0)
    if benchmark.disabled:  # nothing is held to a clock in an ordinary run
        return
    costs = cpu_ms(readers, len(archive.part), rounds=3)
    packed = sum(path.stat().st_size for path in (archive.store.path / "vil").rglob("*") if path.is_file())
    fields = f"{archive.store.shape}, {np.prod(archive.store.shape) / packed:.2f} fold"
    print(f"\n{fields}: " + ", ".join(f"{name} {cost:.2f} ms" for name, cost in costs.items()))
    print(f"ours: {costs['gzip'] / costs['ours']:.1f} x gzip, {costs['ours'] / costs['limit']:.2f} of the limit")
    assert costs["ours"] < costs["gzip"] / 2
    assert costs["ours"] < 1.5 * costs["limit"]


@pytest.mark.parametrize("name", ["ours", "contiguous", "gzip", "limit"])
def test_samples_a_second(benchmark, archive: Archive, name: str) -> None:
    """Wall time of one pass over the windows; `samples_per_second` and `cpu_ms` are among the extra figures."""
    read, items = archive.readers()[name], len(archive.part)

    def one_pass() -> int:
        for item in range(items):
            read(item)
        return items

    assert benchmark(one_pass) == items
    if benchmark.enabled:
        benchmark.extra_info["samples_per_second"] = items / benchmark.stats.stats.mean
        benchmark.extra_info["cpu_ms"] = cpu_ms({name: read}, items, rounds=2)[name]

"""Chunks decoded without zarr, against zarr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from data_tools.chunks import compressors, decodable, decode
from data_tools.quantities import RAINFALL_RATE, VIL
from data_tools.schema import Event
from data_tools.store import EventStore, write_store


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_what_zarr_encodes_is_decoded(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, (1, 5, 6, 7)).astype(dtype)
    array = zarr.create_array(
        str(tmp_path / "a"), shape=values.shape, chunks=(1, 3, 6, 7), dtype=dtype, compressors=compressors(dtype)
    )
    array[...] = values
    assert decodable(array)
    first = (tmp_path / "a" / "c" / "0" / "0" / "0" / "0").read_bytes()
    np.testing.assert_array_equal(decode(first, dtype, (3, 6, 7)), values[0, :3])
    last = (tmp_path / "a" / "c" / "0" / "1" / "0" / "0").read_bytes()
    np.testing.assert_array_equal(decode(last, dtype, (3, 6, 7))[:2], values[0, 3:])
    with pytest.raises(ValueError):
        decode(last, dtype, (2, 6, 7))
    for place in range(0, len(first), 11):
        bad = bytearray(first)
        bad[place] ^= 16
        with pytest.raises(ValueError, match="expected checksum"):
            decode(bytes(bad), dtype, (3, 6, 7))
    for size in range(5):
        with pytest.raises((ValueError, RuntimeError)):
            decode(first[:size], dtype, (3, 6, 7))


@pytest.mark.parametrize("chunk_frames", [1, 4, 5, 11])
@pytest.mark.parametrize("quantity", [VIL, RAINFALL_RATE], ids=lambda quantity: quantity.name)
@pytest.mark.parametrize("codecs", [None, (ZstdCodec(),), (BloscCodec(),)])
def test_a_store_reads_the_chunks_it_needs(tmp_path: Path, chunk_frames: int, quantity, codecs) -> None:
    """In chunks of any length, and of codecs that another program chose."""
    times = np.datetime64("2020-01-01", "s") + np.arange(11) * np.timedelta64(300, "s")
    events = [Event(f"e{i}", times, np.zeros((11, 3, 4), np.float32), "train", "s", 0.0, 0.0) for i in range(2)]
    attrs = {"source": "s", "licence": "none"}
    write_store(tmp_path / "a", events, quantity=quantity, time_step_seconds=300.0, crs={}, attrs=attrs)
    codes = np.random.default_rng(2).integers(0, 256, (2, 11, 3, 4)).astype(quantity.storage[0])
    group = zarr.open_group(str(tmp_path / "a"), mode="r+")
    former = dict(group[quantity.name].attrs)
    array = group.create_array(
        quantity.name,
        shape=codes.shape,
        chunks=(1, chunk_frames, 3, 4),
        dtype=codes.dtype,
        fill_value=quantity.storage[2],
        compressors=compressors(quantity.storage[0]) if codecs is None else codecs,
        dimension_names=("event", "time", "y", "x"),
        attributes=former,
        overwrite=True,
    )
    array[...] = codes
    assert decodable(array) == (codecs is None)
    store = EventStore.open(tmp_path / "a")
    for frames in (slice(None), slice(3, 9), slice(-2, None), slice(1, 10, 3), slice(0, 11, 6), slice(4, 4)):
        for index in (0, 1, -1):
            np.testing.assert_array_equal(store.read_codes(index, frames), codes[index, frames])
            assert store.read_codes(index, frames).dtype == codes.dtype
    for number in range(1, -(-11 // chunk_frames)):  # all but the first chunk go: it alone is needed
        (tmp_path / "a" / quantity.name / "c" / "1" / str(number) / "0" / "0").unlink()
    np.testing.assert_array_equal(store.read_codes(1, slice(0, min(chunk_frames, 11))), codes[1, :chunk_frames])
    with pytest.raises(ValueError, match="in their order"):
        store.read_codes(0, slice(9, 2, -1))

"""Windows: what is read, what is refused, and that every draw depends on its key alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.nowcast.data import dihedral, draw_frames, load_windows, member_seed, seen
from data_tools.cli import UserError
from data_tools.quantities import QUANTITIES
from data_tools.store import Event, EventStore, write_store

START, STEPS = np.datetime64("2020-01-01T00:00:00", "s"), np.arange(13) * np.timedelta64(300, "s")


def test_windows_hold_the_stores_values(tiny_store: Path) -> None:
    windows = load_windows(str(tiny_store), "val", 13)
    store = EventStore.open(tiny_store)
    assert windows.ids == ("val-0", "val-1")
    np.testing.assert_array_equal(windows.frames[1], store.read(store.indices("val")[1]))
    assert np.isnan(windows.frames[:, :, 0, 0]).all()
    assert windows.times[0] == str(store.times(store.indices("val")[0])[0])
    assert list(windows.time_step_minutes) == [5.0, 5.0]


def test_the_archive_says_which_way_is_north(tmp_path: Path, tiny_store: Path) -> None:
    """Of each store: one quantity comes in both directions."""
    events = [Event("up", START + STEPS, np.zeros((13, 32, 32), np.float32), "test", "made", 0.0, 0.0)]
    about = {"source": "made", "licence": "CC0"}
    write_store(
        tmp_path / "s.zarr", events, quantity=QUANTITIES["rainfall_rate"], time_step_seconds=300, crs={}, attrs=about,
        pixel_size=(1000.0, 1000.0),
    )  # fmt: skip
    assert load_windows(f"{tiny_store},{tmp_path / 's.zarr'}", "test", 13).north_up == (True, True, True, False)
    assert load_windows("storms", "test", 3, events=2).north_up == (True, True)


def test_long_events_are_cut_into_windows_without_overlap(tiny_store: Path) -> None:
    windows = load_windows(str(tiny_store), "test", 6)
    assert len(windows) == 6
    assert windows.ids[:2] == ("test-0+0", "test-0+6")
    whole = load_windows(str(tiny_store), "test", 13)
    np.testing.assert_array_equal(windows.frames[1], whole.frames[0, 6:12])


def test_splits_of_synthetic_storms_share_nothing() -> None:
    train = load_windows("storms", "train", 3, events=2)
    test = load_windows("storms", "test", 3, events=2)
    assert not set(train.ids) & set(test.ids)
    assert not np.array_equal(train.frames, test.frames)
    again = load_windows("storms", "train", 3, events=2)
    assert again.fingerprint == train.fingerprint != test.fingerprint


def test_fewer_events_are_spread_over_the_store(tiny_store: Path) -> None:
    assert load_windows(str(tiny_store), "train", 13, events=3).ids == ("train-0", "train-2", "train-4")


@pytest.mark.parametrize(
    ("data", "split", "length", "message"),
    [
        ("{missing}", "test", 13, "is not there"),
        ("{store}", "test", 14, "at least 14 frames"),
        ("{store},{store}", "test", 13, "event twice"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tiny_store: Path, tmp_path: Path, data: str, split: str, length: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_windows(data.format(store=tiny_store, missing=tmp_path / "no.zarr"), split, length)


def test_stores_of_two_quantities_do_not_mix(
    tiny_store: Path, tmp_path: Path, store_factory: Callable[..., Path]
) -> None:
    other = store_factory(tmp_path / "vil.zarr", {"test": 1}, "vil")
    with pytest.raises(UserError, match="one quantity"):
        load_windows(f"{tiny_store},{other}", "test", 13)


def test_the_eight_symmetries_are_different_and_form_a_group() -> None:
    frame = torch.arange(9.0).view(1, 3, 3)
    images = {tuple(dihedral(frame, k).flatten().tolist()) for k in range(8)}
    assert len(images) == 8
    composed = {tuple(dihedral(dihedral(frame, a), b).flatten().tolist()) for a in range(8) for b in range(8)}
    assert composed == images


def test_draws_depend_on_their_key_alone(tiny_store: Path) -> None:
    windows = load_windows(str(tiny_store), "train", 13)
    one = draw_frames(windows, 4, (3, 7), crop=16)
    assert one.shape == (4, 1, 16, 16)
    assert torch.equal(one, draw_frames(windows, 4, (3, 7), crop=16))
    assert not torch.equal(one, draw_frames(windows, 4, (3, 8), crop=16))
    assert torch.isfinite(draw_frames(windows, 20, (1,))).all()


def test_missing_pixels_become_dry(tiny_store: Path) -> None:
    windows = load_windows(str(tiny_store), "val", 13)
    pixels = seen(windows, np.array([[np.nan, 150.0, 0.0]], np.float32))
    torch.testing.assert_close(pixels, torch.tensor([[0.0, 1.0, 0.0]]))


def test_member_seeds_differ_by_every_part_of_their_key() -> None:
    seeds = {member_seed(s, e, m) for s in (0, 1) for e in ("a", "b") for m in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)

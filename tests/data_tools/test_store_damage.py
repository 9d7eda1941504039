"""Event stores that were damaged after they were written."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE
from data_tools.store import SPLITS, Event, EventStore, check_store, write_store

RunCli = Callable[..., subprocess.CompletedProcess[str]]


def make_events(count: int, frames: int = 3) -> list[Event]:
    generator = np.random.default_rng(4)
    times = np.datetime64("2021-05-06T07:00:00", "s") + np.arange(frames) * np.timedelta64(300, "s")
    return [
        Event(f"storm-{i}", times, generator.uniform(0, 50, (frames, 8, 6)), SPLITS[i % 3], f"s{i}", 10.5 * i, -i)
        for i in range(count)
    ]


def write(path: Path, events: list[Event]) -> None:
    attrs = {"source": "made up", "licence": "none"}
    write_store(path, events, quantity=RAINFALL_RATE, time_step_seconds=300.0, crs={}, attrs=attrs)


def edit(store: Path, member: str, **attributes: object) -> None:
    path = store / member / "zarr.json"
    content = json.loads(path.read_text())
    content["attributes"].update(attributes)
    path.write_text(json.dumps(content))


def field_chunk(store: Path, event: int) -> Path:
    return store / "rainfall_rate" / "c" / str(event) / "0" / "0" / "0"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def scramble(path: Path) -> None:
    path.write_bytes(b"\x05" * len(path.read_bytes()))


def lie_about_sizes(path: Path) -> None:
    """The header of a blosc chunk names its own sizes: these are negative."""
    path.write_bytes(path.read_bytes()[:4] + b"\xff" * 8 + path.read_bytes()[12:])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_short, scramble, lie_about_sizes, flip, empty])
def test_a_damaged_chunk_is_told_in_words(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write(tmp_path / "a.zarr", make_events(2))
    damage(field_chunk(tmp_path / "a.zarr", 1))
    store = EventStore.open(tmp_path / "a.zarr")
    assert np.isfinite(store.read(0)).any()
    with pytest.raises(UserError, match=r"storm-1 in .*a\.zarr, got damage") as caught:
        store.read(1)
    assert "\n" not in str(caught.value)


def test_a_lost_chunk_is_no_missing_data(tmp_path: Path) -> None:
    first, second, third = make_events(3)
    write(tmp_path / "a.zarr", [first, second._replace(values=np.full_like(second.values, np.nan)), third])
    store = EventStore.open(tmp_path / "a.zarr")
    assert np.isnan(store.read(1)).all()
    field_chunk(tmp_path / "a.zarr", 2).unlink()
    for index in (2, -1):
        with pytest.raises(UserError, match=r"storm-2 in .*a\.zarr, got no rainfall_rate/c/2/0/0/0"):
            store.read(index, slice(0, 1))
    assert np.isfinite(store.read(-3)).any()
    with pytest.raises(IndexError):
        store.read(3)


@pytest.mark.parametrize("what", ["lost", "cut short", "scrambled", "flipped"])
@pytest.mark.parametrize("member", ["event_id", "source", "split", "time", "x_origin", "y_origin"])
def test_damage_beside_the_fields_is_told_in_words(tmp_path: Path, member: str, what: str) -> None:
    write(tmp_path / "a.zarr", [event._replace(split="train", x0=0.0, y0=0.0) for event in make_events(3)])
    (chunk,) = (path for path in (tmp_path / "a.zarr" / member / "c").rglob("*") if path.is_file())
    {"lost": Path.unlink, "cut short": empty, "scrambled": scramble, "flipped": flip}[what](chunk)
    problems = check_store(tmp_path / "a.zarr")
    assert len(problems) == 1
    assert "copy the store anew" in problems[0]
    with pytest.raises(UserError, match=r"damaged store .*a\.zarr") as caught:
        EventStore.open(tmp_path / "a.zarr")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("time_step_seconds", value) for value in ("abc", None, -300.0, 0, [300], True, float("nan"), 10**400)]
    + [("quantity", ["vil"]), ("quantity", None), ("thresholds", 0.1), ("thresholds", ["a"]), ("source", 3)]
    + [("licence", None), ("history", {})],
)
def test_attributes_of_another_type_are_told_in_words(tmp_path: Path, name: str, value: object) -> None:
    write(tmp_path / "a.zarr", make_events(1))
    edit(tmp_path / "a.zarr", "", **{name: value})
    with pytest.raises(UserError, match=rf"damaged store .*a\.zarr: expected (a )?{name}"):
        EventStore.open(tmp_path / "a.zarr")


@pytest.mark.parametrize("case", ["attribute", "split", "lost field", "damaged metadata"])
def test_a_damaged_store_costs_a_command_one_line(tmp_path: Path, case: str, run_cli: RunCli) -> None:
    write(tmp_path / "a.zarr", make_events(4, frames=13))
    if case == "attribute":
        edit(tmp_path / "a.zarr", "", time_step_seconds="abc")
    elif case == "split":
        scramble(tmp_path / "a.zarr" / "split" / "c" / "0")
    elif case == "lost field":
        field_chunk(tmp_path / "a.zarr", 3).unlink()
    else:
        for member in ("split", "time", "event_id"):
            cut_short(tmp_path / "a.zarr" / member / "zarr.json")
    out = tmp_path / "out"
    done = run_cli(
        "apps.nowcast.train", "--stage", "autoencoder", "--data", str(tmp_path / "a.zarr"), "--out", str(out)
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "a.zarr" in done.stderr
    assert case != "lost field" or "storm-3" in done.stderr


def test_a_store_without_events_is_told(tmp_path: Path) -> None:
    """Nothing of ours writes one; a summary would divide by its length."""
    write(tmp_path / "a.zarr", make_events(2))
    path = tmp_path / "a.zarr" / "rainfall_rate" / "zarr.json"
    content = json.loads(path.read_text())
    content["shape"][0] = 0
    path.write_text(json.dumps(content))
    assert "expected events, frames and pixels in rainfall_rate, got shape (0, 3, 8, 6)" in check_store(
        tmp_path / "a.zarr"
    )

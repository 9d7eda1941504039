"""SEVIR to the event store: by library in this process, and by the command on processes of dask."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from data_tools import convert as command
from data_tools.cli import UserError
from data_tools.conversion import blocks
from data_tools.conversion.manifest import Checksum, manifest_path, read_manifest
from data_tools.convert import Options, convert, main, repair, verify
from data_tools.quantities import VIL
from data_tools.sevir_events import SevirEvents
from data_tools.store import EventStore, check_store

ROOT = Path(__file__).resolve().parents[2]
Archive = Callable[..., dict[str, np.ndarray]]
RunCli = Callable[..., subprocess.CompletedProcess[str]]


def options_of(root: Path, **more: object) -> Options:
    return replace(Options(str(root / "sevir"), str(root / "out.zarr"), workers=0, block=3), **more)  # type: ignore[arg-type]


def assert_holds(store: EventStore, content: dict[str, np.ndarray]) -> None:
    assert store.ids == tuple(sorted(content))
    for index, name in enumerate(store.ids):
        np.testing.assert_array_equal(store.read_codes(index), content[name])


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_store_holds_what_the_files_hold(tmp_path: Path, sevir_archive: Archive, capsys) -> None:
    content = sevir_archive(tmp_path / "sevir", side=12)
    main(options_of(tmp_path))
    assert capsys.readouterr().out == f"{tmp_path / 'out.zarr'}: 13 events (6 test, 7 train)\n"
    assert check_store(tmp_path / "out.zarr") == []
    store, events = EventStore.open(tmp_path / "out.zarr", "vil"), SevirEvents.open(tmp_path / "sevir")
    assert_holds(store, content)
    assert (store.shape, store.fields.chunks) == ((13, 49, 12, 12), (1, 7, 12, 12))
    assert (store.splits, store.sources, store.time_step_seconds) == (events.splits, events.sources, 300.0)
    np.testing.assert_array_equal(store.valid_times, events.valid_times)
    np.testing.assert_array_equal(store.origins, events.origins)
    assert store.attrs["cut"] == "whole events; every frame of 1, maximum over 1 x 1 pixels"
    with xr.open_zarr(tmp_path / "out.zarr", consolidated=False) as data:  # no word of a file that zarr does not know
        np.testing.assert_array_equal(data["x"], (np.arange(12) + 0.5) * 32000.0)
        np.testing.assert_array_equal(np.isnan(data["vil"][0]), content[store.ids[0]] == 255)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "sevir"]


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_sevir_lr(tmp_path: Path, sevir_archive: Archive, pool) -> None:
    content = sevir_archive(tmp_path / "sevir", events=4, side=9)
    convert(options_of(tmp_path, lr=True, pool=pool))
    store = EventStore.open(tmp_path / "out.zarr")
    assert (store.shape, store.fields.chunks, store.time_step_seconds) == ((4, 25, 3, 3), (1, 25, 3, 3), 600.0)
    for index, name in enumerate(store.ids):
        blocks_of = content[name][::2].reshape(25, 3, 3, 3, 3).swapaxes(2, 3).reshape(25, 3, 3, 9)
        expected = blocks_of.max(axis=-1)
        if pool == "mean":
            expected = np.where(expected == 255, 255, np.rint(blocks_of.mean(axis=-1)))
        np.testing.assert_array_equal(store.read_codes(index), expected)


def test_the_manifest_is_of_decoded_values(tmp_path: Path, sevir_archive: Archive) -> None:
    content = sevir_archive(tmp_path / "sevir", events=5, side=6)
    convert(options_of(tmp_path, block=2))
    manifest = read_manifest(manifest_path(tmp_path / "out.zarr", VIL), 5)
    assert manifest is not None
    assert [record[:2] for record in manifest.blocks] == [(0, 2), (2, 2), (4, 1)]
    for record in manifest.blocks:
        checksum = Checksum()
        for name in sorted(content)[record.first : record.first + record.count]:
            checksum.add(name, content[name])
        assert record.sha256 == checksum.hexdigest()


_KILLED = """
import os, signal, sys
from data_tools.conversion import blocks
from data_tools.convert import Options, convert

write, left = blocks.write_atomically, [3]

def killing(path, write_to):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)  # the values are written, their record is not
    write(path, write_to)

blocks.write_atomically = killing
convert(Options(sys.argv[1], sys.argv[2], workers=0, block=2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_conversion_goes_on(tmp_path: Path, sevir_archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    content = sevir_archive(tmp_path / "sevir", side=6)
    out = tmp_path / "out.zarr"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "sevir"), str(out)], cwd=ROOT, check=False)
    assert killed.returncode == -9
    folder = tmp_path / ".out.zarr.converting"
    assert not out.exists()
    assert sorted(path.name for path in (folder / "records").iterdir()) == ["000000.json", "000001.json"]
    leftover = folder / "store" / "vil" / "c" / "5" / "0" / "0" / "0.123abc.partial"
    leftover.write_bytes(b"cut sh")
    seen: list[int] = []

    def spying(block: blocks.Block) -> int:
        seen.append(block.number)
        return blocks.convert_block(block)

    monkeypatch.setattr(command, "convert_block", spying)
    with pytest.raises(UserError, match="unfinished conversion of other events or options"):
        convert(options_of(tmp_path, block=4))
    convert(options_of(tmp_path, block=2))
    assert seen == [2, 3, 4, 5, 6]
    assert_holds(EventStore.open(out), content)
    assert not list(out.rglob("*.partial"))
    whole = options_of(tmp_path, block=2, out=str(tmp_path / "at_once.zarr"))
    convert(whole)
    again, once = snapshot(out), snapshot(tmp_path / "at_once.zarr")
    assert {name for name in once if again.get(name) != once[name]} <= {"zarr.json"}  # the time is in its history
    assert again.keys() == once.keys()
    assert not folder.exists()


def test_an_unfinished_conversion_of_others_is_begun_anew(tmp_path: Path, sevir_archive: Archive, monkeypatch) -> None:
    content = sevir_archive(tmp_path / "sevir", events=6, side=6)
    monkeypatch.setattr(command.Plan, "finish", lambda self, overwrite: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        convert(options_of(tmp_path, block=2))
    monkeypatch.undo()
    convert(options_of(tmp_path, block=4, overwrite=True))
    assert_holds(EventStore.open(tmp_path / "out.zarr"), content)


def test_one_damaged_event_does_not_stop_the_others(tmp_path: Path, sevir_archive: Archive) -> None:
    content = sevir_archive(tmp_path / "sevir", events=7, side=6)
    (path,) = (tmp_path / "sevir" / "data").rglob("*2018*.h5")
    whole = path.read_bytes()
    with h5py.File(path, "r+") as file:
        names = file["id"][...]
        names[2] = b"R77"
        file["id"][...] = names
    words = r"expected event R2 at 2 of .*2018.*, got R77.*\(1 of 7 blocks failed.*same command goes on"
    with pytest.raises(UserError, match=words) as caught:
        convert(options_of(tmp_path, block=1))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()
    assert len(list((tmp_path / ".out.zarr.converting" / "records").iterdir())) == 6
    path.write_bytes(whole)
    convert(options_of(tmp_path, block=1))
    assert_holds(EventStore.open(tmp_path / "out.zarr"), content)


def test_a_full_disk_loses_nothing(tmp_path: Path, sevir_archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    content = sevir_archive(tmp_path / "sevir", events=6, side=6)
    write = blocks.write_atomically

    def full(path: Path, write_to) -> None:
        if path.name == "000001.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, write_to)

    monkeypatch.setattr(blocks, "write_atomically", full)
    with pytest.raises(UserError, match=r"no space left for .*finished blocks are kept, and the same command goes on"):
        convert(options_of(tmp_path, block=2))
    assert [path.name for path in (tmp_path / ".out.zarr.converting" / "records").iterdir()] == ["000000.json"]
    monkeypatch.undo()
    convert(options_of(tmp_path, block=2))
    assert_holds(EventStore.open(tmp_path / "out.zarr"), content)


@pytest.mark.parametrize("harm", ["absent", "cut short", "no corner"])
def test_a_broken_archive_leaves_nothing(tmp_path: Path, sevir_archive: Archive, harm: str) -> None:
    sevir_archive(tmp_path / "sevir", events=6, side=6)
    (path,) = (tmp_path / "sevir" / "data").rglob("*2018*.h5")
    catalog = tmp_path / "sevir" / "CATALOG.csv"
    if harm == "absent":
        path.unlink()
    elif harm == "cut short":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        catalog.write_text(catalog.read_text().replace("llcrnrlat", "latitude"))
    words = {"absent": "--absent skip", "cut short": "damaged or foreign", "no corner": "does the catalogue have its"}
    with pytest.raises(UserError, match=words[harm]):
        convert(options_of(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["sevir"]


def test_events_of_absent_files_are_left_out_on_request(tmp_path: Path, sevir_archive: Archive, capsys) -> None:
    content = sevir_archive(tmp_path / "sevir", events=6, side=6)
    next((tmp_path / "sevir" / "data").rglob("*2018*.h5")).unlink()
    convert(options_of(tmp_path, absent="skip"))
    assert_holds(EventStore.open(tmp_path / "out.zarr"), {name: content[name] for name in ("R4", "S3", "S5")})
    assert "1 files are not there and their events are left out" in capsys.readouterr().err


def damage(store: Path, event: int, chunk: int) -> None:
    path = store / "vil" / "c" / str(event) / str(chunk) / "0" / "0"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_damage_is_named_and_repaired(tmp_path: Path, sevir_archive: Archive, capsys) -> None:
    content = sevir_archive(tmp_path / "sevir", events=9, side=6)
    out = tmp_path / "out.zarr"
    convert(options_of(tmp_path, block=2))
    verify(Options(str(out), workers=0, verify=True))
    assert "all events are whole" in capsys.readouterr().out
    damage(out, 3, 6)
    damage(out, 3, 2)
    swapped = out / "vil" / "c" / "8" / "1" / "0" / "0"  # whole in itself, but not the one that belongs there
    shutil.copy(out / "vil" / "c" / "0" / "1" / "0" / "0", swapped)
    with pytest.raises(UserError, match=r"got damage in 2 \(1, 4\)"):
        verify(Options(str(out), workers=0, verify=True))
    first, last = capsys.readouterr().out.splitlines()
    assert "block 1: expected whole fields of R6" in first
    assert "vil/c/3/2/0/0" in first
    skipping = EventStore.open(out, skip_damaged=True).read_codes(3)
    lost = np.isin(np.arange(49) // 7, (2, 6))
    assert (skipping[lost] == 255).all()
    np.testing.assert_array_equal(skipping[~lost], content["R6"][~lost])
    assert "block 4: expected the values of the manifest in events S7 to S7" in last
    with pytest.raises(UserError, match="give those it was made with"):
        repair(options_of(tmp_path, block=3))
    repair(options_of(tmp_path, block=2))
    assert "2 blocks written again (1, 4)" in capsys.readouterr().out
    verify(Options(str(out), workers=0, verify=True))
    assert_holds(EventStore.open(out), content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "sevir"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"out": None}, "expected the store to write"),
        ({"block": 0}, "--block of 1 or more"),
        ({"chunk_frames": 0}, "--chunk_frames of 1 or more"),
        ({"workers": -1}, "--workers from 0"),
        ({"scheduler": "tcp://127.0.0.1:1", "workers": 2}, "--workers from 0, or --scheduler"),
        ({"pool": "mean"}, "--lr with --pool mean"),
        ({"verify": True}, "the store alone with --verify"),
        ({"verify": True, "out": None, "lr": True}, "no --lr with --verify"),
        ({"verify": True, "out": None}, "no --block with --verify"),
        ({"verify": True, "repair": True}, "--verify or --repair"),
        ({"repair": True}, "expected an event store"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, sevir_archive: Archive, more: dict[str, object], words: str) -> None:
    sevir_archive(tmp_path / "sevir", events=2, side=6)
    with pytest.raises(UserError, match=words):
        main(options_of(tmp_path, **more))
    assert [path.name for path in tmp_path.iterdir()] == ["sevir"]


def test_command_on_two_processes(tmp_path: Path, sevir_archive: Archive, run_cli: RunCli) -> None:
    content = sevir_archive(tmp_path / "sevir", side=12)
    out = tmp_path / "out.zarr"
    arguments = ("data_tools.convert", str(tmp_path / "sevir"), str(out), "--workers", "2", "--block", "2")
    done = run_cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}: 13 events (6 test, 7 train)\n"
    assert_holds(EventStore.open(out), content)
    before = snapshot(out)
    again = run_cli(*arguments)
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1), again.stderr
    assert "pass --overwrite" in again.stderr
    assert snapshot(out) == before


def test_command_tells_of_an_absent_scheduler(tmp_path: Path, sevir_archive: Archive, run_cli: RunCli) -> None:
    sevir_archive(tmp_path / "sevir", events=2, side=6)
    done = run_cli("data_tools.convert", str(tmp_path / "sevir"), str(tmp_path / "o"), "--scheduler", "nowhere://1:2")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "expected a dask scheduler at nowhere://1:2" in done.stderr

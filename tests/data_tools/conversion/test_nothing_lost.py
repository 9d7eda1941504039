"""What conversions must leave alone: the outputs of others, and values that cannot be had again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_tools import convert as command
from data_tools.cli import UserError
from data_tools.conversion import blocks
from data_tools.conversion.plan import Plan, alone
from data_tools.convert import Options, convert, repair
from data_tools.locks import locked
from data_tools.store import EventStore

Archive = Callable[..., dict[str, np.ndarray]]


def options_of(root: Path, *, overwrite: bool = False) -> Options:
    return Options(str(root / "sevir"), str(root / "out.zarr"), workers=0, block=2, overwrite=overwrite)


def spoil(store: Path, event: int, chunk: int) -> None:
    path = store / "vil" / "c" / str(event) / str(chunk) / "0" / "0"
    path.write_bytes(path.read_bytes()[:-1])


def chunks(store: Path, event: int) -> dict[str, bytes]:
    folder = store / "vil" / "c" / str(event)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_repair_does_not_write_other_values(tmp_path: Path, sevir_archive: Archive) -> None:
    """The second event of the damaged block is whole, and in the archive it is another by now."""
    content = sevir_archive(tmp_path / "sevir", events=6, side=6)
    out = tmp_path / "out.zarr"
    convert(options_of(tmp_path))
    spoil(out, 0, 0)
    spoil(out, 5, 6)
    before = chunks(out, 1)
    name = EventStore.open(out).ids[1]
    with h5py.File(next((tmp_path / "sevir" / "data").rglob("*2018*.h5")), "r+") as file:
        fields: Any = file["vil"]
        ids: Any = file["id"]
        fields[list(ids).index(name.encode())] = 7
    words = "expected the values that .* was made of, got others in .* for block 0: convert the archive anew"
    with pytest.raises(UserError, match=words):
        repair(options_of(tmp_path))
    assert chunks(out, 1) == before
    store = EventStore.open(out)
    np.testing.assert_array_equal(store.read_codes(1), content[name])
    np.testing.assert_array_equal(store.read_codes(5), content[store.ids[5]])  # the other block was repaired


def test_a_killed_repair_does_not_count_for_the_next(tmp_path: Path, sevir_archive: Archive, monkeypatch) -> None:
    content = sevir_archive(tmp_path / "sevir", events=4, side=6)
    out = tmp_path / "out.zarr"
    convert(options_of(tmp_path))
    spoil(out, 3, 1)
    folder = tmp_path / ".out.zarr.converting"
    monkeypatch.setattr(command.shutil, "rmtree", lambda path, **_: None)  # as after SIGKILL, the folder stays
    repair(options_of(tmp_path))
    monkeypatch.undo()
    assert [path.name for path in (folder / "records").iterdir()] == ["000001.json"]
    spoil(out, 3, 1)
    repair(options_of(tmp_path))
    store = EventStore.open(out)
    np.testing.assert_array_equal(store.read_codes(3), content[store.ids[3]])
    assert not folder.exists()


def test_what_took_the_place_meanwhile_stays(tmp_path: Path, sevir_archive: Archive, monkeypatch) -> None:
    content = sevir_archive(tmp_path / "sevir", events=4, side=6)
    out = tmp_path / "out.zarr"
    work = blocks.convert_block

    def and_somebody_writes(block: blocks.Block) -> int:
        out.mkdir(exist_ok=True)
        (out / "thesis.txt").write_text("years of work")
        return work(block)

    monkeypatch.setattr(command, "convert_block", and_somebody_writes)
    with pytest.raises(UserError, match=r"expected a free output path, got .*out.zarr, which exists"):
        convert(options_of(tmp_path))
    assert (out / "thesis.txt").read_text() == "years of work"
    monkeypatch.undo()
    (out / "thesis.txt").rename(tmp_path / "thesis.txt")
    out.rmdir()
    monkeypatch.setattr(command, "convert_block", lambda block: pytest.fail("all blocks were finished"))
    convert(options_of(tmp_path))
    store = EventStore.open(out)
    for index, name in enumerate(store.ids):
        np.testing.assert_array_equal(store.read_codes(index), content[name])


def test_one_conversion_at_a_time(tmp_path: Path, sevir_archive: Archive) -> None:
    pytest.importorskip("fcntl")
    sevir_archive(tmp_path / "sevir", events=2, side=6)
    folder = tmp_path / ".out.zarr.converting"
    with alone(folder):
        with pytest.raises(UserError, match=r"another process at work in .*converting: wait for it"):
            convert(options_of(tmp_path))
        assert (folder / "lock").is_file()  # who was refused removes nothing
    assert not folder.exists()


def test_a_lock_that_was_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited at the door of a folder that its owner removed must not work in it."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "lock"
    monkeypatch.setattr(fcntl, "flock", lambda file, how: path.unlink())
    with pytest.raises(UserError, match="busy"), locked(path, "busy"):
        pytest.fail("nobody holds a file that is gone")
    monkeypatch.setattr(fcntl, "flock", lambda file, how: (_ for _ in ()).throw(OSError("no locks here")))
    with locked(path, "busy"):  # a network file system
        assert path.is_file()


def test_the_plan_is_named_where_it_is_unfinished(tmp_path: Path, sevir_archive: Archive, monkeypatch) -> None:
    """A repair beside an unfinished conversion is refused, and neither loses anything."""
    sevir_archive(tmp_path / "sevir", events=4, side=6)
    convert(options_of(tmp_path))
    before = chunks(tmp_path / "out.zarr", 0)
    monkeypatch.setattr(Plan, "finish", lambda self, overwrite: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        convert(options_of(tmp_path, overwrite=True))
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"expected no unfinished conversion, got .*converting: finish it first"):
        repair(options_of(tmp_path))
    assert chunks(tmp_path / "out.zarr", 0) == before
    convert(options_of(tmp_path, overwrite=True))
    assert not (tmp_path / ".out.zarr.converting").exists()

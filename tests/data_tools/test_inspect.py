"""What `data_tools.inspect` says and draws of stores and archives, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from data_tools.cli import UserError
from data_tools.inspect import Options, examine_path, main
from data_tools.quantities import RAINFALL_RATE
from data_tools.store import Event, EventStore, write_store

TIMES = np.datetime64("2019-05-01T00:00:00") + np.arange(12) * np.timedelta64(300, "s")
HEADER = "id,file_name,file_index,img_type,time_utc,pct_missing"
FILE = "vil/2018/SEVIR_VIL_STORMEVENTS_2018_0701_1231.h5"


@pytest.fixture
def store(tmp_path: Path) -> EventStore:
    generator = np.random.default_rng(1)
    events = [
        Event(f"E{n}", TIMES, generator.gamma(0.3, 4.0, (12, 9, 7)).astype(np.float32), split, "made", 0.0, 0.0)
        for n, split in enumerate(("train", "train", "val", "test"))
    ]
    attrs = {"source": "made up", "licence": "CC0"}
    write_store(tmp_path / "s.zarr", events, quantity=RAINFALL_RATE, time_step_seconds=300.0, crs={}, attrs=attrs)
    return EventStore.open(tmp_path / "s.zarr")


def chunk(store: EventStore, index: int) -> Path:
    return store.path / "rainfall_rate" / store.fields.metadata.encode_chunk_key((index, 0, 0, 0))


def write_sevir(root: Path, events: int = 3, side: int = 6) -> np.ndarray:
    codes = np.random.default_rng(2).integers(0, 255, (events, side, side, 49), dtype=np.uint8)
    rows = [f"S{n},{FILE},{n},vil,2018-08-0{n + 1} 18:30:00,0" for n in range(events)]
    (root / "data" / FILE).parent.mkdir(parents=True)
    (root / "CATALOG.csv").write_text("\n".join([HEADER, *rows, ""]))
    with h5py.File(root / "data" / FILE, "w") as file:
        file["vil"] = codes
        file["id"] = np.array([f"S{n}" for n in range(events)], dtype="S4")
    return codes


def test_a_store_is_summarised_and_drawn(store: EventStore, run_cli) -> None:
    done = run_cli("data_tools.inspect", str(store.path))
    assert done.returncode == 0, done.stderr
    for words in (
        "event store",
        "4 events of 12 frames 300 s apart, 9 x 7 pixels of 1000 x 1000 m",
        "splits: 2 train, 1 val, 1 test",
        "times: 2019-05-01T00:00:00 to 2019-05-01T00:55:00 UTC",
        "licence: CC0",
        "shown: E2",
    ):
        assert words in done.stdout
    picture = store.path.with_name("s.zarr.inspect.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_frames_shown_are_those_of_the_event(store: EventStore) -> None:
    for event in ("E1", "1"):
        report = examine_path(store.path, event)
        assert report.north_up
        assert len(report.frames) == 8
        assert np.array_equal(report.frames[0][1], store.read(1)[0])
        assert np.array_equal(report.frames[-1][1], store.read(1)[11])
        assert report.frames[-1][0] == "E1\n2019-05-01T00:55:00"
    for event in ("E9", "4", "-1"):
        with pytest.raises(UserError, match="an id or a number from 0 to 3"):
            examine_path(store.path, event)


def test_lost_and_damaged_chunks_are_named_and_the_rest_shown(
    store: EventStore, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    chunk(store, 1).unlink()
    data = bytearray(chunk(store, 2).read_bytes())
    data[len(data) // 2] ^= 4
    chunk(store, 2).write_bytes(data)
    assert len(examine_path(store.path).problems) == 1  # a flipped bit shows when it is read
    with pytest.raises(UserError, match=r"expected a whole event store, got one with damage: .*E1.* and 1 problems"):
        main(Options(str(store.path), event="E0", verify=True, out=str(tmp_path / "p.png")))
    said = capsys.readouterr().out
    assert said.count("problem: ") == 2
    assert "E2" in said
    assert (tmp_path / "p.png").is_file()


def test_a_store_whose_metadata_is_damaged(store: EventStore, capsys: pytest.CaptureFixture) -> None:
    (store.path / "time" / "zarr.json").write_text("{")
    with pytest.raises(UserError, match="expected a whole event store"):
        main(Options(str(store.path)))
    assert "problem: " in capsys.readouterr().out
    assert not store.path.with_name("s.zarr.inspect.png").exists()


def test_a_sevir_folder(tmp_path: Path) -> None:
    codes = write_sevir(tmp_path)
    report = examine_path(tmp_path, verify=True)
    assert report.problems == []
    assert not report.north_up
    assert "CATALOG.csv: 3 rows, 3 vil" in report.lines
    assert any("3 train by date" in line for line in report.lines)
    assert np.array_equal(report.frames[0][1], codes[1, :, :, 0])
    (tmp_path / "data" / FILE).write_bytes((tmp_path / "data" / FILE).read_bytes()[:3000])
    assert "whole HDF5 file" in examine_path(tmp_path).problems[0]
    (tmp_path / "data" / FILE).unlink()
    assert "3 events of the catalogue is not there" in examine_path(tmp_path).problems[0]


def test_years_that_were_not_downloaded_are_no_damage(tmp_path: Path) -> None:
    write_sevir(tmp_path)
    catalog = tmp_path / "CATALOG.csv"
    later = [f"R{n},vil/2019/{name}.h5,0,vil,2019-08-01 18:30:00,0" for n, name in enumerate("AB")]
    catalog.write_text(catalog.read_text() + "\n".join([*later, ""]))
    report = examine_path(tmp_path)
    assert report.problems == []
    assert "not downloaded: vil/2019, 2 files with 2 events" in report.lines
    (tmp_path / "data/vil/2019").mkdir()
    assert len(examine_path(tmp_path).problems) == 2


def test_ids_that_do_not_fit_and_ids_doubled(tmp_path: Path) -> None:
    write_sevir(tmp_path)
    catalog = tmp_path / "CATALOG.csv"
    catalog.write_text(catalog.read_text().replace(f"S1,{FILE},1", f"S0,{FILE},1"))
    report = examine_path(tmp_path)
    assert "1 ids stand more than once and are left out: S0" in report.lines
    catalog.write_text(f"{HEADER}\nS7,{FILE},2,vil,2018-08-01 18:30:00,0\n")
    assert "wrong catalogue" in examine_path(tmp_path, verify=True).problems[0]


def test_one_file_of_sevir(tmp_path: Path) -> None:
    codes = write_sevir(tmp_path)
    report = examine_path(tmp_path / "data" / FILE, "S2")
    assert report.problems == []
    assert "vil: 3 events of 49 frames, 6 x 6 pixels, uint8" in report.lines
    assert "stored in one piece" in report.lines
    assert np.array_equal(report.frames[-1][1], codes[2, :, :, 48])
    with h5py.File(tmp_path / "order.h5", "w") as file:
        file["vil"] = np.moveaxis(codes, -1, 1)
    assert "(N, H, W, T)" in examine_path(tmp_path / "order.h5").problems[0]


def test_a_radar_folder_with_a_gap_a_stranger_and_a_torn_frame(knmi_archive, tmp_path: Path) -> None:
    codes = np.random.default_rng(3).integers(0, 90, (12, 8, 6)).astype(np.uint16)
    kept = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    paths = knmi_archive(tmp_path / "a", TIMES[kept], codes[kept])
    report = examine_path(tmp_path / "a")
    assert report.kind == "knmi archive"
    assert report.problems == []
    assert "11 frames, 2019-05-01T00:00:00 to 2019-05-01T00:55:00 UTC" in report.lines
    assert "a frame every 300 s, 1 gaps" in report.lines
    assert "gap: 2019-05-01T00:20:00 to 2019-05-01T00:30:00" in report.lines
    assert len(report.frames) == 8
    assert np.allclose(report.frames[0][1], codes[0] * 0.12, atol=1e-5)  # 0.01 mm in 5 minutes
    paths[0].write_bytes(paths[0].read_bytes()[:500])
    (tmp_path / "a" / "notes.txt").write_text("a stranger")
    report = examine_path(tmp_path / "a", verify=True)
    assert len(report.problems) == 2
    assert "notes.txt is no knmi file" in report.problems[0]
    assert "truncated or foreign" in report.problems[1]
    assert len(report.frames) == 7
    assert examine_path(paths[3]).frames[0][0] == "2019-05-01T00:15:00"
    with pytest.raises(UserError, match="expected no --event for knmi"):
        examine_path(tmp_path / "a", "3")


def test_what_no_reader_knows(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("x")
    for name in ("empty", "x.txt"):
        with pytest.raises(UserError, match="holds none of them"):
            examine_path(tmp_path / name)
    with pytest.raises(UserError, match="is not there"):
        main(Options(str(tmp_path / "nothing")))
    (tmp_path / "x.h5").write_bytes(b"no HDF5")
    assert "whole HDF5 file" in examine_path(tmp_path / "x.h5").problems[0]


def test_a_picture_is_not_replaced_unasked(store: EventStore, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        main(Options(str(store.path), out=str(tmp_path / "p.png")))
    assert (tmp_path / "p.png").read_text() == "mine"
    main(Options(str(store.path), out=str(tmp_path / "p.png"), overwrite=True))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")

"""Archives whole, hostile and damaged."""

from __future__ import annotations

import re
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools import unzip
from data_tools.cli import UserError
from data_tools.unzip import unpack_zip

WANTED = re.compile(r"CATALOG\.csv|data/[a-z]+/[0-9]{4}/[A-Z]+\.h5")
FILES = {"CATALOG.csv": b"id\n", "data/vil/2018/A.h5": b"a" * 5000, "data/vil/2019/B.h5": bytes(range(256))}


def pack(path: Path, files: dict[str, bytes], top: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(top + name, data)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("top", ["", "sevir_lr/"])
def test_the_wanted_files_come_out(tmp_path: Path, top: str) -> None:
    source = pack(tmp_path / "a.zip", {**FILES, "README.md": b"more", "run.sh": b"rm"}, top)
    told: list[tuple[int, int]] = []
    members = unpack_zip(source, tmp_path / "out", WANTED, progress=lambda done, total: told.append((done, total)))
    assert content(tmp_path / "out") == FILES
    assert members == {name: len(data) for name, data in FILES.items()}
    assert told[-1] == (5259, 5259)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_an_archive_of_data_alone_keeps_its_folder(tmp_path: Path) -> None:
    files = {name: data for name, data in FILES.items() if name != "CATALOG.csv"}
    unpack_zip(pack(tmp_path / "a.zip", files), tmp_path / "out", WANTED)
    assert content(tmp_path / "out") == files


def test_files_that_are_there_are_left_alone_and_others_replaced(tmp_path: Path) -> None:
    source = pack(tmp_path / "a.zip", FILES)
    unpack_zip(source, tmp_path / "out", WANTED)
    kept, damaged = tmp_path / "out" / "data/vil/2018/A.h5", tmp_path / "out" / "data/vil/2019/B.h5"
    before = kept.stat()
    damaged.write_bytes(bytes(256))  # the same size
    looked: list[str] = []
    unpack_zip(source, tmp_path / "out", WANTED, examine=lambda path: looked.append(path.name))
    assert looked == ["B.h5.part"]
    assert kept.stat().st_mtime_ns == before.st_mtime_ns
    assert kept.stat().st_ino == before.st_ino
    assert content(tmp_path / "out") == FILES


@pytest.mark.parametrize("name", ["../evil.h5", "data/../../evil.h5", "/evil.h5", "data\\..\\evil.h5", "C:/evil.h5"])
def test_no_path_escapes(tmp_path: Path, name: str) -> None:
    source = pack(tmp_path / "a.zip", {**FILES, name: b"evil"})
    with pytest.raises(UserError, match="names inside the folder"):
        unpack_zip(source, tmp_path / "out", WANTED)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("evil*"))


def test_no_links(tmp_path: Path) -> None:
    source = pack(tmp_path / "a.zip", FILES)
    link = zipfile.ZipInfo("data/vil/2017/L.h5")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="a link or device"):
        unpack_zip(source, tmp_path / "out", WANTED)


def test_too_much_is_refused_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pack(tmp_path / "a.zip", FILES)
    with pytest.raises(UserError, match=r"at most 5.0 kB in .*, got 5.3 kB"):
        unpack_zip(source, tmp_path / "out", WANTED, limit=5000)
    monkeypatch.setattr("data_tools.transfer.shutil.disk_usage", lambda path: type("Usage", (), {"free": 4})())
    with pytest.raises(UserError, match=r"expected 5\.3 kB free"):
        unpack_zip(source, tmp_path / "out", WANTED)
    assert not (tmp_path / "out").exists()


def test_a_member_that_outgrows_its_own_directory_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pack(tmp_path / "a.zip", FILES)
    real = unzip.wanted_members

    def lying(archive: zipfile.ZipFile, wanted: re.Pattern[str], limit: int):
        members = real(archive, wanted, limit)
        members["data/vil/2018/A.h5"].file_size = 100
        return members

    monkeypatch.setattr(unzip, "wanted_members", lying)
    with pytest.raises(UserError):
        unpack_zip(source, tmp_path / "out", WANTED)
    assert content(tmp_path / "out") == {"CATALOG.csv": b"id\n"}


def test_names_that_meet_on_some_file_systems(tmp_path: Path) -> None:
    wanted = re.compile(r"data/[a-z]+/[0-9]{4}/[A-Za-z]+\.h5")
    source = pack(tmp_path / "a.zip", {"data/vil/2018/A.h5": b"1", "data/vil/2018/a.h5": b"2"})
    with pytest.raises(UserError, match="twice"):
        unpack_zip(source, tmp_path / "out", wanted)


def test_damage_is_one_line_and_leaves_no_part(tmp_path: Path) -> None:
    source = pack(tmp_path / "a.zip", {"data/vil/2018/A.h5": bytes(range(250)) * 99})
    data = bytearray(source.read_bytes())
    data[80:90] = bytes(10)
    source.write_bytes(data)
    with pytest.raises(UserError, match="a whole zip file"):
        unpack_zip(source, tmp_path / "out", WANTED)
    assert content(tmp_path / "out") == {}
    source.write_bytes(data[:-30])
    with pytest.raises(UserError, match="a whole zip file"):
        unpack_zip(source, tmp_path / "out", WANTED)
    with pytest.raises(UserError, match="is it another archive"):
        unpack_zip(pack(tmp_path / "b.zip", {"x/y.txt": b""}), tmp_path / "out", WANTED)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_that_is_not_in_use_is_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("CATALOG.csv", "id")
    with pytest.raises(UserError, match=r"expected deflated files in .*, got others in 'CATALOG.csv'"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out", WANTED)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 10**6))
def test_whatever_is_damaged_is_one_line(changes: list[tuple[int, int]], keep: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        source = pack(folder / "a.zip", FILES, "lr/")
        data = bytearray(source.read_bytes())
        for place, value in changes:
            data[place % len(data)] = value
        source.write_bytes(data[: max(keep, 1)])
        with suppress(UserError):  # and nothing else
            unpack_zip(source, folder / "out", WANTED)
        written = content(folder / "out").values() if (folder / "out").exists() else []
        assert set(written) <= set(FILES.values())
        assert not list(folder.rglob("*.part"))


def test_an_empty_name_is_damage(tmp_path: Path) -> None:
    source = pack(tmp_path / "a.zip", FILES)
    data = source.read_bytes()
    directory = data.index(b"PK\x01\x02")
    source.write_bytes(data[: directory + 28] + b"\0\0" + data[directory + 30 :])  # the length of the name
    with pytest.raises(UserError, match="a whole zip file"):
        unpack_zip(source, tmp_path / "out", WANTED)


def test_many_members_are_looked_through_in_linear_time(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        members = [zipfile.ZipInfo(f"data/vil/2018/{'A' * (1 + number % 97)}{number}.h5") for number in range(20_000)]
        archive.filelist, archive.NameToInfo = members, {info.filename: info for info in members}
        begin = time.process_time()
        found = unzip.wanted_members(archive, re.compile(r"data/vil/2018/A+[0-9]+\.h5"))
        took = time.process_time() - begin
        archive.filelist, archive.NameToInfo = [], {}
    assert len(found) == 20_000
    assert took < 20.0  # the square of it took minutes

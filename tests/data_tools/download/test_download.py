"""`python -m data_tools.download` as people call it, against a bucket in SEVIR's layout."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from data_tools.cli import UserError
from data_tools.download import Options, choose_files, main

ROOT = Path(__file__).resolve().parents[3]
NAMES = {
    "vil/2018/SEVIR_VIL_STORMEVENTS_2018_0701_1231.h5": "vil",
    "vil/2019/SEVIR_VIL_RANDOMEVENTS_2019_0501_0831.h5": "vil",
    "ir069/2019/SEVIR_IR069_RANDOMEVENTS_2019_0501_0831.h5": "ir069",
}
OLD, NEW, INFRARED = NAMES
MODULE = "data_tools.download"


def catalog(names: dict[str, str]) -> bytes:
    rows = [f"S{number},{name},0,{kind},2019-05-12 18:30:00,0" for number, (name, kind) in enumerate(names.items())]
    return "\n".join(["id,file_name,file_index,img_type,time_utc,pct_missing", *rows, ""]).encode()


@pytest.fixture
def sevir(server, hdf5_bytes) -> dict[str, bytes]:
    """The objects of the bucket: one in one piece, one in parts, one of another type, and the catalogue."""
    objects = {f"data/{name}": hdf5_bytes(seed, 0.05, kind) for seed, (name, kind) in enumerate(NAMES.items())}
    objects[f"data/{OLD}"] = hdf5_bytes(9, 20.0)
    objects["CATALOG.csv"] = catalog(NAMES)
    for key, data in objects.items():
        if key == f"data/{OLD}":
            server.put_in_parts("sevir", key, data, 8 << 20)
        else:
            server.put("sevir", key, data)
    return objects


def there(folder: Path) -> dict[str, bytes]:
    """The files that a reader of SEVIR sees."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_dry_run_tells_the_bytes_and_writes_nothing(server, sevir, run_cli, tmp_path: Path) -> None:
    done = run_cli(MODULE, "sevir", "--dest", str(tmp_path / "out"), "--dry-run", "--endpoint", server.url)
    total = len(sevir[f"data/{OLD}"]) + len(sevir[f"data/{NEW}"])
    assert done.returncode == 0, done.stderr
    assert f"data/{OLD}\t{len(sevir[f'data/{OLD}'])}\n" in done.stdout
    assert f"{total} bytes" in done.stdout
    assert not (tmp_path / "out").exists()
    assert server.ranges(".h5") == []


def test_a_killed_download_goes_on_over_a_bad_line(
    server, sevir, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    arguments = ["sevir", "--dest", str(out), "--years", "2018", "--endpoint", server.url, "--workers", "1"]
    server.faults = ["", "", "stall"]  # the catalogue and the first block come, the second never does
    process = subprocess.Popen([sys.executable, "-m", MODULE, *arguments], cwd=ROOT, stderr=subprocess.PIPE)
    part = out / "data" / f"{OLD}.part"
    for _ in range(1800):
        if process.poll() is not None or (part.is_file() and part.stat().st_size == 8 << 20):
            break
        time.sleep(0.1)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    server.released.set()
    assert there(out).keys() == {"CATALOG.csv", f"data/{OLD}.part", f"data/{OLD}.part.json"}
    server.log.clear()
    server.faults = ["drop", "slow", "truncate"]
    main(Options("sevir", str(out), years="2018", endpoint=server.url))
    assert there(out) == {name: sevir[name] for name in ("CATALOG.csv", f"data/{OLD}")}
    spans = server.ranges(OLD.split("/")[-1])
    assert spans[0] == f"bytes={8 << 20}-{(16 << 20) - 1}"
    assert server.ranges("CATALOG.csv") == []
    assert "1 verified by checksum" in capsys.readouterr().out
    server.log.clear()
    main(Options("sevir", str(out), years="2018", endpoint=server.url))
    assert server.ranges(".h5") == []
    assert (
        json.loads((out / ".download.json").read_text())[f"data/{OLD}"]["verified"] == "md5 of 3 parts of 8388608 bytes"
    )


def test_files_that_another_tool_brought_are_verified_not_fetched(server, sevir, tmp_path: Path) -> None:
    for name in (OLD, NEW):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(sevir[f"data/{name}"] if name == OLD else bytes(len(sevir[f"data/{NEW}"])))
    main(Options("sevir", str(tmp_path), type="vil,ir069", endpoint=server.url))
    assert there(tmp_path) == sevir
    assert server.ranges(OLD.split("/")[-1]) == []
    assert len(server.ranges(NEW.split("/")[-1])) == 1


def test_a_file_that_the_bucket_lacks_is_named_and_the_others_come(server, sevir, tmp_path: Path) -> None:
    server.put("sevir", "CATALOG.csv", catalog({NEW: "vil", "vil/2019/SEVIR_LOST.h5": "vil"}))
    with pytest.raises(UserError, match=r"s3://sevir/data/vil/2019/SEVIR_LOST\.h5 .*: the files that are there were"):
        main(Options("sevir", str(tmp_path), endpoint=server.url))
    assert there(tmp_path).keys() == {"CATALOG.csv", f"data/{NEW}"}


def test_a_file_of_another_content_is_refused(server, sevir, tmp_path: Path, hdf5_bytes) -> None:
    server.put("sevir", f"data/{NEW}", hdf5_bytes(3, 0.01, "vis"))
    with pytest.raises(UserError, match="expected the dataset vil"):
        main(Options("sevir", str(tmp_path), years="2019", endpoint=server.url))
    assert there(tmp_path).keys() == {"CATALOG.csv"}


def lr_archive(hdf5_bytes) -> tuple[bytes, dict[str, bytes]]:
    files = {"CATALOG.csv": catalog({NEW: "vil"}), f"data/{NEW}": hdf5_bytes(4)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"sevir_lr/{name}", data)
    return buffer.getvalue(), files


def test_sevir_lr_is_unpacked_once(server, tmp_path: Path, hdf5_bytes, capsys: pytest.CaptureFixture) -> None:
    data, files = lr_archive(hdf5_bytes)
    server.request("PUT", "/earthformer")  # its former bucket is gone
    server.put("earthformer", "datasets/sevir_lr.zip", data)
    main(Options("sevir-lr", str(tmp_path), endpoint=server.url))
    assert there(tmp_path) == files
    server.log.clear()
    main(Options("sevir-lr", str(tmp_path), endpoint=server.url))
    assert "nothing to do" in capsys.readouterr().out
    assert server.ranges(".zip") == []


def test_without_the_archive_the_way_to_build_it_is_told(server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data_tools\.convert DIR OUT\.zarr --lr"):
        main(Options("sevir-lr", str(tmp_path / "out"), endpoint=server.url))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sevir2", "--dest", "x"], "expected sevir or sevir-lr"),
        (["sevir", "--dest", "x", "--type", "radar"], "expected --type out of vis"),
        (["sevir", "--dest", "x", "--years", "19"], "expected --years like"),
        (["sevir", "--dest", "x", "--endpoint", "nowhere"], "expected --endpoint as a URL"),
        (["sevir", "--dest", "x", "--workers", "0"], "expected --workers from 1"),
        (["sevir", "--dest", "LICENSE/x"], "expected --dest to be a folder"),
        (["sevir-lr", "--dest", "x", "--years", "2019"], "expected no --type or --years"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(zip(("what", "dest"), (arguments[0], arguments[2]), strict=True))
    options |= {flag.removeprefix("--"): value for flag, value in zip(arguments[3::2], arguments[4::2], strict=True)}
    (tmp_path / "LICENSE").write_text("")
    monkeypatch.chdir(tmp_path)
    workers = int(options.pop("workers", 4))
    with pytest.raises(UserError, match=words):
        main(Options(**options, workers=workers))


def test_a_catalogue_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "CATALOG.csv"
    for name in ("../../etc/x.h5", "vil/../../x.h5", "/vil/2019/x.h5", "vil/2019/..h5/x.h5", "vil\\2019\\..\\x.h5"):
        path.write_bytes(catalog({OLD: "vil", name: "vil"}))
        with pytest.raises(UserError, match="do not trust it"):
            choose_files(path, ["vil"], [])
    path.write_bytes(catalog(NAMES))
    assert choose_files(path, ["vil"], []) == [OLD, NEW]
    assert choose_files(path, ["vil", "ir069"], ["2019"]) == [INFRARED, NEW]
    with pytest.raises(UserError, match="the catalogue has 2018, 2019"):
        choose_files(path, ["vil"], ["2017"])

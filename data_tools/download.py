"""`python -m data_tools.download sevir|sevir-lr --dest DIR`: SEVIR from its public bucket, or SEVIR-LR as published.

What appears in DIR is what `data_tools.ingest`, `data_tools.convert` and every other reader of SEVIR expect:
CATALOG.csv and `data/<type>/<year>/*.h5`. A run that ended in any way is continued by the same command.
"""

from __future__ import annotations

import re
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from data_tools.catalog import read_catalog
from data_tools.cli import UserError, check_folder, joined, progress_bar, run
from data_tools.etags import verify
from data_tools.s3 import Bucket, NotThereError, RemoteObject
from data_tools.sevir_files import opened
from data_tools.transfer import (
    Ledger,
    alone_in,
    byte_bar,
    describe_all,
    do_all,
    fetch,
    fetched,
    in_words,
    require_space,
)
from data_tools.unzip import unpack_zip

BUCKET, CATALOG = "sevir", "CATALOG.csv"
TYPES = ("vis", "ir069", "ir107", "vil", "lght")
PREBUILT = (("deep-earth", "datasets/sevir_lr.zip"), ("earthformer", "datasets/sevir_lr.zip"))
"""Where SEVIR-LR has been; the first that is there is taken."""

_FILE = re.compile(r"CATALOG\.csv|data/[a-z0-9]+/[0-9]{4}/[A-Za-z0-9_.-]+\.h5")


@dataclass(frozen=True)
class Options:
    """Options of the command.

    Args:
        what: sevir or sevir-lr.
        dest: folder for CATALOG.csv and data/.
        type: image types, vil, vis, ir069, ir107 or lght, with commas between (sevir-lr has vil alone).
        years: years of the files, like 2018,2019 (default: all).
        dry_run: tell what would be downloaded and how many bytes that is; nothing is written.
        endpoint: URL of another S3-compatible server that has the buckets.
        workers: files downloaded at one time.
    """

    what: str
    dest: str
    type: str = "vil"
    years: str = ""
    dry_run: bool = False
    endpoint: str | None = None
    workers: int = 4


def main(options: Options) -> None:
    if options.what not in {"sevir", "sevir-lr"}:
        raise UserError(f"expected sevir or sevir-lr, got {options.what!r}")
    if not 1 <= options.workers <= 64:
        raise UserError(f"expected --workers from 1 to 64, got {options.workers}")
    folder = Path(options.dest)
    check_folder(folder, "--dest")
    job = _sevir if options.what == "sevir" else _sevir_lr
    if options.dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            job(options, folder, Path(scratch))
        return
    with alone_in(folder):
        job(options, folder, folder)


def _sevir(options: Options, folder: Path, catalog_folder: Path) -> None:
    """Catalogue, then the files it names. In a dry run the catalogue goes to another folder."""
    types, years = _types(options.type), _years(options.years)
    stop = threading.Event()
    bucket = Bucket(BUCKET, options.endpoint, connections=options.workers, stop=stop)
    ledger = Ledger.read(folder)
    catalog = bucket.describe(CATALOG)
    if options.dry_run or not ledger.holds(CATALOG, catalog):
        catalog, check = fetch(bucket, catalog, catalog_folder / CATALOG)
        if not options.dry_run:
            ledger.record(CATALOG, catalog, check)
    names = choose_files(catalog_folder / CATALOG, types, years)
    found = describe_all(bucket, [f"data/{name}" for name in names], options.workers)
    items = [item for item in found.values() if isinstance(item, RemoteObject)]
    lost = [error for error in found.values() if not isinstance(error, RemoteObject)]
    wanted = [item for item in items if not ledger.holds(item.key, item)]
    to_come = sum(item.size - _there(folder / item.key, item) for item in wanted)
    if options.dry_run:
        _tell_plan(folder, items, wanted, to_come)
    else:
        require_space(folder, to_come)
        _fetch_files(bucket, wanted, ledger, options.workers, stop)
        checks = [str(ledger.entries[item.key]["verified"]) for item in items]
        by_size = sum(check.startswith("size") for check in checks)
        print(
            f"{folder}: {len(items)} files, {in_words(sum(item.size for item in items))}; "
            f"{len(checks) - by_size} verified by checksum, {by_size} by size and as readable HDF5"
        )
    if lost:
        others = f" (nor {len(lost) - 1} others)" if lost[1:] else ""
        raise UserError(f"{lost[0]}{others}, which {CATALOG} names: the files that are there were taken")


def _types(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in TYPES]
    if unknown or not names:
        raise UserError(f"expected --type out of {', '.join(TYPES)}, got {text!r}")
    return names


def _years(text: str) -> list[str]:
    years = [year.strip() for year in text.split(",") if year.strip()]
    if not all(re.fullmatch(r"[0-9]{4}", year) for year in years):
        raise UserError(f"expected --years like 2018,2019, got {text!r}")
    return years


def choose_files(catalog: Path, types: list[str], years: list[str]) -> list[str]:
    """The files, relative to `data`, that the catalogue names for `types` and, unless there are none, `years`.

    Raises:
        UserError: a broken catalogue, a file name that leads out of the folder, or no files.
    """
    rows = {entry.file_name: entry.img_type for entry in read_catalog(catalog)}
    for name in rows:
        if not _FILE.fullmatch(f"data/{name}") or ".." in PurePosixPath(name).parts:
            raise UserError(f"expected file names like vil/2019/NAME.h5 in {CATALOG}, got {name!r}: do not trust it")
    of_types = sorted(name for name, kind in rows.items() if kind in types)
    chosen = [name for name in of_types if not years or name.split("/")[1] in years]
    if not chosen:
        there = sorted({name.split("/")[1] for name in of_types})
        raise UserError(
            f"expected files of {', '.join(types)} of {', '.join(years) or 'any year'}, got none: "
            f"the catalogue has {', '.join(there) or 'no files of these types'}"
        )
    return chosen


def _there(path: Path, item: RemoteObject) -> int:
    """Bytes that need not be fetched: of a part, or of a whole file that another tool may have brought."""
    return item.size if path.is_file() and path.stat().st_size == item.size else fetched(path, item)


def _tell_plan(folder: Path, items: list[RemoteObject], wanted: list[RemoteObject], to_come: int) -> None:
    for item in wanted:
        have = _there(folder / item.key, item)
        print(f"{item.key}\t{item.size}" + (f"\t{have} there" if have else ""))
    print(
        f"{len(items)} files, {len(items) - len(wanted)} verified before; {to_come} bytes ({in_words(to_come)}) "
        "to come; nothing was written"
    )


def _fetch_files(
    bucket: Bucket, wanted: list[RemoteObject], ledger: Ledger, workers: int, stop: threading.Event
) -> None:
    total = sum(item.size for item in wanted)
    done = sum(_there(ledger.folder / item.key, item) for item in wanted)
    with byte_bar("downloading (MB)", total, done) as advance:

        def work(item: RemoteObject) -> None:
            path, examine = ledger.folder / item.key, partial(require_type, name=item.key)
            check = _check_existing(path, item, ledger, examine)
            if check is None:
                if path.is_file() and path.stat().st_size == item.size:
                    advance(fetched(path, item) - item.size)
                item, check = fetch(bucket, item, path, advance=advance, examine=examine)
            ledger.record(item.key, item, check)

        do_all([partial(work, item) for item in wanted], stop, workers)


def _check_existing(path: Path, item: RemoteObject, ledger: Ledger, examine: Callable[[Path], None]) -> str | None:
    """How a file that stands at `path` already, brought by another tool, was verified; None if it was not."""
    if not path.is_file():
        return None
    check = verify(path, item)
    if check == "size" and item.key in ledger.entries:  # it was another object's, and its size proves nothing
        return None
    try:
        examine(path)
    except UserError:
        return None
    return check


def require_type(path: Path, name: str) -> None:
    """Raise `UserError` unless the file at `path` is whole HDF5 with what its place, `data/<type>/...`, promises."""
    kind = name.split("/")[1]
    with opened(path) as file:
        if kind != "lght" and kind not in file:
            raise UserError(f"expected the dataset {kind} in {name}, got none: try again or report it to its publisher")


def _sevir_lr(options: Options, folder: Path, _: Path) -> None:
    """The zip file as published, unpacked."""
    if _types(options.type) != ["vil"] or options.years:
        raise UserError("expected no --type or --years for sevir-lr, which is one archive of vil: leave them out")
    stop = threading.Event()
    bucket, item = _prebuilt(options, stop)
    name, ledger = PurePosixPath(item.key).name, Ledger.read(folder)
    if _is_unpacked(ledger, name, item):
        print(f"{folder}: SEVIR-LR is there, {len(ledger.entries[name]['members'])} files; nothing to do")
        return
    path = folder / name
    whole = ledger.holds(name, item)
    to_come = 0 if whole else item.size - fetched(path, item)
    if options.dry_run:
        _tell_plan(folder, [item], [] if whole else [item], to_come)
        return
    if not whole:
        require_space(folder, to_come)
        with byte_bar("downloading (MB)", item.size, item.size - to_come) as advance:
            item, check = fetch(bucket, item, path, advance=advance)
        ledger.record(name, item, check)
    with progress_bar() as bar:
        task = bar.add_task("unpacking (MB)", total=None, note="")
        members = unpack_zip(
            path,
            folder,
            _FILE,
            examine=_examine_member,
            progress=lambda done, total: bar.update(task, completed=done / 1e6, total=total / 1e6),
        )
    ledger.record(name, item, ledger.entries[name]["verified"], members=members)
    path.unlink()
    print(
        f"{folder}: {len(members)} files, {in_words(sum(members.values()))}; {name} {ledger.entries[name]['verified']}"
    )


def _prebuilt(options: Options, stop: threading.Event) -> tuple[Bucket, RemoteObject]:
    """The first bucket that has the archive, and the archive."""
    for name, key in PREBUILT:
        bucket = Bucket(name, options.endpoint, stop=stop)
        try:
            return bucket, bucket.describe(key)
        except NotThereError:
            continue
    places = " or ".join(f"s3://{name}/{key}" for name, key in PREBUILT)
    raise UserError(
        f"expected the published SEVIR-LR at {places}, got nothing there: build the same from SEVIR with "
        "python -m data_tools.download sevir --dest DIR and python -m data_tools.convert DIR OUT.zarr --lr"
    )


def _is_unpacked(ledger: Ledger, name: str, item: RemoteObject) -> bool:
    """Whether all files of this very archive are there."""
    entry = ledger.entries.get(name, {})
    members = entry.get("members")
    if entry.get("etag") != item.etag or entry.get("size") != item.size or not isinstance(members, dict) or not members:
        return False
    paths = {ledger.folder / member: size for member, size in members.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _examine_member(path: Path) -> None:
    if path.name.endswith(".h5.part"):
        require_type(path, "data/vil/")


if __name__ == "__main__":
    run(
        Options,
        main,
        prog="python -m data_tools.download",
        description="Download SEVIR from its public bucket, or SEVIR-LR as published; run again to continue.",
        examples="examples:\n"
        "  python -m data_tools.download sevir --dest sevir --dry-run\n"
        "  python -m data_tools.download sevir --dest sevir --type vil --years 2018 2019 --workers 8\n"
        "  python -m data_tools.download sevir-lr --dest sevir_lr",
        positional=[("what", "sevir (the data set in full) or sevir-lr (10 minutes, 128 x 128 pixels, vil)")],
        argv=["--dry_run" if word == "--dry-run" else word for word in joined("years", "type", argv=sys.argv[1:])],
    )

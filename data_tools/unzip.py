"""Unpacking an archive that somebody else made: only the files that are wanted, only below the folder, never too much.

A name that leads out of the folder, a link, an encrypted or doubled member, and content that outgrows what the
archive's own directory says are refused before or while writing; a file takes its name when it is whole.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from data_tools.cli import UserError
from data_tools.transfer import in_words, require_space

LIMIT = 64 << 30
"""Bytes that an archive may unpack to; SEVIR-LR has about 8 GB."""

_READ = 4 << 20


def wanted_members(archive: zipfile.ZipFile, wanted: re.Pattern[str], limit: int = LIMIT) -> dict[str, zipfile.ZipInfo]:
    """Relative path -> member for the members whose path, without the folder that all stand in, matches `wanted`.

    Raises:
        UserError: a member's name leads out of the folder, is a link or encrypted or stands twice; nothing is wanted;
            more than `limit` bytes.
    """
    source = archive.filename
    infos = [info for info in archive.infolist() if not info.is_dir()]
    for info in archive.infolist():
        _require_safe(info, source)
    tops = {info.filename.split("/")[0] for info in infos}
    strip = f"{tops.pop()}/" if len(tops) == 1 and all("/" in info.filename for info in infos) else ""
    strip = "" if strip == "data/" else strip
    members: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in infos:
        name = info.filename.removeprefix(strip)
        if not wanted.fullmatch(name):
            continue
        if name.lower() in seen:  # one file on some file systems
            raise UserError(f"expected each file once in {source}, got {name} twice: download it again")
        members[name] = info
        seen.add(name.lower())
    if not members:
        raise UserError(f"expected CATALOG.csv and data/*/*.h5 in {source}, got none of them: is it another archive?")
    total = sum(info.file_size for info in members.values())
    if total > limit:
        raise UserError(f"expected at most {in_words(limit)} in {source}, got {in_words(total)}: unpack it yourself")
    return members


def _require_safe(info: zipfile.ZipInfo, source: str | None) -> None:
    parts = info.filename.split("/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if ".." in parts or info.filename.startswith("/") or re.search(r"[\\:\x00-\x1f]", info.orig_filename):
        raise UserError(f"expected file names inside the folder in {source}, got {info.filename!r}: do not trust it")
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise UserError(f"expected plain files in {source}, got a link or device {info.filename!r}: do not trust it")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UserError(f"expected deflated files in {source}, got others in {info.filename!r}: unpack it yourself")
    if info.flag_bits & 1:
        raise UserError(f"expected no encrypted file in {source}, got {info.filename!r}: unpack it yourself")


def unpack_zip(
    source: Path,
    folder: Path,
    wanted: re.Pattern[str],
    *,
    limit: int = LIMIT,
    examine: Callable[[Path], None] = lambda path: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Unpack the wanted files of the zip file `source` into `folder`; relative path -> size.

    Files that are there with the size and the CRC-32 that the archive names are left alone, so that an unpacking that
    was killed goes on. `examine` raises `UserError` at a file that is no good. `progress` is told bytes done and in
    all.

    Raises:
        UserError: no whole zip file, what `wanted_members` refuses, a damaged member, too little space.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            members = wanted_members(archive, wanted, limit)
            total, done = sum(info.file_size for info in members.values()), 0
            missing = {name: info for name, info in members.items() if not _is_there(folder / name, info)}
            require_space(folder, sum(info.file_size for info in missing.values()))
            for name, info in members.items():
                if name in missing:
                    _extract(
                        archive, info, folder / name, examine, lambda count, done=done: progress(done + count, total)
                    )
                done += info.file_size
                progress(done, total)
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        ValueError,
        IndexError,
        OSError,
    ) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a damaged directory leads to before the file
            raise
        raise UserError(
            f"expected a whole zip file, got {source} ({error}): remove it and download it again"
        ) from error
    return {name: info.file_size for name, info in members.items()}


def _is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != info.file_size:
        return False
    checksum = 0
    with path.open("rb") as file:
        while data := file.read(_READ):
            checksum = zlib.crc32(data, checksum)
    return checksum == info.CRC


def _extract(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    path: Path,
    examine: Callable[[Path], None],
    advance: Callable[[int], None],
) -> None:
    """One member to `path`. zipfile itself checks the CRC-32 at the end; it does not bound the length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with archive.open(info) as source, part.open("wb") as file:
            count = 0
            while data := source.read(_READ):
                count += len(data)
                if count > info.file_size:
                    raise UserError(f"expected {info.file_size} bytes of {info.filename}, got more: do not trust it")
                file.write(data)
                advance(count)
        if count != info.file_size:
            raise UserError(f"expected {info.file_size} bytes of {info.filename}, got {count}: download it again")
        examine(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

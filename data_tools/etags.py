"""Whether a file is the object it should be: S3's ETag recomputed, as far as it is a checksum of the content.

The ETag of an object stored in one piece is its MD5. That of one stored in n parts is MD5(MD5(part 1) ... MD5(part n))
followed by -n; the size of a part is not told, but all parts save the last have the same, so that few sizes are
possible and fewer are in use (https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from data_tools.s3 import RemoteObject

_MIB = 1 << 20
_USUAL = (5, 8, 15, 16, 32, 50, 64, 100, 128, 256, 512, 1024)  # MiB: aws cli and boto3 8, browsers 16, rclone 5, ...
_READ = 4 * _MIB


def part_sizes(size: int, parts: int) -> list[int]:
    """Part sizes in bytes that cut `size` bytes into `parts` parts: the usual ones, then the least whole MiB."""
    if parts < 1 or size < 1:
        return []
    if parts == 1:
        return [size]
    usual = [mebibytes * _MIB for mebibytes in _USUAL]
    usual += [mebibytes * 1_000_000 for mebibytes in _USUAL]
    least = -(-size // (parts * _MIB)) * _MIB
    return [part for part in dict.fromkeys([*usual, least]) if -(-size // part) == parts]


def verify(path: Path, item: RemoteObject, advance: Callable[[int], None] = lambda count: None) -> str | None:
    """How the content of the file at `path` was found to be that of `item`, in words; None where it is another.

    `md5`, `md5 of n parts of m bytes`, or `size` where the ETag is no checksum or was made with parts of a size that
    is not in use. `advance` is called with numbers of bytes read.
    """
    if path.stat().st_size != item.size:
        return None
    match = None if item.opaque else re.fullmatch(r"([0-9a-f]{32})(?:-([0-9]{1,5}))?", item.etag)
    if match is None:
        return "size"
    digest, parts = match.groups()
    if parts is None:
        return "md5" if _etags(path, [], advance)[0] == digest else None
    sizes = part_sizes(item.size, int(parts))
    found = dict(zip(_etags(path, sizes, advance)[1:], sizes, strict=True))
    return f"md5 of {parts} parts of {found[digest]} bytes" if digest in found else "size"


def _etags(path: Path, sizes: list[int], advance: Callable[[int], None]) -> list[str]:
    """The MD5 of the file, then the digest of its parts' MD5s for each of `sizes`, all in one reading."""
    whole = hashlib.md5(usedforsecurity=False)
    outer = [hashlib.md5(usedforsecurity=False) for _ in sizes]
    inner = [hashlib.md5(usedforsecurity=False) for _ in sizes]
    position = 0
    with path.open("rb") as file:
        while data := file.read(_READ):
            if not sizes:
                whole.update(data)
            for number, size in enumerate(sizes):
                rest = memoryview(data)
                filled = position % size
                while len(rest) >= size - filled:
                    inner[number].update(rest[: size - filled])
                    outer[number].update(inner[number].digest())
                    inner[number] = hashlib.md5(usedforsecurity=False)
                    rest, filled = rest[size - filled :], 0
                inner[number].update(rest)
            position += len(data)
            advance(len(data))
    for number, size in enumerate(sizes):
        if position % size:
            outer[number].update(inner[number].digest())
    return [whole.hexdigest(), *(digest.hexdigest() for digest in outer)]

"""Decode MRMS rain rates from GRIB2, in a process of its own: `python -m data_tools.grib_worker`.

eccodes is kept out of the process that holds everything else: its library, loaded beside other packages' copies of
the same C libraries, has brought down the interpreter at exit. Paths come in by stdin, one a line. For each, one line
of JSON goes out on stdout, followed, if it has no "error", by rows * columns uint16 codes of 0.01 mm/h in the machine's
byte order.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import eccodes
import numpy as np

_KEYS = (
    "Ni",
    "Nj",
    "gridType",
    "scanningMode",
    "discipline",
    "parameterCategory",
    "parameterNumber",
    "dataDate",
    "hour",
    "minute",
    "second",
    "latitudeOfFirstGridPointInDegrees",
    "longitudeOfFirstGridPointInDegrees",
    "iDirectionIncrementInDegrees",
    "jDirectionIncrementInDegrees",
)
_MISSING = 65535


def decode(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Header keys and codes (rows, columns) of the one message in a file.

    MRMS marks what no radar sees by -3 and what is lost by -1: every negative value is missing.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if data[:4] != b"GRIB" or data[7:8] != b"\x02":
        raise ValueError("it does not begin with GRIB, edition 2")
    if int.from_bytes(data[8:16], "big") != len(data) or data[-4:] != b"7777":
        raise ValueError("it breaks off before the end of its message")
    message = eccodes.codes_new_from_message(data)
    try:
        header: dict[str, Any] = {key: eccodes.codes_get(message, key) for key in _KEYS}
        values = eccodes.codes_get_values(message)
    finally:
        eccodes.codes_release(message)
    codes = np.rint(values * 100.0).clip(0, _MISSING - 1).astype(np.uint16)
    codes[values < 0] = _MISSING
    return header, codes.reshape(header["Nj"], header["Ni"])


def main() -> None:
    output = sys.stdout.buffer
    for line in sys.stdin.buffer:
        try:
            header, codes = decode(Path(os.fsdecode(line.rstrip(b"\n"))))
        except (OSError, EOFError, ValueError, zlib.error, eccodes.CodesInternalError) as error:
            output.write(json.dumps({"error": " ".join(str(error).split())}).encode() + b"\n")
        else:
            output.write(json.dumps(header).encode() + b"\n")
            output.write(codes.tobytes())
        output.flush()


if __name__ == "__main__":
    main()

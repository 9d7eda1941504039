"""Units of rain in other people's files: to mm/h, with a look at whether the numbers can be rain at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from data_tools.cli import UserError
from data_tools.fmi import rate_of_dbz
from data_tools.quantities import RAIN_FLOOR

MOST_RAIN = 1000.0
"""mm/h; the heaviest minute ever measured was of 1872 mm/h, no radar pixel of a kilometre is near it."""

STRAY = 0.01
"""Share of the known pixels above `MOST_RAIN` that may be put down to bad pixels; more of them are wrong units."""

FEW = 8
"""Bad pixels that may be most of the wet ones; where more of them are, it is rain in wrong units."""


def _times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: values * factor


CONVERSIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType({
    "kg m-2 h-1": _times(1.0), "kg m-2 hr-1": _times(1.0), "kg/m2/h": _times(1.0), "kg m**-2 h**-1": _times(1.0),
    "mm h-1": _times(1.0), "mm/h": _times(1.0), "mm hr-1": _times(1.0), "mm/hr": _times(1.0), "mm h**-1": _times(1.0),
    "mm hour-1": _times(1.0), "mm/hour": _times(1.0), "kg m-2 hour-1": _times(1.0),
    "kg m-2 s-1": _times(3600.0), "kg m**-2 s**-1": _times(3600.0), "kg/m2/s": _times(3600.0),
    "mm s-1": _times(3600.0), "mm/s": _times(3600.0),
    "m s-1": _times(3.6e6), "m/s": _times(3.6e6), "m s**-1": _times(3.6e6), "m h-1": _times(1e3), "m/h": _times(1e3),
    "dbz": rate_of_dbz,
})  # fmt: skip
"""Units (small letters but for the spelling of dBZ) -> what makes mm/h of them. A kg m-2 of water is a mm of it."""


def to_rate(values: np.ndarray, units: str, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(rain rates in mm/h float32 with NaN missing, what was odd about them in words).

    Negative rates are codes for something else, single rates above `MOST_RAIN` and infinities are bad pixels: missing.

    Args:
        values: numbers, NaN missing.
        units: of them.
        what: names them in messages.

    Raises:
        UserError: units that are not known, or more impossible rates than `STRAY`.
    """
    words = " ".join(str(units).split())
    convert = CONVERSIONS.get(words.lower())
    if convert is None:
        known = "kg m-2 h-1, mm h-1, kg m-2 s-1, mm s-1, m s-1 or dBZ"
        raise UserError(f"expected {what} in {known}, got units {words[:40] or 'nowhere told'!r}: write its attribute")
    with np.errstate(all="ignore"):
        rate = np.asarray(convert(values.astype(np.float64)))
        # Of a reflectivity, minus infinity is the logarithm of no echo at all: dry.
        if words.lower() == "dbz":
            rate[np.isneginf(values)] = 0.0
            rate[np.isnan(values)] = np.nan
        negative, great = rate < 0.0, rate > MOST_RAIN
        wet = rate >= RAIN_FLOOR
    known = int((~np.isnan(rate)).sum())
    if great.sum() > STRAY * known or great.sum() > max(FEW, 0.5 * wet.sum()):
        share = great.sum() / known
        raise UserError(
            f"expected rain rates up to {MOST_RAIN:g} mm/h in {what}, got more in {share:.1%} of the pixels after "
            f"conversion from {words}: correct its units"
        )
    notes = []
    if great.any():
        notes.append(f"{int(great.sum())} pixels over {MOST_RAIN:g} mm/h taken as missing")
    if negative.any():
        notes.append(f"{int(negative.sum())} pixels of negative rates taken as missing")
    rate[great | negative] = np.nan
    return rate.astype(np.float32), tuple(notes)

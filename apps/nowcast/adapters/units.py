"""Units and transforms of pysteps' arrays, to rain rates in mm/h and back.

A rate R is `mm/h`; `mm` is what falls in `accutime` minutes, R accutime / 60; `dBZ` is the reflectivity of
Z = zr_a R^zr_b (Marshall and Palmer's 200 and 1.6 where the metadata tell no others). With the transform `dB`, rates
and depths are ten times their decadic logarithm; dBZ is a logarithm with or without that word, as in pysteps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

Unit = Literal["mm/h", "mm", "dBZ"]
Transform = Literal["dB"] | None

LEAST_RATE = 0.1
"""mm/h; less is no rain, as in pysteps' own importers."""

DRY_DECIBELS = 5.0
"""How far below the threshold pysteps puts no rain on logarithmic scales."""


def to_rate(values: np.ndarray, metadata: Mapping[str, Any]) -> np.ndarray:
    """Rain rates in mm/h, float32, NaN where missing; 0 below the threshold of logarithms.

    Raises:
        ValueError: an unknown unit or transform, or depths without `accutime`.
    """
    unit, transform = metadata.get("unit"), metadata.get("transform")
    if unit not in {"mm/h", "mm", "dBZ"} or transform not in {None, "dB"}:
        raise ValueError(
            f"expected unit mm/h, mm or dBZ and transform None or dB in the metadata, got {unit!r} and {transform!r}; "
            "undo other transforms with pysteps.utils.transformation"
        )
    amounts = np.asarray(values, np.float64)
    if unit == "dBZ" or transform == "dB":
        linear = 10.0 ** (amounts / 10.0)
        if unit == "dBZ":
            linear = (linear / metadata.get("zr_a", 200.0)) ** (1.0 / metadata.get("zr_b", 1.6))
        threshold = metadata.get("threshold")
        amounts = linear if threshold is None else np.where(amounts < threshold, 0.0, linear)
    if unit == "mm":
        amounts = amounts * (60.0 / _minutes(metadata))
    return amounts.astype(np.float32)


def from_rate(
    rate: np.ndarray, unit: Unit, transform: Transform, minutes: float | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """(values float64, metadata of the values) of rain rates in mm/h; `minutes` are those that a depth adds up, None
    where they are unknown, as for rates they may be.

    Raises:
        ValueError: another unit or transform, or depths of no time.
    """
    metadata: dict[str, Any] = {"unit": unit, "transform": transform, "accutime": minutes, "zr_a": 200.0, "zr_b": 1.6}
    factor = _minutes(metadata) / 60.0 if unit == "mm" else 1.0
    amounts, least = np.asarray(rate, np.float64) * factor, LEAST_RATE * factor
    if unit == "dBZ":
        amounts, least = 200.0 * amounts**1.6, 200.0 * least**1.6
        metadata["transform"] = transform = "dB"
    elif unit not in {"mm/h", "mm"} or transform not in {None, "dB"}:
        raise ValueError(f"expected unit mm/h, mm or dBZ and transform None or dB, got {unit!r} and {transform!r}")
    if transform is None:
        return amounts, metadata | {"threshold": least, "zerovalue": 0.0}
    threshold = 10.0 * np.log10(least)
    dry = threshold - DRY_DECIBELS
    # a rate of single precision may lie a hair below the threshold that it is meant to reach
    wet = amounts >= least * (1.0 - 1e-6)
    decibel = np.where(wet, np.maximum(10.0 * np.log10(np.maximum(amounts, least)), threshold), dry)
    return np.where(np.isnan(amounts), np.nan, decibel), metadata | {"threshold": threshold, "zerovalue": dry}


def _minutes(metadata: Mapping[str, Any]) -> float:
    minutes = metadata.get("accutime")
    if not isinstance(minutes, (int, float, np.number)) or not minutes > 0:
        raise ValueError(f"expected accutime in minutes for depths in mm, got {minutes!r}")
    return float(minutes)

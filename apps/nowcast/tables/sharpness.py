"""How sharp forecasts are, and at what cost: scores over network evaluations, and spectra over the truth's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apps.nowcast.evaluation import Scored
from apps.nowcast.metrics import METRICS, Estimate, Weights, estimate
from apps.nowcast.verification.curves import Curve, curves
from apps.nowcast.verification.spectra import wavelengths


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a picture: `x` (points,) and `value`, `low`, `high` (points,), the ends of 95 % intervals."""

    label: str
    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def against_evaluations(scored: Sequence[Scored], weights: Weights, score: str) -> list[Series]:
    """A score over the network evaluations of a member: a line for each family of methods (DDIM at all its numbers of
    steps, ...), in the order in which they come; methods without a network are left out.

    Args:
        scored: methods on the same events.
        weights: resamples of these events.
        score: of `METRICS`, or of `verification.definitions.SCORES` if it has no dimension but the lead time; all lead
            times together.

    Raises:
        KeyError: an unknown score.
    """
    families: dict[tuple[str, str | None], list[tuple[int, Estimate]]] = {}
    for each in scored:
        if each.nfe:
            family = families.setdefault((each.method.name, each.method.supervision), [])
            family.append((each.nfe, _estimate(each, weights, score)))
    return [_series(name, supervision, points) for (name, supervision), points in families.items()]


def spectral_ratios(scored: Sequence[Scored], weights: Weights, lead: int, size: tuple[int, int]) -> list[Series]:
    """Power of each method's members over the truth's, by wavelength in pixels, descending.

    It is 1 where a forecast has as much variance at a scale as what was observed, below 1 where it is blurred (radially
    averaged, of [0, 1] values). The interval is of the ratio: both powers are of the same resampled events.

    Args:
        scored: methods on the same events, with the statistics of `verification.events`.
        weights: resamples of these events.
        lead: index of the lead time; -1 is the last.
        size: (height, width) of the frames.
    """
    lengths = wavelengths(*size)[1:]  # the mean has no wavelength
    lines = []
    for each in scored:
        total, drawn = each.statistics.total(), each.statistics.resampled(weights)
        value, samples = (
            sums["spectrum"][..., lead, 1:] / sums["truth_spectrum"][..., lead, 1:] for sums in (total, drawn)
        )
        low, high = np.nanquantile(samples, [0.025, 0.975], axis=0)
        lines.append(Series(each.method.label, lengths, value, low, high))
    return lines


def _estimate(each: Scored, weights: Weights, score: str) -> Estimate:
    if score in METRICS:
        return estimate(each.statistics, METRICS[score], weights)
    curve: Curve = curves(each.statistics, weights, [score])[score].all_leads
    return Estimate(float(curve.value), float(curve.low), float(curve.high))


def _series(name: str, supervision: str | None, points: Sequence[tuple[int, Estimate]]) -> Series:
    ordered = sorted(points, key=lambda point: point[0])
    label = f"{name}, {supervision} supervised" if supervision else name
    values = np.array([(nfe, found.value, found.low, found.high) for nfe, found in ordered], np.float64).T
    return Series(label, *values)

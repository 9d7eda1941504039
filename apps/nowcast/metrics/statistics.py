"""What is summed over events, and the metrics that are functions of those sums.

Every statistic of an event is a sum, so that batches, processes and bootstrap resamples all reduce by adding; a
metric turns sums into a number (the design of WeatherBench-X). Arrays keep the lead time as their second axis, for
scores by lead time.

Names: `counts<k>` and `mean_counts<k>` (event, lead, threshold, 4) for pool k, of single members (summed) and of the
ensemble mean; `ranks` (event, lead, members + 1), see `metrics.ranks`; (event, lead): `crps`, `crps_fair`,
`absolute_error`, `squared_error_of_mean`, `spread` summed over the `pixels` the truth has; `lpips` over `frames` (times
members; those with any truth); `seconds` over `members`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from apps.nowcast.metrics.contingency import counts, nanmean, ratio, scores
from apps.nowcast.metrics.crps import crps_terms
from apps.nowcast.metrics.ranks import outliers, rank_counts
from apps.nowcast.metrics.sums import Statistics, Sums

__all__ = ["METRICS", "POOLS", "Distance", "Metric", "Scale", "Statistics", "Sums", "event_statistics"]

Metric = Callable[[Sums], np.ndarray]
"""Sums (*resamples, ...) -> values (*resamples)."""

POOLS = (1, 4, 16)


class Scale(Protocol):
    """What scoring needs to know of a quantity: its thresholds and its map from the stored scale to [0, 1]."""

    @property
    def thresholds(self) -> tuple[float, ...]: ...

    def encode(self, values: np.ndarray) -> np.ndarray: ...


class Distance(Protocol):
    """A perceptual distance: (*members, frames, y, x) and (frames, y, x) in [0, 1] -> (*members, frames)."""

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor: ...


def event_statistics(
    forecast: np.ndarray,
    truth: np.ndarray,
    quantity: Scale,
    *,
    distance: Distance | None = None,
    seconds: float = float("nan"),
    pools: Sequence[int] = POOLS,
) -> dict[str, np.ndarray]:
    """All statistics of one event.

    Args:
        forecast: (members, leads, y, x) on the stored scale, finite everywhere (a NaN would be left out and so be
            rewarded).
        truth: (leads, y, x) on the stored scale, NaN where missing.
        quantity: thresholds and encoding; errors and CRPS are of [0, 1] values.
        distance: perceptual distance of [0, 1] frames; without one `lpips` is NaN.
        seconds: wall-clock time that all members of this event took.
        pools: sides of the max-pooled blocks.

    Raises:
        ValueError: shapes do not fit, or the forecast is not finite.
    """
    if forecast.ndim != 4 or forecast.shape[1:] != truth.shape:
        raise ValueError(
            f"expected forecast (members, leads, y, x) and truth (leads, y, x), got {forecast.shape}, {truth.shape}"
        )
    if not np.isfinite(forecast).all():
        raise ValueError("expected a finite forecast, got NaN or infinite values; fill what the method leaves out")
    n, leads = forecast.shape[:2]
    mean = forecast.mean(axis=0)
    result: dict[str, np.ndarray] = {}
    for pool in pools:
        result[f"counts{pool}"] = sum(
            (counts(member, truth, quantity.thresholds, pool) for member in forecast),
            start=np.zeros((leads, len(quantity.thresholds), 4), np.int64),
        )
        result[f"mean_counts{pool}"] = counts(mean, truth, quantity.thresholds, pool)

    result["ranks"] = rank_counts(forecast, truth, quantity.thresholds[0])
    members, observed = quantity.encode(forecast), quantity.encode(truth)
    undefined = np.full(truth.shape, np.nan)
    seen = ~np.isnan(observed)
    error, half_spread = crps_terms(members, observed)
    fields = {
        "crps": error - half_spread,
        "crps_fair": error - half_spread * (n / (n - 1)) if n > 1 else undefined,
        "absolute_error": error,
        "squared_error_of_mean": np.square(members.mean(axis=0) - observed),
        # A perfect ensemble's mean errs by (n + 1) / n of the variance of its members.
        "spread": members.var(axis=0, ddof=1) * ((n + 1) / n) if n > 1 else undefined,
        "pixels": np.ones(truth.shape),
    }
    for name, field in fields.items():
        result[name] = np.where(seen, field, 0.0).sum(axis=(-2, -1), dtype=np.float64)
    result["lpips"] = np.full(leads, np.nan)
    if distance is not None:
        per_frame = distance(torch.from_numpy(np.ascontiguousarray(members)), torch.from_numpy(observed))
        result["lpips"] = per_frame.double().sum(dim=0).cpu().numpy()
    result["frames"] = n * seen.any(axis=(-2, -1)).astype(np.float64)  # frames without truth have distance 0: no frames
    result["seconds"] = np.full(leads, seconds / leads)
    result["members"] = np.full(leads, n / leads)
    return result


def contingency_metric(name: str, score: str) -> Metric:
    """`score` of the counts `name`, summed over lead times and averaged over the thresholds that the truth reaches.

    Which thresholds count is thus the same for all methods, whatever they forecast: a paired difference compares like
    with like.
    """

    def metric(sums: Sums) -> np.ndarray:
        summed = sums[name].sum(axis=-3)
        reached = summed[..., 0] + summed[..., 1] > 0  # hits + misses
        return nanmean(np.where(reached, scores(summed)[score], np.nan))

    return metric


def ratio_metric(numerator: str, denominator: str) -> Metric:
    """One sum over another, both summed over lead times; NaN where there is nothing to divide by."""

    def metric(sums: Sums) -> np.ndarray:
        return ratio(sums[numerator].sum(axis=-1), sums[denominator].sum(axis=-1))

    return metric


def root_metric(numerator: str, denominator: str) -> Metric:
    """The root of `ratio_metric`."""
    squared = ratio_metric(numerator, denominator)
    return lambda sums: np.sqrt(squared(sums))


def spread_skill(sums: Sums) -> np.ndarray:
    """Ensemble spread over RMSE of its mean: 1 where calibrated (Fortin et al. 2014), NaN for a single member."""
    return np.sqrt(ratio_metric("spread", "squared_error_of_mean")(sums))


METRICS: Mapping[str, Metric] = {
    "hss": contingency_metric("counts1", "hss"),
    "csi": contingency_metric("counts1", "csi"),
    "csi4": contingency_metric("counts4", "csi"),
    "csi16": contingency_metric("counts16", "csi"),
    "crps": ratio_metric("crps", "pixels"),
    "lpips": ratio_metric("lpips", "frames"),
    "seconds_per_member": ratio_metric("seconds", "members"),
    "crps_fair": ratio_metric("crps_fair", "pixels"),
    "mae": ratio_metric("absolute_error", "pixels"),
    "spread": root_metric("spread", "pixels"),
    "rmse_of_mean": root_metric("squared_error_of_mean", "pixels"),
    "spread_skill": spread_skill,
    "outliers": lambda sums: outliers(sums["ranks"]),
    "hss_of_mean": contingency_metric("mean_counts1", "hss"),
    "csi_of_mean": contingency_metric("mean_counts1", "csi"),
    "csi4_of_mean": contingency_metric("mean_counts4", "csi"),
    "csi16_of_mean": contingency_metric("mean_counts16", "csi"),
}
"""Single-member scores, then those of the ensemble; `csi4` and `csi16` are of 4 x 4 and 16 x 16 block maxima."""

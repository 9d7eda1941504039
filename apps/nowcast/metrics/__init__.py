"""Verification of nowcasts: statistics that are summed, metrics of the sums, intervals over events."""

from apps.nowcast.metrics.bootstrap import Estimate, difference, estimate, estimates, interval, recovered, resamples
from apps.nowcast.metrics.contingency import PREDIFF_EPS, Scores, SkillScore, counts, scores
from apps.nowcast.metrics.crps import crps, crps_terms
from apps.nowcast.metrics.perceptual import PerceptualDistance
from apps.nowcast.metrics.ranks import outliers, rank_counts, rank_frequencies
from apps.nowcast.metrics.resampling import Resamples, Weights
from apps.nowcast.metrics.statistics import METRICS, Metric, event_statistics
from apps.nowcast.metrics.sums import Statistics, Sums

__all__ = [
    "METRICS",
    "PREDIFF_EPS",
    "Estimate",
    "Metric",
    "PerceptualDistance",
    "Resamples",
    "Scores",
    "SkillScore",
    "Statistics",
    "Sums",
    "Weights",
    "counts",
    "crps",
    "crps_terms",
    "difference",
    "estimate",
    "estimates",
    "event_statistics",
    "interval",
    "outliers",
    "rank_counts",
    "rank_frequencies",
    "recovered",
    "resamples",
    "scores",
]

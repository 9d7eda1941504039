"""Verification of nowcasts: statistics that are summed, metrics of the sums, intervals over events."""

from apps.nowcast.metrics.bootstrap import Estimate, difference, estimate, estimates, interval, recovered, resamples
from apps.nowcast.metrics.contingency import PREDIFF_EPS, Scores, SkillScore, counts, scores
from apps.nowcast.metrics.crps import crps
from apps.nowcast.metrics.perceptual import PerceptualDistance
from apps.nowcast.metrics.ranks import outliers, rank_counts, rank_frequencies
from apps.nowcast.metrics.statistics import METRICS, Metric, Statistics, event_statistics

__all__ = [
    "METRICS",
    "PREDIFF_EPS",
    "Estimate",
    "Metric",
    "PerceptualDistance",
    "Scores",
    "SkillScore",
    "Statistics",
    "counts",
    "crps",
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

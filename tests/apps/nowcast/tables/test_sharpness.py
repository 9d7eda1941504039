"""Scores over network evaluations and spectra over the truth's."""

from __future__ import annotations

import numpy as np
import pytest

from apps.nowcast.evaluation import Scored
from apps.nowcast.metrics import METRICS, resamples
from apps.nowcast.tables.sharpness import against_evaluations, spectral_ratios
from apps.nowcast.verification.curves import curves


def test_families_are_lines_over_their_evaluations(methods: list[Scored]) -> None:
    weights = resamples(6, 200)
    ddim, spanlift = against_evaluations(methods, weights, "csi16")
    assert (ddim.label, spanlift.label) == ("ddim", "SpanLift, target supervised")
    assert ddim.x.tolist() == [2, 5]  # ascending, in whatever order they were scored
    by_label = {each.method.label: each.statistics for each in methods}
    assert ddim.value.tolist() == [float(METRICS["csi16"](by_label[f"ddim-{n}"].total())) for n in (2, 5)]
    for line in (ddim, spanlift):
        assert (line.low <= line.value).all()
        assert (line.value <= line.high).all()


def test_scores_of_the_page_are_taken_over_all_leads(methods: list[Scored]) -> None:
    weights = resamples(6, 200)
    ddim, _ = against_evaluations(methods, weights, "spectral_distance")
    fewer = methods[2].statistics
    curve = curves(fewer, weights, ["spectral_distance"])["spectral_distance"].all_leads
    assert (ddim.value[0], ddim.low[0], ddim.high[0]) == (curve.value, curve.low, curve.high)
    assert ddim.value[0] > ddim.value[1]  # the smoother one is farther from the truth
    with pytest.raises(KeyError):
        against_evaluations(methods, weights, "beauty")


def test_smooth_members_have_too_little_power_at_every_scale(methods: list[Scored]) -> None:
    ddim5, _, ddim2, spanlift = spectral_ratios(methods, resamples(6, 200), -1, (18, 20))
    assert ddim5.x.tolist() == pytest.approx([20 / k for k in range(1, 10)])
    assert (ddim2.value < ddim5.value).all()
    assert (ddim5.value < 1).all()
    np.testing.assert_allclose(spanlift.value, 1, atol=0.1)
    sums = methods[0].statistics.total()
    np.testing.assert_allclose(ddim5.value, (sums["spectrum"] / sums["truth_spectrum"])[-1, 1:])
    assert (ddim5.low <= ddim5.value).all()
    assert (ddim5.value <= ddim5.high).all()

"""Our scores beside published ones: differences, their verdicts, Markdown."""

from __future__ import annotations

import numpy as np
import pytest

from apps.nowcast.evaluation import Scored
from apps.nowcast.metrics import METRICS, Estimate, resamples
from apps.nowcast.tables.beside import Difference, differences, differences_as_markdown, scores_as_markdown
from apps.nowcast.tables.published import DDIM_5, INCEPTION_TARGET, PREDIFF_TABLE_2, TABLE_4, TABLE_4_METRICS
from apps.nowcast.verification.results import Evaluation
from apps.nowcast.verification.scope import Events, Picture, Scope

ROWS = {"ddim-5": DDIM_5, "spanlift-5 (target)": INCEPTION_TARGET}


@pytest.mark.parametrize(
    ("published", "ours", "verdict"),
    [
        (0.1, Estimate(0.2, 0.1, 0.3), "as published"),
        (-0.1, Estimate(-0.2, -0.3, -0.1), "as published"),
        (0.1, Estimate(-0.2, -0.3, -0.1), "the other way round"),
        (-0.1, Estimate(0.2, 0.1, 0.3), "the other way round"),
        (0.1, Estimate(0.2, -0.1, 0.3), "undecided"),
        (0.1, Estimate(0.2, 0.0, 0.3), "undecided"),
        (0.1, Estimate(0.2), "undecided"),  # without an interval
        (0.1, Estimate(float("nan")), "undecided"),
        (0.0003, Estimate(0.2, 0.1, 0.3), "a tie in the paper"),
    ],
)
def test_a_verdict_is_the_side_of_zero_that_the_interval_is_on(published: float, ours: Estimate, verdict: str) -> None:
    assert Difference("a", "b", "csi", published, ours).verdict == verdict


def test_differences_are_those_of_the_scores(methods: list[Scored]) -> None:
    weights = resamples(6, 300)
    found = differences(methods, weights, ROWS, [("spanlift-5 (target)", "ddim-5")])
    assert [each.metric for each in found] == list(TABLE_4_METRICS)
    by_metric = {each.metric: each for each in found}
    csi16 = METRICS["csi16"]
    totals = {each.method.label: csi16(each.statistics.total()) for each in methods}
    assert by_metric["csi16"].ours.value == pytest.approx(float(totals["spanlift-5 (target)"] - totals["ddim-5"]))
    assert by_metric["csi16"].published == pytest.approx(0.6312 - 0.5137)
    assert by_metric["hss"].verdict == "as published"  # a tenth of the error, and nothing smoothed
    assert np.isnan(by_metric["lpips"].ours.value)  # these statistics have none
    with pytest.raises(KeyError):
        differences(methods, weights, ROWS, [("ddim-2", "ddim-5")])


def test_differences_make_a_line_for_each_pair() -> None:
    one = [Difference("a", "b", metric, 0.1, Estimate(0.2, 0.1, 0.3)) for metric in TABLE_4_METRICS]
    other = [Difference("c", "b", metric, 0.1, Estimate(0.05, -0.1, 0.3)) for metric in TABLE_4_METRICS]
    head, rule, *lines = differences_as_markdown([*one, *other]).splitlines()
    assert head == "| difference | HSS | LPIPS* | CSI | CSI-4 | CSI-16 |"
    assert rule.count("---") == 6
    assert lines[0].startswith("| a<br>minus b | +0.200 [+0.100, +0.300]<br>paper +0.100<br>**as published** |")
    assert lines[1].startswith("| c<br>minus b | +0.050 [-0.100, +0.300]<br>paper +0.100<br>undecided |")
    assert len(lines) == 2


def test_scores_stand_above_the_papers(methods: list[Scored]) -> None:
    scope = Scope("f", "vil", (16.0, 74.0), (1, 3), 2, (18, 20), "none")
    many = tuple(str(number) for number in range(6))
    events = Events(many, many, many, np.full(6, 10.0), np.zeros(6))
    picture = Picture("0", np.zeros((1, 18, 20)), np.zeros((2, 18, 20)))
    evaluation = Evaluation(methods, scope, events, picture, "", "", 0, "event", 100, None, (), {}, {})
    head, _, *lines = scores_as_markdown(evaluation, ROWS).splitlines()
    assert head == "| method | NFE | HSS | LPIPS* | CSI | CSI-4 | CSI-16 |"
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [
        "ddim-5", f"*paper: {DDIM_5}*", "persistence", "ddim-2", "spanlift-5 (target)", f"*paper: {INCEPTION_TARGET}*",
    ]  # fmt: skip
    value = evaluation.rows["ddim-5"].scores["csi16"]
    assert lines[0].endswith(f"| {value.value:.3f}<br>[{value.low:.3f}, {value.high:.3f}] |")
    assert lines[1].endswith("| *0.5376* | *0.3429* | *0.3897* | *0.4261* | *0.5137* |")
    assert lines[0].split(" | ")[3] == "-"  # LPIPS, which these statistics have not


def test_published_numbers_are_shares() -> None:
    for table in (TABLE_4, PREDIFF_TABLE_2):
        for row in table.values():
            assert all(0 < value < 1 for value in row.values())
            assert row.get("csi", 0) <= row.get("csi4", 1) <= row.get("csi16", 1)  # maxima of larger blocks are easier
    assert all(list(row) == list(TABLE_4_METRICS) for row in TABLE_4.values())

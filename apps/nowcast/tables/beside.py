"""Our scores beside the published ones, and whether the differences of methods have the published sign.

Other data, another model, another perceptual distance: levels cannot be compared, differences between methods can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from apps.nowcast.evaluation import Scored
from apps.nowcast.metrics import METRICS, Estimate, Weights, difference
from apps.nowcast.tables.published import TABLE_4, TABLE_4_METRICS
from apps.nowcast.verification.results import Evaluation

Verdict = Literal["as published", "the other way round", "undecided", "a tie in the paper"]

TIE = 0.0005
"""Published differences below this, which are 0 to three digits, have no side."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One method minus another in one score.

    Attributes:
        method, reference: labels.
        metric: of `TABLE_4_METRICS`.
        published: the paper's difference, which has no interval.
        ours: with its 95 % interval, paired by event.
    """

    method: str
    reference: str
    metric: str
    published: float
    ours: Estimate

    @property
    def verdict(self) -> Verdict:
        """Whether our interval is on the paper's side of 0; undecided where it holds 0 or is none."""
        if abs(self.published) < TIE:
            return "a tie in the paper"
        if not (self.ours.low > 0 or self.ours.high < 0):
            return "undecided"
        return "as published" if (self.ours.value > 0) == (self.published > 0) else "the other way round"


def differences(
    scored: Sequence[Scored], weights: Weights, rows: Mapping[str, str], pairs: Sequence[tuple[str, str]]
) -> list[Difference]:
    """Differences of methods in the scores of SpanLift's Table 4.

    Args:
        scored: methods on the same events.
        weights: resamples of these events.
        rows: label of ours -> row of `TABLE_4`.
        pairs: (method, reference), labels of ours.

    Raises:
        KeyError: a label that is not among `scored` or `rows`, or a row that the table has not.
    """
    by_label = {each.method.label: each.statistics for each in scored}
    return [
        Difference(
            one,
            other,
            metric,
            TABLE_4[rows[one]][metric] - TABLE_4[rows[other]][metric],
            difference(by_label[one], by_label[other], METRICS[metric], weights),
        )
        for one, other in pairs
        for metric in TABLE_4_METRICS
    ]


def differences_as_markdown(found: Sequence[Difference]) -> str:
    """A Markdown table: a line for each pair, a column for each score, in a cell ours, the paper's and the verdict."""
    lines = _head(["difference", *_columns().values()])
    for pair in dict.fromkeys((each.method, each.reference) for each in found):
        cells = {each.metric: each for each in found if (each.method, each.reference) == pair}
        texts = [
            f"{_signed(cells[metric].ours)}<br>paper {cells[metric].published:+.3f}<br>{_shown(cells[metric].verdict)}"
            for metric in TABLE_4_METRICS
        ]
        lines.append(_line([f"{pair[0]}<br>minus {pair[1]}", *texts]))
    return "\n".join(lines)


def scores_as_markdown(evaluation: Evaluation, rows: Mapping[str, str]) -> str:
    """A Markdown table of all methods of an evaluation in the columns of SpanLift's Table 4, the paper's row in small
    print beneath those that have one.

    Args:
        evaluation: of methods with the statistics of `verification.events`.
        rows: label of ours -> row of `TABLE_4`.

    Raises:
        KeyError: a row that the table has not.
    """
    columns = _columns()
    lines = _head(["method", "NFE", *columns.values()])
    for label, row in evaluation.rows.items():
        texts = [_estimate(row.scores[name]) for name in columns]
        if label in rows:
            paper = TABLE_4[rows[label]]
            lines.append(_line([label, str(row.nfe), *texts]))
            lines.append(_line([f"*paper: {rows[label]}*", "", *(f"*{paper[name]:.4f}*" for name in columns)]))
        else:
            lines.append(_line([label, str(row.nfe), *texts]))
    return "\n".join(lines)


def _columns() -> dict[str, str]:
    """Scores and their headings: our perceptual distance is not the paper's LPIPS."""
    return {name: f"{title}*" if title == "LPIPS" else title for name, title in TABLE_4_METRICS.items()}


def _shown(verdict: Verdict) -> str:
    return f"**{verdict}**" if verdict in {"as published", "the other way round"} else verdict


def _estimate(estimate: Estimate) -> str:
    if not np.isfinite(estimate.value):
        return "-"
    return f"{estimate.value:.3f}<br>[{estimate.low:.3f}, {estimate.high:.3f}]"


def _signed(estimate: Estimate) -> str:
    if not np.isfinite(estimate.value):
        return "-"
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

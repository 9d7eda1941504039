"""`python -m apps.nowcast.report`: a report of statistics that `evaluate --statistics` kept; nothing is forecast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from apps.nowcast.evaluate import gathered
from apps.nowcast.evaluation import Scored
from apps.nowcast.reporting import write_report
from apps.nowcast.reporting.provenance import command
from apps.nowcast.verification.store import StatisticsStore, merged
from apps.nowcast.verification.strata import parse_kinds
from data_tools.cli import UserError, check_outputs, console, run


@dataclass(frozen=True)
class ReportOptions:
    """Options of the command.

    Attributes:
        statistics: comma-separated stores of `evaluate --statistics`, of the same events.
        out: the report, one HTML file that needs nothing else.
        baseline: method, by its label such as persistence or ddim-5, that all others are compared with, paired by
            event.
        strata: comma-separated among source, season, wetness, motion; the scores on each part of the events.
        cluster: what is resampled for the intervals: events, or all events of one source and time together.
        overwrite: replace a report that exists.
    """

    statistics: str
    out: str = "out/report.html"
    baseline: str | None = None
    strata: str | None = None
    cluster: Literal["event", "time"] = "event"
    overwrite: bool = False


def main(options: ReportOptions) -> None:
    """Write the report.

    Raises:
        UserError: a store, the baseline, the strata or the output are not what they should be.
    """
    paths = [Path(part.strip()) for part in options.statistics.split(",") if part.strip()]
    if not paths:
        raise UserError("expected stores of evaluate --statistics, got none; name one")
    kinds = () if options.strata is None else parse_kinds(options.strata)
    check_outputs([Path(options.out)], options.overwrite)
    try:
        stores = [StatisticsStore.open(path) for path in paths]
        scored = [Scored.of(method) for method in merged(stores)]
        members = max(each.members for each in scored)
        evaluation = gathered(stores, scored, members, options.cluster, options.baseline, kinds)
        with console.status("scoring and drawing"):
            written = write_report(options.out, evaluation, command())
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error
    console.print(f"wrote {written}")


if __name__ == "__main__":
    run(
        ReportOptions,
        main,
        prog="python -m apps.nowcast.report",
        description="Write a report of kept statistics: tables, charts, frames and provenance in one HTML file.",
        positional=[("statistics", "comma-separated stores of evaluate --statistics, of the same events")],
        examples="""examples:
  python -m apps.nowcast.report out/knmi-stats.zarr --baseline persistence
  python -m apps.nowcast.report out/a.zarr,out/b.zarr --strata season,wetness --out out/report.html --overwrite""",
    )

"""The report's file: sections, style, script, and what a browser may do with them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from apps.nowcast.output.leftovers import clear
from apps.nowcast.reporting.chart import SERIES, charts, sign
from apps.nowcast.reporting.cost import cost
from apps.nowcast.reporting.ensembles import calibration
from apps.nowcast.reporting.film import film
from apps.nowcast.reporting.html import Html, element, joined
from apps.nowcast.reporting.lead_times import by_lead_time, by_threshold, shown
from apps.nowcast.reporting.provenance import provenance
from apps.nowcast.reporting.spectra import spectra
from apps.nowcast.reporting.tables import definitions, difference_tables, parts_tables, score_tables
from apps.nowcast.verification.results import Evaluation
from core.fitting import write_atomically
from data_tools.cli import FULL, UserError

_ASSETS = Path(__file__).parents[1] / "assets/report"


def write_report(path: str | Path, evaluation: Evaluation, command: str | None = None) -> Path:
    """Write the report; its folder is made where there is none.

    Args:
        path: the file; replaced whole or not at all.
        evaluation: what to tell.
        command: by which it is written, for the provenance.

    Returns:
        The path.

    Raises:
        UserError: there can be no file at that place.
    """
    place = Path(path)
    content = report(evaluation, command)
    try:
        clear(place)
        write_atomically(place, lambda part: part.write_text(content, encoding="utf-8"))
    except OSError as error:
        if error.errno in FULL:
            raise
        raise UserError(f"expected a place where the report can be written, got {place}: {error.strerror}; "
                        "choose another") from error  # fmt: skip
    return place


def report(evaluation: Evaluation, command: str | None = None) -> str:
    """The report as HTML that loads nothing; some MB at most, most of it images (`film.BUDGET`).

    Charts and frames are of the first `SERIES` methods, tables of all.
    """
    style, script = ((_ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    title = f"Nowcasts, {evaluation.split} split"
    sections: dict[str, Html | None] = {
        "Scores": score_tables(evaluation),
        "Differences": difference_tables(evaluation),
        "Frames": film(evaluation),
        "Quality and cost": charts(cost(evaluation), switched=False),
        "Lead times": charts(by_lead_time(evaluation)),
        "Thresholds": charts(by_threshold(evaluation)),
        "Calibration": charts(calibration(evaluation)),
        "Spectra": charts(spectra(evaluation)),
        "Parts of the events": parts_tables(evaluation.parts),
        "Provenance": joined(provenance(evaluation, command), definitions()),
    }
    made = {name: content for name, content in sections.items() if content}
    body = joined(
        element("a", "Skip to the scores", href="#scores", class_="skip"),
        element("header", element("h1", title), element("p", _summary(evaluation)), _contents(made)),
        element("main", _methods(evaluation), *(_section(name, content) for name, content in made.items())),
        element("script", Html(script)),
    )
    head = joined(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(style)),
    )
    return f"<!doctype html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


def _policy(style: str, script: str) -> str:
    """Nothing is loaded; no style or script works but the report's own, whatever a name in it may contain."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _summary(evaluation: Evaluation) -> str:
    events = evaluation.events
    counts = ", ".join(f"{events.sources.count(source)} {source}" for source in sorted(set(events.sources)))
    methods, leads, steps = len(evaluation.scored), evaluation.scope.leads, evaluation.steps_minutes
    ahead, pooled = f"{leads * steps[-1]:g} minutes", ""
    if len(steps) > 1:
        ahead = f"{leads} frames"
        pooled = (
            f" Lead times are pooled frame by frame, of {' and '.join(f'{step:g}' for step in steps)} minutes by event;"
            f" the minutes of the film are those of {evaluation.picture.event}."
        )
    return (
        f"{methods} method{'s' if methods > 1 else ''} on the same {len(events)} events ({counts}) at "
        f"{len(set(events.moments))} times, up to {ahead} ahead, with up to {evaluation.members} members."
        f"{pooled}"
    )


def _contents(sections: dict[str, Html]) -> Html:
    links = [element("li", element("a", name, href=f"#{_anchor(name)}")) for name in sections]
    return element("nav", element("ul", *links), aria_label="Contents")


def _section(name: str, content: Html) -> Html:
    anchor = _anchor(name)
    return element("section", element("h2", name, id=anchor), content, aria_labelledby=anchor)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _methods(evaluation: Evaluation) -> Html:
    """A switch for each line of the charts, which the script makes work."""
    switches = [
        element("label", element("input", type="checkbox", checked=True, data_series=look), sign(look), label,
                class_=f"s{look}")
        for look, label in shown(evaluation)
    ]  # fmt: skip
    more = len(evaluation.scored) - SERIES
    note = element("p", f"{more} more methods are in the tables alone.") if more > 0 else None
    legend = element("legend", "Lines in the charts")
    return element("fieldset", legend, *switches, note, class_="switches", hidden=True)

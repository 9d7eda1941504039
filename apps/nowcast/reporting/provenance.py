"""What the numbers were made of: data, split, seeds, models, versions, commands."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from apps.nowcast.reporting.html import Html, element, joined
from apps.nowcast.reporting.tables import table
from apps.nowcast.verification.results import Evaluation

_PACKAGES = ("spanlift", "torch", "numpy", "scipy", "zarr", "pysteps")


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line of this process."""
    return f"python {shlex.join(sys.orig_argv[1:])}"


def provenance(evaluation: Evaluation, written_by: str | None, now: datetime | None = None) -> Html:
    """The section's content."""
    scope, events = evaluation.scope, evaluation.events
    height, width = scope.size
    moment = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    times, steps = sorted(events.times), " or ".join(f"{step:g}" for step in evaluation.steps_minutes)
    facts: Mapping[str, object] = {
        "Data": evaluation.data,
        "Data hash": element("code", scope.fingerprint),
        "Split": evaluation.split,
        "Events": f"{len(events)} at {len(set(events.moments))} times, {times[0]} to {times[-1]}",
        "Frames": f"{height} x {width} pixels, {scope.leads} lead times of {steps} minutes",
        "Quantity": f"{evaluation.quantity.long_name} ({evaluation.quantity.units})",
        "Thresholds": ", ".join(f"{t:g}" for t in scope.thresholds),
        "Perceptual distance": scope.distance,
        "Model": element("code", evaluation.told.get("model")),
        "Seed": str(evaluation.seed),
        "Intervals": f"95 %, percentile bootstrap, {evaluation.draws} resamples of {evaluation.cluster}s",
        **_made(evaluation.about),
        "Report": joined(moment, element("code", written_by) if written_by else None),
        "Versions of the report": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    listed = [item for name, fact in facts.items() for item in (element("dt", name), element("dd", fact))]
    return joined(element("dl", *listed), _methods(evaluation))


def _made(about: Mapping[str, object]) -> dict[str, object]:
    """How the statistics came about, as far as their store tells."""
    found: dict[str, object] = {}
    if isinstance(about.get("command"), str):
        found["Statistics"] = element("code", about["command"])
    made_with = about.get("versions")
    if isinstance(made_with, Mapping):
        found["Versions of the statistics"] = ", ".join(f"{name} {number}" for name, number in made_with.items())
    return found


def _methods(evaluation: Evaluation) -> Html:
    rows = []
    for each in evaluation.scored:
        told = each.described
        kept = [told.get(name) for name in ("seed", "batch", "precision", "solver")]
        cells = ["\N{EN DASH}" if value is None else element("code", value) for value in kept]
        rows.append([each.method.label, str(each.nfe), str(each.members), *cells])
    head = ["method", "evaluations", "members", "seed", "batch", "precision", "hash of the solver"]
    return table("Methods", "What each method was run with.", head, rows)

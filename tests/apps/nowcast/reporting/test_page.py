"""The report as a file: well-formed, complete, self-contained, and safe whatever names it tells."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from apps.nowcast.reporting import page, write_report
from apps.nowcast.reporting.cost import family
from apps.nowcast.reporting.html import element, text
from apps.nowcast.verification.definitions import SCORES
from apps.nowcast.verification.results import Evaluation
from data_tools.cli import UserError

VOID = {"img", "input", "meta"}
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\u202e\x00"


class Parsed(HTMLParser):
    """All elements (tag, attributes, text, names of those around it); tags must be closed in order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None], list[str], tuple[str, ...]]] = []
        self.elements = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        item = (tag, dict(attrs), [], tuple(each[0] for each in self.open))
        self.elements.append(item)
        if tag not in VOID:
            self.open.append(item)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for item in self.open:
            item[2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(texts)) for name, attributes, texts, _ in self.elements if name == tag]


@pytest.fixture(scope="module")
def content(evaluation: Evaluation) -> str:
    return page.report(evaluation, "python -m apps.nowcast.evaluate --report r.html")


@pytest.fixture(scope="module")
def parsed(content: str) -> Parsed:
    return Parsed(content)


def test_it_loads_nothing(content: str, parsed: Parsed) -> None:
    for tag, attributes, _, _ in parsed.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "video", "audio"}
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), value
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert not re.search(r"https?://|url\(|@import", content)


def test_only_its_own_style_and_script_may_work(parsed: Parsed) -> None:
    policies = [a["content"] for a, _ in parsed.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    policy = str(policies[0])
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        made = parsed.all(tag)
        assert len(made) == 1
        digest = base64.b64encode(hashlib.sha256(made[0][1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_structure_is_said(parsed: Parsed) -> None:
    ids = [attributes["id"] for _, attributes, _, _ in parsed.elements if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    links = [a["href"] for a, _ in parsed.all("a")]
    assert len(links) == 11
    assert all(str(link)[1:] in ids for link in links)
    named = {a["aria-labelledby"] for _, a, _, _ in parsed.elements if "aria-labelledby" in a}
    assert named <= set(ids)
    assert len(parsed.all("h1")) == 1
    levels = [int(tag[1]) for tag, *_ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(a.get("scope") in {"row", "col"} for a, _ in parsed.all("th"))
    tables = len(parsed.all("table"))
    assert tables == len([told for _, told in parsed.all("caption") if told.strip()]) > 10
    assert all(len(str(a["alt"])) > 40 for a, _ in parsed.all("img"))
    drawn = [a for a, _ in parsed.all("svg") if a.get("aria-hidden") != "true"]
    assert all(a["role"] == "img" and a["aria-label"] for a in drawn)
    assert len(drawn) > 40
    assert parsed.all("html")[0][0]["lang"] == "en"


def test_the_tables_say_what_the_evaluation_found(evaluation: Evaluation, parsed: Parsed) -> None:
    cells = [told for _, told in parsed.all("td")]
    for label, row in evaluation.rows.items():
        for name in ("csi", "hss", "csi4", "csi16"):
            score = row.scores[name]
            assert f"{score.value:.3f}{score.low:.3f} to {score.high:.3f}" in cells, (label, name)
    difference = cast("Any", evaluation.from_baseline[0]["csi"])["ci95"]
    assert any(f"{difference[0]:+.3f} to".replace("-", "\N{MINUS SIGN}") in told for told in cells)
    terms = [told for _, told in parsed.all("dd")]
    for fact in ("0123abcd", "blobs.zarr", "m0de1", "test", "made", "50 resamples of events"):
        assert any(fact in told for told in terms), fact
    assert any("--report r.html" in told for told in terms)
    assert {"7", "16", "abc123"} <= set(cells)
    assert set(SCORES) <= {told for a, told in parsed.all("th") if a["scope"] == "row"}


def test_text_of_others_stays_text(evaluation_factory: Callable[..., Evaluation], content: str) -> None:
    evaluation = evaluation_factory(
        {f"persistence{HOSTILE}": (1, 0, None), f"ddim{HOSTILE}-2": (2, 2, "</td></table><script>")},
        ids=("a", "b", f"c{HOSTILE}"), source=HOSTILE, data=f"{HOSTILE}/\udcff.zarr", baseline=f"persistence{HOSTILE}",
        about={"command": f"python {HOSTILE}", "versions": {HOSTILE: HOSTILE}},
    )  # fmt: skip
    made = page.report(evaluation, HOSTILE)
    made.encode("utf-8")
    assert not re.search("[\x00\u202e]", made)
    parsed = Parsed(made)
    tags = {tag for tag, *_ in parsed.elements}
    assert tags <= {tag for tag, *_ in Parsed(content).elements}
    assert len(parsed.all("script")) == 1
    assert all("onerror" not in attributes for _, attributes, _, _ in parsed.elements)
    told = [told for _, told in parsed.all("dd")]
    assert any(HOSTILE[:-2] in each for each in told)


def test_it_appears_whole_or_not_at_all(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "new" / "report.html"
    assert write_report(place, evaluation) == place
    before = place.read_text()
    monkeypatch.setattr(page, "report", lambda *_: "\ud800")  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        write_report(place, evaluation)
    assert place.read_text() == before
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("quantity", ["vil", "rainfall_rate"])
def test_one_deterministic_method_is_enough(evaluation_factory: Callable[..., Evaluation], quantity: str) -> None:
    evaluation = evaluation_factory({"persistence": (1, 0, None)}, quantity=quantity, baseline=None, kinds=())
    parsed = Parsed(page.report(evaluation))
    headings = [told for _, told in parsed.all("h2")]
    assert {"Scores", "Frames", "Lead times", "Spectra", "Provenance"} <= set(headings)
    assert not {"Differences", "Calibration", "Parts of the events"} & set(headings)
    assert not parsed.all("select")


def test_several_steps_between_frames_are_told(evaluation: Evaluation) -> None:
    """Minutes on the axes would be right for one of them alone: they are in frames, which are what is pooled."""
    assert "pooled frame by frame" not in page.report(evaluation)
    events = replace(evaluation.events, time_step_minutes=np.array([4.0, 4.0, 5.0]))
    made = page.report(replace(evaluation, events=events))
    assert "pooled frame by frame, of 4 and 5 minutes by event; the minutes of the film are those of third" in made
    assert "up to 5 frames ahead" in made
    assert "5 lead times of 4 or 5 minutes" in made
    assert "lead time (frames)" in made
    assert "lead time (minutes)" not in made
    assert "Power of single members at +5 frames" in made


def test_many_methods_are_told_and_the_first_are_drawn(evaluation_factory: Callable[..., Evaluation]) -> None:
    evaluation = evaluation_factory({f"ddim-{k}": (1, k, None) for k in range(1, 19)}, baseline=None, kinds=())
    parsed = Parsed(page.report(evaluation))
    labels = [told for _, told in parsed.all("label")]
    assert "ddim-16" in labels
    assert "ddim-17" not in labels
    assert any("2 more methods" in told for _, told in parsed.all("p"))
    assert any(told == "ddim-18" for _, told in parsed.all("th"))


def test_elements_escape_what_they_are_given() -> None:
    made = element("a", "<b>", title='"&<', class_="x", hidden=True, lang=None)
    assert made == '<a title="&quot;&amp;&lt;" class="x" hidden>&lt;b&gt;</a>'
    assert text(element("b")) == "<b></b>"
    assert element("img", alt="'") == '<img alt="&#x27;">'


def test_methods_have_one_name(evaluation: Evaluation, parsed: Parsed) -> None:
    """In tables, charts, switches and film; a family's is that without the number of steps."""
    rows = {told for a, told in parsed.all("th") if a["scope"] == "row"}
    signs = {told for _, told in parsed.all("li")}
    films = {told for _, told in parsed.all("figcaption")}
    for label in evaluation.rows:
        assert label in rows
        assert label in signs
        assert label in films
    assert "spanlift (target)" in signs
    assert not any("steps" in told for told in rows)
    assert family("ddim-5", 5) == "ddim"
    assert family("spanlift-5 (target) 55-50", 5) == "spanlift (target) 55-50"
    assert family("persistence", None) == "persistence"


@pytest.mark.parametrize("place", ["/proc/nowhere/r.html", "/dev/null/r.html", "{tmp}/file/r.html", "{tmp}"])
def test_a_place_that_cannot_be_written_is_one_line(evaluation: Evaluation, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected a place where the report can be written"):
        write_report(place.replace("{tmp}", str(tmp_path)), evaluation)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

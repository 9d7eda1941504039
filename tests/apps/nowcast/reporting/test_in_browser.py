"""The report in a real browser: drawn, readable, operable by keyboard, on a phone, in the dark and on paper."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.nowcast.reporting import write_report
from apps.nowcast.verification.results import Evaluation

CONTRAST = """(() => {
  const channels = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const linear = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [NaN, NaN, NaN];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, title")) continue;
    const style = getComputedStyle(element);
    const ink = channels(element.closest("svg") ? style.fill : style.color);
    const [light, dark] = [luminance(ink), luminance(behind(element))].sort((a, b) => b - a);
    found.push([(light + 0.05) / (dark + 0.05), walk.currentNode.data.slice(0, 30), element.tagName]);
  }
  return found;
})()"""
REACHABLE = """[...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')]
  .filter((element) => element.checkVisibility() && !element.disabled)"""
LINES = """[...document.querySelectorAll('.chart .s1')].map((line) => getComputedStyle(line).display !== 'none')"""


@pytest.fixture(scope="module")
def report(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report") / "a report #1.html", evaluation, "python -m x")


def complaints(browser: Any) -> list[dict[str, Any]]:
    kinds = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
    return [event["params"] for event in browser.events if event["method"] in kinds]


def test_it_is_drawn_without_complaint_or_request(browser: Any, report: Path) -> None:
    browser.open(report)
    drawn = browser.run("[...document.images].map((image) => [image.complete, image.naturalWidth, image.alt])")
    assert len(drawn) > 10
    assert all(complete and width > 30 and alt for complete, width, alt in drawn)
    charts = browser.run("[...document.querySelectorAll('svg')].map((svg) => [svg.getBBox().width, svg.outerHTML])")
    assert len(charts) > 40
    shown = [width for width, html in charts if "aria-label" in html]
    assert all(width > 100 for width in shown)
    asked = {e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"}
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert len({url for url in asked if url.startswith("file")}) == 1
    assert complaints(browser) == []


def test_nothing_injected_can_run(browser: Any, evaluation_factory: Callable[..., Evaluation], tmp_path: Path) -> None:
    page = write_report(tmp_path / "r.html", evaluation_factory(baseline=None, kinds=()))
    page.write_text(page.read_text().replace("<main>", "<main><script>window.ran = true</script>", 1))
    browser.open(page)
    assert browser.run("window.ran === undefined")
    assert any("Content Security Policy" in str(each) for each in complaints(browser))


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out(browser: Any, report: Path, dark: bool) -> None:
    browser.open(report, dark=dark)
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    found = browser.run(CONTRAST)
    assert len(found) > 1000
    assert [each for each in found if not each[0] >= 4.5] == []
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark
    lines = browser.run("[...document.querySelectorAll('.line')].map((line) => getComputedStyle(line).stroke)")
    assert len(set(lines)) >= 5


@pytest.mark.parametrize("width", [320, 360, 768])
def test_the_page_does_not_scroll_sideways(browser: Any, report: Path, width: int) -> None:
    browser.open(report, width=width)
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("window.innerWidth") == width
    boxes = browser.run("[...document.querySelectorAll('.scroll')].map((box) => box.scrollWidth > box.clientWidth)")
    assert width > 400 or any(boxes)  # wide tables scroll in their own


def test_every_control_is_reached_by_tab_and_named(browser: Any, report: Path) -> None:
    browser.open(report)
    wanted = browser.run(f"({REACHABLE}).length")
    browser.run(f"window.wanted = {REACHABLE}; document.activeElement.blur()")
    reached, seen_without_ring = [], []
    for _ in range(wanted):
        browser.press("Tab", 9)
        number, outline = browser.run(
            "[window.wanted.indexOf(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.append(number)
        if outline == "none":
            seen_without_ring.append(number)
    assert reached == list(range(wanted))
    assert wanted > 30
    assert seen_without_ring == []
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    focusable = [
        node
        for node in nodes
        if not node["ignored"]
        and any(p["name"] == "focusable" and p["value"].get("value") for p in node.get("properties", []))
        and node["role"]["value"] != "RootWebArea"
    ]
    assert len(focusable) >= wanted
    assert [node["role"] for node in focusable if not node.get("name", {}).get("value")] == []


def test_the_player_is_operated_by_keyboard(browser: Any, report: Path) -> None:
    browser.open(report)
    state = """[document.querySelector('.now').textContent,
        ...[...document.querySelectorAll('.strip.shown')].map((strip) => strip.style.transform + strip.alt)]"""
    first = browser.run(state)
    assert first[0] == "+5 min"
    time.sleep(1.0)
    assert browser.run(state) == first  # motion is not wanted
    browser.run("document.querySelector('.time').focus()")
    browser.press("ArrowRight", 39)
    after = browser.run(state)
    assert after[0] == "+10 min"
    assert sum(one != two for one, two in zip(first, after, strict=True)) == 6  # the time, truth and 4 methods
    assert browser.run("document.querySelector('.time').getAttribute('aria-valuetext')") == "+10 min"
    browser.press("Home", 36)
    assert browser.run("document.querySelector('.now').textContent") == "\N{MINUS SIGN}15 min"
    assert browser.run("document.querySelectorAll('.screen.ahead').length") == 5
    browser.run("document.querySelector('.view').focus()")
    browser.press("End", 35)
    shown = browser.run("[...document.querySelectorAll('.strip.shown')].map((strip) => strip.dataset.view || '')")
    assert shown == ["", "", "", *["mean of 3 members"] * 3]
    browser.run("document.querySelector('.play').focus()")
    browser.press(" ", 32, " ")
    assert browser.run("document.activeElement.textContent") == "Pause"
    until = time.monotonic() + 30
    while browser.run("document.querySelector('.now').textContent").endswith("15 min") and time.monotonic() < until:
        time.sleep(0.1)
    assert not browser.run("document.querySelector('.now').textContent").endswith("15 min")
    browser.press(" ", 32, " ")
    assert browser.run("document.activeElement.textContent") == "Play"


def test_a_method_says_which_member_stands_for_one_it_has_not(
    browser: Any, evaluation_factory: Callable[..., Evaluation], tmp_path: Path
) -> None:
    methods = {"ddim-2": (2, 2, None), "ddim-5": (4, 5, None)}
    browser.open(write_report(tmp_path / "r.html", evaluation_factory(methods, baseline=None, kinds=())))
    captions = "[...document.querySelectorAll('.film .when')].map((when) => when.textContent).slice(2)"
    assert browser.run(captions) == ["+5 min", "+5 min"]
    browser.run("document.querySelector('.view').value = 'member 4'")
    browser.run("document.querySelector('.view').dispatchEvent(new Event('change'))")
    assert browser.run(captions) == ["+5 min, member 2", "+5 min"]


def test_it_plays_by_itself_where_motion_is_welcome(browser: Any, report: Path) -> None:
    browser.open(report, calm=False)
    assert browser.run("document.querySelector('.play').textContent") == "Pause"


def test_a_switch_hides_a_method(browser: Any, report: Path) -> None:
    browser.open(report)
    before = browser.run(LINES)
    browser.run("document.querySelector('[data-series=\"1\"]').focus()")
    browser.press(" ", 32, " ")
    after = browser.run(LINES)
    assert all(before)
    assert 0 < sum(after) < 12 < len(after)  # the families of the cost charts stay
    assert all(browser.run(LINES.replace(".s1", ".s2")))


def test_on_paper_every_frame_is_seen(browser: Any, report: Path) -> None:
    browser.open(report, width=794, media="print")
    assert (
        browser.run("[...document.querySelectorAll('.controls, nav, .switches')].some((e) => e.checkVisibility())")
        is False
    )
    strips = browser.run(
        "[...document.querySelectorAll('.strip.shown')].map((strip) => "
        "[strip.getBoundingClientRect(), strip.parentElement.getBoundingClientRect()].map((b) => [b.left, b.right]))"
    )
    assert all(abs(strip[0] - box[0]) < 2 and strip[1] <= box[1] + 2 for strip, box in strips)
    assert browser.run("document.documentElement.scrollWidth") <= 794
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_without_script_all_is_there(browser: Any, report: Path) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report)
        assert browser.run("document.querySelector('.controls').checkVisibility()") is False
        widths = browser.run(
            "[...document.querySelectorAll('.strip.shown')].map((s) => [s.clientWidth, s.parentElement.clientWidth])"
        )
        assert len(widths) == 6
        assert all(0 < strip <= box for strip, box in widths)
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)

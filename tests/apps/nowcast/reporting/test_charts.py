"""Axes, charts and strips of frames, number by number."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from apps.nowcast.reporting import film
from apps.nowcast.reporting.axes import Axis, number
from apps.nowcast.reporting.chart import Group, Panel, Series, charts, draw
from apps.nowcast.reporting.cost import cost
from apps.nowcast.reporting.ensembles import calibration
from apps.nowcast.reporting.spectra import spectra
from apps.nowcast.verification.results import Evaluation
from apps.nowcast.verification.spectra import wavelengths
from data_tools.colours import COLOUR_SCALES

NAN = float("nan")


@given(st.lists(st.floats(-1e6, 1e6), max_size=6), st.booleans())
def test_an_axis_holds_its_values_and_ticks(values: list[float], logarithmic: bool) -> None:
    axis = Axis.of(np.array(values, np.float64), 10.0, 200.0, logarithmic=logarithmic)
    held = sorted(value for value in values if value > 1e-300 or not logarithmic)
    places = [axis.place(value) for value in held]
    assert all(10 <= place <= 200 for place in places)
    assert places == sorted(places)
    assert all(axis.low <= value <= axis.high for value, _ in axis.ticks)
    assert len({label for _, label in axis.ticks}) == len(axis.ticks)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.12345, "0.123"), (-2.5, "\N{MINUS SIGN}2.5"), (1234.5, "1234"), (1e-7, "1e\N{MINUS SIGN}7"),
     (100.0, "100"), (NAN, "\N{EN DASH}"), (float("inf"), "\N{EN DASH}")],
)  # fmt: skip
def test_numbers_for_people(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_line_passes_its_points_and_stops_at_a_gap() -> None:
    x, y = np.arange(5.0), np.array([0.0, 1.0, NAN, 3.0, 4.0])
    made = draw(Panel("t", "x", [Series(2, "one", x, y)]))
    lines = re.findall(r'd="M([^"]*)" class="line"', made)
    assert len(lines) == 2
    first, second = (np.array([list(map(float, point.split())) for point in line.split("L")]) for line in lines)
    every = np.concatenate([first, second])
    np.testing.assert_allclose(np.diff(every[:, 0]) / np.diff([0, 1, 3, 4]), np.diff(every[:, 0])[0], atol=0.11)
    np.testing.assert_allclose(np.diff(every[:, 1]) / np.diff([0, 1, 3, 4]), np.diff(every[:, 1])[0], atol=0.11)
    assert every[0, 1] > every[-1, 1]  # up is small in SVG
    assert made.count("<title>") == 4
    assert "one: 0 at 0 to 4 at 4" in made


def test_numbers_stand_beside_the_charts() -> None:
    series = [Series(0, "one", np.array([1.0, 2.0]), np.array([0.25, 0.5]), np.array([0.2, 0.4]), np.array([0.3, NAN]))]
    made = charts([Group("Title", "note", [Panel("t", "x", series)]), Group("Empty", "", [Panel("t", "x", [])])])
    assert "0.25 [0.2, 0.3]" in made
    assert "Empty" not in made
    assert made.count("<figure") == 1


def test_what_is_switched_off_is_not_of_a_family() -> None:
    panel = Panel("t", "x", [Series(0, "one", np.array([1.0]), np.array([2.0]))])
    assert 'class="group switched"' in charts([Group("a", "", [panel])])
    assert 'class="group"' in charts([Group("a", "", [panel])], switched=False)


@pytest.mark.parametrize("quantity", ["vil", "rainfall_rate"])
def test_a_strip_has_the_colours_of_the_frames(quantity: str) -> None:
    scale = COLOUR_SCALES[quantity]
    frames = np.random.default_rng(0).uniform(-5, 1.2 * scale.edges[-1], (3, 7, 11))
    frames[0, 0, 0], frames[1, 2, 3], frames[2, 6, 10] = NAN, scale.edges[0], scale.edges[-1]
    uri = film.png(frames, scale)
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert image.size == (3 * (11 + 2), 7)
    strip = np.asarray(image.convert("RGBA")).reshape(7, 3, 13, 4)
    assert (strip[:, :, 11:, 3] == 0).all()
    colormap, norm = scale.colormap()
    wanted = colormap(norm(np.ma.masked_invalid(frames)), bytes=True)
    np.testing.assert_array_equal(strip[:, :, :11].transpose(1, 0, 2, 3), wanted)


def test_frames_are_bounded(evaluation_factory: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = evaluation_factory({"ddim-2": (5, 2, None)}, size=(70, 90), kinds=(), baseline=None)
    whole = film.film(evaluation)
    uris = re.findall(r'src="(data:[^"]*)"', whole)
    assert len(uris) == 2 + 4 + 1  # context, truth, members, mean
    monkeypatch.setattr(film, "BUDGET", sum(map(len, uris)) // 3)
    less = re.findall(r'src="(data:[^"]*)"', film.film(evaluation))
    assert sum(map(len, less)) <= film.BUDGET
    assert len(less) < len(uris)
    monkeypatch.setattr(film, "_SETTINGS", ((1, 32),))
    assert "one pixel of 3 by 3" in film.film(evaluation)
    assert "one pixel of" not in whole
    assert film.small(np.zeros((2, 70, 90)), 32).shape == (2, 24, 30)


def test_points_of_one_false_alarm_rate_are_all_told() -> None:
    x, y = np.array([1.0, 0.25, 0.25, 0.0]), np.array([1.0, 0.75, 0.5, 0.0])
    more = Series(1, "more", np.array([1.0, 0.5, 0.25, 0.0, NAN]), np.array([1.0, 0.9, 0.8, 0.7, NAN]))
    panel = Panel("hits", "alarms", [Series(0, "one", x, y), more], point_told=lambda k: f"{k} or more")
    made = charts([Group("a", "", [panel])])
    rows = [re.findall("<td>([^<]*)</td>", row) for row in re.findall("<tr>(.*?)</tr>", made)]
    assert rows[1] == ["1 at 1", "0.75 at 0.25", "0.5 at 0.25", "0 at 0", ""]
    assert rows[2] == ["1 at 1", "0.9 at 0.5", "0.8 at 0.25", "0.7 at 0", ""]
    assert re.findall(r'<th scope="col">([^<]*)</th>', made) == ["method", *(f"{k} or more" for k in range(5))]


def test_a_warning_has_a_column_of_the_roc(evaluation: Evaluation) -> None:
    (roc,) = [group for group in calibration(evaluation) if group.title == "ROC"]
    made = charts([roc])
    table = made[made.index("<table>") : made.index("</table>")]
    heads = re.findall(r'<th scope="col">([^<]*)</th>', table)
    assert heads == ["method", *(f"{k} or more members" for k in range(5))]
    assert table.count("<td>1 at 1</td>") == table.count("<td>0 at 0</td>") == 3


@pytest.mark.parametrize("north_up", [True, False, None])
@pytest.mark.parametrize("quantity", ["vil", "rainfall_rate"])
def test_north_is_up(evaluation_factory: Callable[..., Evaluation], quantity: str, north_up: bool | None) -> None:
    """As the archive told; else SEVIR's rows go north, those of rain rates south. The missing corner is at row 0."""
    evaluation = evaluation_factory({"persistence": (1, 0, None)}, quantity=quantity, baseline=None, kinds=())
    evaluation = replace(evaluation, picture=replace(evaluation.picture, north_up=north_up))
    up = quantity == "rainfall_rate" if north_up is None else north_up
    uri = re.findall(r'src="data:image/png;base64,([^"]*)"', film.film(evaluation))[1]
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB"))
    missing = tuple(bytes.fromhex(COLOUR_SCALES[quantity].missing[1:]))
    assert (tuple(drawn[0, 0]) == missing) is up
    assert (tuple(drawn[-1, 0]) == missing) is not up


def test_spectra_are_told_by_wavelength(evaluation: Evaluation) -> None:
    """In the words of a chart and in the heads of its table, not by the wavenumber that is drawn."""
    shortest, longest = (number(float(length)) for length in wavelengths(*evaluation.scope.size)[[-1, 1]])
    made = charts(spectra(evaluation))
    assert f" at {longest} to " in made
    assert f" at {shortest};" in made
    head = re.findall(r'<th scope="col">([^<]*)</th>', made)
    assert head[1] == longest
    assert shortest in head


def test_intervals_are_promised_where_there_are_some(evaluation: Evaluation) -> None:
    (roc,) = [group for group in calibration(evaluation) if group.title == "ROC"]
    (ranks,) = [group for group in calibration(evaluation) if group.title == "Rank histogram"]
    assert "with 95 % intervals" not in charts([roc])
    assert "with 95 % intervals" in charts([ranks])


def test_baselines_that_have_no_place_over_evaluations_are_named(
    evaluation_factory: Callable[..., Evaluation],
) -> None:
    methods = {
        "persistence": (1, 0, None),
        "extrapolation": (1, 0, None),
        "steps": (2, 0, None),
        "ddim-2": (2, 2, None),
    }
    evaluations, _ = cost(evaluation_factory(methods, baseline=None, kinds=()))
    assert "dashed line is persistence" in evaluations.note
    assert "For extrapolation, steps, which need none either" in evaluations.note


def test_a_strip_is_told_in_words(evaluation: Evaluation) -> None:
    alts = re.findall(r'alt="([^"]*)"', film.film(evaluation))
    truth = evaluation.picture.truth
    wet = np.mean(truth[0][np.isfinite(truth[0])] >= 0.1)
    assert f"Truth (observed), 5 to 25 minutes: 0.1 mm/h or more on {wet:.0%} of the frame at first" in alts[1]
    assert alts[0].startswith("Context (observed), -15 to 0 minutes")
    assert any(alt.startswith("ddim-2, mean of 3 members, 5 to 25") for alt in alts)

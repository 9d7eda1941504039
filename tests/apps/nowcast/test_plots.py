"""The picture and the table of an evaluation."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from apps.nowcast.metrics import Estimate
from apps.nowcast.plots import COLOUR_SCALES, plot_nowcasts
from apps.nowcast.table import COLUMNS, TABLE_WIDTH, Column, Row, best_few_step, evaluation_as_json, score_table
from data_tools.quantities import QUANTITIES


def fields(quantity: str) -> dict[str, np.ndarray]:
    """Context (4, 20, 30), truth and two forecasts (3, 20, 30); one corner of what was observed is missing."""
    scale = COLOUR_SCALES[quantity].edges[-1]
    rng = np.random.default_rng(0)
    context, truth, near, far = (rng.gamma(0.3, scale / 5, (n, 20, 30)).clip(0, scale) for n in (4, 3, 3, 3))
    context[:, :5, :5] = truth[:, :5, :5] = np.nan
    return {"context": context, "truth": truth, "near": near, "far": far}


@pytest.mark.parametrize("quantity", ["vil", "rainfall_rate"])
def test_the_picture_is_written_with_every_colour_in_its_place(tmp_path: Path, quantity):
    data = fields(quantity)
    scale = COLOUR_SCALES[quantity]
    data["truth"][:] = (scale.edges[-2] + scale.edges[-1]) / 2
    data["truth"][:, :, :15] = np.nan
    path = tmp_path / "deep" / "nowcast.png"
    forecasts = {"Persistence": data["near"], "SpanLift, 5 steps": data["far"]}
    plot_nowcasts(
        path, data["context"], data["truth"], forecasts, QUANTITIES[quantity],
        title="a storm", notes={"Persistence": "CSI-16 .47"},
    )  # fmt: skip
    assert [each.name for each in path.parent.iterdir()] == ["nowcast.png"]
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert len(pixels) > 300_000

    def share(colour: str) -> float:
        return (pixels == np.round(np.array(to_rgb(colour)) * 255)).all(axis=1).mean()

    # Three of 13 panels are half missing and half in the top class; a panel is 2 to 4 % of the picture.
    assert share(scale.missing) > 0.02
    assert share("#" + scale.colours.split()[-1]) > 0.02


def test_north_is_up(tmp_path: Path, monkeypatch):
    """As the archive says; where it does not, SEVIR's rows go north, those of rain rates south."""
    drawn = []
    monkeypatch.setattr("apps.nowcast.plots.draw_frame", lambda *a, north_up: drawn.append(north_up))
    for quantity in ("vil", "rainfall_rate"):
        data = fields(quantity)
        plot_nowcasts(tmp_path / f"{quantity}.png", data["context"], data["truth"], {}, QUANTITIES[quantity])
    assert set(drawn[: len(drawn) // 2]) == {False}
    assert set(drawn[len(drawn) // 2 :]) == {True}
    for told in (True, False):
        drawn.clear()
        data = fields("vil")
        plot_nowcasts(tmp_path / "t.png", data["context"], data["truth"], {}, QUANTITIES["vil"], north_up=told)
        assert set(drawn) == {told}


def texts_of_next_figure(monkeypatch) -> list[str]:
    """Collects all texts of the figure that is saved."""
    found: list[str] = []
    save = Figure.savefig

    def spy(figure: Figure, *arguments, **options):
        found.extend(text.get_text() for text in figure.texts)
        found.extend(axes.get_title() for axes in figure.axes)
        found.extend(axes.get_ylabel() for axes in figure.axes)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    return found


def test_labels_tell_rows_and_lead_times(tmp_path: Path, monkeypatch):
    texts = texts_of_next_figure(monkeypatch)
    data = fields("rainfall_rate")
    plot_nowcasts(
        tmp_path / "a.png", data["context"], data["truth"], {"DDIM, 5 steps": data["near"]},
        QUANTITIES["rainfall_rate"], step_minutes=2.5,
    )  # fmt: skip
    labels = [text for text in texts if text]
    minus = "\N{MINUS SIGN}"
    expected = ["Observed", "Truth", "DDIM, 5 steps", f"{minus}7.5 min", f"{minus}2.5 min", "0 min", "+2.5 min"]
    assert set(expected) <= set(labels)
    assert "+7.5 min" in labels
    assert "+10 min" not in labels
    assert "rain rate (mm/h)" in labels


def test_a_failed_picture_leaves_the_old_one(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(figure: Figure, target: Path, **options):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    data = fields("vil")
    with pytest.raises(OSError, match="No space"):
        plot_nowcasts(path, data["context"], data["truth"], {}, QUANTITIES["vil"])
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_frames_that_do_not_fit_are_refused(tmp_path: Path):
    data = fields("vil")
    with pytest.raises(ValueError, match="for short"):
        plot_nowcasts(
            tmp_path / "a.png", data["context"], data["truth"], {"short": data["near"][:2]}, QUANTITIES["vil"]
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quantity", ["vil", "rainfall_rate"])
def test_colour_scales_have_a_colour_for_every_class(quantity):
    scale = COLOUR_SCALES[quantity]
    colours = scale.colours.split()
    assert len(colours) == len(scale.edges) - 1 == len(set(colours))
    assert (np.diff(scale.edges) > 0).all()
    assert scale.missing.lstrip("#") not in colours


def rows() -> list[Row]:
    def scored(hss: float, crps: float) -> dict[str, Estimate]:
        return {"hss": Estimate(hss, hss - 0.01, hss + 0.01), "crps": Estimate(crps, crps - 0.001, crps + 0.001)}

    every = {name: Estimate(0.12345, 0.12045, 10.5) for name in COLUMNS}
    nothing = {"lpips": Estimate(math.nan), "csi": Estimate(0.5, math.nan, math.inf)}
    return [
        Row("persistence", None, None, 0, scored(0.9, 0.01)),
        Row("ddim", None, 100, 100, every | scored(0.8, 0.02)),
        Row("ddim", None, 5, 5, scored(0.5, 0.05) | nothing),
        Row("spanlift", "teacher", 5, 5, scored(0.6, 0.04)),
        Row("spanlift", "target", 5, 5, scored(0.7, 0.045)),
    ]


def test_the_best_few_step_method_respects_the_metrics_direction():
    assert best_few_step(rows(), "hss", COLUMNS["hss"]) == 4
    assert best_few_step(rows(), "crps", COLUMNS["crps"]) == 3
    assert best_few_step(rows(), "lpips", COLUMNS["lpips"]) is None
    assert best_few_step(rows(), "hss", Column("near 0.62", 3, True, 0.62)) == 3


def test_the_table_shows_values_intervals_and_gaps():
    stream = io.StringIO()
    Console(file=stream, width=TABLE_WIDTH, force_terminal=True, color_system="standard").print(
        score_table(rows(), title="Nowcast", caption="LPIPS* of a kind")
    )
    text = stream.getvalue()
    assert "\x1b[1m.700\x1b[0m" in text  # bold
    assert "\x1b[1m.600\x1b[0m" not in text
    assert ".690 .710" in text
    assert ".0400" in text
    assert "…" not in text
    for word in ("persistence", "ddim, 100 steps", "target supervised", "LPIPS* of a kind", "s/member"):
        assert word in text
    for column in COLUMNS.values():
        assert column.heading in text


def test_json_is_strict_and_has_the_agreed_shape():
    document = evaluation_as_json(data="knmi.zarr", split="test", events=64, seed=3, rows=rows(), extra={"steps": [5]})
    again = json.loads(json.dumps(document, allow_nan=False))
    assert list(again) == ["data", "split", "events", "seed", "steps", "rows"]
    first, third = again["rows"][0], again["rows"][2]
    assert (first["method"], first["supervision"], first["steps"], first["nfe"]) == ("persistence", None, None, 0)
    assert first["hss"] == {"value": 0.9, "ci95": [pytest.approx(0.89), pytest.approx(0.91)]}
    assert third["lpips"] == {"value": None, "ci95": [None, None]}
    assert third["csi"] == {"value": 0.5, "ci95": [None, None]}

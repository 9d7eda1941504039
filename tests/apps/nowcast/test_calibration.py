"""Calibration of ensembles: numbers, JSON and picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.nowcast.calibration import BY_LEAD, Calibration, calibrate, plot_calibration
from apps.nowcast.metrics import METRICS, Statistics, estimate, event_statistics, resamples
from apps.nowcast.table import ENSEMBLE_COLUMNS, Row, best_few_step
from data_tools.quantities import QUANTITIES

RATE = QUANTITIES["rainfall_rate"]
EVENTS, LEADS, MEMBERS = 5, 3, 4
WEIGHTS = resamples(EVENTS, 300)


def ensemble(alike: float, seed: int = 0) -> Statistics:
    """Members and truth around one mean; the members' own part is `alike` of the truth's."""
    rng = np.random.default_rng(seed)
    rows = []
    for event in range(EVENTS):
        middle = rng.gamma(2.0, 2.0, (LEADS, 16, 18))
        noise = rng.normal(0.0, 1.0, (MEMBERS + 1, LEADS, 16, 18))
        truth = np.maximum(middle + noise[0], 0.0).astype(np.float32)
        forecast = np.maximum(middle + alike * noise[1:], 0.0).astype(np.float32)
        rows.append((event, event_statistics(forecast, truth, RATE)))
    return Statistics.stack(rows)


def test_it_tells_a_calibrated_ensemble_from_one_too_alike() -> None:
    good, alike = (calibrate(name, ensemble(factor), WEIGHTS) for name, factor in (("good", 1.0), ("alike", 0.3)))
    assert good.members == alike.members == MEMBERS
    for method in (good, alike):
        assert sum(rank.value for rank in method.ranks) == pytest.approx(1.0)
        assert all(rank.low <= rank.value <= rank.high for rank in method.ranks)
        assert len(method.leads) == LEADS
    assert all(abs(rank.value - 0.2) < 0.03 for rank in good.ranks)
    assert min(alike.ranks[0].value, alike.ranks[-1].value) > 0.3
    for lead in range(LEADS):
        assert alike.leads[lead]["spread_skill"].high < good.leads[lead]["spread_skill"].low
        assert good.leads[lead]["outliers"].value == pytest.approx(1.0, abs=0.1)
        alone = ensemble(1.0).at_lead(lead)
        assert good.leads[lead]["crps_fair"] == estimate(alone, METRICS["crps_fair"], WEIGHTS)


def test_the_json_is_strict_and_whole() -> None:
    method = calibrate("good", ensemble(1.0), WEIGHTS)
    content = json.loads(json.dumps(method.as_json(5.0), allow_nan=False))
    assert (content["method"], content["members"], content["calibrated_frequency"]) == ("good", MEMBERS, 0.2)
    assert len(content["rank_frequencies"]) == MEMBERS + 1
    assert [lead["minutes"] for lead in content["leads"]] == [5.0, 10.0, 15.0]
    assert all(set(lead) == {"minutes", *BY_LEAD} for lead in content["leads"])


def test_the_picture_has_every_method(tmp_path: Path) -> None:
    methods = [calibrate(f"method {n}", ensemble(0.3 + 0.2 * n, n), WEIGHTS) for n in range(4)]
    plot_calibration(tmp_path / "deep/c.png", methods, step_minutes=2.5, title="a title")
    pixels = np.asarray(Image.open(tmp_path / "deep/c.png").convert("RGB")).reshape(-1, 3)
    for colour in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E), (0x2C, 0xA0, 0x2C), (0xD6, 0x27, 0x28)):
        assert (pixels == np.array(colour)).all(axis=1).sum() > 100
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["c.png"]


def test_methods_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    one = calibrate("one", ensemble(1.0), WEIGHTS)
    for methods in ([], [one, Calibration("two", one.ranks[:-1], one.leads)], [one, Calibration("s", one.ranks, ())]):
        with pytest.raises(ValueError, match="expected methods of one number"):
            plot_calibration(tmp_path / "c.png", methods)
    assert not list(tmp_path.iterdir())


def test_the_best_ensemble_is_the_one_nearest_to_calibrated() -> None:
    scores = [{"spread_skill": estimate(ensemble(factor), METRICS["spread_skill"], WEIGHTS)} for factor in (0.3, 1, 3)]
    rows = [Row(f"m{index}", None, 5, 5, score) for index, score in enumerate(scores)]
    assert [round(row.scores["spread_skill"].value) for row in rows] == [0, 1, 2]
    assert best_few_step(rows, "spread_skill", ENSEMBLE_COLUMNS["spread_skill"]) == 1

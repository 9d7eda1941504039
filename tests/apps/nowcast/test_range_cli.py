"""One operator for a range of steps, as a user trains and scores it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import core
from apps.nowcast.evaluate import EvaluateOptions
from apps.nowcast.evaluate import main as evaluate
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.stages.endpoints import NAMED_LOSSES, parse_loss
from apps.nowcast.train import main as train
from apps.nowcast.train_options import TrainOptions, check
from core.operators import SpanLiftResidual
from data_tools.cli import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def operator(tiny_store: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("range")
    what = TrainOptions(supervision="target", loss="crps", nfe="2:3", condition="off", out=str(out))
    train(replace(what, data=str(tiny_store), model=str(tiny_model), batch=1, pairs=2, width=8, iterations=3))
    return out


def test_the_file_tells_what_was_trained(operator: Path) -> None:
    solver = core.load(operator)
    assert isinstance(solver, core.Corrected)
    assert isinstance(solver.residual, SpanLiftResidual)
    assert solver.residual.config.counts == (2, 3)
    assert solver.residual.config.condition_channels == 0
    assert solver.card is not None
    assert solver.card.steps == 3
    assert solver.card.loss == "1 fair-crps + 0.1 max-pooled(fair-crps,8)"
    command = solver.card.extra["command"]
    assert (command["nfe"], command["condition"], command["loss"]) == ("2:3", "off", "crps")


def test_it_is_scored_at_the_steps_asked_for(
    run_here: Run, operator: Path, tiny_store: Path, tiny_model: Path, tmp_path: Path
) -> None:
    base = ["--data", str(tiny_store), "--model", str(tiny_model), "--solver", str(operator)]
    base += ["--json", str(tmp_path / "e.json"), "--methods", "ddim-2,ddim-3,persistence"]
    done = run_here("apps.nowcast.evaluate", *base, "--nfe", "2:3", "--members", "3")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "e.json").read_text())
    assert [(row["method"], row["nfe"]) for row in content["rows"]][-2:] == [
        ("SpanLift of 2:3", 2),
        ("SpanLift of 2:3", 3),
    ]
    assert [(row["method"], row["reference"]) for row in content["comparisons"]] == [
        ("spanlift-2 of 2:3 (target)", "ddim-2"),
        ("spanlift-3 of 2:3 (target)", "ddim-3"),
    ]
    calibration = content["calibration"]
    assert [each["method"] for each in calibration][:2] == ["ddim-2", "ddim-3"]  # persistence is no ensemble
    for each in calibration:
        assert each["members"] == 3
        assert sum(rank["value"] for rank in each["rank_frequencies"]) == pytest.approx(1.0)
    assert "spread/RMSE" in done.stdout
    assert (tmp_path / "e-calibration.png").read_bytes().startswith(b"\x89PNG")


def test_steps_out_of_range_are_refused_before_anything_is_written(
    operator: Path, tiny_store: Path, tiny_model: Path, tmp_path: Path
) -> None:
    options = EvaluateOptions(
        data=str(tiny_store),
        model=str(tiny_model),
        solver=str(operator),
        methods="persistence",
        nfe="2,4",
        json=str(tmp_path / "e.json"),
    )
    with pytest.raises(UserError, match="--nfe within 2 to 3"):
        evaluate(options)
    with pytest.raises(UserError, match="--nfe as numbers"):
        evaluate(replace(options, nfe="two"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nfe", ["5", "5:2", "0:3", "2:x", ""])
def test_a_range_that_is_none_is_refused(nfe: str) -> None:
    with pytest.raises(UserError, match="FIRST:LAST"):
        check(TrainOptions(nfe=nfe))


def test_a_named_loss_is_the_sum_of_its_terms(nowcaster: Nowcaster) -> None:
    for name, terms in NAMED_LOSSES.items():
        assert parse_loss(name, nowcaster, 2).name == parse_loss(terms, nowcaster, 2).name
    with pytest.raises(UserError, match="--members of 2"):
        parse_loss("crps", nowcaster, 1)

"""Our ensemble blended with a weather model by pysteps."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from apps.nowcast.adapters.blend_example import blend, weather_model
from apps.nowcast.pysteps_calls import require_pysteps
from data_tools.storms import StormConfig, generate

pytestmark = pytest.mark.skipif(
    find_spec("pysteps") is None or find_spec("cv2") is None, reason="pysteps or opencv is not installed"
)
Run = Callable[..., subprocess.CompletedProcess[str]]
LEADS = 6


def test_the_blend_leaves_the_nowcast_for_the_model_as_time_goes_on(tmp_path: Path, monkeypatch) -> None:
    """Members are the truth first and then nothing: what rain the blend still has, the model brought."""
    monkeypatch.chdir(tmp_path)
    require_pysteps("the tests")
    (event,) = generate(1, 3, StormConfig(patch=96, frames=3 + LEADS), "test")
    frames = np.nan_to_num(event.values).astype(np.float64)
    observed, truth = frames[:3], frames[3:]
    model = weather_model(frames[2:])
    members = np.stack([truth, 0.9 * truth])
    blended = blend(observed, members, model, 5.0, seed=1)
    assert blended.shape == (2, LEADS, 96, 96)
    known = np.isfinite(blended)
    assert known.mean() > 0.8
    assert np.nanmax(blended) > 1.0
    assert np.nanmin(blended) >= 0.0

    def apart(field: np.ndarray, other: np.ndarray) -> float:
        return float(np.sqrt(np.nanmean(np.square(np.log1p(field) - np.log1p(other)))))

    nearness = [apart(blended[0, k], model[1 + k]) / apart(blended[0, k], truth[k]) for k in range(LEADS)]
    assert nearness[-1] < nearness[0]
    assert apart(blended[:, 0], members[:, 0]) < apart(np.broadcast_to(model[1], (2, 96, 96)), members[:, 0])
    assert list(tmp_path.iterdir()) == []  # pysteps' skill files were not left behind


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model \(T \+ 1, H, W\)"):
        blend(np.zeros((3, 8, 8)), np.zeros((2, 6, 8, 8)), np.zeros((6, 8, 8)), 5.0, 0)


def test_a_seed_that_pysteps_has_not_is_one_line(run_here: Run, tmp_path: Path) -> None:
    done = run_here("apps.nowcast.adapters.blend_example", "--seed", "5000000000", "--out", str(tmp_path / "b.png"))
    assert done.returncode == 2
    assert "--seed from 0 to 999999" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_example_runs_and_says_what_is_synthetic(run_here: Run, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "blended.png"
    arguments = ["--model", str(tiny_model), "--solver", "ddim-2", "--members", "2", "--out", str(out)]
    done = run_here("apps.nowcast.adapters.blend_example", *arguments)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "SYNTHETIC" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 4
    refused = run_here("apps.nowcast.adapters.blend_example", *arguments)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr

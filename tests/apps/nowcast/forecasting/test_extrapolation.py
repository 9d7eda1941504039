from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest

from apps.nowcast.forecasting.extrapolation import advect, motion, move, move_by_pysteps, stay


def test_a_moving_field_goes_on(rain: Callable, scene_of: Callable) -> None:
    frames = rain(90, 110, frames=13, rows=1.0, columns=2.0)
    observed, future = frames[:7], frames[7:]
    rows, columns = motion(observed)
    assert rows == pytest.approx(1.0, abs=0.1)
    assert columns == pytest.approx(2.0, abs=0.1)
    made = move(scene_of(observed), 6)
    assert made.method.startswith("Lagrangian persistence (")
    inside = (slice(None), slice(15, -15), slice(15, -15))
    error = np.abs(made.frames - future)[inside].mean()
    assert error < 0.15 * np.abs(observed[-1] - future)[inside].mean()  # of persistence that stays


def test_whole_pixels_are_moved_exactly() -> None:
    frame = np.arange(20.0).reshape(4, 5)
    moved = advect(frame, (1.0, -2.0), 2)
    expected = np.zeros((2, 4, 5))
    expected[0, 1:, :3] = frame[:-1, 2:]
    expected[1, 2:, :1] = frame[:-2, 4:]
    np.testing.assert_allclose(moved, expected)


@pytest.mark.parametrize("make", [move, stay])
def test_what_no_frame_shows_stays_missing(rain: Callable, scene_of: Callable, make: Callable) -> None:
    frames = rain(40, 50)
    frames[:, :, 45:] = np.nan
    frames[3, 5, 5] = frames[6, 20, 25] = np.nan
    made = make(scene_of(frames), 4).frames
    assert np.isnan(made[:, :, 45:]).all()
    assert np.isfinite(made[:, :, :45]).all()


def test_what_stays_is_the_last_frame(rain: Callable, scene_of: Callable) -> None:
    frames = rain(30, 31)
    frames[6, 9, 8] = np.nan
    made = stay(scene_of(frames), 3)
    assert made.method.startswith("Eulerian persistence (")
    wanted = frames[6].copy()
    wanted[9, 8] = frames[5, 9, 8]
    np.testing.assert_array_equal(made.frames, np.stack([wanted] * 3))


def test_one_frame_does_not_tell_where_it_goes(rain: Callable, scene_of: Callable) -> None:
    scene = scene_of(rain(40, 50)[:1])
    assert move(scene, 2).method == stay(scene, 2).method
    assert move_by_pysteps(scene, 2) is None


@pytest.mark.parametrize("make", [move, move_by_pysteps, stay])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (33, 40)])
def test_dry_and_tiny_fields(scene_of: Callable, size: tuple[int, int], make: Callable) -> None:
    made = make(scene_of(np.zeros((7, *size), np.float32)), 3)
    if make is move_by_pysteps:
        assert made is None
    else:
        np.testing.assert_array_equal(made.frames, np.zeros((3, *size)))


@pytest.mark.skipif(find_spec("pysteps") is None or find_spec("cv2") is None, reason="pysteps or OpenCV is absent")
def test_pysteps_moves_it_too_and_keeps_quiet(
    rain: Callable, scene_of: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    frames = rain(90, 110, frames=9)
    made = move_by_pysteps(scene_of(frames[:7]), 2)
    assert made is not None
    assert "by pysteps" in made.method
    stays = np.abs(frames[6] - frames[7:]).mean()
    assert np.abs(made.frames - frames[7:]).mean() < 0.5 * stays
    assert capfd.readouterr() == ("", "")

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.nowcast.forecasting.choosing import choose, model_step, own_step
from data_tools.cli import UserError

NOON = np.datetime64("2020-05-01T12:00:00", "s")


def minutes(*offsets: float) -> np.ndarray:
    return NOON + np.array([round(60 * offset) for offset in offsets]) * np.timedelta64(1, "s")


def test_the_latest_frames_are_taken() -> None:
    choice = choose(minutes(0, 5, 10, 15, 20), 3, 300)
    assert choice.indices == (2, 3, 4)
    assert not choice.substituted
    np.testing.assert_array_equal(choice.times, minutes(10, 15, 20))


def test_every_other_frame_of_a_finer_archive() -> None:
    times = minutes(0, 2, 4, 6, 8, 10)
    assert model_step(times, (4.0, 5.0), None) == 240
    assert choose(times, 3, 240).indices == (1, 3, 5)


@pytest.mark.parametrize(
    ("own", "known", "usual", "step"),
    [(5, (4, 5), None, 300), (1, (4, 5), None, 240), (3, (), None, 180), (2, (), 240, 240), (10, (), 300, 600)],
)
def test_steps(own: int, known: tuple[float, ...], usual: int | None, step: int) -> None:
    assert model_step(minutes(0, own, 2 * own), known, usual) == step


@pytest.mark.parametrize(("seconds", "step"), [(298, 298), (303, 303), (239, 239), (121, 242)])
def test_a_clock_that_is_a_little_off_is_no_other_step(seconds: int, step: int) -> None:
    assert model_step(NOON + seconds * np.arange(3) * np.timedelta64(1, "s"), (4.0, 5.0), None) == step


@pytest.mark.parametrize("own", [3, 10, 60])
def test_steps_the_model_does_not_know_are_refused(own: int) -> None:
    with pytest.raises(UserError, match=f"expected frames 4 to 5 minutes apart, as in training, got {own};"):
        model_step(minutes(0, own, 2 * own), (4.0, 5.0), None)


def test_another_time_takes_nothing_later() -> None:
    choice = choose(minutes(0, 5, 10, 15, 20), 2, 300, minutes(12)[0])
    assert choice.indices == (1, 2)
    for early_or_late in (-1, 25):
        with pytest.raises(UserError, match="expected --time at a frame"):
            choose(minutes(0, 5, 10, 15, 20), 2, 300, minutes(early_or_late)[0])


def test_the_nearest_stands_for_a_missing_frame() -> None:
    choice = choose(minutes(0, 5, 9, 20, 25), 5, 300)
    assert choice.indices == (1, 2, 3, 3, 4)  # 9 is punctual enough for 10, 20 is nearer to 15 than 9
    assert choice.substituted == ((minutes(15)[0], minutes(20)[0]),)


def test_too_many_gaps_are_refused() -> None:
    with pytest.raises(UserError, match="at most 1 of them missing, got 2"):
        choose(minutes(0, 5, 20), 4, 300)
    with pytest.raises(UserError, match="expected several frames, got 1"):
        own_step(minutes(0))


@given(st.lists(st.integers(0, 100), min_size=2, max_size=30, unique=True), st.integers(1, 7))
def test_the_choice_is_the_nearest_by_brute_force(offsets: list[int], count: int) -> None:
    times = minutes(*sorted(offsets))
    try:
        choice = choose(times, count, 300)
    except UserError:
        return
    assert choice.times[-1] == times[-1]
    for wanted, index in zip(choice.times, choice.indices, strict=True):
        assert abs(times[index] - wanted) == np.abs(times - wanted).min()
    late = [w for w, i in zip(choice.times, choice.indices, strict=True) if abs(times[i] - w) > np.timedelta64(75, "s")]
    assert [wanted for wanted, _ in choice.substituted] == late
    assert len(late) <= (count - 1) // 2

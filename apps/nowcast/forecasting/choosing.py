"""Which frames a nowcast starts from: the latest ones, evenly spaced, with the nearest in place of those not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.cli import UserError

SLACK = 0.02
"""Of a step: so far the clock of a radar may be off the steps that a model was trained on."""

PUNCTUAL = 0.25
"""Of a step: a frame that is off its time by no more than this counts as there."""


@dataclass(frozen=True)
class Choice:
    """Frames by index, the times they stand for, and the times that others had to stand in for."""

    indices: tuple[int, ...]
    times: np.ndarray
    substituted: tuple[tuple[np.datetime64, np.datetime64], ...]


def own_step(times: np.ndarray) -> int:
    """The most frequent step of rising `times` in seconds, the shortest of several.

    Raises:
        UserError: fewer than two frames.
    """
    if len(times) < 2:
        raise UserError(f"expected several frames, got {len(times)}: add the frames of the last hour")
    steps = Counter(int(step) for step in np.diff(times.astype("datetime64[s]").astype(np.int64)))
    return min(steps, key=lambda step: (-steps[step], step))


def model_step(times: np.ndarray, known_minutes: Sequence[float], usual: int | None) -> int:
    """Seconds between the frames to take: the least multiple of the archive's own step that the model was trained on.

    Args:
        times: of the frames there are, rising.
        known_minutes: steps that the model was trained on; their range, give or take `SLACK`, is accepted. Empty where
            that is not known.
        usual: what suits the archive where the model does not say.

    Raises:
        UserError: no multiple is within the model's range.
    """
    step = own_step(times)
    if not known_minutes:
        return step * max(1, (usual or step) // step)
    low, high = 60 * min(known_minutes), 60 * max(known_minutes)
    multiple = step * max(1, int(np.ceil(low / step - SLACK)))
    if multiple > high * (1 + SLACK):
        raise UserError(
            f"expected frames {low / 60:g} to {high / 60:g} minutes apart, as in training, got {step / 60:g}; "
            "choose another input or another --model"
        )
    return multiple


def choose(times: np.ndarray, count: int, step: int, at: np.datetime64 | None = None) -> Choice:
    """The latest `count` frames `step` seconds apart, none after `at`.

    Half of the frames before the last may have others stand in for them, the nearest in time.

    Args:
        times: (N,) datetime64[s], rising.
        count: at least 1.
        step: seconds.
        at: the nowcast begins at the last frame that is not later; the last one of all by default.

    Raises:
        UserError: no frame within a step before `at`, or too many are not there.
    """
    if not len(times):
        raise UserError("expected radar frames, got none")
    seconds = times.astype("datetime64[s]").astype(np.int64)
    last = len(times) - 1 if at is None else int(np.searchsorted(times, at, side="right")) - 1
    if at is not None and (last < 0 or int(at.astype("datetime64[s]").astype(np.int64)) - seconds[last] >= step):
        raise UserError(
            f"expected --time at a frame, or less than {step // 60} minutes after one, got {at}: there are frames "
            f"from {times[0]} to {times[-1]}"
        )
    indices, substituted = [], []
    wanted = seconds[last] - step * np.arange(count - 1, -1, -1)
    for moment in wanted:
        nearest = int(np.abs(seconds[: last + 1] - moment).argmin())
        indices.append(nearest)
        if abs(int(seconds[nearest]) - int(moment)) > PUNCTUAL * step:
            substituted.append((np.datetime64(int(moment), "s"), times[nearest]))
    allowed = (count - 1) // 2
    if len(substituted) > allowed:
        raise UserError(
            f"expected {count} frames {step / 60:g} minutes apart up to {times[last]}, at most {allowed} of them "
            f"missing, got {count - len(substituted)}: the last gap is at {substituted[-1][0]}"
        )
    return Choice(tuple(indices), wanted.astype("datetime64[s]"), tuple(substituted))

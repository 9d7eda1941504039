"""Forecasts that need no model, and what everything that needs none looks like to the evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from data_tools.quantities import Quantity


class Members(NamedTuple):
    """What a `Forecaster` gives.

    Attributes:
        frames: (members, target frames, H, W) float32 on the stored scale, finite.
        filled: (target frames,) int64, pixels of all members about which the method said nothing, and which therefore
            hold what was last observed there.
        stand_in: name of the simpler method that made the frames, where the wanted one could not; else empty.
    """

    frames: np.ndarray
    filled: np.ndarray
    stand_in: str = ""


class Forecaster(Protocol):
    """A way to forecast that needs no network.

    Attributes:
        stochastic: whether its members differ; a forecaster that is not has one member however many seeds it gets.
        settings: what its forecasts depend on beside what it is called with, as JSON.
    """

    @property
    def stochastic(self) -> bool: ...
    @property
    def settings(self) -> Mapping[str, str | int | float]: ...

    def __call__(
        self, context: np.ndarray, target_frames: int, seeds: Sequence[int], step_minutes: float, quantity: Quantity
    ) -> Members:
        """Forecast one window.

        Args:
            context: (context frames, H, W) on the stored scale of `quantity`, NaN where missing.
            target_frames: number of frames to forecast, at least 1.
            seeds: one for each member.
            step_minutes: between frames, observed and forecast.
            quantity: of the frames.

        Raises:
            ValueError: no context frame or no target frame.
        """
        ...


class Persistence:
    """Eulerian persistence as a forecaster, see `persistence`; missing pixels count as observed when they last were."""

    stochastic = False
    settings: Mapping[str, str | int | float] = {}

    def __call__(
        self, context: np.ndarray, target_frames: int, seeds: Sequence[int], step_minutes: float, quantity: Quantity
    ) -> Members:
        return Members(persistence(context, target_frames)[None], np.zeros(target_frames, np.int64))


def persistence(context: np.ndarray, target_frames: int) -> np.ndarray:
    """Eulerian persistence: what was last seen stays.

    Args:
        context: (*leading, context frames, y, x), NaN where missing.
        target_frames: number of frames to forecast, at least 1.

    Returns:
        (*leading, target_frames, y, x), finite: a pixel holds its last value that is not missing, 0 if there is none,
        because a forecast must say something wherever the truth may be known.

    Raises:
        ValueError: no context frame or no target frame.
    """
    if context.ndim < 3 or not context.shape[-3] or target_frames < 1:
        raise ValueError(
            f"expected context (..., frames, y, x) and a target frame or more, got {context.shape} and {target_frames}"
        )
    last = np.array(context[..., -1, :, :])
    for earlier in range(2, context.shape[-3] + 1):
        missing = np.isnan(last)
        if not missing.any():
            break
        np.copyto(last, context[..., -earlier, :, :], where=missing)
    last = np.nan_to_num(last, copy=False, nan=0.0)
    return np.repeat(last[..., None, :, :], target_frames, axis=-3)


def without_gaps(context: np.ndarray) -> np.ndarray:
    """The frames (frames, y, x) without missing pixels: of each frame, what `persistence` would have said then; before
    a pixel was first seen, what it then was; 0 where it never was."""
    forward = np.stack([persistence(context[: k + 1], 1)[0] for k in range(len(context))])
    backward = np.stack([persistence(context[k:][::-1], 1)[0] for k in range(len(context))])
    seen_before = np.logical_or.accumulate(~np.isnan(context), axis=0)
    return np.where(seen_before, forward, backward)

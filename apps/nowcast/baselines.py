"""Forecasts that need no model."""

from __future__ import annotations

import numpy as np


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

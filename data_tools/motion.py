"""How far a radar field moved from one frame to the next, by phase correlation (Kuglin and Hines 1975)."""

from __future__ import annotations

import numpy as np
from scipy import fft

_DAMPING = 1e-2
"""Of the greatest cross power: waves weaker than this share have no phase worth counting in fields mostly dry."""


def displacement(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """(rows, columns) in pixels by which `after` lies displaced from `before`, both (H, W), finite, 0 where dry.

    The peak of F^-1[F(after) F*(before) / |F(after) F*(before)|], with weak waves damped and the edges tapered by a
    Hann window, among displacements up to a quarter of the field; a parabola through the peak and its neighbours
    gives the fraction of a pixel. One displacement stands for the whole field.
    """
    height, width = before.shape
    taper = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    one, two = (np.asarray(fft.rfft2(field * taper)) for field in (before, after))
    cross = two * np.conj(one)
    power = np.abs(cross)
    correlation = np.asarray(fft.irfft2(cross / (power + _DAMPING * power.max() + 1e-30), s=(height, width)))
    reach = max(height // 4, 1), max(width // 4, 1)
    rows, columns = (np.arange(-far, far + 1) for far in reach)
    near = correlation[np.ix_(rows % height, columns % width)]
    row, column = np.unravel_index(int(near.argmax()), near.shape)
    return (
        float(rows[row] + _vertex(correlation[(rows[row] + np.arange(-1, 2)) % height, columns[column] % width])),
        float(columns[column] + _vertex(correlation[rows[row] % height, (columns[column] + np.arange(-1, 2)) % width])),
    )


def _vertex(values: np.ndarray) -> float:
    """Where the parabola through three values at -1, 0 and 1 has its peak, within half a pixel."""
    left, middle, right = (float(value) for value in values)
    bend = left - 2.0 * middle + right
    return 0.0 if bend >= 0.0 else float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5))

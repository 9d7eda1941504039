"""Structural similarity of frames (Wang et al. 2004): luminance, contrast and structure in Gaussian windows.

SSIM = (2 m_x m_y + c1) (2 s_xy + c2) / ((m_x^2 + m_y^2 + c1) (s_x^2 + s_y^2 + c2)), with means, variances and
covariance under a Gaussian of 1.5 pixels cut to 11 x 11, c1 = 0.01^2, c2 = 0.03^2 for values in [0, 1]: -1 to 1, 1 for
equal frames. Windows that reach over the edge or hold a missing pixel are left out.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d, maximum_filter

SIDE, WIDTH = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim_sums(predictions: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM summed over windows, and their number.

    Args:
        predictions: (n, leads, y, x) in [0, 1], finite.
        target: (leads, y, x) in [0, 1], NaN where missing.

    Returns:
        (leads,) float64 sums over all n, and (leads,) numbers of windows, n times those of the target; 0 where frames
        are smaller than a window.
    """
    leads = len(target)
    sums, numbers = np.zeros(leads), np.zeros(leads)
    if min(target.shape[-2:]) < SIDE:
        return sums, numbers
    for lead in range(leads):
        missing = np.isnan(target[lead])
        y = np.where(missing, 0.0, target[lead]).astype(np.float64)
        whole = ~_inner(maximum_filter(missing, SIDE)) if missing.any() else np.ones_like(_inner(missing))
        mean_y = _smooth(y)
        variance_y = _smooth(y * y) - mean_y**2
        for prediction in predictions[:, lead].astype(np.float64):
            x = np.where(missing, 0.0, prediction)
            mean_x = _smooth(x)
            variance_x, covariance = _smooth(x * x) - mean_x**2, _smooth(x * y) - mean_x * mean_y
            similarity = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
            similarity /= (mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2)
            sums[lead] += similarity[whole].sum()
        numbers[lead] = len(predictions) * whole.sum()
    return sums, numbers


def _inner(field: np.ndarray) -> np.ndarray:
    """What is left of (y, x) where a window lies inside."""
    edge = SIDE // 2
    return field[edge:-edge, edge:-edge]


def _smooth(field: np.ndarray) -> np.ndarray:
    offsets = np.arange(SIDE) - SIDE // 2
    kernel = np.exp(-0.5 * (offsets / WIDTH) ** 2)
    kernel /= kernel.sum()
    return _inner(correlate1d(correlate1d(field, kernel, axis=0, mode="constant"), kernel, axis=1, mode="constant"))

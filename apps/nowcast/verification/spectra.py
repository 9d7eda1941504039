"""Radially averaged power spectral density: how much variance a field has at each scale.

The power |F|^2 / (pixels) of the two-dimensional Fourier transform is averaged over rings of the wavenumber
k = round(sqrt(ky^2 + kx^2)), k = 0 to half the longer side, in waves per side: the convention of pysteps' `rapsd`
(Ruzanski and Chandrasekar 2011), to which this is equal. The transform of a real field holds each wave twice; here only
one half is computed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft
from scipy.sparse import csr_array

from apps.nowcast.metrics.contingency import ratio

_FRAMES = 8
"""Frames that are transformed at a time."""


def rapsd(fields: np.ndarray) -> np.ndarray:
    """Spectrum of every field.

    Args:
        fields: (*leading, y, x), finite; float32 is transformed in float32.

    Returns:
        float64 (*leading, wavenumbers), see `wavenumbers`.

    Raises:
        ValueError: missing or infinite values, or no fields.
    """
    if fields.ndim < 2 or not np.isfinite(fields).all():
        raise ValueError("expected finite fields (..., y, x), got others; fill what is missing")
    height, width = fields.shape[-2:]
    rings, length = _rings(height, width), wavenumbers(height, width)
    flat = fields.reshape(-1, height, width)
    spectra = np.empty((len(flat), length))
    for first in range(0, len(flat), _FRAMES):
        waves = np.asarray(fft.rfft2(flat[first : first + _FRAMES]))
        power = (np.square(np.real(waves)) + np.square(np.imag(waves))).reshape(len(waves), -1)
        for number, each in enumerate(power, first):
            spectra[number] = rings @ each
    return spectra.reshape(*fields.shape[:-2], length)


def wavenumbers(height: int, width: int) -> int:
    """How many wavenumbers 0, 1, ... a spectrum has: half the longer side, rounded up."""
    return (max(height, width) + 1) // 2


def wavelengths(height: int, width: int, pixel: float = 1.0) -> np.ndarray:
    """Wavelength of each wavenumber in the unit of `pixel`, infinite for the first."""
    k = np.arange(wavenumbers(height, width))
    return np.divide(max(height, width) * pixel, k, out=np.full(len(k), np.inf), where=k > 0)


@lru_cache(maxsize=4)
def _rings(height: int, width: int) -> csr_array:
    """The means over rings, as a matrix (wavenumbers, waves of the half plane)."""
    rows = np.fft.fftfreq(height, 1 / height)[:, None]
    columns = np.arange(width // 2 + 1)[None]
    rings = np.sqrt(rows**2 + columns**2).round().astype(np.intp)
    twice = np.full(rings.shape, 2.0)
    twice[:, 0] = 1.0
    if width % 2 == 0:
        twice[:, -1] = 1.0
    rings, twice = rings.ravel(), twice.ravel()
    members = np.bincount(rings, twice)
    weights = twice / (members[rings] * (height * width))
    inside = np.flatnonzero(rings < wavenumbers(height, width))
    shape = (wavenumbers(height, width), len(rings))
    return csr_array((weights[inside], (rings[inside], inside)), shape=shape)


def log_spectral_distance(forecast: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """RMS over wavenumbers 1, 2, ... of 10 log10(forecast / truth), (..., k) -> (...): decibels, 0 is best.

    Wavenumbers at which either has no power are left out; NaN where nothing is left.
    """
    quotient = ratio(forecast[..., 1:], truth[..., 1:])
    usable = np.isfinite(quotient) & (quotient > 0)
    decibels = 10 * np.log10(np.where(usable, quotient, 1.0))
    return np.sqrt(ratio((decibels**2).sum(axis=-1), usable.sum(axis=-1)))

"""A Gaussian multiplicative cascade in Lagrangian coordinates: the logarithm of rain, scale by scale.

Rain is close to a multiplicative cascade, so its logarithm is a sum over scales, and small scales live shorter than
large ones (Seed 2003; Bowler, Pierce and Seed 2006, STEPS). Both are set per wavenumber here, which is a cascade with
as many levels as there are wavenumbers: amplitude by a power spectrum with a scaling break, memory by an AR(2)
process whose time scale grows with wavelength. Lagrangian means: no motion in here, the caller moves the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import fft

REFERENCE_WAVELENGTH = 22.6
"""km; the wavelength at which `Memory.minutes` is stated (the third of six octaves of a 128 km window)."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Radially averaged power spectrum: flat beyond `outer`, k^-large down to `scale_break`, k^-small below it.

    Attributes:
        outer: wavelength in km beyond which variance no longer grows.
        scale_break: wavelength in km where the slope changes.
        large, small: positive exponents of the two ranges.
        stretch: ratio of the axes of the ellipses of equal power, >= 1.
        angle: direction of the long axis in radians, from x towards y.
    """

    outer: float
    scale_break: float
    large: float
    small: float
    stretch: float
    angle: float

    def power(self, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
        """Power at the wavenumbers kx, ky in cycles/km, unnormalised, 0 at the origin."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        along, across = cos * kx + sin * ky, cos * ky - sin * kx
        k = np.hypot(along * np.sqrt(self.stretch), across / np.sqrt(self.stretch))
        k_break = 1.0 / self.scale_break
        flattened = np.hypot(k, 1.0 / self.outer)
        power = flattened**-self.large * (1.0 + (k / k_break) ** 4) ** ((self.large - self.small) / 4.0)
        power[k == 0.0] = 0.0
        return power


@dataclass(frozen=True, slots=True)
class Memory:
    """How long a wavelength L is remembered: correlation (1 + t/a) exp(-t/a) at lag t.

    a = minutes (L / REFERENCE_WAVELENGTH)^exponent.

    The form is that of a twice damped process. In real radar the logarithm of the correlation falls faster than
    linearly with lag at large scales, and this form follows it there, where an AR(1) process cannot.
    """

    minutes: float
    exponent: float

    def correlation(self, wavelength: np.ndarray, lag_minutes: float) -> np.ndarray:
        ratio = lag_minutes / (self.minutes * (wavelength / REFERENCE_WAVELENGTH) ** self.exponent)
        return (1.0 + ratio) * np.exp(-ratio)


def evolve(
    generator: np.random.Generator,
    size: int,
    frames: int,
    step_minutes: float,
    spectrum: Spectrum,
    memory: Memory,
    split_wavelength: float,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `frames` pairs (large, small) of (size, size) float32 fields, periodic, at 1 km.

    `large` holds the wavelengths over `split_wavelength` km and `small` the rest; their sum has unit variance in
    expectation and zero mean. Each field is divided by the response of the cubic B-spline, so that spline
    interpolation without a prefilter returns it exactly at the nodes, and with one and the same smoothness between
    them.
    """
    ky = fft.fftfreq(size).astype(np.float32)[:, None]
    kx = fft.rfftfreq(size).astype(np.float32)[None, :]
    k = np.hypot(kx, ky)
    wavelength = 1.0 / np.maximum(k, 1.0 / (2 * size))
    one, two = memory.correlation(wavelength, step_minutes), memory.correlation(wavelength, 2.0 * step_minutes)
    # AR(2) by Yule-Walker from the first two lags
    phi1 = (one * (1.0 - two) / (1.0 - one**2)).astype(np.float32)
    phi2 = ((two - one**2) / (1.0 - one**2)).astype(np.float32)
    innovation = np.sqrt(np.maximum(1.0 - phi1 * one - phi2 * two, 0.0)).astype(np.float32)
    start = np.sqrt(1.0 - one**2).astype(np.float32)

    power = spectrum.power(kx, ky)
    # rfft stores a mode and its mirror image as one number c, whose field 2 Re(c ...) has variance 4 |c|^2 for
    # normals of variance 2; but columns that are their own mirror hold both, and irfft takes Re(c ...) of each:
    # |c|^2.
    whole = np.zeros(kx.shape, bool)
    whole[:, 0] = True
    whole[:, -1] |= size % 2 == 0
    power = np.where(whole, power, 2.0 * power)
    amplitude = np.sqrt(power / power.sum()) * np.where(whole, 1.0, 0.5) * size**2
    amplitude /= _spline_response(kx) * _spline_response(ky)
    # shares of the amplitude, not of the power: both fields have the same phases
    share = 1.0 / (1.0 + (k * split_wavelength) ** 8)
    large, small = (amplitude * share).astype(np.float32), (amplitude * (1.0 - share)).astype(np.float32)

    def normals() -> np.ndarray:
        return generator.standard_normal((size, size // 2 + 1, 2), dtype=np.float32).view(np.complex64)[..., 0]

    older = normals()
    newer = one.astype(np.float32) * older + start * normals()
    for _ in range(frames):
        yield _field(older * large), _field(older * small)
        older, newer = newer, phi1 * newer + phi2 * older + innovation * normals()


def _field(spectrum: np.ndarray) -> np.ndarray:
    return np.asarray(fft.irfft2(spectrum, s=(spectrum.shape[0],) * 2))


def _spline_response(k: np.ndarray) -> np.ndarray:
    """Frequency response of the sampled cubic B-spline (1/6, 4/6, 1/6) at k cycles a node."""
    return (2.0 + np.cos(2.0 * np.pi * k)) / 3.0

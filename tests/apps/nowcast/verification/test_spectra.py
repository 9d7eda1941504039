"""Spectra against pysteps, waves of known length, and Parseval's theorem."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from apps.nowcast.verification.spectra import log_spectral_distance, rapsd, wavelengths, wavenumbers


@pytest.mark.parametrize("size", [(32, 32), (21, 26), (26, 21), (33, 33), (16, 47), (1, 8)])
@pytest.mark.parametrize("kind", ["random", "dry", "tied", "one"])
def test_it_agrees_with_pysteps(size: tuple[int, int], kind: str, pysteps: ModuleType) -> None:
    from pysteps.utils.spectral import rapsd as theirs

    rng = np.random.default_rng(0)
    field = rng.gamma(0.5, 90.0, size)
    field = {"random": field, "dry": field * 0, "tied": np.round(field / 50) * 50, "one": field * 0 + 7}[kind]
    expected, frequency = theirs(field, fft_method=np.fft, return_freq=True)
    ours = rapsd(field)
    assert len(ours) == wavenumbers(*size)
    # theirs at the highest wavenumber of an odd side is a frequency beyond their list's positive half, not another ring
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(1 / wavelengths(*size)[1:], np.abs(frequency[1:]), rtol=1e-12)


def test_a_wave_lies_in_its_ring() -> None:
    y, x = np.mgrid[:48, :48]
    spectrum = rapsd(np.cos(2 * np.pi * (3 * x + 4 * y) / 48))
    assert spectrum.argmax() == 5
    assert spectrum[5] == pytest.approx(spectrum.sum())
    assert wavelengths(48, 48, 2.0)[5] == pytest.approx(48 * 2 / 5)
    assert np.isinf(wavelengths(48, 48)[0])


def test_rings_hold_all_the_variance_of_what_is_coarse() -> None:
    """Parseval: the sum over waves is the sum of squares, where no wave lies beyond the last ring."""
    rng = np.random.default_rng(1)
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(40, 40))) * 0, s=(40, 40))
    for _ in range(20):
        ky, kx = rng.integers(-9, 10, 2)
        y, x = np.mgrid[:40, :40]
        field = field + rng.normal() * np.cos(2 * np.pi * (kx * x + ky * y) / 40 + rng.normal())
    ky, kx = np.meshgrid(np.fft.fftfreq(40, 1 / 40), np.fft.fftfreq(40, 1 / 40), indexing="ij")
    waves = np.bincount(np.sqrt(ky**2 + kx**2).round().astype(int).ravel())[:20]
    assert (rapsd(field) * waves).sum() == pytest.approx(np.square(field).sum())


def test_leading_axes_and_single_precision() -> None:
    fields = np.random.default_rng(2).gamma(0.5, 90.0, (3, 2, 20, 31))
    spectra = rapsd(fields)
    assert spectra.shape == (3, 2, 16)
    np.testing.assert_array_equal(spectra[2, 1], rapsd(fields[2, 1]))
    np.testing.assert_allclose(rapsd(fields.astype(np.float32)), spectra, rtol=1e-4)


def test_distance_in_decibels() -> None:
    truth = np.array([5.0, 1.0, 2.0, 4.0])
    assert log_spectral_distance(truth * 10, truth) == pytest.approx(10.0)
    assert log_spectral_distance(truth, truth) == 0.0
    assert log_spectral_distance(np.array([0.0, 10.0, 0.0, 4.0]), truth) == pytest.approx(np.sqrt(50))
    assert np.isnan(log_spectral_distance(truth * 0, truth))


def test_missing_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="finite fields"):
        rapsd(np.array([[1.0, np.nan], [0.0, 1.0]]))

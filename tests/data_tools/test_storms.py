"""The synthetic storms: reproducible, within the stated statistics, moving as stated, and refused input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from numpy import fft
from scipy import ndimage

from data_tools.cascade import Memory, Spectrum, evolve
from data_tools.store import EventStore
from data_tools.storms import WET, StormConfig, generate, scenario, storm

Cli = Callable[..., CompletedProcess[str]]

EVENTS = 40
SMALL = StormConfig(patch=40, frames=5, time_step=300)


@pytest.fixture(scope="module")
def events() -> list[np.ndarray]:
    return [storm(3, index) for index in range(EVENTS)]


def decibels(rain: np.ndarray) -> np.ndarray:
    return np.where(rain >= WET, 10.0 * np.log10(np.maximum(rain, WET)) + 15.0, 0.0)


def radial_slope(rain: np.ndarray, low: int, high: int) -> float:
    """Log-log slope of the radially averaged power of dB rain, from `low` to `high` cycles a patch."""
    size = rain.shape[1]
    window = np.hanning(size)
    field = decibels(rain)
    field = (field - field.mean(axis=(1, 2), keepdims=True)) * window[:, None] * window[None]
    power = (np.abs(fft.fft2(field)) ** 2).mean(axis=0)
    axis = fft.fftfreq(size) * size
    ring = np.rint(np.hypot(axis[:, None], axis[None])).astype(int)
    radial = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
    return float(np.polyfit(np.log(np.arange(low, high)), np.log(radial[low:high]), 1)[0])


def displacement(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(x, y) pixels by which `after` is moved, by phase correlation on scales over 5 km."""
    size = len(before)
    window = np.hanning(size)[:, None] * np.hanning(size)[None]
    one, two = fft.fft2(before * window), fft.fft2(after * window)
    axis = fft.fftfreq(size) * size
    cross = one.conj() * two
    cross = cross / (np.abs(cross) + 1e-6) * np.exp(-(np.hypot(axis[:, None], axis[None]) ** 2) / 24.0**2)
    row, column = np.unravel_index(np.argmax(fft.ifft2(cross).real), cross.shape)
    half = size // 2
    return np.array([(column + half) % size - half, (row + half) % size - half], dtype=float)


def test_an_event_depends_on_its_seed_and_index_alone() -> None:
    few, many = list(generate(2, 11, SMALL)), list(generate(4, 11, SMALL))
    for one, two in zip(few, many, strict=False):
        assert one.id == two.id
        assert np.array_equal(one.values, two.values)
        assert np.array_equal(one.times, two.times)
    assert np.array_equal(many[3].values, storm(11, 3, SMALL))
    assert len({event.id for event in many}) == 4


def test_seeds_and_indices_give_different_storms() -> None:
    fields = [storm(1, 0, SMALL), storm(1, 1, SMALL), storm(0, 1, SMALL), storm(2, 0, SMALL)]
    for i, one in enumerate(fields):
        assert not any(np.array_equal(one, two) for two in fields[:i])


def test_shape_dtype_and_times_follow_the_configuration() -> None:
    config = StormConfig(patch=36, frames=4, time_step=120)
    (event,) = generate(1, 5, config, split="val")
    assert event.values.shape == (4, 36, 36)
    assert event.values.dtype == np.float32
    assert event.split == "val"
    assert np.diff(event.times).astype(int).tolist() == [120] * 3


def test_a_single_frame_is_an_event() -> None:
    assert storm(0, 0, StormConfig(patch=32, frames=1)).shape == (1, 32, 32)


def test_rain_is_zero_or_wet_and_never_absurd(events: list[np.ndarray]) -> None:
    for rain in events:
        assert np.isfinite(rain).all()
        assert ((rain == 0.0) | (rain >= WET)).all()
        assert np.quantile(rain, 0.999) < 100.0
    assert max(np.quantile(rain, 0.999) for rain in events) > 20.0  # some are heavy


def test_wet_fraction_is_the_drawn_one_and_spans_its_range(events: list[np.ndarray]) -> None:
    wet = np.array([(rain > 0.0).mean() for rain in events])
    drawn = np.array([scenario(3, index).wet_fraction for index in range(EVENTS)])
    assert np.abs(wet - drawn).max() < 0.01
    assert wet.min() >= 0.04
    assert wet.max() <= 0.61
    assert np.quantile(wet, 0.9) - np.quantile(wet, 0.1) > 0.2


def test_wet_fraction_range_is_obeyed() -> None:
    config = StormConfig(patch=64, frames=4, wet_fraction=(0.7, 0.8))
    for index in range(4):
        assert 0.68 < (storm(9, index, config) > 0.0).mean() < 0.82


def test_rates_are_roughly_lognormal(events: list[np.ndarray]) -> None:
    spread = [np.log(rain[rain > 0.0]).std() for rain in events]
    middle = [np.median(rain[rain > 0.0]) for rain in events]
    assert 0.7 < np.median(spread) < 1.4
    assert 0.15 < np.median(middle) < 1.0


def test_spectral_slope_below_the_scaling_break(events: list[np.ndarray]) -> None:
    slopes = np.array([radial_slope(rain, 8, 33) for rain in events])
    assert -3.4 < np.median(slopes) < -2.6
    assert ((slopes > -4.0) & (slopes < -2.0)).all()


def test_rain_moves_as_stated(events: list[np.ndarray]) -> None:
    errors, speeds = [], []
    for index, rain in enumerate(events):
        moved = np.median([displacement(*decibels(rain[[t, t + 3]])) for t in range(0, 10, 3)], axis=0) / 3.0
        stated = np.array(scenario(3, index).velocity) * 300.0 / 1000.0  # pixels of 1 km a frame
        errors.append(np.hypot(*(moved - stated)))
        speeds.append(np.hypot(*stated))
    assert np.min(speeds) >= 1.5  # 5 m/s
    assert np.max(speeds) <= 6.0  # 20 m/s
    assert np.median(errors) < 0.5
    assert np.quantile(errors, 0.75) < 1.5


def test_storms_grow_and_decay(events: list[np.ndarray]) -> None:
    mass = np.array([rain.mean(axis=(1, 2)) for rain in events])
    change = mass[:, -1] / mass[:, 0]
    assert (change > 1.3).sum() >= 5
    assert (change < 1.0 / 1.3).sum() >= 5


def test_convective_events_are_the_heavier_ones(events: list[np.ndarray]) -> None:
    convection = np.array([scenario(3, index).convection for index in range(EVENTS)])
    peak = np.array([np.quantile(rain[rain > 0.0], 0.99) for rain in events])
    assert np.corrcoef(convection, np.log(peak))[0, 1] > 0.3


SPECTRUM = Spectrum(outer=120.0, scale_break=30.0, large=2.2, small=3.2, stretch=1.0, angle=0.0)
MEMORY = Memory(minutes=14.0, exponent=0.9)


def cascade(seed: int, frames: int, size: int = 96) -> np.ndarray:
    levels = evolve(np.random.default_rng(seed), size, frames, 5.0, SPECTRUM, MEMORY, split_wavelength=20.0)
    return np.stack([large + small for large, small in levels]).astype(np.float64)


def test_cascade_has_unit_variance_once_the_spline_is_evaluated() -> None:
    kernel = np.array([1.0, 4.0, 1.0]) / 6.0
    variances = []
    for seed in range(60):
        field = cascade(seed, 1)[0]
        for axis in (0, 1):
            field = ndimage.convolve1d(field, kernel, axis=axis, mode="wrap")
        variances.append((field**2).mean())
    assert np.mean(variances) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("lag", [1, 2])
@pytest.mark.parametrize(("low", "high"), [(2, 4), (6, 9), (14, 20)])
def test_cascade_forgets_each_scale_as_stated(lag: int, low: int, high: int) -> None:
    size, axis = 96, fft.fftfreq(96) * 96
    ring = np.hypot(axis[:, None], axis[None])
    band = (ring >= low) & (ring < high)
    together = alone = stated = 0.0
    for seed in range(6):
        spectra = fft.fft2(cascade(seed, 12, size))[:, band]
        together += (spectra[:-lag].conj() * spectra[lag:]).real.sum()
        alone += (np.abs(spectra) ** 2).sum() * (12 - lag) / 12
        weight = (np.abs(spectra) ** 2).sum(axis=0)
        stated += (weight * MEMORY.correlation(size / ring[band], 5.0 * lag)).sum() * (12 - lag) / 12
    assert together / alone == pytest.approx(stated / alone, abs=0.06)


def test_spectrum_stretches_along_its_angle() -> None:
    stretched = Spectrum(outer=120.0, scale_break=30.0, large=2.2, small=3.2, stretch=2.0, angle=0.0)
    along, across = stretched.power(np.array([0.05, 0.0]), np.array([0.0, 0.05]))
    assert along < across  # long in x: little power at the same wavenumber in x
    assert stretched.power(np.zeros(1), np.zeros(1))[0] == 0.0


@pytest.mark.parametrize("change", [{"patch": 8}, {"frames": 0}, {"time_step": 0}, {"wet_fraction": (0.5, 0.4)}])
def test_impossible_sizes_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        StormConfig(**change)


def test_command_writes_what_the_library_makes(tmp_path: Path, run_cli: Cli) -> None:
    out = tmp_path / "storms.zarr"
    options = ("--events", "3", "--seed", "6", "--out", str(out), "--patch", "40", "--frames", "5", "--split", "val")
    done = run_cli("data_tools.storms", *options)
    assert done.returncode == 0, done.stderr
    store = EventStore.open(out)
    assert store.quantity.name == "rainfall_rate"
    assert store.shape == (3, 5, 40, 40)
    assert store.time_step_seconds == 300.0
    assert store.indices("val") == [0, 1, 2]
    for index in range(3):
        assert np.abs(store.read(index) - storm(6, index, SMALL)).max() <= 0.0051  # stored in hundredths of mm/h
    again = run_cli("data_tools.storms", *options)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert len(again.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--events", "-2"), "--events"),
        (("--events", "2", "--seed", "-1"), "--seed"),
        (("--events", "2", "--patch", "3"), "patch 3"),
        (("--events", "two"), "events"),
    ],
)
def test_command_refuses_bad_input_in_one_line(
    tmp_path: Path, run_cli: Cli, options: tuple[str, ...], word: str
) -> None:
    done = run_cli("data_tools.storms", *options, "--out", str(tmp_path / "storms.zarr"))
    assert done.returncode == 2
    assert word in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())

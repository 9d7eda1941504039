from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.nowcast.forecasting.ensemble import Ensemble, member_seeds
from apps.nowcast.methods import Method, load_methods, parse_methods
from apps.nowcast.nowcaster import ASSETS, Nowcaster
from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE, VIL


def build(nowcaster: Nowcaster, method: Method, scene: object, **changes: object) -> Ensemble:
    options = {"overlap": 8, "batch": 3, "sample_dry": False} | changes
    return Ensemble.build(nowcaster, method, scene, **options)  # type: ignore[arg-type]


def test_a_domain_of_one_patch_is_the_models_own_forecast(
    nowcaster: Nowcaster, method: Method, rain: Callable, scene_of: Callable
) -> None:
    frames = rain(32, 32)
    fields, nfe = build(nowcaster, method, scene_of(frames)).member(5)
    context = torch.from_numpy(RAINFALL_RATE.encode(frames))[None]
    expected = nowcaster.forecast(context, method.solver((5,)), method.grid, [5])  # type: ignore[misc, arg-type]
    np.testing.assert_allclose(fields, RAINFALL_RATE.decode(expected.frames)[0].numpy(), rtol=1e-4, atol=1e-4)
    assert nfe == expected.nfe == 2


def test_members_do_not_depend_on_the_batch(
    nowcaster: Nowcaster, method: Method, rain: Callable, scene_of: Callable
) -> None:
    scene = scene_of(rain(44, 70))
    one, many = (build(nowcaster, method, scene, batch=batch).member(7)[0] for batch in (1, 5))
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-4)
    other = build(nowcaster, method, scene).member(8)[0]
    assert not np.allclose(one, other)
    assert one.shape == (6, 44, 70)


def test_seeds_depend_on_run_time_and_member_alone(rain: Callable, scene_of: Callable) -> None:
    small, large = scene_of(rain(8, 9)), scene_of(rain(10, 11))
    assert member_seeds(0, small, 3) == member_seeds(0, large, 5)[:3]
    assert not set(member_seeds(0, small, 4)) & set(member_seeds(1, small, 4))


def test_dry_tiles_and_such_without_coverage_are_not_sampled(
    nowcaster: Nowcaster, method: Method, rain: Callable, scene_of: Callable
) -> None:
    frames = np.zeros((7, 32, 96), np.float32)
    frames[:, :, :18] = rain(32, 18)
    frames[:, :, 60:] = np.nan
    ensemble = build(nowcaster, method, scene_of(frames))
    assert len(ensemble.tiling) == 4
    assert len(ensemble.active) == 1
    fields, _ = ensemble.member(1)
    assert np.isnan(fields[:, :, 60:]).all()
    assert (fields[:, :, 32:60] == 0.0).all()
    assert np.isfinite(fields[:, :, :60]).all()
    assert len(build(nowcaster, method, scene_of(frames), sample_dry=True).active) == 3


def test_a_dry_domain_needs_no_network(nowcaster: Nowcaster, method: Method, scene_of: Callable) -> None:
    fields, nfe = build(nowcaster, method, scene_of(np.zeros((7, 5, 3), np.float32))).member(0)
    assert nfe == 0
    np.testing.assert_array_equal(fields, np.zeros((6, 5, 3)))


def test_other_quantities_and_noisy_solvers_are_refused(
    nowcaster: Nowcaster, method: Method, rain: Callable, scene_of: Callable
) -> None:
    with pytest.raises(UserError, match="expected rainfall_rate, which the model was trained on, got vil"):
        build(nowcaster, method, scene_of(rain(9, 8), quantity=VIL))
    with pytest.raises(UserError, match="expected a solver that draws no noise, got ddpm"):
        build(nowcaster, parse_methods("ddpm-3", nowcaster)[0], scene_of(rain(9, 8)))
    with pytest.raises(UserError, match="choose another --overlap"):
        build(nowcaster, method, scene_of(rain(9, 8)), overlap=31)


def jumps(fields: np.ndarray, columns: list[int]) -> float:
    """Mean step between neighbouring columns at the given ones, over that at all columns."""
    steps = np.abs(np.diff(fields, axis=-1)).mean(axis=(0, 1))
    return float(steps[[column - 1 for column in columns]].mean() / steps.mean())


def test_no_seam_shows_at_the_borders_of_tiles(rain: Callable, scene_of: Callable) -> None:
    """Of the shipped model with its solver; pasting the tiles beside each other would show them."""
    nowcaster = Nowcaster.load()
    (method,) = load_methods([str(Path(ASSETS) / "spanlift-target.safetensors")], nowcaster, "cpu")
    generator = np.random.default_rng(0)
    drops = np.sort(generator.gamma(0.4, 4.0, (1, 128, 320)), axis=None)
    place = np.argsort(np.argsort(_smooth(generator.standard_normal((128, 320))), axis=None))
    frame = drops[place].reshape(128, 320).astype(np.float32)
    frames = np.stack([np.roll(frame, 2 * k, axis=1) for k in range(7)])
    ensemble = Ensemble.build(nowcaster, method, scene_of(frames), overlap=32, batch=3, sample_dry=False)
    borders = sorted({c for tile in ensemble.tiling for c in (tile.column, tile.column + 128)} - {0, 320})
    assert borders == [96, 128, 192, 224]
    blended = RAINFALL_RATE.encode(ensemble.member(3)[0])
    assert jumps(blended, borders) < 1.1
    object.__setattr__(ensemble.tiling, "weight", lambda tile: _halves(ensemble, tile))
    pasted = RAINFALL_RATE.encode(ensemble.member(3)[0])
    assert jumps(pasted, [112, 208]) > 1.3  # what the test would see if there were a seam


def _halves(ensemble: Ensemble, tile: object) -> np.ndarray:
    """Each pixel from one tile alone: what tiles share is cut in the middle."""
    weight = np.zeros((128, 128), np.float32)
    column = tile.column  # type: ignore[attr-defined]
    weight[:, 0 if column == 0 else 16 : 128 if column == 192 else 112] = 1.0
    return weight


def _smooth(noise: np.ndarray) -> np.ndarray:
    """Noise whose spectrum falls like rain's."""
    waves = np.hypot(np.fft.fftfreq(noise.shape[0])[:, None], np.fft.fftfreq(noise.shape[1])[None])
    waves[0, 0] = 1.0
    return np.fft.ifft2(np.fft.fft2(noise) * waves**-1.5).real

"""Speed of the scores against their peers, in one run: `pytest tests/benchmarks/test_verification_speed.py
--benchmark-enable`. A score and its peer take turns and the best time of each counts, so that a busy machine slows
both; without the flag the fields are small and only the values are compared.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import xarray as xr

from apps.nowcast.metrics import counts, crps, rank_counts, rank_frequencies, scores
from apps.nowcast.verification.fractions import fraction_sums, fss
from apps.nowcast.verification.similarity import ssim_sums
from apps.nowcast.verification.spectra import rapsd

THRESHOLDS = (16.0, 74.0, 133.0, 160.0, 181.0, 219.0)
TURNS = 5


class Fields(NamedTuple):
    """Members (n, frames, y, x) and truth (frames, y, x), float32 in VIL code: about three quarters dry, and tied."""

    members: np.ndarray
    truth: np.ndarray


@pytest.fixture(scope="module")
def pysteps() -> SimpleNamespace:
    """What is used of pysteps, which prints and warns when it is imported."""
    pytest.importorskip("pysteps", reason="pysteps is not installed: pip install pysteps", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pysteps.utils.spectral import rapsd as spectrum
        from pysteps.verification.detcatscores import det_cat_fct
        from pysteps.verification.spatialscores import fss as fractions
    return SimpleNamespace(rapsd=spectrum, det_cat_fct=det_cat_fct, fss=fractions)


@pytest.fixture
def fields(benchmark) -> Fields:
    frames, side = (2, 64) if benchmark.disabled else (24, 384)
    rng = np.random.default_rng(0)
    wet = rng.random((frames, side // 8, side // 8)).repeat(8, axis=1).repeat(8, axis=2) < 0.27
    truth = np.where(wet, rng.gamma(1.5, 60.0, wet.shape), 0).clip(0, 254).round()
    members = (truth * rng.uniform(0.4, 1.6, (10, *wet.shape))).clip(0, 254).round()
    return Fields(members.astype(np.float32), truth.astype(np.float32))


def compete(benchmark, ours: Callable[[], Any], peer: Callable[[], Any], least: float) -> tuple[Any, Any]:
    """Results of both; where time is measured, ours has to be `least` times as fast."""
    mine, theirs = ours(), peer()
    best = [float("inf"), float("inf")]
    for _ in range(0 if benchmark.disabled else TURNS):
        for index, run in enumerate((ours, peer)):
            start = time.perf_counter()
            run()
            best[index] = min(best[index], time.perf_counter() - start)
    benchmark.pedantic(ours, rounds=1)
    if not benchmark.disabled:
        benchmark.extra_info.update(
            milliseconds=1e3 * best[0], peer_milliseconds=1e3 * best[1], ratio=best[1] / best[0]
        )
        print(benchmark.name, benchmark.extra_info)
        assert best[1] > least * best[0], benchmark.extra_info
    return mine, theirs


def test_contingency_at_six_thresholds(benchmark, fields: Fields, pysteps: SimpleNamespace) -> None:
    forecast, truth = fields.members[0], fields.truth

    def peer() -> list[float]:
        # theirs is >, ours >=: half a code below is the same for whole numbers
        return [float(pysteps.det_cat_fct(forecast, truth, edge - 0.5, ["CSI"])["CSI"]) for edge in THRESHOLDS]

    ours, theirs = compete(benchmark, lambda: scores(counts(forecast, truth, THRESHOLDS, keep=0)).csi, peer, 5)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_spectra(benchmark, fields: Fields, pysteps: SimpleNamespace) -> None:
    def peer() -> np.ndarray:
        return np.stack([pysteps.rapsd(frame, fft_method=np.fft) for frame in fields.truth])

    ours, theirs = compete(benchmark, lambda: rapsd(fields.truth), peer, 15)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)  # both in single precision


def test_rank_histogram(benchmark, fields: Fields) -> None:
    from scores.probability import rank_histogram

    dims = ["member", "time", "y", "x"]
    members, truth = xr.DataArray(fields.members, dims=dims), xr.DataArray(fields.truth, dims=dims[1:])
    ours, theirs = compete(
        benchmark,
        lambda: rank_frequencies(rank_counts(fields.members, fields.truth, -1.0)),
        lambda: rank_histogram(members, truth, "member"),
        2,
    )
    np.testing.assert_allclose(ours, theirs.values, atol=1e-6)


@pytest.mark.parametrize("axis", [0, -1])
def test_crps(benchmark, fields: Fields, axis: int) -> None:
    """Against properscoring's compiled path, with members along our axis and along the one that suits it."""
    properscoring = pytest.importorskip("properscoring", reason="properscoring is not installed")
    members = fields.members if axis == 0 else np.ascontiguousarray(np.moveaxis(fields.members, 0, -1))
    ours, theirs = compete(
        benchmark,
        lambda: crps(fields.members, fields.truth),
        lambda: properscoring.crps_ensemble(fields.truth, members, axis=axis),
        1,
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)  # single precision, of values to 254


def test_fractions_skill_score(benchmark, fields: Fields, pysteps: SimpleNamespace) -> None:
    def peer() -> list[float]:
        return [float(pysteps.fss(f, o, 74.0, 17)) for f, o in zip(fields.members[0], fields.truth, strict=True)]

    def ours() -> np.ndarray:
        return fss(fraction_sums(fields.members[:1], fields.truth, (74.0,), (17,)).members[:, 0, 0])

    mine, theirs = compete(benchmark, ours, peer, 1)
    np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_structural_similarity(benchmark, fields: Fields) -> None:
    sums, numbers = benchmark(ssim_sums, fields.members[:1] / 255, fields.truth / 255)
    assert (sums < numbers).all()

"""Fields that verification meets: random, dry, tied, with missing pixels; and libraries to compare with."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import numpy as np
import pytest

KINDS = ("random", "dry", "tied", "missing")
THRESHOLDS = (16.0, 74.0, 133.0)


def fields(kind: str, members: int = 3, leads: int = 2, height: int = 21, width: int = 26, seed: int = 0):
    """Members (n, leads, y, x) and truth (leads, y, x), float64; of some kinds with ties or missing truth."""
    rng = np.random.default_rng(seed)
    truth = rng.gamma(0.5, 90.0, (leads, height, width)).clip(0, 254)
    forecast = (truth * rng.uniform(0.3, 1.7, (members, leads, height, width))).clip(0, 254)
    if kind == "dry":
        return forecast * 0, truth * 0
    if kind == "tied":  # as coarse as the thresholds, so that values equal them and each other
        return np.round(forecast / 37) * 37, np.round(truth / 37) * 37
    if kind == "missing":
        truth[rng.random(truth.shape) < 0.2] = np.nan
        truth[-1, :12] = np.nan
    return forecast, truth


@pytest.fixture(params=KINDS)
def sample(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    return fields(request.param)


@pytest.fixture(scope="session")
def pysteps() -> ModuleType:
    """pysteps' scores; it is no requirement of the tests."""
    pytest.importorskip("pysteps", reason="pysteps is not installed: pip install pysteps", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("verification.spatialscores", "verification.detcatscores", "utils.spectral"):
            importlib.import_module(f"pysteps.{name}")
        return importlib.import_module("pysteps")

"""Scaling of stored values to a network's [0, 1] and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_tools.quantities import QUANTITIES, RAINFALL_RATE, VIL


@pytest.mark.parametrize("name", sorted(QUANTITIES))
def test_decode_inverts_encode(name: str) -> None:
    quantity = QUANTITIES[name]
    values = np.linspace(0.0, quantity.maximum, 5001)
    encoded = quantity.encode(values)
    assert encoded[0] == 0.0
    assert encoded[-1] == pytest.approx(1.0)
    assert (np.diff(encoded) > 0).all()
    np.testing.assert_allclose(quantity.decode(encoded), values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(QUANTITIES))
def test_tensors_and_arrays_agree(name: str) -> None:
    quantity = QUANTITIES[name]
    values = np.array([-3.0, 0.0, 0.05, 1.0, 7.5, 140.0, 1e6, np.nan])
    np.testing.assert_allclose(quantity.encode(torch.from_numpy(values)).numpy(), quantity.encode(values), rtol=1e-14)
    encoded = np.array([-0.5, 0.0, 0.3, 1.0, 2.0, np.nan])
    np.testing.assert_allclose(quantity.decode(torch.from_numpy(encoded)).numpy(), quantity.decode(encoded), rtol=1e-13)


def test_known_values() -> None:
    assert RAINFALL_RATE.encode(np.array([0.1]))[0] == pytest.approx(np.log(2) / np.log(1501))
    assert VIL.encode(np.array([51.0]))[0] == pytest.approx(0.2)
    assert np.isnan(RAINFALL_RATE.encode(np.array([np.nan]))[0])
    assert RAINFALL_RATE.decode(np.array([1.5]))[0] == pytest.approx(150.0)


def test_sevir_thresholds_survive_the_round_trip_in_float32() -> None:
    codes = np.arange(255, dtype=np.float32)
    back = VIL.decode(VIL.encode(codes))
    for threshold in VIL.thresholds:
        assert ((back >= threshold) == (codes >= threshold)).all()

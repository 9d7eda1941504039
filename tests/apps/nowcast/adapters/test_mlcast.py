"""MLCast's contract of a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apps.nowcast.adapters.mlcast import MLCastNetwork, denormalise, normalise
from apps.nowcast.adapters.nowcasting import PystepsNowcast
from apps.nowcast.data import member_seed
from data_tools.quantities import RAINFALL_RATE

BATCH, MEMBERS, STEPS, SIZE = 2, 3, 4, 32


@pytest.fixture(scope="module")
def network(tiny_model: Path) -> MLCastNetwork:
    return MLCastNetwork(PystepsNowcast.load(str(tiny_model), "ddim-2"), seed=9)


def test_the_scale_is_reflectivity_over_sixty() -> None:
    """By hand: Z = 200 R^1.6 is 23.01 dBZ at 1 mm/h; 60 dBZ is 205.05 mm/h."""
    rate = torch.tensor([0.0, 0.01, 1.0, 205.0484, 1000.0], dtype=torch.float64)
    expected = [-1.0, -1.0, 10 * np.log10(200.0) / 30 - 1, 1.0, 1.0]
    np.testing.assert_allclose(normalise(rate), expected, atol=1e-6)
    between = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    torch.testing.assert_close(denormalise(normalise(between)), between)
    assert float(denormalise(torch.tensor(-1.0))) == 0.0


def test_members_are_channels_and_each_is_the_forecast_of_its_seed(network: MLCastNetwork) -> None:
    rain = torch.rand(BATCH, 9, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 20.0
    made = network(normalise(rain), steps=STEPS, ensemble_size=MEMBERS)
    assert made.shape == (BATCH, STEPS, MEMBERS, SIZE, SIZE)
    assert made.abs().max() <= 1.0
    assert not made.requires_grad
    context = RAINFALL_RATE.encode(denormalise(normalise(rain[1:, -7:, 0])))
    solver, grid = network.method.solver, network.method.grid
    assert solver is not None
    assert grid is not None
    seed = member_seed(9, "1", 2)
    (alone,) = network.nowcaster.forecast(context, solver([seed]), grid, [seed]).frames
    torch.testing.assert_close(made[1, :, 2], normalise(RAINFALL_RATE.decode(alone[:STEPS])), atol=1e-4, rtol=1e-4)
    assert (made[:, :, 0] - made[:, :, 1]).abs().max() > 0


@pytest.mark.parametrize(
    ("shape", "steps", "members", "message"),
    [
        ((1, 6, 1, SIZE, SIZE), 1, 1, "expected x"),
        ((1, 7, 2, SIZE, SIZE), 1, 1, "expected x"),
        ((1, 7, 1, SIZE, 16), 1, 1, "expected x"),
        ((1, 7, 1, SIZE, SIZE), 7, 1, "1 to 6 steps"),
        ((1, 7, 1, SIZE, SIZE), 1, 0, "1 to 6 steps"),
    ],
)
def test_what_does_not_fit_is_refused(
    network: MLCastNetwork, shape: tuple[int, ...], steps: int, members: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(shape), steps, members)

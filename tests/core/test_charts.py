"""Charts: slopes are those of the exact flow, steps are straight in the chart and finite at both ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import core

SCHEDULES = {
    "edm": core.EDM(),
    "vp": core.VP(),
    "table": core.DiscreteVP.scaled_linear(),
    "flow": core.RectifiedFlow(),
    "shifted flow": core.RectifiedFlow(2.5),
}
CHARTS = {
    "time": lambda schedule: core.TimeChart(),
    "noise": core.NoiseChart,
    "data": core.DataChart,
}


def seconds(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def batch(seed: int = 0) -> Tensor:
    return torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=SCHEDULES.values(), ids=list(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> core.Schedule:
    return request.param


@pytest.fixture(params=CHARTS.values(), ids=list(CHARTS))
def chart(request: pytest.FixtureRequest, schedule: core.Schedule) -> core.Chart:
    return request.param(schedule)


def test_back_inverts_to(chart: core.Chart) -> None:
    t = seconds(0.40037)
    y, s = chart.to(batch(), t)
    torch.testing.assert_close(chart.back(y, t), batch(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(s, chart.coordinate(t))


def test_slope_is_the_derivative_along_the_exact_flow(chart: core.Chart, schedule: core.Schedule) -> None:
    field = core.MixtureField(torch.full((1, 2, 5), 0.3, dtype=torch.float64), [1.0], 0.5, schedule)
    t, h = seconds(0.40037), 1e-5  # inside an interval of the table
    (y_above, s_above), (y_below, s_below) = (chart.to(field.flow(batch(), t, t + d), t + d) for d in (h, -h))
    slope = chart.slope(core.evaluate(field, batch(), t))
    torch.testing.assert_close((y_above - y_below) / (s_above - s_below), slope, rtol=1e-7, atol=1e-7)


def test_move_is_straight_in_the_chart(chart: core.Chart) -> None:
    t, t_next, slope = seconds(0.40037), seconds(0.17), batch(1)
    y, s = chart.to(batch(), t)
    expected = chart.back(y + (chart.coordinate(t_next) - s) * slope, t_next)
    torch.testing.assert_close(chart.move(batch(), t, t_next, slope), expected, rtol=1e-12, atol=1e-12)


def test_slopes_are_noise_and_data(schedule: core.Schedule) -> None:
    data, noise, t = batch(1), batch(2), seconds(0.40037)
    alpha, sigma, d_alpha, d_sigma = schedule(t)
    evaluation = core.Evaluation(t, alpha * data + sigma * noise, d_alpha * data + d_sigma * noise)
    torch.testing.assert_close(core.NoiseChart(schedule).slope(evaluation), noise, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(core.DataChart(schedule).slope(evaluation), data, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["noise", "data"])
def test_the_last_step_reaches_the_data(schedule: core.Schedule, name: str) -> None:
    """With the true noise (or data) as the slope, a step to sigma = 0 ends at the data, in the limit of s too."""
    data, noise, t, end = batch(1), batch(2), seconds(0.40037), seconds(0.0)
    signal = schedule(t)
    x = signal.alpha * data + signal.sigma * noise
    got = CHARTS[name](schedule).move(x, t, end, noise if name == "noise" else data)
    torch.testing.assert_close(got, data, rtol=1e-12, atol=1e-12)


def test_coordinates_at_the_data(schedule: core.Schedule) -> None:
    assert float(core.NoiseChart(schedule).coordinate(seconds(0.0))) == 0.0
    assert float(core.DataChart(schedule).coordinate(seconds(0.0))) == float("inf")
    torch.testing.assert_close(core.NoiseChart(schedule).back(batch(), seconds(0.0)), batch())


def test_the_data_chart_starts_from_pure_noise() -> None:
    chart, one = core.DataChart(core.RectifiedFlow()), seconds(1.0)
    assert float(chart.coordinate(one)) == 0.0
    got = chart.move(batch(), one, seconds(0.25), batch(1))
    torch.testing.assert_close(got, 0.25 * batch() + 0.75 * batch(1))


def test_the_noise_chart_refuses_pure_noise() -> None:
    with pytest.raises(ValueError, match="expected alpha > 0 at the start of a step in the noise chart"):
        core.NoiseChart(core.RectifiedFlow()).move(batch(), seconds(1.0), seconds(0.5), batch(1))


def test_charts_keep_the_precision_of_the_state(chart: core.Chart) -> None:
    x, t = batch().float(), seconds(0.40037)
    evaluation = core.Evaluation(t, x, x)
    assert chart.to(x, t)[0].dtype == chart.back(x, t).dtype == torch.float32
    assert chart.slope(evaluation).dtype == chart.move(x, t, seconds(0.1), x).dtype == torch.float32

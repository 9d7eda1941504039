"""Schedules: derivatives, inverses, ends, and the tables that published models were trained with."""

from __future__ import annotations

import math

import pytest
import torch

import core

SCHEDULES = {
    "edm": core.EDM(),
    "vp": core.VP(),
    "cosine": core.Cosine(),
    "linear table": core.DiscreteVP.linear(),
    "scaled-linear table": core.DiscreteVP.scaled_linear(),
    "cosine table": core.DiscreteVP.cosine(),
    "flow": core.RectifiedFlow(),
    "shifted flow": core.RectifiedFlow(shift=3.0),
}
TIMES = torch.tensor([0.0123, 0.2004, 0.5003, 0.77777, 0.95021], dtype=torch.float64)  # between the nodes of tables

every = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


@every
def test_derivatives_are_those_of_autograd(schedule: core.Schedule) -> None:
    t = TIMES.clone().requires_grad_()
    signal = schedule(t)
    for value, rate in ((signal.alpha, signal.d_alpha), (signal.sigma, signal.d_sigma)):
        if value.requires_grad:
            (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        else:
            expected = torch.zeros_like(t)
        torch.testing.assert_close(rate.detach(), expected, rtol=1e-10, atol=1e-12)


@every
def test_derivatives_are_those_of_differences(schedule: core.Schedule) -> None:
    h = 1e-6
    above, below, signal = schedule(TIMES + h), schedule(TIMES - h), schedule(TIMES)
    torch.testing.assert_close((above.alpha - below.alpha) / (2 * h), signal.d_alpha, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close((above.sigma - below.sigma) / (2 * h), signal.d_sigma, rtol=1e-6, atol=1e-8)


@every
def test_time_at_inverts_the_ratio(schedule: core.Schedule) -> None:
    torch.testing.assert_close(schedule.time_at(schedule.ratio(TIMES)), TIMES, rtol=1e-11, atol=1e-13)
    assert float(schedule.time_at(0.0)) == pytest.approx(0.0, abs=1e-13)


@every
def test_log_snr_is_that_of_the_signal(schedule: core.Schedule) -> None:
    alpha, sigma, *_ = schedule(TIMES)
    torch.testing.assert_close(schedule.log_snr(TIMES), torch.log(alpha**2 / sigma**2))
    assert float(schedule.log_snr(0.0)) == math.inf


@every
def test_no_noise_at_time_zero(schedule: core.Schedule) -> None:
    signal = schedule(torch.zeros((), dtype=torch.float64))
    assert float(signal.alpha) == pytest.approx(1.0, abs=1e-15)
    assert float(signal.sigma) == 0.0
    assert float(signal.d_sigma) > 0.0
    assert schedule.t_max > schedule.t_min >= 0


@pytest.mark.parametrize("name", ["vp", "cosine", "linear table", "scaled-linear table", "cosine table"])
def test_variance_preserving_schedules_preserve_variance(name: str) -> None:
    alpha, sigma, *_ = SCHEDULES[name](TIMES)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(TIMES), rtol=1e-14, atol=0)


def test_vp_integrates_its_rate() -> None:
    """log alpha = -1/2 * integral of beta(t) = beta_min + t (beta_max - beta_min)."""
    t = torch.linspace(0, 0.7, 20001, dtype=torch.float64)
    beta = 0.1 + t * (20.0 - 0.1)
    assert float(core.VP()(0.7).alpha.log()) == pytest.approx(float(-torch.trapezoid(beta, t) / 2), rel=1e-9)


def test_scaled_linear_table_is_the_one_of_prediff() -> None:
    """The values of PreDiff's noise schedule, which it names "linear"."""
    schedule = core.DiscreteVP.scaled_linear()
    known = {0: 0.9999, 99: 0.97169711383, 499: 0.33318776736, 749: 0.038605511764, 999: 7.3341245958e-4}
    for index, survival in known.items():
        assert float(schedule((index + 1) / 1000).alpha ** 2) == pytest.approx(survival, rel=1e-9)
        assert float(schedule.network_time((index + 1) / 1000)) == pytest.approx(index, abs=1e-9)
    assert schedule.betas[1] == pytest.approx(1.0264836435e-4, rel=1e-9)
    assert schedule.betas[499] == pytest.approx(5.7221511478e-3, rel=1e-9)


def test_plain_linear_table_ends_lower() -> None:
    assert float(core.DiscreteVP.linear()(1.0).alpha ** 2) == pytest.approx(4.04e-5, rel=2e-3)


def test_table_is_linear_in_log_alpha_between_its_nodes() -> None:
    schedule = core.DiscreteVP((0.1, 0.2, 0.4))
    nodes = [0.0, math.log(0.9) / 2, math.log(0.9 * 0.8) / 2, math.log(0.9 * 0.8 * 0.6) / 2]
    for t, expected in ((1 / 3, nodes[1]), (0.5, (nodes[1] + nodes[2]) / 2), (1.0, nodes[3]), (1 / 12, nodes[1] / 4)):
        assert float(schedule(t).alpha.log()) == pytest.approx(expected, rel=1e-12)


def test_table_takes_the_slope_below_a_node() -> None:
    schedule = core.DiscreteVP((0.1, 0.2, 0.4))
    signal = schedule(2 / 3)
    assert float(signal.d_alpha / signal.alpha) == pytest.approx(3 * math.log(0.8) / 2, rel=1e-12)


def test_cosine_table_follows_the_cosine_until_its_cut() -> None:
    continuous, table = core.Cosine(), core.DiscreteVP.cosine()
    t = torch.tensor([0.001, 0.25, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(table(t).alpha, continuous(t).alpha, rtol=1e-10, atol=0)
    assert table.betas[-1] == 0.999
    assert float(continuous(1.0).alpha) < 1e-15 < float(table(1.0).alpha)


def test_shift_is_the_signal_to_noise_ratio_divided() -> None:
    """Esser et al. 2024, eq. 23: a shift by s multiplies sigma / alpha by s at the same time."""
    torch.testing.assert_close(core.RectifiedFlow(3.0).ratio(TIMES), 3 * core.RectifiedFlow().ratio(TIMES))
    torch.testing.assert_close(core.RectifiedFlow(3.0).network_time(TIMES), core.RectifiedFlow(3.0)(TIMES).sigma)


def test_network_times() -> None:
    torch.testing.assert_close(core.VP().network_time(TIMES), 999 * TIMES)
    torch.testing.assert_close(core.Cosine(steps=100).network_time(TIMES), 99 * TIMES)
    torch.testing.assert_close(core.EDM().network_time(TIMES), TIMES)


def test_schedules_are_values() -> None:
    assert core.DiscreteVP.scaled_linear() == core.DiscreteVP.scaled_linear()
    assert core.DiscreteVP.scaled_linear() != core.DiscreteVP.linear()
    assert core.VP() != core.VP(beta_max=19.0)
    assert len(repr(core.DiscreteVP.linear())) < 100


@pytest.mark.parametrize("betas", [(), (0.1, 0.0), (0.1, 1.0)])
def test_impossible_tables_are_refused(betas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected betas strictly between 0 and 1"):
        core.DiscreteVP(betas)


def test_impossible_shift_is_refused() -> None:
    with pytest.raises(ValueError, match="expected shift > 0, got 0"):
        core.RectifiedFlow(shift=0.0)

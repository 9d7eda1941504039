"""Velocity fields: what they tell the network, what they make of its answer, and the exact mixture."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import core

F64 = torch.float64
SCHEDULES = {"edm": core.EDM(), "vp": core.VP(), "flow": core.RectifiedFlow(), "cosine": core.Cosine()}


def seconds(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def mixture(schedule: core.Schedule | None = None) -> core.MixtureField:
    return core.MixtureField(batch(4, 2, 3), [1.0, 2.0, 3.0, 4.0], [0.3, 0.4, 0.5, 0.6], schedule)


class Network:
    """Remembers what it was asked and answers a constant."""

    def __init__(self, answer: Tensor) -> None:
        self.answer = answer
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        self.calls.append((x, time))
        return self.answer


def test_denoiser_field_is_edms() -> None:
    network, x = Network(batch(3, 2, seed=1)), batch(3, 2)
    velocity = core.DenoiserField(network)(x, seconds(4.0))
    torch.testing.assert_close(velocity, (x - network.answer) / 4.0)
    assert network.calls[0][1].shape == ()
    assert float(network.calls[0][1]) == 4.0


def test_noise_prediction_field_follows_its_schedule() -> None:
    schedule, t = core.DiscreteVP.scaled_linear(), seconds(0.25)
    network, x = Network(batch(3, 2, seed=1)), batch(3, 2)
    velocity = core.NoisePredictionField(network, schedule)(x, t)
    alpha, sigma, d_alpha, d_sigma = schedule(t)
    data = (x - sigma * network.answer) / alpha
    torch.testing.assert_close(velocity, d_alpha * data + d_sigma * network.answer)
    assert float(network.calls[0][1]) == pytest.approx(249.0)


def test_v_prediction_is_finite_at_the_noise_end_and_agrees_with_the_noise_elsewhere() -> None:
    schedule, t = core.Cosine(), seconds(0.4)
    x, noise = batch(3, 2), batch(3, 2, seed=1)
    alpha, sigma, _, _ = schedule(t)
    v = (noise - sigma * x) / alpha  # from x = alpha data + sigma noise and v = alpha noise - sigma data
    both = [core.VPredictionField(Network(v), schedule), core.NoisePredictionField(Network(noise), schedule)]
    torch.testing.assert_close(both[0](x, t), both[1](x, t), rtol=1e-12, atol=1e-12)
    last = core.VPredictionField(Network(v), core.RectifiedFlow())  # alpha = 0 at t = 1
    assert torch.isfinite(last(x, seconds(1.0))).all()


def test_flow_field_is_the_network_in_its_own_clock() -> None:
    network, x = Network(batch(3, 2, seed=1)), batch(3, 2)
    torch.testing.assert_close(core.FlowField(network)(x, seconds(0.3)), network.answer)
    shifted = core.FlowField(network, schedule=core.RectifiedFlow(2.0))
    torch.testing.assert_close(shifted(x, seconds(0.5)), network.answer * 2 / 1.5**2)
    assert [float(time) for _, time in network.calls] == pytest.approx([0.3, 2 / 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fields_keep_the_precision_of_the_state(dtype: torch.dtype) -> None:
    network, x = Network(torch.ones(3, 2, dtype=torch.bfloat16)), torch.ones(3, 2, dtype=dtype)
    for field in (core.DenoiserField(network), core.NoisePredictionField(network, core.VP()), core.FlowField(network)):
        assert field(x, seconds(0.3)).dtype == dtype
    assert {time.dtype for _, time in network.calls} == {dtype}


def test_guidance_extrapolates_and_counts_both_networks() -> None:
    yes, no = Network(batch(3, 2, seed=1)), Network(batch(3, 2, seed=2))
    guided = core.GuidedField(
        core.NoisePredictionField(yes, core.VP(), 3), core.NoisePredictionField(no, core.VP()), 2.5
    )
    mixed = core.NoisePredictionField(lambda x, t: no.answer + 2.5 * (yes.answer - no.answer), core.VP())
    x, t = batch(3, 2), seconds(0.4)
    torch.testing.assert_close(guided(x, t), mixed(x, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(guided.analytic_velocity(x, t), mixed.analytic_velocity(x, t))
    assert core.nfe_of(guided) == 4


def test_analytic_velocity_of_edm() -> None:
    x, field = batch(3, 2), core.DenoiserField(Network(batch(3, 2)))
    torch.testing.assert_close(field.analytic_velocity(x, seconds(80.0)), x / math.sqrt(1 + 80.0**2))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_analytic_velocity_is_that_of_the_normalised_state_as_noise(schedule: core.Schedule) -> None:
    x, t = batch(3, 2), seconds(0.7)
    signal = schedule(t)
    noise = x / (signal.alpha**2 + signal.sigma**2).sqrt()
    expected = core.convert(noise, x, signal, "noise", "velocity")
    torch.testing.assert_close(mixture(schedule).analytic_velocity(x, t), expected, rtol=1e-12, atol=1e-12)


def test_analytic_velocity_at_pure_noise_is_the_exact_one() -> None:
    """Where alpha = 0 the state is the noise and the data's mean is 0."""
    field = core.FlowField(Network(batch(3, 2)))
    torch.testing.assert_close(field.analytic_velocity(batch(3, 2), seconds(1.0)), batch(3, 2))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_mixture_velocity_follows_from_the_score(schedule: core.Schedule) -> None:
    """Song et al. 2021, eq. 13: dx/dt = f x - g^2/2 grad log p, with the density written out here."""
    field, t = mixture(schedule), seconds(0.6)
    alpha, sigma, d_alpha, d_sigma = schedule(t)
    x = batch(5, 2, 3, seed=7).requires_grad_()
    share = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    variance = alpha**2 * torch.tensor([0.3, 0.4, 0.5, 0.6], dtype=F64) ** 2 + sigma**2
    distance = (x[:, None] - alpha * field.means).square().sum((2, 3))
    log_density = (share.log() - 3 * variance.log() - distance / (2 * variance)).logsumexp(1)
    (score,) = torch.autograd.grad(log_density.sum(), x)
    drift = d_alpha / alpha
    expected = drift * x - (sigma * d_sigma - drift * sigma**2) * score
    torch.testing.assert_close(field(x, t), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_mixture_expectations_add_up_to_the_state(schedule: core.Schedule) -> None:
    field, t, x = mixture(schedule), seconds(0.6), batch(5, 2, 3, seed=7)
    alpha, sigma, *_ = schedule(t)
    torch.testing.assert_close(alpha * field.data(x, t) + sigma * field.noise(x, t), x, rtol=1e-12, atol=1e-12)


def exact_problems(schedule: core.Schedule) -> list[tuple[core.MixtureField, Tensor]]:
    scalar = core.MixtureField(
        torch.tensor([[-1.0], [0.4], [2.0]], dtype=F64), [3.0, 5.0, 2.0], [0.5, 0.3, 0.4], schedule
    )
    gaussian = core.MixtureField(batch(1, 2, 3), [1.0], 0.7, schedule)
    return [(scalar, 2 * batch(11, 1, seed=5)), (gaussian, batch(4, 2, 3, seed=5))]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_exact_flow_composes(schedule: core.Schedule) -> None:
    for field, x in exact_problems(schedule):
        far = field.flow(field.flow(x, seconds(0.9), seconds(0.5)), seconds(0.5), seconds(0.1))
        torch.testing.assert_close(field.flow(x, seconds(0.9), seconds(0.1)), far, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(field.flow(x, seconds(0.9), seconds(0.9)), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_derivative_of_the_exact_flow_is_the_field(schedule: core.Schedule) -> None:
    h = 1e-4
    for field, x in exact_problems(schedule):
        above, below = (field.flow(x, seconds(0.5), seconds(0.5 + d)) for d in (h, -h))
        torch.testing.assert_close((above - below) / (2 * h), field(x, seconds(0.5)), rtol=1e-5, atol=1e-6)


def test_exact_flow_is_good_in_the_tails() -> None:
    field, _ = exact_problems(core.EDM())[0]
    x = torch.tensor([[-60.0], [60.0]], dtype=F64)
    there = field.flow(x, seconds(3.0), seconds(0.5))
    torch.testing.assert_close(field.flow(there, seconds(0.5), seconds(3.0)), x, rtol=1e-9, atol=0)


def test_exact_flow_reaches_the_data() -> None:
    field, x = exact_problems(core.RectifiedFlow())[1]
    torch.testing.assert_close(field.flow(x, seconds(1.0), seconds(0.0)), field.means + 0.7 * x)


def test_mixtures_have_no_closed_flow_in_general() -> None:
    with pytest.raises(ValueError, match="expected one component or a state of one number, got 4 components"):
        mixture().flow(batch(5, 2, 3), seconds(1.0), seconds(0.5))


@pytest.mark.parametrize("schedule", [core.EDM(), core.RectifiedFlow()])
def test_mixture_is_finite_without_noise(schedule: core.Schedule) -> None:
    """(x - D) / sigma would be 0 / 0 there."""
    field, x = mixture(schedule), batch(5, 2, 3)
    torch.testing.assert_close(field(x, seconds(0.0)), field(x, seconds(1e-9)), rtol=1e-6, atol=1e-6)


def test_one_width_serves_all_components() -> None:
    means, x, t = batch(2, 3), batch(5, 3), seconds(0.5)
    torch.testing.assert_close(
        core.MixtureField(means, [1.0, 3.0], 0.4)(x, t),
        core.MixtureField(means, torch.tensor([0.25, 0.75]), [0.4, 0.4])(x, t),
    )


@pytest.mark.parametrize(
    ("weights", "std", "message"),
    [
        ([1.0, 2.0, 3.0], 0.1, "expected means \\(K, \\*space\\), weights \\(K,\\)"),
        ([1.0, 2.0], [0.1, 0.2, 0.3], "expected means \\(K, \\*space\\), weights \\(K,\\)"),
        ([1.0, 0.0], 0.1, "expected positive weights"),
        ([1.0, 2.0], -0.1, "expected positive weights and std >= 0"),
    ],
)
def test_impossible_mixtures_are_refused(weights: list[float], std: float | list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.MixtureField(batch(2, 3), weights, std)

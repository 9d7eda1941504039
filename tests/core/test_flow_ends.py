"""At both ends of rectified flow, and of tables of betas: log-SNR is infinite there, operators and solvers are not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import core
from core.charts import TimeChart
from core.operators.embedding import step_features
from core.operators.residual import SpanLiftResidual
from core.operators.scaling import Scaling, move
from core.solvers.learned.dyweight import DyWeight, DyWeightConfig

STEPS, CHANNELS = 4, 2
FLOW = core.RectifiedFlow()
VP = core.DiscreteVP.scaled_linear(1000, 0.00085, 0.012)
GRIDS = {"flow": core.build_grid("shifted", STEPS), "vp": core.build_grid("discrete", STEPS, schedule=VP)}


def field(kind: str) -> core.MixtureField:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, CHANNELS, 4, 5, dtype=torch.float64, generator=generator)
    return core.MixtureField(means, [0.2, 0.3, 0.5], 0.4, schedule=FLOW if kind == "flow" else VP)


def noise() -> Tensor:
    return torch.randn(3, CHANNELS, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def base_of(name: str, kind: str) -> core.Solver:
    exponential = name in ("dpm-solver++", "unipc")
    schedule = FLOW if kind == "flow" and exponential else VP if kind == "vp" else None
    return core.build_solver(name, order=3 if name in ("ipndm", "dpm-solver++", "unipc") else None, schedule=schedule)


def wakened(module: nn.Module, size: float = 0.05) -> nn.Module:
    """Its trainable numbers moved away from where they start."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module


@pytest.mark.parametrize("t", [1.0, 0.7, 0.02])
@pytest.mark.parametrize("std", [1.0, 0.5])
def test_scales_are_finite_on_the_flow_and_say_what_is_known(t: float, std: float) -> None:
    """State and slopes of data of this spread come out of unit variance, at sigma = 1 too: brute force on samples."""
    node = Scaling(TimeChart(), FLOW, std).at(torch.tensor(t, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 200_000, dtype=torch.float64, generator=generator) * torch.tensor([[std], [1.0]])
    x, velocity = (1 - t) * data + t * noise, noise - data
    assert float((node.state * x).std()) == pytest.approx(1, abs=0.01)
    unknown = node.velocity * velocity + node.drift * x
    assert float(unknown.std()) == pytest.approx(1, abs=0.01)
    assert float((unknown * x).mean()) == pytest.approx(0, abs=0.01)
    assert node.slope == pytest.approx(std / math.hypot((1 - t) * std, t))
    assert node.log_snr == (-math.inf if t == 1 else pytest.approx(2 * math.log((1 - t) / t)))


def test_features_of_the_ends_are_those_of_pure_noise_and_pure_data() -> None:
    scaling = Scaling(TimeChart(), FLOW, 1.0)
    first = scaling.at(torch.tensor(1.0, dtype=torch.float64))
    assert step_features(1.0, first.log_snr, -0.1)[1] == -1
    beyond = scaling.at(torch.tensor(1.2, dtype=torch.float64))  # DyWeight may scale times past pure noise
    assert beyond.log_snr == -math.inf
    assert all(map(math.isfinite, (beyond.state, beyond.velocity, beyond.drift, beyond.slope)))
    for chart in (core.build_solver("dpm-solver++", order=2, schedule=FLOW).chart, TimeChart()):  # pyright: ignore
        last = move(chart, torch.tensor(0.3), torch.tensor(0.0))
        assert math.isfinite(last.keep)
        assert math.isfinite(last.gain)
        assert all(map(math.isfinite, step_features(0.3, 1.0, last.length)))


@pytest.mark.parametrize("kind", ["flow", "vp"])
@pytest.mark.parametrize("name", ["euler", "heun", "ipndm", "dpm-solver++", "unipc", "dyweight"])
@pytest.mark.parametrize("kernel", [3, 1])
def test_spanlift_starts_as_its_base_and_learns_from_end_to_end(kind: str, name: str, kernel: int) -> None:
    grid, flow, x_T = GRIDS[kind], field(kind), noise()
    base = (
        core.build_solver(name, base=base_of("ipndm", kind), grid=grid) if name == "dyweight" else base_of(name, kind)
    )
    config = core.ResidualConfig(CHANNELS, width=4, steps=STEPS, kernel=kernel)
    solver = core.build_solver("spanlift", base=base, operator=config, schedule=flow.schedule)
    with torch.no_grad():
        own, alone = (core.integrate(flow, one, x_T, grid) for one in (solver, base))
    assert torch.equal(own.x, alone.x)
    assert own.nfe == alone.nfe
    wakened(solver)  # pyright: ignore[reportArgumentType]
    end = core.integrate(flow, solver, x_T, grid).x
    assert not torch.equal(end, alone.x)
    end.square().mean().backward()
    parameters = {name: p for name, p in solver.named_parameters() if p.requires_grad}  # pyright: ignore
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters.values())
    head = parameters["residual.head.weight"].grad
    assert head is not None
    assert head.abs().max() > 0


BASES = {"s4s-ss": "heun", "s4s-pc": "unipc", "bns": "euler", "amed": ""}


@pytest.mark.parametrize("kind", ["flow", "vp"])
@pytest.mark.parametrize(
    "name",
    ["s4s-lms", "s4s-ss", "s4s-pc", "s4s-alt", "bns", "dlms", "ld3", "dyweight", "amed", "amed-plugin", "epd-plugin"],
)
def test_every_learned_solver_runs_and_learns(kind: str, name: str) -> None:
    grid, flow, x_T = GRIDS[kind], field(kind), noise()
    base = BASES.get(name, "ipndm")
    schedule = flow.schedule if name == "ld3" or (kind == "vp" and name == "amed") else None
    solver = core.build_solver(name, base=base_of(base, kind) if base else None, grid=grid, schedule=schedule)
    wakened(solver, 0.02)  # pyright: ignore[reportArgumentType]
    end = core.integrate(flow, solver, x_T, grid).x
    exact = core.integrate(flow, core.build_solver("rk4", schedule=None if kind == "flow" else VP), x_T, _fine(kind)).x
    assert (end - exact).square().mean() < 0.3 * exact.square().mean()
    end.square().mean().backward()
    gradients = [p.grad for p in solver.parameters() if p.grad is not None]  # pyright: ignore
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert max(float(g.abs().max()) for g in gradients) > 0


def _fine(kind: str) -> Tensor:
    return core.build_grid("shifted", 50) if kind == "flow" else core.build_grid("discrete", 50, schedule=VP)


def test_flows_scale_times_within_bounds_and_start_at_one() -> None:
    config = DyWeightConfig(GRIDS["flow"], core.IPNDM(3), schedule=FLOW, bounds=(0.5, 1.5))
    solver = DyWeight(config)
    assert solver.scales.tolist() == [1.0] * STEPS
    with torch.no_grad():
        solver.phi.copy_(torch.tensor([-50.0, 50.0, 0.2, 1.0]))
        scaled = solver.scales
        assert 0.5 <= float(scaled.min()) <= float(scaled.max()) <= 1.5
        told: list[float] = []

        def recording(x: Tensor, t: Tensor) -> Tensor:
            told.append(float(t))
            return field("flow")(x, t)

        end = core.integrate(recording, solver, noise(), GRIDS["flow"]).x
    assert told[1] > 1  # scaled past pure noise: a network can still be asked there
    assert bool(end.isfinite().all())


def test_an_operator_over_times_past_pure_noise_is_finite() -> None:
    """Rows of DyWeight that sum to less than 0 lead its time above 1."""
    solver = DyWeight(replace(DyWeightConfig(GRIDS["flow"]), schedule=FLOW))
    with torch.no_grad():
        solver.weights[0, 0] = -0.1
    config = core.ResidualConfig(CHANNELS, width=4, steps=STEPS)
    corrected = wakened(core.spanlift(solver, config, FLOW))
    assert isinstance(corrected, core.Corrected)
    assert isinstance(corrected.residual, SpanLiftResidual)
    states = list(core.trajectory(field("flow"), corrected, noise(), GRIDS["flow"]))
    assert float(states[1].t) > 1
    assert all(bool(state.x.isfinite().all()) for state in states)

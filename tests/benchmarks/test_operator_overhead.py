"""What the operator costs beside the network it corrects: parameters, operations and, with --benchmark-enable, time."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.charts import TimeChart
from core.operators import ResidualConfig, SpanLiftResidual, spanlift
from core.schedules import EDM, DiscreteVP
from core.solvers import build_solver
from core.state import integrate

NOWCAST = ResidualConfig(channels=8, dimensions=3, width=32, condition_channels=56, frames=6, steps=5)
NETWORK_FLOPS = 3e9
"""Of one evaluation of a nowcasting network for six frames of 8 x 16 x 16 latents."""


def steady(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return 0.1 * x


def test_operations_beside_a_network_of_3_gflop() -> None:
    """Five steps of the operator against five calls of the network, two operations a multiply-add."""
    schedule = DiscreteVP.scaled_linear()
    solver = spanlift(build_solver("ddim", schedule=schedule), NOWCAST).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bound = solver.bind(torch.zeros(1, 8, 7, 16, 16))
        integrate(steady, bound, torch.zeros(1, 8, 6, 16, 16), torch.linspace(1, 0, 6, dtype=torch.float64))
    assert 0 < counter.get_total_flops() < 0.02 * 5 * NETWORK_FLOPS


def test_operations_at_3_by_64_by_64() -> None:
    """SpanLift's overhead table: 4.79 GFLOP for nine evaluations of ImageNet-64, 0.111 M parameters."""
    operator = SpanLiftResidual(ResidualConfig(channels=3, steps=9), TimeChart(), EDM()).eval()
    solver = spanlift(build_solver("ipndm", order=3), operator.config, EDM()).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        integrate(steady, solver, torch.zeros(1, 3, 64, 64), torch.linspace(80, 0.01, 10, dtype=torch.float64))
    assert 4e9 < counter.get_total_flops() < 6e9
    assert sum(parameter.numel() for parameter in operator.parameters()) <= 0.12e6


@pytest.mark.parametrize("name", ["base", "spanlift"])
@pytest.mark.parametrize("members", [1, 10])
def test_time_of_five_steps(benchmark, members: int, name: str) -> None:
    """Solver alone, without a network: the difference of both is the operator's time, at most 8 ms a member."""
    schedule = DiscreteVP.scaled_linear()
    base = build_solver("ddim", schedule=schedule)
    solver = base if name == "base" else spanlift(base, NOWCAST).eval()
    context = torch.randn(members, 8, 7, 16, 16)
    noise, grid = torch.randn(members, 8, 6, 16, 16), torch.linspace(1, 0, 6, dtype=torch.float64)

    @torch.no_grad()
    def sample() -> torch.Tensor:
        return integrate(steady, solver if name == "base" else solver.bind(context), noise, grid).x

    assert torch.isfinite(benchmark(sample)).all()

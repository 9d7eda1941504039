"""The quadrature and the weights of the multistep methods."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import core
from core.solvers.ipndm import WEIGHTS
from core.solvers.quadrature import lagrange_means

F64 = torch.float64


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_even_steps_give_the_weights_of_the_textbook(count: int) -> None:
    nodes = torch.arange(0, -count, -1, dtype=F64)
    weights = lagrange_means(nodes, nodes[0], nodes[0] + 1)
    torch.testing.assert_close(weights, torch.tensor(WEIGHTS[count - 1], dtype=F64), rtol=1e-12, atol=1e-13)


def test_two_uneven_steps_by_hand() -> None:
    """1 + r/2 and -r/2, r the ratio of this step to the one before."""
    weights = lagrange_means(torch.tensor([3.0, 5.0], dtype=F64), torch.tensor(3.0), torch.tensor(2.0))
    torch.testing.assert_close(weights, torch.tensor([1.25, -0.25], dtype=F64))


@given(
    gaps=st.lists(st.floats(0.1, 3.0), min_size=1, max_size=4),
    start=st.floats(-5.0, 5.0),
    coefficients=st.lists(st.floats(-2.0, 2.0), min_size=4, max_size=4),
)
def test_polynomials_of_lower_degree_than_nodes_are_integrated_exactly(
    gaps: list[float], start: float, coefficients: list[float]
) -> None:
    lengths = torch.tensor(gaps, dtype=F64)
    nodes = start + torch.cat([torch.zeros(1, dtype=F64), lengths[1:].cumsum(0)])
    end = nodes[0] - lengths[0]
    powers = torch.arange(len(gaps), dtype=F64)
    factors = torch.tensor(coefficients[: len(gaps)], dtype=F64)

    def integral(s: Tensor) -> Tensor:
        return (factors * s ** (powers + 1) / (powers + 1)).sum()

    values = (factors * nodes[:, None] ** powers).sum(1)
    mean = (integral(end) - integral(nodes[0])) / (end - nodes[0])
    weights = lagrange_means(nodes, nodes[0], end)
    torch.testing.assert_close((weights * values).sum(), mean, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(weights.sum(), torch.ones((), dtype=F64))


def test_first_steps_use_what_there_is() -> None:
    grid, x = core.build_grid("uniform", 5, 1.0, 0.0), torch.ones(2, 3, dtype=F64)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return t**5 * torch.ones_like(x)

    states = [list(core.trajectory(field, core.IPNDM(k), x, grid)) for k in (1, 2, 3, 4)]
    for k in range(3):
        assert torch.equal(states[k][k + 1].x, states[k + 1][k + 1].x)  # one step short of showing the difference
        assert not torch.allclose(states[k][k + 2].x, states[k + 1][k + 2].x)


def test_adams_bashforth_integrates_a_cubic_velocity_on_any_grid() -> None:
    """Exactly, once four evaluations are there."""
    grid = core.build_grid("quadratic", 7, 2.0, 0.0)
    states = list(
        core.trajectory(
            lambda x, t: (4 * t**3 - t) * torch.ones_like(x), core.AdamsBashforth(4), torch.ones(2, 3), grid
        )
    )
    primitive = grid**4 - grid**2 / 2
    for i in range(4, 8):
        change = states[i].x - states[i - 1].x
        torch.testing.assert_close(change, (primitive[i] - primitive[i - 1]).float().expand(2, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", [2, 3, 4])
def test_in_the_data_chart_the_step_to_the_data_is_of_first_order(memory: int) -> None:
    """No polynomial has a mean over an infinite step; the newest data prediction is then the answer."""
    schedule = core.RectifiedFlow()
    field = core.MixtureField(torch.tensor([[0.5, -1.0], [1.5, 2.0]], dtype=F64), [1.0, 2.0], 0.3, schedule)
    x = torch.tensor([[0.3, 0.1], [1.0, -1.0], [0.0, 2.0]], dtype=F64)
    solver = core.AdamsBashforth(memory, core.DataChart(schedule))
    states = list(core.trajectory(field, solver, x, core.build_grid("uniform", 6, 1.0, 0.0)))
    torch.testing.assert_close(states[-1].x, field.data(states[-2].x, states[-2].t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [core.IPNDM, core.AdamsBashforth])
@pytest.mark.parametrize("memory", [0, 5])
def test_impossible_orders_are_refused(kind: type[core.IPNDM] | type[core.AdamsBashforth], memory: int) -> None:
    with pytest.raises(ValueError, match=f"expected an order from 1 to 4, got {memory}"):
        kind(memory)

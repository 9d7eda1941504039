"""One operator for a range of numbers of steps: its base at first at each of them, refused beyond them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import core
from core.fitting import FitConfig
from core.operators import ResidualConfig, SpanLiftResidual, spanlift
from core.state import Solver, State
from core.supervision import Example
from core.training import train_solver

SCHEDULE = core.DiscreteVP.scaled_linear()
BASES: dict[str, Solver] = {
    "ddim": core.build_solver("ddim", schedule=SCHEDULE),
    "ipndm": core.build_solver("ipndm", order=2, schedule=SCHEDULE),
    "adams-bashforth": core.build_solver("adams-bashforth", order=3, schedule=SCHEDULE),
}
COUNTS = (2, 10)


def grid(steps: int) -> Tensor:
    return core.build_grid("uniform", steps=steps, t_max=1.0, t_min=0.0)


def problem(seed: int = 0) -> tuple[core.MixtureField, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    x = torch.randn(6, 2, 4, 5, generator=generator, dtype=torch.float64)
    return core.MixtureField(means, torch.ones(3), 0.4, SCHEDULE), x


def operator(name: str = "ddim", counts: tuple[int, int] | None = COUNTS) -> core.Corrected:
    torch.manual_seed(3)
    return spanlift(BASES[name], ResidualConfig(2, width=8, counts=counts), SCHEDULE).double()


def moved(solver: core.Corrected) -> core.Corrected:
    with torch.no_grad():
        for index, parameter in enumerate(solver.parameters()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return solver


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_untrained_it_is_its_base_at_every_count_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    field, x = problem()
    solver = operator(name).to(dtype)
    for steps in range(COUNTS[0], COUNTS[1] + 1):
        expected = core.integrate(field, BASES[name], x.to(dtype), grid(steps))
        got = core.integrate(field, solver, x.to(dtype), grid(steps))
        assert torch.equal(got.x, expected.x)
        assert got.nfe == expected.nfe == steps


def test_no_parameter_belongs_to_one_count_or_step() -> None:
    shapes = {name: tuple(p.shape) for name, p in operator(counts=(2, 10)).named_parameters()}
    assert shapes == {name: tuple(p.shape) for name, p in operator(counts=(3, 7)).named_parameters()}
    assert not {"residual.scale", "residual.gain"} & shapes.keys()


def test_a_correction_depends_on_times_and_not_on_the_number_of_the_step() -> None:
    field, x = problem()
    solver = moved(operator("ipndm"))
    first = grid(5)
    start = State(x, first[1], 0, (), 0)
    late = State(x, first[1], 3, (), 0)
    assert torch.equal(solver.step(field, start, first[2]).x, solver.step(field, late, first[2]).x)
    other = solver.step(field, start, grid(9)[4]).x - BASES["ipndm"].step(field, start, grid(9)[4]).x
    here = solver.step(field, start, first[2]).x - BASES["ipndm"].step(field, start, first[2]).x
    assert (other - here).abs().max() > 1e-6  # another h, another correction


@pytest.mark.parametrize("steps", [1, 11, 24])
def test_a_count_out_of_range_is_refused(steps: int) -> None:
    field, x = problem()
    for solver in (operator(), operator().bind(x)):
        with pytest.raises(ValueError, match=f"expected 2 to 10 steps.*got {steps}"):
            core.integrate(field, solver, x, grid(steps))
    assert core.integrate(field, operator(counts=None), x, grid(steps)).nfe == steps  # nothing said, nothing refused


@pytest.mark.parametrize("change", [{"steps": 5}, {"counts": (0, 3)}, {"counts": (5, 4)}, {"counts": (2, 3, 4)}])
def test_a_range_that_makes_no_sense_is_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"counts|unpack"):
        ResidualConfig(**{"channels": 2, "counts": COUNTS, **change})


def test_its_file_tells_the_range_and_samples_alike(tmp_path: Path) -> None:
    field, x = problem()
    solver = moved(operator("ipndm"))
    path = core.save(tmp_path / "s", solver, grid=grid(10), field_identity="f", supervision="target", loss="mse")
    read = core.load(path)
    assert isinstance(read, core.Corrected)
    assert isinstance(read.residual, SpanLiftResidual)
    assert isinstance(solver.residual, SpanLiftResidual)
    assert read.residual.config == solver.residual.config
    assert read.residual.config.counts == COUNTS
    for steps in (2, 3, 10):
        assert torch.equal(
            core.integrate(field, read, x, grid(steps)).x, core.integrate(field, solver, x, grid(steps)).x
        )
    with pytest.raises(ValueError, match="2 to 10 steps"):
        core.integrate(field, read, x, grid(11))


def test_one_training_makes_every_count_better(tmp_path: Path) -> None:
    field, _ = problem()
    solver = operator("ddim", (2, 4))
    fine = grid(24)

    def example(iteration: int) -> Example:
        x = torch.randn(6, 2, 4, 5, generator=torch.Generator().manual_seed(iteration), dtype=torch.float64)
        return Example(x, None, core.integrate(field, BASES["adams-bashforth"], x, fine).x)

    def error(solver: Solver, steps: int) -> float:
        with torch.no_grad():
            end = core.integrate(field, solver, held.x_T, grid(steps)).x
        return float((end - held.endpoint).square().mean().sqrt())

    held = example(10_000)
    before = [error(BASES["ddim"], steps) for steps in (2, 3, 4)]
    train_solver(
        solver,
        lambda iteration: grid(2 + iteration % 3),
        example,
        lambda condition: field,
        lambda endpoint, example: (endpoint - example.endpoint).square().mean(),
        FitConfig(iterations=24, learning_rate=1e-2),
        tmp_path / "run",
    )
    after = [error(solver, steps) for steps in (2, 3, 4)]
    assert all(a < 0.9 * b for a, b in zip(after, before, strict=True)), (before, after)


def test_training_on_a_count_out_of_range_is_refused(tmp_path: Path) -> None:
    field, x = problem()
    with pytest.raises(ValueError, match="2 to 10 steps"):
        train_solver(
            operator(),
            grid(11),
            lambda iteration: Example(x, None, x),
            lambda condition: field,
            lambda endpoint, example: endpoint.square().mean(),
            FitConfig(iterations=1, learning_rate=1e-3),
            tmp_path / "run",
        )

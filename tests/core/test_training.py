"""Endpoint training on exact mixtures: it learns, it resumes exactly, and rematerialisation changes no gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from core.charts import TimeChart
from core.fields import DenoiserField, MixtureField
from core.fitting import FitConfig
from core.grids import build_grid
from core.losses import MSE
from core.operators import Corrected, ResidualConfig, ScalarConfig, ScalarResidual, spanlift
from core.schedules import EDM
from core.solvers import Euler, build_solver
from core.state import State, integrate
from core.supervision import Example
from core.training import Rematerialised, RunToEnd, fingerprint, rollout, train_solver

SHAPE = (2, 6, 7)


class Lattice:
    """Exact field of data whose positions are coupled by pairs: skewed, bimodal numbers, rotated and shifted.

    An orthogonal map of independent numbers: it commutes with isotropic noise, so the velocity is mapped alike.
    """

    numbers = MixtureField(torch.tensor([[-1.0], [0.3], [2.0]]), [0.5, 0.3, 0.2], 0.5)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        a, b = x[:, 0], x[:, 1].roll(-1, -1)
        velocity = self.numbers(torch.stack([a + b, a - b]).view(-1, 1) / 2**0.5, t).view(2, *a.shape)
        plus, minus = velocity.sum(0) / 2**0.5, (velocity[0] - velocity[1]) / 2**0.5
        return torch.stack([plus, minus.roll(1, -1)], dim=1)


FIELD = Lattice()


def examples(iteration: int, batch: int = 16) -> Example:
    x_T = 20 * torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(iteration))
    with torch.no_grad():
        teacher = integrate(FIELD, build_solver("heun"), x_T, build_grid("karras", 24, 20.0, 0.02, rho=7.0)).x
    return Example(x_T, None, teacher)


def toy(seed: int, width: int = 32, steps: int | None = 3) -> Corrected:
    torch.manual_seed(seed)
    return spanlift(build_solver("euler"), ResidualConfig(2, width=width, steps=steps), EDM())


def endpoint_mse(end: Tensor, example: Example) -> Tensor:
    return MSE()(end, example.endpoint)


GRID = build_grid("karras", 3, 20.0, 0.02, rho=7.0)


def held_out_error(solver) -> float:
    example = examples(10_000, batch=64)
    with torch.no_grad():
        return MSE()(integrate(FIELD, solver, example.x_T, GRID).x, example.endpoint).item()


def test_training_cuts_the_endpoint_error(tmp_path: Path) -> None:
    pool = [examples(iteration, batch=8) for iteration in range(40)]

    def train(solver: Corrected, rate: float) -> float:
        folder = tmp_path / str(rate)
        train_solver(solver, GRID, lambda n: pool[n % 40], lambda _: FIELD, endpoint_mse, FitConfig(100, rate), folder)
        return held_out_error(solver)

    solver = toy(0)
    before = held_out_error(solver)
    assert before == held_out_error(build_solver("euler"))
    lifted = train(solver, 1e-2)
    in_span = train(Corrected(build_solver("euler"), ScalarResidual(ScalarConfig(3), TimeChart())), 2e-2)
    assert lifted < 0.01 * before
    assert lifted < 0.5 * in_span < 0.1 * before  # what leaves the span counts


class Killed(Exception):
    pass


def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    config = FitConfig(9, 1e-2, checkpoint_every=4, ema_decay=0.9)

    def train(solver: Corrected, folder: Path, killed_at: int | None = None) -> dict[str, Tensor]:
        def report(iteration: int, values) -> None:
            if iteration == killed_at:
                raise Killed

        train_solver(
            solver,
            lambda n: build_grid("karras", 2 + n % 3, 20.0, 0.02, rho=7.0),
            lambda n: examples(n, batch=2),
            lambda _: FIELD,
            endpoint_mse,
            config,
            folder,
            report=report,
        )
        return {key: value.clone() for key, value in solver.state_dict().items()}

    expected = train(toy(1, width=4, steps=None), tmp_path / "whole")
    with pytest.raises(Killed):
        train(toy(1, width=4, steps=None), tmp_path / "killed", killed_at=6)
    got = train(toy(2, width=4, steps=None), tmp_path / "killed")  # its initial values come from the checkpoint
    assert expected.keys() == got.keys()
    for key in expected:
        assert torch.equal(expected[key], got[key]), key


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 2, 3, padding=1)).double().eval()


def test_rematerialised_gradient_is_the_plain_gradient() -> None:
    frozen = network().requires_grad_(False)
    field = DenoiserField(lambda x, sigma: frozen(x / (1 + sigma)))
    solver = toy(3, width=8).double()
    with torch.no_grad():
        solver.residual.head.weight.add_(0.2)
    x_T = 20 * torch.randn(5, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for afs in (False, True):
        gradients = []
        for run in (
            lambda afs=afs: integrate(field, solver, x_T, GRID, afs).x,
            lambda afs=afs: rollout(solver, field, x_T, GRID, afs=afs),
            lambda afs=afs: rollout(solver, field, x_T, GRID, afs=afs, rematerialise=False),
        ):
            solver.zero_grad()
            run().square().sum().backward()
            gradients.append([parameter.grad for parameter in solver.parameters()])
        for plain, rematerialised, off in zip(*gradients, strict=True):
            torch.testing.assert_close(rematerialised, plain, rtol=1e-12, atol=1e-12)
            assert torch.equal(off, plain)
        assert sum(gradient.abs().sum() for gradient in gradients[0]) > 0


@pytest.mark.parametrize(("rematerialise", "calls"), [(True, 3), (False, 2)])
def test_rematerialisation_can_be_switched_off(tmp_path: Path, rematerialise: bool, calls: int) -> None:
    """The first evaluation needs no gradient, the second is computed twice, or not."""
    count = 0

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return FIELD(x, t)

    train_solver(
        toy(0, width=4, steps=None),
        build_grid("karras", 2, 20.0, 0.02, rho=7.0),
        lambda n: examples(n, batch=2),
        lambda _: counted,
        endpoint_mse,
        FitConfig(1, 1e-2),
        tmp_path,
        run=RunToEnd(rematerialise=rematerialise),
    )
    assert count == calls


class Precisions(nn.Module):
    """A residual that notes the precision it is called in."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[torch.dtype, bool]] = []

    def forward(self, state: State, proposal: State) -> Tensor:
        self.seen.append((proposal.x.dtype, torch.is_autocast_enabled("cpu")))
        return self.gain * state.x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_low_precision_is_the_networks_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    frozen = network().float().requires_grad_(False)
    seen: list[torch.dtype] = []
    frozen[0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    field = DenoiserField(lambda x, sigma: frozen((x / (1 + sigma)).float()))
    solver = Corrected(Euler(), Precisions())
    ends: list[tuple[torch.dtype, bool]] = []

    def loss(end: Tensor, example: Example) -> Tensor:
        ends.append((end.dtype, torch.is_autocast_enabled("cpu")))
        return endpoint_mse(end, example)

    def train(folder: Path, autocast: Literal["float32", "bfloat16"]) -> float:
        def cast(n: int) -> Example:
            example = examples(n, batch=3)
            return Example(example.x_T.to(dtype), None, example.endpoint.to(dtype))

        config = FitConfig(2, 1e-2)
        train_solver(solver, GRID, cast, lambda _: field, loss, config, folder, frozen=[frozen], autocast=autocast)
        return json.loads((folder / "log.jsonl").read_text().splitlines()[0])["loss"]

    low = train(tmp_path / "low", "bfloat16")
    assert set(seen) == {torch.bfloat16}
    assert set(solver.residual.seen) == {(dtype, False)} == set(ends)
    solver.residual.gain.data.zero_()
    high = train(tmp_path / "high", "float32")
    assert set(seen) == {torch.bfloat16, torch.float32}
    assert low == pytest.approx(high, rel=1e-2)
    assert low != high
    with pytest.raises(ValueError, match="another configuration"):
        train(tmp_path / "low", "float32")


def test_rematerialised_field_counts_and_recomputes() -> None:
    calls = []

    class Guided:
        evaluations_per_call = 2

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            calls.append(float(t))
            return x.sin()

    field = Rematerialised(Guided())
    x_T = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    final = integrate(field, Euler(), x_T, torch.tensor([2.0, 1.0, 0.5]))
    assert final.nfe == 4
    assert calls == [2.0, 1.0]
    final.x.sum().backward()
    assert sorted(calls) == [1.0, 1.0, 2.0, 2.0]


def test_the_solver_is_bound_to_the_condition(tmp_path: Path) -> None:
    torch.manual_seed(0)
    solver = spanlift(Euler(), ResidualConfig(2, width=4, condition_channels=3, steps=3), EDM())
    seen = []

    def bind(condition: Tensor | None) -> Lattice:
        seen.append(condition)
        return FIELD

    def conditioned(iteration: int) -> Example:
        return examples(iteration, batch=2)._replace(condition=torch.full((2, 3, 6, 7), float(iteration)))

    train_solver(solver, GRID, conditioned, bind, endpoint_mse, FitConfig(3, 1e-2), tmp_path)
    assert [float(condition.mean()) for condition in seen if condition is not None] == [0, 1, 2]
    assert solver.residual.condition.weight.grad.abs().sum() > 0


def frozen_field(frozen: nn.Module) -> DenoiserField:
    return DenoiserField(lambda x, sigma: frozen(x.double() / (1 + sigma)))


def test_frozen_networks_stay_as_they_are(tmp_path: Path) -> None:
    frozen = network()
    frozen(torch.ones(1, *SHAPE, dtype=torch.float64)).sum().backward()  # as a network that was trained just before
    frozen.requires_grad_(False)
    before = fingerprint(frozen)
    train_solver(
        toy(4, width=4),
        GRID,
        lambda n: examples(n, batch=2),
        lambda _: frozen_field(frozen),
        endpoint_mse,
        FitConfig(2, 1e-2),
        tmp_path,
        frozen=[frozen],
    )
    assert fingerprint(frozen) == before
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_networks_that_are_not_frozen_are_refused(tmp_path: Path) -> None:
    def train(frozen: nn.Module, loss=endpoint_mse) -> None:
        train_solver(
            toy(4, width=4),
            GRID,
            lambda n: examples(n, batch=2),
            lambda _: frozen_field(frozen),
            loss,
            FitConfig(2, 1e-2),
            tmp_path,
            frozen=[frozen],
        )

    with pytest.raises(ValueError, match="4 parameters that require gradients"):
        train(network())
    with pytest.raises(ValueError, match="eval mode"):
        train(network().requires_grad_(False).train())
    victim = network().requires_grad_(False)

    def meddling(end: Tensor, example: Example) -> Tensor:
        victim[0].bias += 1  # type: ignore[operator]
        return endpoint_mse(end, example)

    with pytest.raises(RuntimeError, match="stay frozen"):
        train(victim, meddling)


def test_fingerprint_tells_names_types_and_values_apart() -> None:
    a, b = network(), network()
    assert fingerprint(a) == fingerprint(b)
    with torch.no_grad():
        b[0].bias[0] += 1e-9  # type: ignore[index]
    assert (
        len({fingerprint(a), fingerprint(b), fingerprint(network().float()), fingerprint(nn.ModuleDict({"m": a}))}) == 4
    )

"""The relaxed objective and alternating training: balls, stored noises, exact resume, phases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

import core
from core.alternating import train_alternating
from core.fitting import FitConfig, fit
from core.relaxation import NoisePool, Relaxation, noise_pool, train_relaxed
from core.solvers.learned.s4s_alt import S4SAlternating
from core.state import integrate

T_MAX = 20.0
SHAPE = (2, 3)
GRID = core.build_grid("karras", 3, T_MAX, 0.02, rho=7.0)
FIELD = core.MixtureField(
    torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64), [0.4, 0.3, 0.2, 0.1], 0.25
)


def teach(count: int, seed: int) -> core.Example:
    x_T = T_MAX * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    grid = core.build_grid("karras", 30, T_MAX, 0.02, rho=7.0)
    return core.Example(x_T, None, integrate(FIELD, core.build_solver("heun"), x_T, grid).x)


PAIRS = teach(24, 1)
HELD_OUT = teach(300, 2)


def mse(end: Tensor, example: core.Example) -> Tensor:
    return core.MSE()(end, example.endpoint)


def student(name: str = "s4s-lms") -> nn.Module:
    solver = core.build_solver(name, base=core.build_solver("ipndm", order=3), grid=GRID)
    assert isinstance(solver, nn.Module)
    return solver


def error(solver: nn.Module, pairs: core.Example = HELD_OUT, x_T: Tensor | None = None) -> float:
    with torch.no_grad():
        end = integrate(FIELD, solver, pairs.x_T if x_T is None else x_T, GRID).x  # pyright: ignore
    return mse(end, pairs).item()


def test_the_radius_falls_with_the_number_of_parameters() -> None:
    few, many = student(), student("s4s-alt")  # 6 and 14 numbers
    relaxation = Relaxation(constant=3.0)
    assert relaxation.radius(few, 1000, 5.0) == pytest.approx(15 * 6**-2.5)
    assert relaxation.radius(few, 7, 1.0) / relaxation.radius(many, 7, 1.0) == pytest.approx((14 / 6) ** 2.5)
    assert Relaxation().radius(few, 3072, 1.0) == pytest.approx(0.02 * 3072 * 6**-2.5)
    assert noise_pool(few, GRID, PAIRS, relaxation, core.EDM()).radius == pytest.approx(3 * T_MAX * 6**-2.5)


def test_a_pool_starts_at_the_noise_and_descends_within_its_ball() -> None:
    pool = NoisePool(PAIRS.x_T, radius=2.0, rate=0.3)
    aim = PAIRS.x_T + 10 * torch.nn.functional.one_hot(torch.tensor(1), 3)  # too far away
    rows = torch.tensor([5, 2, 7])
    for step in range(12):
        start = pool.drawn(rows)
        if step == 0:
            assert torch.equal(start, PAIRS.x_T[rows])
        (start - aim[rows]).square().sum().backward()
        pool.constrain()
        length = pool.offsets.flatten(1).norm(dim=1)
        assert length[rows].max() == pytest.approx(min(0.6 * (step + 1), 2.0))
        assert length.count_nonzero() == 3
    towards = (aim - PAIRS.x_T)[rows]
    assert torch.allclose(pool.offsets[rows], 2 * towards / towards[0].norm())
    before = pool.offsets.clone()
    pool.constrain()  # nothing was drawn
    pool.drawn(rows)
    pool.constrain()  # no gradient came
    assert torch.equal(pool.offsets, before)


def test_a_pool_of_radius_zero_is_the_plain_objective(tmp_path: Path) -> None:
    pool = noise_pool(student(), GRID, PAIRS, Relaxation(constant=0.0), core.EDM())
    solver = student()
    relaxation = Relaxation(constant=0.0, batch=8)
    train_relaxed(
        solver, GRID, PAIRS, lambda _: FIELD, mse, FitConfig(3, 0.03), tmp_path, relaxation=relaxation, pool=pool
    )
    assert not pool.offsets.any()


def test_a_process_group_moves_the_rows_of_all() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        pool = NoisePool(PAIRS.x_T, radius=2.0, rate=0.3)
        pool.drawn(torch.tensor([4, 1])).sum().backward()
        pool.constrain()
    finally:
        distributed.destroy_process_group()
    moved = pool.offsets.flatten(1).norm(dim=1)
    assert moved.nonzero().flatten().tolist() == [1, 4]


def test_relaxed_training_improves_on_held_out_noise_and_is_easier(tmp_path: Path) -> None:
    config, solvers, pools = FitConfig(60, 0.03), {}, {}
    for constant in (0.0, 2.0):
        relaxation = Relaxation(constant=constant, batch=8)
        solvers[constant] = solver = student()
        pools[constant] = pool = noise_pool(solver, GRID, PAIRS, relaxation, core.EDM())
        train_relaxed(
            solver,
            GRID,
            PAIRS,
            lambda _: FIELD,
            mse,
            config,
            tmp_path / str(constant),
            relaxation=relaxation,
            pool=pool,
        )
    pool = pools[2.0]
    assert 0 < pool.offsets.flatten(1).norm(dim=1).max() <= pool.radius * (1 + 1e-12)
    assert error(solvers[2.0], PAIRS, PAIRS.x_T + pool.offsets) < 0.85 * error(solvers[0.0], PAIRS)
    for solver in solvers.values():
        assert error(solver) < 0.5 * error(student())


class Killed(Exception):
    pass


def killed_at(when: int):
    calls = iter(range(10_000))

    def report(iteration: int, values) -> None:
        if next(calls) == when:
            raise Killed

    return report


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def test_a_killed_relaxed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    config, relaxation = FitConfig(7, 0.03, checkpoint_every=3), Relaxation(batch=5)

    def train(folder: str, report=None) -> dict[str, Tensor]:
        solver = student()
        pool = noise_pool(solver, GRID, PAIRS, relaxation, core.EDM())
        train_relaxed(
            solver,
            GRID,
            PAIRS,
            lambda _: FIELD,
            mse,
            config,
            tmp_path / folder,
            relaxation=relaxation,
            pool=pool,
            report=report,
        )
        return {**state_of(solver), **state_of(pool)}

    expected = train("whole")
    with pytest.raises(Killed):
        train("killed", killed_at(4))
    assert_same(train("killed"), expected)
    with pytest.raises(ValueError, match="another configuration"):
        train_relaxed(student(), GRID, PAIRS, lambda _: FIELD, mse, config, tmp_path / "whole")


def test_alternating_training_resumes_exactly_in_any_phase(tmp_path: Path) -> None:
    config, relaxation = FitConfig(3, 0.03, checkpoint_every=2, ema_decay=0.5), Relaxation(batch=8)

    def train(folder: str, report=None) -> dict[str, Tensor]:
        solver = student("s4s-alt")
        assert isinstance(solver, S4SAlternating)
        train_alternating(
            solver,
            GRID,
            PAIRS,
            lambda _: FIELD,
            mse,
            config,
            tmp_path / folder,
            rounds=2,
            relaxation=relaxation,
            report=report,
        )
        assert all(parameter.requires_grad for parameter in solver.parameters())
        return state_of(solver)

    expected = train("whole")
    for when in (7, 4):  # in the second phase of coefficients, then in the first of times
        with pytest.raises(Killed):
            train(f"killed {when}", killed_at(when))
        assert_same(train(f"killed {when}"), expected)
    folders = sorted(folder.name for folder in (tmp_path / "whole").iterdir())
    assert folders == ["00-coefficients", "00-times", "01-coefficients", "01-times"]


def test_phases_move_one_kind_of_number(tmp_path: Path) -> None:
    solver = student("s4s-alt")
    assert isinstance(solver, S4SAlternating)
    seen: list[tuple[bool, bool]] = []
    last = state_of(solver)

    def report(iteration: int, values) -> None:
        nonlocal last
        now = state_of(solver)
        seen.append(tuple(any(not torch.equal(now[n], last[n]) for n in now if part(n)) for part in PARTS))  # pyright: ignore
        last = now

    PARTS = (lambda n: n.startswith("weights"), lambda n: "times" in n)
    train_alternating(
        solver,
        GRID,
        PAIRS,
        lambda _: FIELD,
        mse,
        FitConfig(2, 0.03),
        tmp_path,
        times_config=FitConfig(3, 1.0),
        rounds=1,
        relaxation=Relaxation(batch=8),
        report=report,
    )
    assert seen == [(True, False)] * 2 + [(False, True)] * 3
    assert solver.network_times.xi.abs().max() == 1  # put back within reach, at a rate that overshoots


def test_alternating_training_improves_on_held_out_noise(tmp_path: Path) -> None:
    solver = student("s4s-alt")
    assert isinstance(solver, S4SAlternating)
    before = error(solver)
    train_alternating(solver, GRID, PAIRS, lambda _: FIELD, mse, FitConfig(20, 0.03), tmp_path, rounds=2)
    assert error(solver) < 0.3 * before


def test_parts_of_a_module_are_put_back_after_each_step(tmp_path: Path) -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.zeros(3))

        @torch.no_grad()
        def constrain(self) -> None:
            self.value.clamp_(-0.25, 0.25)

    module = nn.Sequential(Inner())
    value = module[0].get_parameter("value")

    def loss(iteration: int):
        assert value.abs().max() <= 0.25
        return (value - torch.tensor([1.0, -1.0, 0.1])).square().sum(), {}

    fit(module, loss, FitConfig(40, 0.1, final_rate=0.1), tmp_path)
    assert torch.allclose(value.detach(), torch.tensor([0.25, -0.25, 0.1]), atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constant": -1.0}, "expected constant >= 0, rate > 0 and batch >= 1, got -1.0"),
        ({"rate": 0.0}, "expected constant >= 0, rate > 0 and batch >= 1, got None, 0.0"),
        ({"batch": 0}, "and 0; constant 0 is the plain objective"),
    ],
)
def test_impossible_relaxations_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Relaxation(**options)


def test_impossible_runs_are_refused(tmp_path: Path) -> None:
    arguments = (GRID, PAIRS, lambda _: FIELD, mse, FitConfig(1, 0.03), tmp_path)
    with pytest.raises(ValueError, match="expected at least 25 pairs, got 24; lower the batch"):
        train_relaxed(student(), *arguments, relaxation=Relaxation(batch=25))
    solver = student("s4s-alt")
    assert isinstance(solver, S4SAlternating)
    with pytest.raises(ValueError, match="expected rounds >= 1, got 0"):
        train_alternating(solver, *arguments, rounds=0)

"""Students of handcrafted solvers (S4S, BNS, DLMS): equal to the base at first, formulas, counts, training."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

import core
from core.fitting import FitConfig
from core.solvers.learned import CONFIGS
from core.solvers.learned.bns import NonStationary
from core.solvers.learned.dlms import DynamicConfig, DynamicMultistep
from core.solvers.learned.increments import query_times
from core.solvers.learned.s4s_alt import AlternatingConfig, S4SAlternating
from core.solvers.learned.s4s_lms import S4SMultistep
from core.solvers.learned.s4s_pc import S4SPredictorCorrector
from core.solvers.learned.s4s_ss import S4SSingleStep
from core.state import integrate

T_MAX = 20.0
SHAPE = (2, 3)
VP = core.VP()


def mixture(schedule: core.Schedule | None = None) -> core.MixtureField:
    means = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return core.MixtureField(means, [0.4, 0.3, 0.2, 0.1], 0.25, schedule)


FIELD = mixture()


def noise(batch: int, seed: int = 0, scale: float = T_MAX) -> Tensor:
    return scale * torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid_of(steps: int) -> Tensor:
    return core.build_grid("karras", steps, T_MAX, 0.02, rho=7.0)


def base_of(name: str, **options) -> core.Solver:
    return core.build_solver(name, **options)


MULTISTEP = {
    "euler": base_of("euler"),
    "ipndm": base_of("ipndm", order=4),
    "adams-bashforth": base_of("adams-bashforth", order=3),
    "deis": base_of("deis", order=3),
    "dpm-solver++": base_of("dpm-solver++", order=3),
    "thresholded": base_of("dpm-solver++", order=2, thresholding=True),
    "unipc": base_of("unipc", order=2, variant="bh1", prediction="noise"),
    "unipc-3": base_of("unipc", order=3, lower_order_final=False),
}
STAGED = {"heun": base_of("heun"), "dpm-solver-2": base_of("dpm-solver-2", r=0.4), "rk4": base_of("rk4")}
FALLING = {**MULTISTEP, "midpoint": base_of("dpm-solver-2", r=0.5)}
BASES = {
    "s4s-lms": MULTISTEP,
    "s4s-ss": {"euler": MULTISTEP["euler"], **STAGED},
    "s4s-pc": MULTISTEP,
    "s4s-alt": MULTISTEP,
    "bns": FALLING,
    "dlms": MULTISTEP,
}
CASES = [(name, base) for name, bases in BASES.items() for base in bases]


@pytest.mark.parametrize(("name", "base"), CASES)
def test_untrained_is_the_base_to_the_last_bit(name: str, base: str) -> None:
    handcrafted, grid = BASES[name][base], grid_of(5)
    for prediction in (None, "data"):
        student = core.build_solver(name, base=handcrafted, grid=grid, prediction=prediction)
        for x_T, afs in ((noise(3), False), (noise(3), True), (noise(2).float(), False)):
            with torch.no_grad():
                got = integrate(FIELD, student, x_T, grid, afs)
            expected = integrate(FIELD, handcrafted, x_T, grid, afs)
            assert torch.equal(got.x, expected.x)
            assert got.nfe == expected.nfe


@pytest.mark.parametrize("name", BASES)
def test_untrained_in_the_charts_of_vp(name: str) -> None:
    field, grid, x_T = mixture(VP), core.build_grid("logsnr", 4, 1.0, 1e-3, schedule=VP), noise(3, scale=1.0)
    base = core.build_solver("heun" if name == "s4s-ss" else "euler", schedule=VP)
    for prediction in ("noise", "data"):
        student = core.build_solver(name, base=base, grid=grid, prediction=prediction, schedule=VP)
        with torch.no_grad():
            assert torch.equal(integrate(field, student, x_T, grid).x, integrate(field, base, x_T, grid).x)


def count(solver: core.Solver) -> int:
    return sum(p.numel() for p in solver.parameters())  # pyright: ignore


def test_parameter_counts_are_the_papers() -> None:
    euler = base_of("euler")
    for steps, k in ((3, 3), (5, 3), (6, 2), (4, 1)):
        students = {
            name: core.build_solver(name, base=euler, grid=grid_of(steps), order=k)
            for name in ("s4s-lms", "s4s-pc", "s4s-alt")
        }
        table = k * (2 * steps + 1 - k) // 2
        assert count(students["s4s-lms"]) == table
        assert count(students["s4s-pc"]) == 2 * table
        assert count(students["s4s-alt"]) == table + 2 * (steps + 1)
    assert count(core.build_solver("s4s-lms", base=euler, grid=grid_of(3))) == 6  # the paper's example
    for base, k in (("euler", 1), ("heun", 2), ("rk4", 4)):
        student = core.build_solver("s4s-ss", base=BASES["s4s-ss"][base], grid=grid_of(3))
        assert count(student) == (k**2 + k - 1) * 3
    for base, n in (("euler", 4), ("midpoint", 8)):
        assert count(core.build_solver("bns", base=FALLING[base], grid=grid_of(4))) == n * (n + 5) // 2 + 1


def scatter(solver, size: float = 0.1) -> None:
    """Random learned numbers in place."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in solver.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@pytest.mark.parametrize("prediction", ["noise", "data"])
def test_multistep_by_hand(prediction: Literal["noise", "data"]) -> None:
    grid, x = grid_of(4), noise(3)
    student = core.build_solver("s4s-lms", base=base_of("euler"), grid=grid, order=2, prediction=prediction)
    assert isinstance(student, S4SMultistep)
    scatter(student)
    expected, slopes = x, []
    for i, (a, b) in enumerate(pairwise(grid)):
        velocity = FIELD(expected, a)
        slopes.insert(0, FIELD.data(expected, a) if prediction == "data" else velocity)
        unit = 1 - b / a if prediction == "data" else b - a
        learned = sum(w * s for w, s in zip(student.weights[i], slopes, strict=False))
        expected = expected + (b - a) * velocity + unit * learned
    assert torch.allclose(integrate(FIELD, student, x, grid).x, expected, rtol=1e-12, atol=1e-12)


def test_single_step_by_hand() -> None:
    grid, x = grid_of(3), noise(3)
    student = core.build_solver("s4s-ss", base=base_of("heun"), grid=grid)
    assert isinstance(student, S4SSingleStep)
    scatter(student)
    expected = x
    for i, (a, b) in enumerate(pairwise(grid)):
        first = FIELD(expected, a)
        second = FIELD(expected + (b - a) * (1 + student.a[i, 0, 0]) * first, b * (b / a) ** student.c[i, 0])
        weights = 0.5 + student.b[i]
        expected = expected + (b - a) * (weights[0] * first + weights[1] * second)
    got = integrate(FIELD, student, x, grid)
    assert torch.allclose(got.x, expected, rtol=1e-12, atol=1e-12)
    assert got.nfe == 6


def test_predictor_corrector_by_hand() -> None:
    """Predict, evaluate, correct, in that order; ours defers the correction to the next step."""
    grid, x = grid_of(4), noise(3)
    student = core.build_solver("s4s-pc", base=base_of("euler"), grid=grid, order=2)
    assert isinstance(student, S4SPredictorCorrector)
    scatter(student)
    corrected, predicted, slopes = x, x, [FIELD(x, grid[0])]
    for i, (a, b) in enumerate(pairwise(grid)):
        weighed = sum(w * s for w, s in zip(student.weights[i], slopes, strict=False))
        predicted = corrected + (b - a) * (slopes[0] + weighed)
        slopes.insert(0, FIELD(predicted, b))
        weighed = sum(w * s for w, s in zip(student.corrector[i], slopes, strict=False))
        corrected = corrected + (b - a) * (slopes[1] + weighed)
    got = integrate(FIELD, student, x, grid)
    assert torch.allclose(got.x, predicted, rtol=1e-12, atol=1e-12)
    assert got.nfe == 4


def test_learned_times_are_the_papers() -> None:
    grid, x = grid_of(4), noise(3)
    student = core.build_solver("s4s-alt", base=base_of("ipndm", order=2), grid=grid)
    assert isinstance(student, S4SAlternating)
    assert torch.equal(student.times(), grid)
    scatter(student, 0.5)
    xi = student.times.xi
    tau = xi.softmax(0).flip(0).cumsum(0).flip(0)
    times = (tau - tau[-1]) / (tau[0] - tau[-1]) * (grid[0] - grid[-1]) + grid[-1]
    assert torch.allclose(student.times(), times, rtol=1e-9, atol=1e-9)
    most = 0.5 * float(-times.detach().diff().max())
    asked = times + (most * student.network_times.xi).clamp(-most, most) * torch.tensor([0, 1, 1, 1, 0])
    expected, slopes = x, []
    base = ((1.0,), (1.5, -0.5), (1.5, -0.5), (1.5, -0.5))
    for i in range(4):
        slopes.insert(0, FIELD(expected, asked[i]))
        weights = torch.tensor([*base[i], 0.0])[: len(student.weights[i])] + student.weights[i]
        weighed = sum(w * s for w, s in zip(weights, slopes, strict=False))
        expected = expected + (times[i + 1] - times[i]) * weighed
    got = integrate(FIELD, student, x, grid)
    assert torch.allclose(got.x, expected, rtol=1e-8, atol=1e-8)
    assert got.t == grid[-1]


def test_learned_times_fall_and_network_times_stay_near() -> None:
    student = core.build_solver("s4s-alt", base=base_of("euler"), grid=grid_of(6))
    assert isinstance(student, S4SAlternating)
    scatter(student, 3.0)
    times = student.times()
    asked = student.network_times(times)
    assert bool((times.diff() < 0).all())
    assert bool((asked.diff() < 0).all())
    assert times[0] == asked[0] == T_MAX
    assert bool((student.network_times.xi.abs() > 1).any())
    student.network_times.constrain()
    assert student.network_times.xi.abs().max() == 1
    assert torch.equal(student.network_times(times), asked)


@pytest.mark.parametrize("base", ["ipndm", "adams-bashforth", "dpm-solver++"])
def test_gradients_reach_the_times(base: str) -> None:
    """The whole effect of a time is differentiated, through the weights of the base too."""
    grid, x = grid_of(4), noise(2)
    student = core.build_solver("s4s-alt", base=MULTISTEP[base], grid=grid)
    assert isinstance(student, S4SAlternating)
    for part in (student.weights, student.times):
        scatter(part, 0.2)

    def loss() -> Tensor:
        return integrate(FIELD, student, x, grid).x.square().sum()

    loss().backward()
    for parameter in (student.times.xi, student.network_times.xi):
        assert parameter.grad is not None
        step = 1e-6
        with torch.no_grad():
            parameter[2] += step
            above = loss()
            parameter[2] -= 2 * step
            below = loss()
            parameter[2] += step
        assert float(parameter.grad[2]) == pytest.approx(float(above - below) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("base", ["ipndm", "midpoint"])
def test_non_stationary_coefficients_give_its_states(base: str) -> None:
    """x_(i+1) = a_i x_0 + sum_j b_ij u_j with the u_j of its own run, asked at the learned times."""
    grid, x = grid_of(3), noise(2)
    student = core.build_solver("bns", base=FALLING[base], grid=grid)
    assert isinstance(student, NonStationary)
    a, b = student.coefficients()
    assert torch.allclose(a, torch.ones(3, dtype=torch.float64))
    if base == "midpoint":
        assert torch.allclose(b[0], torch.tensor([0, 1, 0, 0, 0, 0]) * (grid[1] - grid[0]))
    scatter(student)
    a, b = student.coefficients()
    asked: list[Tensor] = []
    velocities: list[Tensor] = []

    def field(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        velocities.append(FIELD(x, t))
        return velocities[-1]

    end = integrate(field, student, x, grid).x
    expected = a[-1] * x + sum(w * u for w, u in zip(b[-1], velocities, strict=True))
    assert torch.allclose(end, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(torch.stack(asked), student.times()[:-1])
    assert (torch.stack(asked)[1:] != query_times(FALLING[base], grid)[1][0]).all()


def test_dynamic_samples_do_not_depend_on_each_other() -> None:
    grid, x = grid_of(4), noise(5)
    student = core.build_solver("dlms", base=base_of("ipndm", order=3), grid=grid)
    assert isinstance(student, DynamicMultistep)
    assert count(student) < 1000
    scatter(student, 0.3)
    with torch.no_grad():
        together = integrate(FIELD, student, x, grid)
        alone = integrate(FIELD, student, x[2:3], grid)
        times = [float(state.t) for state in core.trajectory(FIELD, student, x, grid)]
        weights = [integrate(FIELD, student, x[i : i + 1], grid).x for i in range(5)]
    assert torch.allclose(together.x[2:3], alone.x, rtol=1e-10, atol=1e-10)
    assert torch.allclose(together.x, torch.cat(weights), rtol=1e-10, atol=1e-10)
    assert times == sorted(times, reverse=True)
    assert times[1:4] != grid[1:4].tolist()
    assert times[4] == grid[4]
    assert together.nfe == 4


def teach(batch: int, seed: int) -> core.Example:
    x_T = noise(batch, seed)
    end = integrate(FIELD, base_of("heun"), x_T, core.build_grid("karras", 30, T_MAX, 0.02, rho=7.0)).x
    return core.Example(x_T, None, end)


LESSONS = teach(160, 1)
HELD_OUT = teach(400, 2)


def mse(end: Tensor, example: core.Example) -> Tensor:
    return core.MSE()(end, example.endpoint)


def lesson(iteration: int) -> core.Example:
    rows = slice(iteration % 5 * 32, iteration % 5 * 32 + 32)
    return core.Example(LESSONS.x_T[rows], None, LESSONS.endpoint[rows])


@pytest.mark.parametrize("nfe", [3, 4, 5])
@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("s4s-lms", "ipndm"),
        ("s4s-ss", "euler"),
        ("s4s-ss", "heun"),
        ("s4s-pc", "unipc-3"),
        ("s4s-alt", "ipndm"),
        ("bns", "euler"),
        ("dlms", "ipndm"),
    ],
)
def test_training_improves_on_the_base_on_held_out_noise(name: str, base: str, nfe: int, tmp_path: Path) -> None:
    grid = grid_of(nfe // 2 if base == "heun" else nfe)
    handcrafted = BASES[name][base]
    student = core.build_solver(name, base=handcrafted, grid=grid)

    def error(solver: core.Solver) -> float:
        with torch.no_grad():
            return mse(integrate(FIELD, solver, HELD_OUT.x_T, grid).x, HELD_OUT).item()

    before = error(handcrafted)
    core.train_solver(student, grid, lesson, lambda _: FIELD, mse, FitConfig(40, 0.03), tmp_path)  # pyright: ignore
    assert error(student) < 0.7 * before


@pytest.mark.parametrize("name", BASES)
def test_a_student_survives_being_saved(name: str, tmp_path: Path) -> None:
    base = {"s4s-ss": "heun", "s4s-pc": "unipc", "bns": "midpoint"}.get(name, "dpm-solver++")
    grid, x = grid_of(3), noise(2)
    student = core.build_solver(name, base=BASES[name][base], grid=grid)
    scatter(student)
    core.save(tmp_path, student, grid=grid, field_identity="f", supervision="teacher", loss="mse")  # pyright: ignore
    again = core.load(tmp_path)
    assert type(again) in CONFIGS
    with torch.no_grad():
        assert torch.equal(integrate(FIELD, again, x, grid).x, integrate(FIELD, student, x, grid).x)
    with pytest.raises(ValueError, match="expected a grid of 3 steps"):
        integrate(FIELD, again, x, grid_of(4))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("s4s-lms", {"base": base_of("heun")}, "expected a base of one evaluation a step, at its start, .*, got Heun"),
        ("s4s-pc", {"base": base_of("rk4")}, "expected a base of one evaluation a step"),
        ("dlms", {"base": base_of("heun")}, "expected a base of one evaluation a step"),
        ("s4s-ss", {"base": base_of("ipndm", order=3)}, "expected a single-step base .*, got IPNDM of memory 3"),
        ("bns", {"base": base_of("heun")}, "expected a base that asks at falling times"),
        ("s4s-lms", {"base": base_of("ddpm", schedule=VP)}, "expected a handcrafted deterministic solver as base"),
        ("s4s-lms", {"base": base_of("euler"), "order": 5}, "expected 1 to 4 evaluations to weigh .*, got 5"),
        ("s4s-lms", {"base": base_of("euler"), "prediction": "v"}, "expected prediction of .* as 'data' or 'noise'"),
        ("bns", {"base": base_of("euler"), "order": 2}, "expected no order for 'bns'"),
    ],
)
def test_impossible_students_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.build_solver(name, grid=grid_of(4), **options)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected reach in \[0, 1/2\], got 0.6"):
        AlternatingConfig(base_of("euler"), grid_of(3), reach=0.6)
    with pytest.raises(ValueError, match="expected width >= 1, got 0"):
        DynamicConfig(base_of("euler"), grid_of(3), width=0)
    student = core.build_solver("s4s-lms", base=base_of("euler"), grid=grid_of(3))
    with pytest.raises(ValueError, match="expected a handcrafted deterministic solver as base, got S4SMultistep"):
        core.build_solver("s4s-lms", base=student, grid=grid_of(3))

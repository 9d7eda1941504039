"""Path supervision: the teacher's states at the student's nodes, three ways to go on, what each gradient sees."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import core
from core.fitting import FitConfig
from core.path_supervision import Continuation, PathLoss, PathTeacher, RunAlongPath, refined
from core.solvers.learned.amed import AMEDConfig, LearnedAMEDPlugin
from core.supervision import Example, Teacher

F64 = torch.float64
MEANS = torch.randn(4, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(3))
FIELD = core.MixtureField(MEANS, [0.4, 0.3, 0.2, 0.1], [0.3, 0.25, 0.4, 0.2])
GRID = core.build_grid("karras", 3, 80.0, 0.002, rho=7.0)
KEYS = [f"noise{seed}" for seed in range(5)]


def noise(key: str) -> Tensor:
    return 80 * torch.randn(1, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(int(key.removeprefix("noise"))))


def start(keys: Sequence[str]) -> tuple[core.VelocityField, Tensor]:
    return FIELD, torch.cat([noise(key) for key in keys])


def paths(first: int, count: int, inserted: int = 7, grid: Tensor = GRID) -> Example:
    """Students' starts and the states of a fine Heun at the nodes, computed apart from `PathTeacher`."""
    x = torch.cat([noise(f"noise{first + index}") for index in range(count)])
    states = [state.x for state in core.trajectory(FIELD, core.Heun(), x, refined(grid, inserted))]
    return Example(x, None, torch.stack(states[inserted + 1 :: inserted + 1], dim=1))


def test_a_refined_karras_grid_is_a_karras_grid() -> None:
    fine = refined(GRID, 2)
    assert torch.equal(fine[::3], GRID)
    torch.testing.assert_close(fine, core.build_grid("karras", 9, 80.0, 0.002, rho=7.0))
    torch.testing.assert_close(refined(torch.tensor([2.0, 1.0, 0.0]), 1, rho=1.0), torch.linspace(2, 0, 5, dtype=F64))
    assert torch.equal(refined(GRID, 0), GRID)
    with pytest.raises(ValueError, match="expected inserted >= 0 and rho > 0, got -1"):
        refined(GRID, -1)


def test_references_are_the_states_at_the_nodes(tmp_path: Path) -> None:
    teacher = PathTeacher(core.Heun(), refined(GRID, 7), GRID, tmp_path, "weights-1")
    assert teacher.fill(KEYS[:2], start) == 2
    teacher = PathTeacher(core.Heun(), refined(GRID, 7), GRID, tmp_path, "weights-1")
    assert teacher.fill(KEYS, start, batch=2) == 3  # goes on where it stopped
    assert teacher.name == "teacher-path"
    got = teacher.endpoints(KEYS[::-1])
    assert got.shape == (5, 3, 2, 3)
    torch.testing.assert_close(got, paths(0, 5).endpoint.flip(0), rtol=1e-9, atol=1e-9)
    whole = Teacher(core.Heun(), refined(GRID, 7), tmp_path / "ends", "weights-1")
    whole.fill(KEYS, start)
    torch.testing.assert_close(got[:, -1], whole.endpoints(KEYS[::-1]))
    with pytest.raises(ValueError, match="another"):
        PathTeacher(core.Heun(), refined(GRID, 7), refined(GRID, 1), tmp_path, "weights-1")


@pytest.mark.parametrize("nodes", [GRID[1:], 1.01 * GRID, core.build_grid("karras", 5, 80.0, 0.002, rho=7.0)])
def test_nodes_that_the_teacher_does_not_visit_are_refused(nodes: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a teacher that starts at .* and visits the nodes"):
        PathTeacher(core.Heun(), refined(GRID, 7), nodes, tmp_path, "weights-1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("continuation", ["joint", "detached"])
@pytest.mark.parametrize("afs", [False, True])
@pytest.mark.parametrize("solver", [core.Heun(), core.IPNDM(3), core.build_solver("unipc", order=2)], ids=str)
def test_from_its_own_states_the_path_is_the_trajectory(
    solver: core.Solver, continuation: Continuation, afs: bool
) -> None:
    example = paths(0, 4)
    calls: list[float] = []

    class Spy:
        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            calls.append(float(t))
            return FIELD(x, t)

        def analytic_velocity(self, x: Tensor, t: Tensor) -> Tensor:
            return FIELD.analytic_velocity(x, t)

    got = RunAlongPath(continuation, afs)(solver, Spy(), example, GRID)
    *_, last = states = list(core.trajectory(FIELD, solver, example.x_T, GRID, afs))
    assert torch.equal(got, torch.stack([state.x for state in states[1:]], dim=1))
    assert len(calls) == last.nfe  # nothing is evaluated twice


def test_from_the_teachers_states_each_step_is_a_problem_of_its_own() -> None:
    example = paths(0, 4)
    got = RunAlongPath("teacher")(core.Heun(), FIELD, example, GRID)
    starts = [example.x_T, *example.endpoint.unbind(1)]
    for step, (t, t_next) in enumerate(itertools.pairwise(GRID)):
        alone = core.integrate(FIELD, core.Heun(), starts[step], torch.stack([t, t_next])).x
        torch.testing.assert_close(got[:, step], alone, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"expected a single-step student .* one that remembers 3"):
        RunAlongPath("teacher")(core.IPNDM(3), FIELD, example, GRID)


@pytest.mark.parametrize(
    ("continuation", "reach", "base"),
    [
        ("teacher", False, None),
        ("detached", False, None),
        ("joint", True, None),
        ("detached", False, core.IPNDM(3)),
        ("joint", True, core.IPNDM(3)),
    ],
    ids=str,
)
def test_how_far_gradients_reach(continuation: Continuation, reach: bool, base: core.Solver | None) -> None:
    """Into the parameters of earlier steps only where all is trained at once."""
    name = "amed" if base is None else "amed-plugin"
    solver = core.build_solver(name, base=base, grid=GRID)
    states = RunAlongPath(continuation)(solver, FIELD, paths(0, 4), GRID)
    for node in range(3):
        solver.zero_grad()  # pyright: ignore
        states[:, node].square().sum().backward(retain_graph=True)
        seen = solver.raw.grad[0] != 0  # pyright: ignore
        assert seen.tolist() == [step == node or (reach and step < node) for step in range(3)]


def test_a_path_loss_weighs_its_nodes() -> None:
    a, b = torch.randn(2, 4, 3, 2, dtype=F64, generator=torch.Generator().manual_seed(0)).unbind(0)
    each = [float((a[:, node] - b[:, node]).square().mean()) for node in range(3)]
    assert float(PathLoss(core.MSE())(a, b)) == pytest.approx(sum(each))
    assert float(PathLoss(core.MSE(), weights=(0.0, 0.0, 2.0))(a, b)) == pytest.approx(2 * each[2])
    last = PathLoss(core.MSE(), core.MAE(), (1.0, 0.5, 3.0))
    expected = each[0] + 0.5 * each[1] + 3 * float((a[:, 2] - b[:, 2]).abs().mean())
    assert float(last(a, b)) == pytest.approx(expected)
    assert last.name == "path(mse, mae, weights=[1.0, 0.5, 3.0])"
    assert PathLoss(core.MSE()).name == "path(mse)"
    with pytest.raises(ValueError, match="expected 3 weights, one a node, got 2"):
        PathLoss(core.MSE(), weights=(1.0, 1.0))(a, b)
    with pytest.raises(ValueError, match="expected two paths of one shape"):
        PathLoss(core.MSE())(a, b[:, :2])
    with pytest.raises(ValueError, match="expected a weight that is not 0"):
        PathLoss(core.MSE(), weights=(0.0, 0.0))


def test_what_does_not_fit_is_refused() -> None:
    example = paths(0, 4)
    with pytest.raises(ValueError, match=r"expected the teacher's states as \(4, 3, 2, 3\), .* got \(4, 2, 3\)"):
        RunAlongPath()(core.Heun(), FIELD, example._replace(endpoint=example.endpoint[:, -1]), GRID)
    with pytest.raises(ValueError, match="expected a continuation among teacher, detached, joint, got 'own'"):
        RunAlongPath("own")  # pyright: ignore


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "steps", "afs", "continuation", "least"),
    [
        ("amed", 2, True, "joint", 0.5),
        ("amed", 2, False, "teacher", 0.9),
        ("amed-plugin", 2, True, "detached", 0.6),
        ("epd", 2, True, "joint", 0.5),
        ("epd-plugin", 3, True, "joint", 0.5),
        ("dyweight", 3, False, "joint", 0.5),
    ],
)
def test_training_on_paths_improves_endpoints_with_held_out_noise(
    name: str, steps: int, afs: bool, continuation: Continuation, least: float, tmp_path: Path
) -> None:
    grid = core.build_grid("karras", steps, 80.0, 0.002, rho=7.0)
    if name == "amed-plugin":
        solver = LearnedAMEDPlugin(AMEDConfig(grid, core.IPNDM(3), bound_time=0.2))
    else:
        base = None if name in ("amed", "epd") else core.IPNDM(3)
        solver = core.build_solver(name, grid=grid, base=base)
    train, held_out = paths(0, 64, grid=grid), paths(1000, 256, grid=grid)

    def error() -> float:
        with torch.no_grad():
            return float(core.MSE()(core.integrate(FIELD, solver, held_out.x_T, grid, afs).x, held_out.endpoint[:, -1]))

    def loss(states: Tensor, example: Example) -> Tensor:
        return PathLoss(core.MSE())(states, example.endpoint)

    before = error()
    run = RunAlongPath(continuation, afs)
    rate = 0.02 if name == "dyweight" else 0.2
    core.train_solver(solver, grid, lambda _: train, lambda _: FIELD, loss, FitConfig(25, rate), tmp_path, run=run)  # pyright: ignore
    assert error() < least * before


def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    examples = [paths(10 * index, 4) for index in range(3)]

    def train(folder: Path, killed_at: int | None = None) -> Tensor:
        solver = core.build_solver("amed-plugin", grid=GRID, base=core.IPNDM(2))

        def report(iteration: int, values: object) -> None:
            if iteration == killed_at:
                raise Killed

        core.train_solver(
            solver,  # pyright: ignore
            GRID,
            lambda iteration: examples[iteration % 3],
            lambda _: FIELD,
            lambda states, example: PathLoss(core.MSE())(states, example.endpoint),
            FitConfig(6, 0.05, checkpoint_every=2),
            folder,
            run=RunAlongPath("detached"),
            report=report,
        )
        return solver.raw.detach()  # pyright: ignore

    expected = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", killed_at=3)
    assert torch.equal(train(tmp_path / "killed"), expected)
    assert bool((expected[0] != 0).all())

"""What trained solvers ask of a run: their own grid, their guidance, their precision."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import core
from apps.imagegen.models.latent.tiny import tiny_pipeline
from apps.imagegen.scheduler import SpanLiftScheduler

STEPS = 5
IRREGULAR = {
    "flow": torch.tensor([1.0, 0.9, 0.55, 0.3, 0.2, 0.0], dtype=torch.float64),
    "noise": torch.tensor([1.0, 0.9, 0.55, 0.3, 0.2, 1e-3], dtype=torch.float64),
}


def save_flexible(kind: str, name: str, folder: Path, runs: ModuleType) -> tuple[core.Solver, Tensor]:
    """A solver of 2 to 5 steps, trained on a named grid or on times of no rule; and that grid."""
    schedule = runs.SCHEDULES[kind]
    base = core.build_solver("ipndm", order=2, schedule=None if kind == "flow" else schedule)
    operator = core.ResidualConfig(channels=2, width=8, counts=(2, STEPS))
    solver = core.build_solver("spanlift", base=base, operator=operator, schedule=schedule)
    assert isinstance(solver, nn.Module)
    nn.init.normal_(solver.residual.head.weight, std=0.05)  # pyright: ignore
    grid = IRREGULAR[kind] if name == "none" else build(kind, name, STEPS, runs)
    core.save(
        folder, solver, grid=grid, field_identity="", supervision="teacher", loss="mse", extra={"kind": kind}
    )  # fmt: skip
    return solver, grid


def build(kind: str, name: str, steps: int, runs: ModuleType) -> Tensor:
    schedule = runs.SCHEDULES[kind]
    return core.build_grid(name, steps, schedule.t_max, schedule.t_min, schedule=schedule)


@pytest.mark.parametrize(
    ("kind", "name"), [("flow", "quadratic"), ("flow", "none"), ("noise", "logsnr"), ("noise", "karras"),
                       ("noise", "none")],
)  # fmt: skip
def test_a_flexible_solver_runs_on_the_grid_of_its_training(
    kind: str, name: str, tmp_path: Path, runs: ModuleType
) -> None:
    solver, grid = save_flexible(kind, name, tmp_path, runs)
    scheduler = SpanLiftScheduler.from_solver(tmp_path)
    for steps in (STEPS, 3):
        if name == "none" and steps != STEPS:
            with pytest.raises(ValueError, match="times of no rule") as refused:
                scheduler.set_timesteps(steps)
            assert "\n" not in str(refused.value)
            continue
        times = grid if steps == STEPS else build(kind, name, steps, runs)
        expected = core.integrate(runs.mixture(kind), solver, runs.X_T, times).x
        torch.testing.assert_close(runs.sample(scheduler, kind, runs.X_T, steps), expected, atol=2e-6, rtol=0)


def test_a_flexible_solver_follows_the_size_of_the_image(tmp_path: Path, runs: ModuleType) -> None:
    save_flexible("flow", "shifted", tmp_path, runs)
    sized = SpanLiftScheduler(solver=str(tmp_path), use_dynamic_shifting=True)
    sized.set_timesteps(4, mu=0.5)
    expected = core.build_grid("shifted", 4, shift=float(torch.tensor(0.5).exp()))
    torch.testing.assert_close(sized.sigmas.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("trained", "asked", "warned"), [(2.0, 4.5, True), (4.5, 4.5, False), (None, 4.5, False),
                                                         (None, 2.0, True), (0.0, 1.0, False)])  # fmt: skip
def test_another_guidance_than_that_of_the_training_is_warned_of(
    trained: float | None, asked: float, warned: bool, tmp_path: Path, runs: ModuleType
) -> None:
    pipe = tiny_pipeline("sana")
    runs.save_learned("dyweight", "flow", tmp_path, {"command": {"guidance": trained}, "model": "tiny"})
    pipe.scheduler = SpanLiftScheduler.from_solver(tmp_path, pipe)
    for scheduler in (pickle.loads(pickle.dumps(pipe.scheduler)), copy.deepcopy(pipe.scheduler)):
        scheduler.set_timesteps(runs.STEPS)  # no pipeline is known there, and that is no mistake
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):  # both runs
            pipe(
                "a cat", num_inference_steps=runs.STEPS, guidance_scale=asked, height=32, width=32,
                use_resolution_binning=False, output_type="latent",
            )  # fmt: skip
    lines = [str(one.message) for one in caught if "guidance_scale" in str(one.message)]
    assert len(lines) == 2 * warned
    assert not warned or f"--guidance {asked:g}" in lines[0]


def test_the_state_is_not_rounded_in_inference_mode_either(runs: ModuleType) -> None:
    """Torch counts no changes of tensors that are made there."""

    def end(mode: Any, halve: bool = False) -> Tensor:
        scheduler = SpanLiftScheduler(solver="euler")
        scheduler.set_timesteps(20)
        with mode():
            x = runs.X_T.to(torch.bfloat16)
            for index, t in enumerate(scheduler.timesteps):
                answer = runs.model("flow")(x.double(), t).to(torch.bfloat16)
                x = scheduler.step(answer, t, x, return_dict=False)[0]  # pyright: ignore[reportIndexIssue]
                if halve and index == 3:
                    x.mul_(0.5)
        assert scheduler._run is not None
        assert scheduler._run.state is not None
        return scheduler._run.state.x.clone()

    plain, halved = end(torch.no_grad), end(torch.no_grad, halve=True)
    assert torch.equal(end(torch.inference_mode), plain)
    assert torch.equal(end(torch.inference_mode, halve=True), halved)
    assert not torch.equal(plain, halved)


def test_a_copy_of_latents_that_were_changed_in_place_is_taken(runs: ModuleType) -> None:
    scheduler = SpanLiftScheduler(solver="euler")
    scheduler.set_timesteps(2)
    velocity, x = torch.ones(2, 3, 4, 5), torch.zeros(2, 3, 4, 5, dtype=torch.bfloat16)
    first: Any = scheduler.step(velocity, scheduler.timesteps[0], x, return_dict=False)
    first[0].add_(1)
    second: Any = scheduler.step(velocity, scheduler.timesteps[1], first[0].clone(), return_dict=False)
    torch.testing.assert_close(second[0], torch.zeros_like(x), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_train_timesteps": 0}, "num_train_timesteps of at least 1"), ({"order": 0}, "order"),
     ({"num_train_timesteps": 1000.0}, "num_train_timesteps of at least 1")],
)  # fmt: skip
def test_numbers_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpanLiftScheduler(**options)


@pytest.mark.parametrize("steps", [4.5, "4"])
def test_steps_are_integers(steps: Any) -> None:
    with pytest.raises(ValueError, match="num_inference_steps as an integer"):
        SpanLiftScheduler().set_timesteps(steps)

"""What a run keeps between steps, and the times that it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import core
from apps.imagegen.models.latent.flux import packed as pack
from apps.imagegen.scheduler import SpanLiftScheduler
from apps.imagegen.scheduling.run import unpack

STEPS = 8


def bent(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(1.3 * x.double()) + 0.2 * t


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_state_is_not_rounded_with_the_latents(dtype: torch.dtype) -> None:
    """Euler adds up N small moves of a constant velocity: rounding each sum to bfloat16 would lose them."""
    scheduler = SpanLiftScheduler(solver="euler", shift=1.0)
    steps = 1000
    scheduler.set_timesteps(steps)
    x = torch.full((1, 2, 3, 5), 100.0, dtype=dtype)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.ones_like(x), t, x).prev_sample  # pyright: ignore[reportAttributeAccessIssue]
    assert x.dtype == dtype
    assert torch.equal(x, torch.full_like(x, 99.0))


def test_latents_changed_by_a_callback_are_taken(runs: ModuleType) -> None:
    grid = core.build_grid("shifted", STEPS, shift=3.0)
    for in_place in (False, True):
        scheduler = SpanLiftScheduler(solver="adams-bashforth", order=2)
        scheduler.set_timesteps(STEPS)
        solver = core.build_solver("adams-bashforth", order=2)
        x = runs.X_T.clone()
        state = core.State(x=x.clone(), t=grid[0], step=0, buffer=(), nfe=0)
        for i, t in enumerate(scheduler.timesteps):
            x = scheduler.step(bent(x, t / 1000), t, x, return_dict=False)[0]  # pyright: ignore[reportIndexIssue]
            state = solver.step(lambda x, t: bent(x, t), state, grid[i + 1])
            if i == 3 and in_place:
                x.mul_(0.5)
            elif i == 3:
                x = x * 0.5
            if i == 3:
                state = core.State(state.x * 0.5, state.t, state.step, state.buffer, state.nfe)
        torch.testing.assert_close(x, state.x, rtol=0, atol=1e-6)


def test_a_copy_of_the_latents_is_still_our_state(runs: ModuleType) -> None:
    """Pipelines may cast, move or copy what they are handed; only another value is another state."""
    scheduler = SpanLiftScheduler(solver="ipndm", order=2)
    ends = []
    for copied in (False, True):
        scheduler.set_timesteps(STEPS)
        x = runs.X_T.bfloat16()
        for t in scheduler.timesteps:
            x = scheduler.step(bent(x, t / 1000).bfloat16(), t, x.clone() if copied else x).prev_sample  # pyright: ignore
        ends.append(x)
    assert torch.equal(*ends)


def test_runs_do_not_touch_each_other(runs: ModuleType) -> None:
    scheduler = SpanLiftScheduler(solver="unipc")
    first = runs.sample(scheduler, "flow", runs.X_T)
    other = deepcopy(scheduler)
    assert torch.equal(runs.sample(scheduler, "flow", runs.X_T), first)
    scheduler.set_timesteps(STEPS)
    assert torch.equal(runs.sample(other, "flow", runs.X_T), first)
    with torch.inference_mode():
        assert torch.equal(runs.sample(scheduler, "flow", runs.X_T), first)


@pytest.mark.parametrize("tell", [True, False])
def test_a_run_from_an_image(tell: bool, runs: ModuleType) -> None:
    """The first steps left out, a multistep method starts with what it has: the run of the rest of the grid."""
    scheduler = SpanLiftScheduler(solver="ipndm", order=3)
    scheduler.set_timesteps(STEPS)
    first = 3
    timesteps = scheduler.timesteps[first:]
    if tell:
        scheduler.set_begin_index(first)
    image, noise = runs.X_T.float(), torch.randn(runs.X_T.shape, generator=torch.Generator().manual_seed(9))
    x = scheduler.scale_noise(image, timesteps[:1].repeat(len(image)), noise)
    grid = core.build_grid("shifted", STEPS, shift=3.0)[first:]
    torch.testing.assert_close(x, torch.lerp(image, noise, float(grid[0])))
    start = x
    for t in timesteps:
        x = scheduler.step(bent(x, t / 1000).float(), t, x).prev_sample  # pyright: ignore[reportAttributeAccessIssue]
    assert scheduler.step_index == STEPS
    assert scheduler.begin_index == (first if tell else None)
    expected = core.integrate(bent, core.build_solver("ipndm", order=3), start, grid).x
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


def test_noise_of_a_table_is_added_by_its_betas(runs: ModuleType) -> None:
    scheduler = SpanLiftScheduler(solver="euler", kind="noise")
    image, noise = runs.X_T, torch.ones_like(runs.X_T)
    alphas = torch.cumprod(1 - torch.tensor(runs.TABLE.betas, dtype=torch.float64), 0)
    timesteps = torch.tensor([999, 500, 0])
    x = scheduler.add_noise(image, noise, timesteps)
    share = alphas[timesteps].view(-1, 1, 1, 1)
    torch.testing.assert_close(x, share.sqrt() * image + (1 - share).sqrt() * noise, rtol=1e-5, atol=1e-5)
    assert len(scheduler) == 1000


@pytest.mark.parametrize(
    ("kind", "asked", "times"),
    [
        ("flow", {"sigmas": [1.0, 0.5]}, [1.0, 0.75, 0.0]),  # shifted by 3, as diffusers does
        ("flow", {"sigmas": [1.0, 0.5, 0.0]}, [1.0, 0.75, 0.0]),
        ("flow", {"timesteps": [900.0, 512.5]}, [0.9, 0.5125, 0.0]),
        ("noise", {"timesteps": [999, 499.0]}, [1.0, 0.5, 0.0]),
    ],
)  # fmt: skip
def test_times_of_the_caller(kind: str, asked: Mapping[str, Any], times: list[float], runs: ModuleType) -> None:
    scheduler = SpanLiftScheduler(solver="ipndm", kind=kind)
    got = runs.sample(scheduler, kind, runs.X_T, None, **asked)
    solver = core.build_solver("ipndm", order=3, schedule=None if kind == "flow" else runs.SCHEDULES[kind])
    expected = core.integrate(runs.mixture(kind), solver, runs.X_T, torch.tensor(times, dtype=torch.float64)).x
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    told = [1000 * t - (kind != "flow") for t in times[:-1]]
    torch.testing.assert_close(scheduler.timesteps.tolist(), told, rtol=1e-6, atol=1e-4)


def test_sigmas_of_a_table_are_sigma_over_alpha(runs: ModuleType) -> None:
    scheduler = SpanLiftScheduler(solver="euler", kind="noise")
    ratio = runs.SCHEDULES["noise"].ratio(torch.tensor([1.0, 0.25], dtype=torch.float64))
    scheduler.set_timesteps(sigmas=ratio.tolist())
    torch.testing.assert_close(scheduler.timesteps.tolist(), [999.0, 249.0], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(
        scheduler.sigmas.double(), torch.cat([ratio, torch.zeros(1).double()]), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "got none"),
        ({"num_inference_steps": 0}, "at least one step"),
        ({"sigmas": [1.0], "timesteps": [1000.0]}, "got both"),
        ({"num_inference_steps": 3, "sigmas": [1.0, 0.5]}, "expected 3 times, got 2"),
        ({"sigmas": [0.5, 1.0]}, "strictly descending"),
        ({"sigmas": [0.5, 0.5]}, "strictly descending"),
        ({"sigmas": [14.6, 0.5]}, "times of this model"),
        ({"timesteps": [float("nan"), 2.0]}, "times of this model"),
        ({"sigmas": []}, "at least one step"),
    ],
)
def test_times_that_are_none_are_one_line(asked: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        SpanLiftScheduler().set_timesteps(**asked)
    assert "\n" not in str(refused.value)


def test_steps_out_of_order_are_one_line(runs: ModuleType) -> None:
    scheduler, x = SpanLiftScheduler(solver="euler"), runs.X_T
    with pytest.raises(ValueError, match="set_timesteps before the first step"):
        scheduler.step(x, 1000.0, x)
    with pytest.raises(ValueError, match="set_timesteps before the first step"):
        scheduler.scale_model_input(x, 1000.0)
    scheduler.set_timesteps(3)
    ours = scheduler.timesteps.tolist()
    scheduler.step(x, ours[0], x)
    with pytest.raises(ValueError, match=r"expected the timestep 857.*got 1000"):
        scheduler.step(x, ours[0], x)
    with pytest.raises(ValueError, match=r"expected the timestep 857.*got 857"):
        scheduler.step(x, int(ours[1]), x)  # truncated, as diffusers' flow schedulers do
    with pytest.raises(ValueError, match="latents' shape"):
        scheduler.step(x[:, :1], ours[1], x)
    for t in ours[1:]:
        x = scheduler.step(x, t, x, return_dict=False)[0]  # pyright: ignore[reportIndexIssue]
    with pytest.raises(ValueError, match="expected 3 steps, got one more"):
        scheduler.step(x, ours[2], x)


def test_packing_is_undone() -> None:
    x = torch.arange(2 * 3 * 4 * 10).view(2, 3, 4, 10)
    packed = pack(x)
    assert packed.shape == (2, 2 * 5, 12)
    assert packed[0, 1].tolist() == [x[0, c, i, 2 + j] for c in range(3) for i in range(2) for j in range(2)]
    assert torch.equal(unpack(packed, 2, 5), x)
    with pytest.raises(ValueError, match=r"packed=\(3, 5\)"):
        unpack(packed, 3, 5)


def test_a_spatial_operator_on_packed_latents(tmp_path: Path, runs: ModuleType) -> None:
    path = runs.save_learned("spanlift", "flow", tmp_path)
    spatial = runs.sample(SpanLiftScheduler.from_solver(path), "flow", runs.X_T)
    packed = pack(runs.X_T)
    predict, rows, columns = runs.model("flow"), 2, 3
    scheduler = SpanLiftScheduler.from_solver(path, packed=(rows, columns))
    scheduler.set_timesteps(runs.STEPS)
    x = packed
    for t in scheduler.timesteps:
        output = pack(predict(unpack(x, rows, columns), t))
        x = scheduler.step(output, t, x, return_dict=False)[0]  # pyright: ignore[reportIndexIssue]
    torch.testing.assert_close(unpack(x, rows, columns), spatial)
    scheduler = SpanLiftScheduler.from_solver(path)
    scheduler.set_timesteps(runs.STEPS)
    with pytest.raises(ValueError, match=r"pass packed=\(rows, columns\)"):
        scheduler.step(packed, scheduler.timesteps[0], packed)
    scheduler = SpanLiftScheduler.from_solver(runs.save_learned("dyweight", "flow", tmp_path))
    linear = runs.sample(scheduler, "flow", runs.X_T)
    scheduler.set_timesteps(runs.STEPS)
    x = packed  # weights act value by value: they need no shape
    for t in scheduler.timesteps:
        x = scheduler.step(pack(predict(unpack(x, rows, columns), t)), t, x).prev_sample  # pyright: ignore
    torch.testing.assert_close(unpack(x, rows, columns), linear)

"""Our solvers one model output at a time: the same endpoint as core.integrate, whatever the solver and the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import core
from apps.imagegen.scheduler import SpanLiftScheduler
from apps.imagegen.scheduling.clock import flow_clock
from apps.imagegen.scheduling.queries import ModelOutput, Query, find_queries

HANDCRAFTED = ("euler", "ddim", "ipndm", "adams-bashforth", "deis", "dpm-solver++", "unipc")
LEARNED = ("dyweight", "ld3", "s4s-lms", "s4s-pc", "s4s-alt", "bns", "dlms", "spanlift", "spanlift-dyweight", "scalar")
TWO_CALLS = ("heun", "rk4", "dpm-solver-2", "amed", "amed-plugin", "epd", "epd-plugin", "s4s-ss")


@pytest.mark.parametrize("kind", ["flow", "noise", "v", "data"])
@pytest.mark.parametrize("name", HANDCRAFTED)
def test_handcrafted_solvers_end_where_our_loop_does(name: str, kind: str, runs: ModuleType) -> None:
    schedule = runs.SCHEDULES[kind]
    scheduler = SpanLiftScheduler(solver=name, order=2 if name not in ("euler", "ddim") else None, kind=kind)
    if name == "deis" and kind == "flow":
        with pytest.raises(ValueError, match="alpha > 0"):
            scheduler.set_timesteps(runs.STEPS)
        return
    exponential = name in ("dpm-solver++", "unipc", "deis")
    order = 2 if name not in ("euler", "ddim") else None
    solver = core.build_solver(name, order=order, schedule=schedule if kind != "flow" or exponential else None)
    grid = runs.GRIDS[kind]
    if kind != "flow" and name in ("dpm-solver++", "unipc"):
        grid = core.build_grid("logsnr", runs.STEPS, schedule=schedule)
    got = runs.sample(scheduler, kind, runs.X_T)
    expected = core.integrate(runs.mixture(kind), solver, runs.X_T, grid).x
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["flow", "noise"])
@pytest.mark.parametrize("name", LEARNED)
def test_learned_solvers_end_where_our_loop_does(name: str, kind: str, tmp_path: Path, runs: ModuleType) -> None:
    path = runs.save_learned(name, kind, tmp_path)
    scheduler = SpanLiftScheduler.from_solver(path)
    got = runs.sample(scheduler, kind, runs.X_T)
    expected = core.integrate(runs.mixture(kind), runs.build_learned(name, kind), runs.X_T, runs.GRIDS[kind])
    ipndm = core.build_solver("ipndm", order=2, schedule=None if kind == "flow" else runs.SCHEDULES[kind])
    base = core.integrate(runs.mixture(kind), ipndm, runs.X_T, runs.GRIDS[kind])
    torch.testing.assert_close(got, expected.x, rtol=0, atol=2e-6)
    assert float((got - base.x).abs().max()) > 1e-3  # the learned numbers were used


@pytest.mark.parametrize("name", TWO_CALLS)
def test_solvers_of_several_calls_are_refused(name: str, tmp_path: Path, runs: ModuleType) -> None:
    handcrafted = name in ("heun", "rk4", "dpm-solver-2")
    path = name if handcrafted else str(runs.save_learned(name, "flow", tmp_path))
    scheduler = SpanLiftScheduler(solver=path)
    with pytest.raises(ValueError, match=r"one network call a step.*apps.imagegen.sample") as refused:
        scheduler.set_timesteps(runs.STEPS)
    assert "\n" not in str(refused.value)


def test_the_pipeline_is_told_the_learned_query_times(tmp_path: Path, runs: ModuleType) -> None:
    for kind in ("flow", "noise"):
        scheduler = SpanLiftScheduler.from_solver(runs.save_learned("dyweight", kind, tmp_path))
        scheduler.set_timesteps(runs.STEPS)
        asked: list[float] = []
        field = runs.mixture(kind)

        def spy(x: Tensor, t: Tensor, field: core.MixtureField = field, asked: list[float] = asked) -> Tensor:
            asked.append(float(t))
            return field(x, t)

        spy.schedule = field.schedule  # pyright: ignore[reportFunctionMemberAccess]
        core.integrate(spy, runs.build_learned("dyweight", kind), runs.X_T, runs.GRIDS[kind])
        told = [1000 * t - (kind != "flow") for t in asked]
        torch.testing.assert_close(scheduler.timesteps.tolist(), told, rtol=1e-6, atol=1e-4)
        nodes = [1000 * t - (kind != "flow") for t in runs.GRIDS[kind][:-1].tolist()]
        assert max(abs(a - b) for a, b in zip(told, nodes, strict=True)) > 1
        assert scheduler.timesteps.dtype == torch.float32
        assert scheduler.sigmas.shape == (runs.STEPS + 1,)


def test_a_vp_solver_of_scaled_times_needs_scale_model_input(tmp_path: Path, runs: ModuleType) -> None:
    """Told another time at the same y = x / alpha, the network must be shown another x."""
    scheduler = SpanLiftScheduler.from_solver(runs.save_learned("dyweight", "noise", tmp_path))
    scheduler.set_timesteps(runs.STEPS)
    t = scheduler.timesteps[0]
    assert not torch.equal(scheduler.scale_model_input(runs.X_T, t), runs.X_T)
    scheduler.set_timesteps(runs.STEPS)
    with pytest.raises(ValueError, match="scale_model_input"):
        scheduler.step(runs.X_T, t, runs.X_T)


def test_a_step_asks_once_and_where_the_pipeline_was_told(runs: ModuleType) -> None:
    clock = flow_clock(1000)
    query = Query(torch.tensor(0.5, dtype=torch.float64), 1.0)
    output = ModelOutput(runs.X_T, query, clock.to_velocity, clock)
    with pytest.raises(ValueError, match=r"time 0\.5"):
        output(runs.X_T, torch.tensor(0.6))
    output = ModelOutput(runs.X_T, query, clock.to_velocity, clock)
    assert torch.equal(output(runs.X_T, query.t), runs.X_T)
    with pytest.raises(ValueError, match="a second one"):
        output(runs.X_T, query.t)


def test_a_solver_that_asks_beside_the_state_is_refused() -> None:
    class Beside:
        order, memory = None, 1

        def step(self, field: core.VelocityField, state: core.State, t_next: Tensor) -> core.State:
            velocity = field(state.x + 0.1, state.t)
            return replace(state, x=state.x + velocity, t=t_next, step=state.step + 1)

    with pytest.raises(ValueError, match="asks elsewhere"):
        find_queries(Beside(), torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64), flow_clock(1000), "'beside'")


@pytest.mark.parametrize("name", ["ddpm", "dpm-solver-v3"])
def test_methods_that_need_more_than_outputs_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="model's outputs alone"):
        SpanLiftScheduler(solver=name)


@settings(max_examples=30)
@given(
    steps=st.integers(1, 12),
    shift=st.floats(0.2, 12),
    order=st.integers(1, 4),
    name=st.sampled_from(["ipndm", "adams-bashforth"]),
)
def test_any_number_of_steps_and_any_shift(steps: int, shift: float, order: int, name: str) -> None:
    scheduler = SpanLiftScheduler(solver=name, order=order, shift=shift)
    scheduler.set_timesteps(steps)
    grid = core.build_grid("shifted", steps, shift=shift)
    torch.testing.assert_close(scheduler.timesteps.double(), 1000 * grid[:-1], rtol=1e-6, atol=0)
    start = x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(2, 3, 4)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.sin(x), t, x, return_dict=False)[0]  # pyright: ignore[reportIndexIssue]
    expected = core.integrate(lambda x, t: torch.sin(x), core.build_solver(name, order=order), start, grid)
    assert torch.equal(x, expected.x)

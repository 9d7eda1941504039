"""Training of S4S-Alt: coefficients, then times, in turns (arXiv 2502.17423, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from core.distributed import Fabric
from core.fitting import FitConfig
from core.relaxation import Relaxation, noise_pool, train_relaxed
from core.schedules import EDM, Schedule
from core.solvers.learned.s4s_alt import S4SAlternating
from core.state import VelocityField
from core.supervision import Example
from core.training import EndpointLoss, Run, run_to_end

ROUNDS = 8


def train_alternating(
    solver: S4SAlternating,
    grid: Tensor,
    pairs: Example,
    bind: Callable[[Tensor | None], VelocityField],
    loss: EndpointLoss,
    config: FitConfig,
    directory: Path,
    *,
    times_config: FitConfig | None = None,
    rounds: int = ROUNDS,
    relaxation: Relaxation | None = None,
    schedule: Schedule | None = None,
    frozen: Sequence[nn.Module] = (),
    run: Run = run_to_end,
    identity: Mapping[str, Any] | None = None,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
    autocast: Literal["float32", "bfloat16"] = "float32",
    fabric: Fabric | None = None,
) -> S4SAlternating:
    """Fit the coefficients of `solver` with its times frozen, then the times with the coefficients frozen, `rounds`
    times over, in place.

    All phases share the pairs' noises and one radius. Each is a run of `core.train_solver` in a folder of its own, its
    optimiser new; a killed training started again goes through the finished ones, which only load their ends.

    Args:
        solver: what to train.
        grid, pairs, bind, loss, frozen, run, identity, report, autocast, fabric: see `core.relaxation.train_relaxed`.
        config: of a phase of coefficients.
        directory: holds a folder for each phase.
        times_config: of a phase of times; the same where not given.
        rounds: K; the paper's is 8.
        relaxation, schedule: see `core.relaxation.train_relaxed`.

    Raises:
        ValueError: rounds < 1, or see `core.relaxation.train_relaxed`.
    """
    if rounds < 1:
        raise ValueError(f"expected rounds >= 1, got {rounds}; the paper's number is {ROUNDS}")
    relaxation = Relaxation() if relaxation is None else relaxation
    pool = noise_pool(solver, grid, pairs, relaxation, EDM() if schedule is None else schedule)
    phases = [(number, kind) for number in range(rounds) for kind in ("coefficients", "times")]
    try:
        for phase, (number, kind) in enumerate(phases):
            _train_only(solver, kind)
            train_relaxed(
                solver,
                grid,
                pairs,
                bind,
                loss,
                config if kind == "coefficients" or times_config is None else times_config,
                directory / f"{number:02d}-{kind}",
                relaxation=replace(relaxation, seed=relaxation.seed + phase),
                pool=pool,
                frozen=frozen,
                run=run,
                identity=identity,
                report=report,
                autocast=autocast,
                fabric=fabric,
            )
    finally:
        solver.requires_grad_(True)
    return solver


def _train_only(solver: S4SAlternating, kind: str) -> None:
    """Let gradients reach the coefficients or the times alone."""
    solver.weights.requires_grad_(kind == "coefficients")
    for times in (solver.times, solver.network_times):
        times.requires_grad_(kind == "times")

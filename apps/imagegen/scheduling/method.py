"""What a scheduler's configuration comes to: a solver, a clock, and for each run a grid and what the model is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

import core
from apps.imagegen.compatible import LOWERED_BELOW, Shift, dynamic_shift
from apps.imagegen.methods import ALL_ORDERS, DEFAULT_ORDER, ON_SCHEDULE
from apps.imagegen.scheduling import grid as grids
from apps.imagegen.scheduling.clock import Clock, flow_clock, table_clock
from apps.imagegen.scheduling.options import betas_of, check_options
from apps.imagegen.scheduling.queries import OWN_LOOP, Query, find_queries
from apps.imagegen.scheduling.run import Run
from apps.imagegen.scheduling.trained import Trained, flexible, name_of, read, shift_of

NOT_HERE = {"ddpm": "draws noise by seeds", "dpm-solver-v3": "needs statistics of the model"}
"""Methods of one call a step that want what no pipeline hands on."""


class Plan(NamedTuple):
    """One run: times (N + 1,), timesteps (N,) that the pipeline is told, and the questions that they answer."""

    grid: Tensor
    timesteps: Tensor
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Method:
    """A solver in a pipeline.

    Attributes:
        config: of the scheduler.
        clock: of the model.
        solver: not planned.
        trained: its file, where it is a trained one.
    """

    config: Mapping[str, Any]
    clock: Clock
    solver: core.Solver
    trained: Trained | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Method:
        """The method of a configuration.

        Raises:
            ValueError: an unknown or unfit option, or a file that is none.
        """
        check_options(config)
        if config["solver"] in core.SOLVERS:
            flow, steps = config["kind"] == "flow", config["num_train_timesteps"]
            clock = flow_clock(steps) if flow else table_clock(config["kind"], betas_of(config))
            return cls(config, clock, _handcrafted(config, clock))
        trained = read(config["solver"], config["kind"], config["num_train_timesteps"])
        return cls(config, trained.clock, trained.solver, trained)  # pyright: ignore[reportArgumentType]

    @property
    def own_shift(self) -> float:
        """That of a trained solver's grid, where it has one; else the configured one."""
        own = None if self.trained is None else shift_of(self.trained.card.grid)
        return float(self.config["shift"]) if own is None else own

    def plan(self, request: grids.Request, mu: float | None) -> Plan:
        """A run.

        Args:
            request: what the pipeline asks.
            mu: of a shift by image size.

        Raises:
            ValueError: see `SpanLiftScheduler.set_timesteps`.
        """
        name = self.config["compatible"]
        if name is None:
            grid, told = self._grid(request, mu), None
        else:
            grid, told = grids.compatible(name, request, self._shift(mu), self.config["num_train_timesteps"])
        queries = find_queries(self._on(grid), grid, self.clock, repr(self.config["solver"]))
        if told is None:
            told = self.clock.timesteps(torch.stack([query.t.detach() for query in queries]))
        return Plan(grid, told, queries)

    def run(self, plan: Plan, first: int, device: torch.device) -> Run:
        """A run from the state at plan.grid[first].

        Raises:
            ValueError: a trained solver that is not to begin at the beginning.
        """
        packed = self.config["packed"]
        packed = None if packed is None else (packed[0], packed[1])
        if not first:
            return Run(self._on(plan.grid), plan.grid, plan.queries, self.clock, device, packed)
        if self.trained is not None:
            raise ValueError(
                f"expected all {len(plan.queries)} steps of a trained solver, got a run that begins with step "
                f"{first + 1}; use a handcrafted one, as solver='ipndm', to begin from an image"
            )
        grid = plan.grid[first:]
        solver = self._on(grid)
        queries = find_queries(solver, grid, self.clock, repr(self.config["solver"]))
        return Run(solver, grid, queries, self.clock, device, packed)

    def _shift(self, mu: float | None) -> Shift:
        """The shift of a run; raises ValueError where it depends on an image size that is not told."""
        if not self.config["use_dynamic_shifting"]:
            return Shift(self.own_shift)
        if mu is None:
            raise ValueError(
                "expected mu for use_dynamic_shifting=True, got none; a pipeline passes it, or set "
                "use_dynamic_shifting=False and a shift"
            )
        return Shift(dynamic_shift(mu, self.config["time_shift_type"]), dynamic=True)

    def _grid(self, request: grids.Request, mu: float | None) -> Tensor:
        trained, terminal = self.trained, self.config["shift_terminal"]
        if trained is None:
            name = self.config["grid"] or grids.default_grid(self.clock, self.config["solver"])
            return grids.build(self.clock, name, request, self._shift(mu), terminal)
        grid, wanted = trained.card.grid, None
        unasked = request.timesteps is None and (request.sigmas is None or grids.even(request.sigmas))
        sized = self.config["use_dynamic_shifting"] and mu is not None
        if flexible(self.solver):
            return self._like_trained(grid, grids.Request(request.count) if unasked else request, mu if sized else None)
        if request.count == len(grid) - 1 and (sized or not unasked):
            wanted = grids.build(self.clock, "shifted", request, self._shift(mu), terminal)
        grids.check_trained(grid, request, wanted)
        return grid

    def _like_trained(self, grid: Tensor, request: grids.Request, mu: float | None) -> Tensor:
        """The grid of a solver that serves several: that of its training, with the number of steps and for the image
        size that are asked for; or the caller's.

        Raises:
            ValueError: no rule is known that gives its grid with another number of steps.
        """
        given = request.sigmas is not None or request.timesteps is not None
        name = name_of(grid, self.clock)
        if not given and request.count == len(grid) - 1 and (mu is None or name != "shifted"):
            return grid
        if not given and name is None:
            raise ValueError(
                f"expected num_inference_steps={len(grid) - 1} or sigmas, for this solver was trained on times of no "
                f"rule, got {request.count}; pass one of these"
            )
        shift = Shift(self.own_shift) if mu is None else self._shift(mu)
        return grids.build(self.clock, name or "shifted", request, shift, self.config["shift_terminal"])

    def _on(self, grid: Tensor) -> core.Solver:
        """The solver for a grid: diffusers' DPM-Solver++ lowers the order of last steps only in short runs."""
        solver = self.solver
        theirs = self.config["compatible"] == "dpm-solver++" and len(grid) > LOWERED_BELOW
        if theirs and isinstance(solver, core.DPMSolverPP):
            return replace(solver, lower_order_final=False)
        return solver


def _handcrafted(config: Mapping[str, Any], clock: Clock) -> core.Solver:
    name = config["solver"]
    if name in NOT_HERE:
        raise ValueError(
            f"expected a method that needs the model's outputs alone, got {name!r}, which {NOT_HERE[name]}; {OWN_LOOP}"
        )
    order = DEFAULT_ORDER if config["order"] is None and name in ALL_ORDERS else config["order"]
    return core.build_solver(
        name,
        order=order,
        schedule=clock.schedule if name in ON_SCHEDULE else clock.chart_schedule,
        prediction=config["prediction"],
        variant=config["variant"],
        lower_order_final=config["lower_order_final"] if "lower_order_final" in core.SOLVERS[name].takes else None,
    )

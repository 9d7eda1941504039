"""The relaxed objective: a student may start a little beside the noise that its teacher started from.

Few parameters cannot meet every endpoint. It is enough that some x'_T in a small ball around x_T leads there; x'_T is
trained along, pair by pair, and forgotten afterwards (Tong et al. 2024, LD3, arXiv 2405.15506; S4S, arXiv 2502.17423,
eq. 7 to 9 and algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from core.distributed import Fabric
from core.fitting import FitConfig
from core.schedules import EDM, Schedule
from core.state import Solver, State, VelocityField, plan
from core.supervision import Example, draw
from core.training import EndpointLoss, Run, run_to_end, train_solver

CONSTANT = 0.02
"""Per number of a sample."""
POWER = -5 / 2
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Relaxation:
    """How far x'_T may go, and how it goes.

    Attributes:
        constant: c of the radius r = c m^(-5/2), in units of sigma_T, for m learned numbers; 0 is the plain objective.
            S4S gives no c. None takes 0.02 per number of a sample, with which r is LD3's, proportional to their number
            too, at m = 12 learned ones for CIFAR-10.
        rate: length of a step of x'_T in radii. The step is against the gradient, whose length is not used, for it
            depends on the loss (ours: no rate is published).
        batch: pairs an iteration.
        seed: of their order.
    """

    constant: float | None = None
    rate: float = 0.3
    batch: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.constant or 0.0) < 0 or self.rate <= 0 or self.batch < 1:
            raise ValueError(
                f"expected constant >= 0, rate > 0 and batch >= 1, got {self.constant}, {self.rate} and {self.batch}; "
                "constant 0 is the plain objective"
            )

    def radius(self, solver: nn.Module, size: int, sigma: float) -> float:
        """Of the ball around x_T, in the 2-norm over a whole sample of `size` numbers: r sigma_T."""
        constant = CONSTANT * size if self.constant is None else self.constant
        return constant * sum(p.numel() for p in solver.parameters()) ** POWER * sigma


class NoisePool(nn.Module):
    """x'_T of all training pairs: their x_T, each with an offset of its own that stays in a ball.

    `drawn` gives rows to be differentiated; `constrain`, which `core.fitting.fit` calls after each optimiser step, then
    takes one step of projected gradient descent with those rows and stores them back. Offsets are in the state dict, so
    that checkpoints hold them. Processes that share the rows of each example draw all of them and move all alike.

    Args:
        x_T: (pairs, *space).
        radius: largest 2-norm of an offset.
        rate: see `Relaxation`.
    """

    x_T: Tensor
    offsets: Tensor

    def __init__(self, x_T: Tensor, radius: float, rate: float) -> None:
        super().__init__()
        self.radius = radius
        self.rate = rate
        self.register_buffer("x_T", x_T.detach().clone(), persistent=False)
        self.register_buffer("offsets", torch.zeros_like(x_T))
        self._drawn: tuple[Tensor, Tensor] | None = None

    def drawn(self, rows: Tensor) -> Tensor:
        """x'_T (B, *space) of these pairs (B,), distinct; a gradient of it moves them at the next `constrain`."""
        offset = self.offsets[rows].requires_grad_(self.radius > 0)
        self._drawn = rows, offset
        return self.x_T[rows] + offset

    @torch.no_grad()
    def constrain(self) -> None:
        """Take the step and project it; nothing where nothing was drawn or no gradient came."""
        if self._drawn is None:
            return
        rows, offset = self._drawn
        self._drawn = None
        if offset.grad is None:
            return
        gradient = _sum_over_processes(offset.grad)  # each process has that of its own rows, and zeros
        moved = offset - self.rate * self.radius * gradient / _norm(gradient).clamp_min(TINY)
        moved = moved * (self.radius / _norm(moved).clamp_min(self.radius))
        self.offsets[rows] = moved


def _norm(values: Tensor) -> Tensor:
    """2-norm of each sample, (B, 1, ...)."""
    return values.flatten(1).norm(dim=1).view(-1, *(1,) * (values.ndim - 1))


def _sum_over_processes(values: Tensor) -> Tensor:
    """The sum over all processes; `values` where there is no process group."""
    if not distributed.is_initialized():
        return values
    total = values.contiguous().clone()
    distributed.all_reduce(total)
    return total


class Relaxed(nn.Module):
    """`solver` beside the noises that are trained with it: the same solver to whoever samples."""

    order: int | None = None

    def __init__(self, solver: nn.Module, pool: NoisePool) -> None:
        super().__init__()
        self.solver = solver
        self.pool = pool

    @property
    def memory(self) -> int:
        return self._sampler.memory

    @property
    def _sampler(self) -> Solver:
        return self.solver  # pyright: ignore[reportReturnType] (a module that is a solver)

    def bind(self, condition: Tensor) -> Solver:
        """The solver bound to the condition where it takes one."""
        bind = getattr(self.solver, "bind", None)
        return self._sampler if bind is None else bind(condition)

    def plan(self, grid: Tensor) -> Solver:
        return plan(self._sampler, grid)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        return self._sampler.step(field, state, t_next)


def noise_pool(
    solver: nn.Module, grid: Tensor, pairs: Example, relaxation: Relaxation, schedule: Schedule
) -> NoisePool:
    """The pool of the pairs' x_T, its radius that of the relaxation for this solver and sigma at grid[0]."""
    radius = relaxation.radius(solver, pairs.x_T[0].numel(), float(schedule(grid[0]).sigma))
    return NoisePool(pairs.x_T, radius, relaxation.rate)


def train_relaxed(
    solver: nn.Module,
    grid: Tensor,
    pairs: Example,
    bind: Callable[[Tensor | None], VelocityField],
    loss: EndpointLoss,
    config: FitConfig,
    directory: Path,
    *,
    relaxation: Relaxation | None = None,
    schedule: Schedule | None = None,
    pool: NoisePool | None = None,
    frozen: Sequence[nn.Module] = (),
    run: Run = run_to_end,
    identity: Mapping[str, Any] | None = None,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
    autocast: Literal["float32", "bfloat16"] = "float32",
    fabric: Fabric | None = None,
) -> nn.Module:
    """Fit `solver` to the endpoints of `pairs` with the relaxed objective, in place; resumes as `train_solver` does.

    Args:
        solver: a learned solver.
        grid: (steps + 1,).
        pairs: all training pairs: x_T (P, *space), condition (P, ...) or None, endpoint (P, ...).
        bind, loss, config, directory, frozen, run, identity, report, autocast, fabric: see `core.train_solver`.
        relaxation: see `Relaxation`.
        schedule: of the model, for sigma_T; EDM where not given.
        pool: noises that were trained before, of the same pairs; a new pool where not given.

    Raises:
        ValueError: more pairs a batch than there are, or see `core.train_solver`.
    """
    relaxation = Relaxation() if relaxation is None else relaxation
    if relaxation.batch > len(pairs.x_T):
        raise ValueError(f"expected at least {relaxation.batch} pairs, got {len(pairs.x_T)}; lower the batch")
    if pool is None:
        pool = noise_pool(solver, grid, pairs, relaxation, EDM() if schedule is None else schedule)
    count = len(pairs.x_T) // relaxation.batch * relaxation.batch  # whole batches, so that no pair is drawn twice
    names = [str(row) for row in range(count)]

    def examples(iteration: int) -> Example:
        rows = torch.tensor([int(name) for name in draw(names, relaxation.batch, iteration, relaxation.seed)])
        condition = None if pairs.condition is None else pairs.condition[rows]
        return Example(pool.drawn(rows), condition, pairs.endpoint[rows])

    train_solver(
        Relaxed(solver, pool),
        grid,
        examples,
        bind,
        loss,
        config,
        directory,
        frozen=frozen,
        run=run,
        identity={**(identity or {}), "relaxation": asdict(relaxation), "radius": pool.radius, "pairs": len(pairs.x_T)},
        report=report,
        autocast=autocast,
        fabric=fabric,
    )
    return solver

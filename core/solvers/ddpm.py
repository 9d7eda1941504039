"""Ancestral sampling (Ho et al. 2020, arXiv 2006.11239, algorithm 2), on any sub-grid of the schedule's clock."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.parametrizations import convert
from core.schedules import Schedule
from core.solvers.multistep import remember
from core.state import State, VelocityField


@dataclass(frozen=True)
class DDPM:
    """Draws the next state from its Gaussian posterior given this one and the predicted data (DDIM's eta = 1).

    One evaluation per step. The variance is beta-tilde (their eq. 7); a step to sigma = 0 returns the predicted data
    without noise. Being stochastic it has no order along a path; its moments converge with order 1 in the step.

    Attributes:
        schedule: of the model; variance-exploding ones are served by the same formula.
        seeds: one per row of the batch; 0, 1, 2, ... where not given. The noise of a sample depends on its seed and
            the number of the step alone, neither on the batch nor on device or precision.
    """

    schedule: Schedule
    seeds: tuple[int, ...] | None = None
    order: None = field(default=None, init=False, repr=False)
    memory: int = field(default=1, init=False, repr=False)

    def step(self, field: VelocityField, state: State, t_next: Tensor) -> State:
        """Raises ValueError where there is not one seed per row of the batch."""
        buffer, calls = remember(field, state, self.memory)
        here, there = self.schedule(state.t), self.schedule(t_next)
        data = convert(buffer[0].velocity, state.x, here, "velocity", "data")
        decay = here.alpha / there.alpha
        fresh = here.sigma**2 - (decay * there.sigma) ** 2  # variance of x given the next state
        x = (decay * there.sigma**2 * state.x + there.alpha * fresh * data) / here.sigma**2
        if there.sigma > 0:
            x = x + self.spread(state.t, t_next) * self._noise(state)
        return State(x=x, t=t_next, step=state.step + 1, buffer=buffer, nfe=state.nfe + calls)

    def spread(self, t: Tensor, t_next: Tensor) -> Tensor:
        """Standard deviation () of the state at `t_next` given that at `t` and the data."""
        here, there = self.schedule(t), self.schedule(t_next)
        fresh = here.sigma**2 - (here.alpha / there.alpha * there.sigma) ** 2
        return fresh.sqrt() * there.sigma / here.sigma

    def _noise(self, state: State) -> Tensor:
        seeds: Sequence[int] = range(len(state.x)) if self.seeds is None else self.seeds
        if len(seeds) != len(state.x):
            raise ValueError(f"expected one seed per sample, got {len(seeds)} for {len(state.x)}; give as many as rows")
        draws = [
            torch.randn(state.x.shape[1:], generator=noise_generator(s, state.step), dtype=torch.float64) for s in seeds
        ]
        return torch.stack(draws).to(state.x)


def noise_generator(seed: int, step: int) -> torch.Generator:
    """Where the noise of a sample's step comes from: one stream per (seed, step), apart from that of its x_T."""
    digest = hashlib.blake2b(f"ddpm {seed} {step}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))

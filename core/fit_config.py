"""How a module is fitted: the schedule of the rate, the average of the parameters, the sets they must stay in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How a module is fitted.

    Attributes:
        iterations: number of optimiser steps.
        learning_rate: peak learning rate of Adam.
        warmup: fraction of the iterations over which the rate rises linearly from a tenth of its peak.
        final_rate: fraction of the peak that the cosine decay ends at.
        betas: Adam's averaging constants.
        weight_decay: decoupled weight decay; 0 gives Adam.
        clip: largest norm of the whole gradient.
        ema_decay: decay of the parameter average; 0 keeps none.
        checkpoint_every: iterations between checkpoints.
        log_every: iterations between lines of log.jsonl.
    """

    iterations: int
    learning_rate: float
    warmup: float = 0.1
    final_rate: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 1.0
    ema_decay: float = 0.0
    checkpoint_every: int = 200
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"expected iterations >= 1, got {self.iterations}; ask for at least one")
        if self.learning_rate <= 0:
            raise ValueError(f"expected learning_rate > 0, got {self.learning_rate}; use a positive rate")

    def rate(self, iteration: int) -> float:
        """Learning rate of an iteration: linear warm-up, then a cosine from the peak to `final_rate` of it."""
        rise = max(1, round(self.warmup * self.iterations))
        if iteration < rise:
            return self.learning_rate * (0.1 + 0.9 * iteration / rise)
        progress = (iteration - rise) / max(1, self.iterations - rise)
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * progress)))


@runtime_checkable
class Constrained(Protocol):
    """A module, or a part of one, whose values must stay in a set."""

    def constrain(self) -> None:
        """Put them back; called after each optimiser step."""
        ...


class Average:
    """Exponential moving average of a module's parameters, with the usual warm-up decay min(decay, (1+n)/(10+n))."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, parameter in module.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if name in self.values:
                parameter.copy_(self.values[name])

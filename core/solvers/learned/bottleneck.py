"""Numbers a sample read off a network's bottleneck: what AMED's predictor sees, and the predictor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from core.schedules import Schedule
from core.solvers.learned.intermediate import observed
from core.state import AnalyticStart, Evaluation, State, VelocityField, nfe_of, push

HIDDEN, SHOWN, CLOCK = 128, 4, 8
"""Widths of the published predictor: hidden layer, features kept, numbers that stand for a time."""
SLOWEST = 1e-4
"""Smallest frequency of the embedding of a time."""


@runtime_checkable
class Bottleneck(Protocol):
    """A field that shows features of its network and takes one time a sample, (B, 1, ..., 1), as well as t ()."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor: ...

    def with_features(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, *space), t () -> velocity (B, *space) and features (B, F), in one call of the network."""
        ...


@dataclass(frozen=True, eq=False)
class HookedField:
    """A field with the output of one module of its network, averaged over channels, as features.

    Attributes:
        field: calls the network once, and takes one time a sample.
        module: e.g. the innermost block of a U-Net; its output (B, C, *size) gives prod(size) features.
    """

    field: VelocityField
    module: nn.Module

    @property
    def evaluations_per_call(self) -> int:
        return nfe_of(self.field)

    @property
    def schedule(self) -> Schedule:
        """The field's; there is none where it has none."""
        return self.field.schedule  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.field(x, t)

    def analytic_velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The field's.

        Raises:
            ValueError: it has none.
        """
        if not isinstance(self.field, AnalyticStart):
            raise ValueError(
                f"expected a field with analytic_velocity for afs=True, got {type(self.field).__name__}; "
                "hook a field of core.fields or use afs=False"
            )
        return self.field.analytic_velocity(x, t)

    def with_features(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `Bottleneck`.

        Raises:
            ValueError: the module did not run, or ran more than once, or for another number of samples, or its output
                has no channels.
        """
        seen: list[Tensor] = []
        handle = self.module.register_forward_hook(lambda *call: seen.append(call[2]))  # (module, inputs, output)
        try:
            velocity = self.field(x, t)
        finally:
            handle.remove()
        shapes = [tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__ for out in seen]
        if len(seen) != 1 or isinstance(shapes[0], str) or len(shapes[0]) < 3 or shapes[0][0] != len(x):
            raise ValueError(
                f"expected {type(self.module).__name__} to run once on {len(x)} samples, with an output (batch, "
                f"channels, *size), got {', '.join(map(str, shapes)) or 'no run'}; hook a module that is called once "
                "per evaluation, e.g. the network's innermost block"
            )
        return velocity, seen[0].mean(1).flatten(1)


class Predictor(nn.Module):
    """features (B, F) and the two ends of a step -> (B, 3) raw numbers, all 0 at first.

    Linear F -> 128, SiLU, linear 128 -> 4; both times as sines and cosines, linear 8 -> 8, SiLU; one linear head a
    number on the 20 together: about 9 000 parameters for 64 features (AMED, appendix; no features stand for zeros).
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Linear(features, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, SHOWN))
        self.clock = nn.Sequential(nn.Linear(CLOCK, CLOCK), nn.SiLU())
        self.heads = nn.Linear(SHOWN + 2 * CLOCK, 3)
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)
        self.features = features
        self.double()

    def forward(self, features: Tensor | None, t: Tensor, t_next: Tensor, samples: int) -> Tensor:
        weight = self.heads.weight
        seen = weight.new_zeros(samples, self.features) if features is None else features.to(weight.dtype)
        if seen.shape[1:] != (self.features,):
            raise ValueError(
                f"expected {self.features} features, got {tuple(seen.shape[1:])}; build one for this network"
            )
        times = self.clock(torch.stack([_waves(t), _waves(t_next)]).to(weight)).flatten().expand(samples, -1)
        return self.heads(torch.cat([self.read(seen), times], dim=1))


def _waves(t: Tensor) -> Tensor:
    phase = t.double() * SLOWEST ** torch.linspace(0, 1, CLOCK // 2, dtype=torch.float64, device=t.device)
    return torch.cat([phase.sin(), phase.cos()])


def observed_with_features(field: VelocityField, state: State, memory: int) -> tuple[State, Tensor | None]:
    """`observed`, and the features of that evaluation; None where it took no call (analytic start).

    Raises:
        ValueError: the field offers no features.
    """
    if state.buffer and state.buffer[0].x is state.x and state.buffer[0].t is state.t:
        return observed(field, state, memory), None
    if not isinstance(field, Bottleneck):
        raise ValueError(
            f"expected a field with features for a predictor, got {type(field).__name__}; "
            "wrap it in core.solvers.learned.bottleneck.HookedField, or learn one row a step"
        )
    velocity, features = field.with_features(state.x, state.t)
    evaluation = Evaluation(state.t, state.x, velocity.to(state.x.dtype))
    buffer = push(evaluation, state.buffer, memory)
    return replace(state, buffer=buffer, nfe=state.nfe + nfe_of(field)), features

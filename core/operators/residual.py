"""SpanLift's residual operator: a shallow FiLM-conditioned CNN over the state and the buffered slopes (SpanLift,
section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.charts import Chart
from core.operators.embedding import StepEmbedding, step_features
from core.operators.scaling import Scaling, schedule_of
from core.schedules import Schedule
from core.state import State


@dataclass(frozen=True, slots=True)
class ResidualConfig:
    """Sizes of a `SpanLiftResidual`.

    Attributes:
        channels: channels of the state.
        dimensions: 2 for states (B, C, H, W), 3 for (B, C, T, H, W).
        history: buffered evaluations the operator sees, the newest included.
        width: hidden channels.
        kernel: odd edge of the depthwise kernels; 1 makes the operator pointwise.
        blocks: FiLM-modulated residual blocks.
        condition_channels: channels of the frozen condition per position, frames included; 0 for none.
        frames: frames of a 3-D state with a condition: each reads the condition through weights of its own. 0 shares
            them.
        steps: length of the step-wise scalars, so that the operator serves grids of this many steps; None reads them
            off the embedding of (t, log-SNR, h), so that one operator serves every number of steps.
        counts: smallest and largest number of steps that an operator with steps=None is trained for: it refuses grids
            of other lengths. None refuses none.
        embedding: width of that embedding.
        data_std: standard deviation of the data, for scaling inputs and output to unit order.
        gain: initial value of the step-wise g_i.
    """

    channels: int
    dimensions: int = 2
    history: int = 3
    width: int = 128
    kernel: int = 3
    blocks: int = 2
    condition_channels: int = 0
    frames: int = 0
    steps: int | None = None
    embedding: int = 64
    data_std: float = 1.0
    gain: float = 0.3
    counts: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.dimensions not in (2, 3):
            raise ValueError(f"expected dimensions 2 or 3, got {self.dimensions}; fold other axes into one of these")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"expected an odd kernel >= 1, got {self.kernel}; use 1, 3, 5 or 7")
        for name in ("channels", "history", "width", "blocks", "embedding"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}; ask for at least one")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"expected steps >= 1 or None, got {self.steps}; use None for any number of steps")
        if self.counts is not None:
            low, high = self.counts
            if self.steps is not None or not 1 <= low <= high:
                raise ValueError(
                    f"expected counts of a smallest and a largest number of steps beside steps=None, got {self.counts} "
                    f"and steps={self.steps}; scalars of their own serve one number of steps"
                )
        if self.frames and (self.dimensions == 2 or not self.condition_channels):
            raise ValueError(
                f"expected frames=0 without a condition over a 3-D state, got {self.frames}; "
                "set condition_channels and dimensions=3, or leave frames out"
            )


class FilmBlock(nn.Module):
    """h + P2 silu((1 + gamma) P1 D h + beta): D depthwise, P1 and P2 over channels, (gamma, beta) linear in the
    embedding.

    It starts with gamma = beta = 0. Hidden fields are (B, *space, width): channels last is what the kernels are fast
    on.
    """

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        convolution = nn.Conv2d if config.dimensions == 2 else nn.Conv3d
        width = config.width
        self.depthwise = convolution(width, width, config.kernel, padding=config.kernel // 2, groups=width)
        self.mix = nn.Linear(width, width)
        self.film = nn.Linear(config.embedding, 2 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        gamma, beta = self.film(embedding).chunk(2)
        update = self.depthwise(hidden.movedim(-1, 1)).movedim(1, -1)
        # all samples are at the same step: FiLM goes into the weights, which are smaller than the fields
        update = F.linear(update, (1 + gamma)[:, None] * self.mix.weight, (1 + gamma) * self.mix.bias + beta)
        # in place where autograd does not need the old values: allocating fields costs as much as filling them
        return self.out(F.silu(update, inplace=not torch.is_grad_enabled())).add_(hidden)


class SpanLiftResidual(nn.Module):
    """Residual of one step: (a_i - 1)(y_prop - y) + g_i h_i R(z_i; c_i) in the chart, taken back to a change of x.

    Added to the proposal y_prop of a base solver this is SpanLift's update (equation 14),
    y' = y + a_i (y_prop - y) + g_i h_i R. z_i holds the state and the newest `history` velocities, scaled to unit order
    by the schedule (see `Scaling`), zeros in place of missing velocities, and a mask channel for each; R is scaled back
    alike.

    a_i starts at 1 and R's head at 0: the first rollout is the base solver's bit for bit. Starting g_i at 0 and the
    head at random does that too but is a saddle: where g_i wavers about 0, R is pushed to and fro. On toy problems it
    took several times the iterations.

    Args:
        config: sizes.
        chart: coordinates of the base solver.
        schedule: noise schedule; the chart's own where it has one.
    """

    def __init__(self, config: ResidualConfig, chart: Chart, schedule: Schedule | None = None) -> None:
        super().__init__()
        self.config = config
        self.chart = chart
        self.schedule = schedule_of(chart) if schedule is None else schedule
        self._scaling = Scaling(chart, self.schedule, config.data_std)
        self.embedding = StepEmbedding(config.embedding)
        # channels: state, slopes from the newest to the oldest, one mask a slope
        self.stem = nn.Linear(config.channels * (1 + config.history) + config.history, config.width)
        self.blocks = nn.ModuleList(FilmBlock(config) for _ in range(config.blocks))
        self.head = nn.Conv2d(config.width, config.channels, config.kernel, padding=config.kernel // 2)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        if config.condition_channels:
            self.condition = nn.Linear(config.condition_channels, config.width * max(config.frames, 1))
        if config.steps is None:
            self.scalars = nn.Linear(config.embedding, 2)
            nn.init.zeros_(self.scalars.weight)
            nn.init.zeros_(self.scalars.bias)
        else:
            self.scale = nn.Parameter(torch.ones(config.steps))
            self.gain = nn.Parameter(torch.full((config.steps,), config.gain))

    @property
    def memory(self) -> int:
        return self.config.history

    def check(self, grid: Tensor) -> None:
        """Refuse a grid (N + 1,) of a number of steps the operator was not made for.

        Raises:
            ValueError: N is outside `counts`.
        """
        if self.config.counts is not None:
            low, high = self.config.counts
            if not low <= len(grid) - 1 <= high:
                raise ValueError(
                    f"expected {low} to {high} steps, which this operator was trained for, got {len(grid) - 1}; "
                    "sample on a grid of so many"
                )

    def bind(self, condition: Tensor) -> BoundResidual:
        """This operator with the frozen condition in place; an operator without condition channels leaves it unread.

        Args:
            condition: (B, ..., H, W), the axes between flattened to `condition_channels`; B that of the state, or 1.

        Raises:
            ValueError: another number of channels.
        """
        if not self.config.condition_channels:
            return BoundResidual(self, None)
        flat = condition.flatten(1, -3).movedim(1, -1).to(self.condition.weight.dtype)
        if flat.shape[-1] != self.config.condition_channels:
            raise ValueError(
                f"expected a condition of {self.config.condition_channels} channels a position, got {flat.shape[-1]} "
                f"from {tuple(condition.shape)}; bind the condition this operator was built for"
            )
        hidden = self.condition(flat)
        if self.config.dimensions == 3:
            hidden = hidden.unflatten(-1, (-1, self.config.width)).movedim(-2, 1)
        return BoundResidual(self, hidden)

    def forward(self, state: State, proposal: State, condition: Tensor | None = None) -> Tensor:
        """What to add to `proposal.x`: the sum of `parts`."""
        rescaled, lift = self.parts(state, proposal, condition)
        return rescaled + lift

    def parts(self, state: State, proposal: State, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(a_i - 1)(y_prop - y) and g_i h_i R, both as changes of x.

        Args:
            state: the state (B, C, *space) the step starts from.
            proposal: the base solver's next state, whose buffer already holds this step's evaluations.
            condition: what `bind` made of the condition, (B or 1, *space, width).

        Raises:
            ValueError: a step beyond `steps`, or an operator with condition channels that was not bound.
        """
        if self.config.condition_channels and condition is None:
            raise ValueError("expected a bound condition, got none; call bind(condition) before sampling")
        node = self._scaling.at(state.t)
        step = self._scaling.between(state.t, proposal.t)
        time = float(state.t.detach()) / self.schedule.t_max
        embedding = self.embedding(step_features(time, node.log_snr, step.length))
        scale, gain = self._scalars(state.step, embedding)
        slope = self._network(state, proposal, embedding, condition).to(state.x.dtype)
        base = proposal.x - step.keep * state.x
        return (scale - 1).to(base.dtype) * base, (gain * (step.gain * node.slope)).to(base.dtype) * slope

    def _scalars(self, step: int, embedding: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.steps is None:
            scale, gain = self.scalars(embedding).to(self.scalars.weight.dtype)  # autocast would round a_i near 1
            return 1 + scale, self.config.gain + gain
        if step >= self.config.steps:
            raise ValueError(
                f"expected at most {self.config.steps} steps, got step {step + 1}; sample on the grid of the training"
            )
        return self.scale[step], self.gain[step]

    def _network(self, state: State, proposal: State, embedding: Tensor, condition: Tensor | None) -> Tensor:
        """R(z; c) (B, C, *space), in units of a slope's spread about what the state tells of it."""
        config = self.config
        buffer = proposal.buffer[: config.history]
        y = self._scaling.at(state.t).state * state.x
        nodes = [self._scaling.at(evaluation.t) for evaluation in buffer]
        slopes = [
            torch.add(node.velocity * evaluation.velocity, evaluation.x, alpha=node.drift)
            for node, evaluation in zip(nodes, buffer, strict=True)
        ]
        z = torch.cat([field.movedim(1, -1) for field in (y, *slopes)], dim=-1).to(self.stem.weight.dtype)
        # zero channels add nothing and mask channels are constant: leave the former out, add the latter to the bias
        masks = self.stem.weight[:, config.channels * (1 + config.history) :]
        bias = self.stem.bias + masks[:, : len(buffer)].sum(1)
        hidden = F.linear(z.contiguous(), self.stem.weight[:, : z.shape[-1]], bias)
        if condition is not None:
            hidden = hidden.add_(condition)
        for block in self.blocks:
            hidden = block(hidden, embedding)
        # frames go into the batch: the head is spatial
        images = self.head(hidden.reshape(-1, *hidden.shape[-3:]).movedim(-1, 1))
        return images.movedim(1, -1).reshape(*hidden.shape[:-1], config.channels).movedim(-1, 1)


@dataclass(frozen=True, eq=False)
class BoundResidual:
    """A `SpanLiftResidual` with its condition: the same parameters, the part of the stem that never changes done
    once."""

    residual: SpanLiftResidual
    condition: Tensor | None

    @property
    def memory(self) -> int:
        return self.residual.memory

    def check(self, grid: Tensor) -> None:
        self.residual.check(grid)

    def __call__(self, state: State, proposal: State) -> Tensor:
        return self.residual(state, proposal, self.condition)

    def parts(self, state: State, proposal: State) -> tuple[Tensor, Tensor]:
        return self.residual.parts(state, proposal, self.condition)

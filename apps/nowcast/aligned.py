"""Knowledge alignment: ancestral sampling drawn towards a mean intensity that somebody anticipates (PreDiff, Gao et al.
2023, section 3.3).

In every step the mean of the next latents moves against the gradient of |mean over frames of U(z_t, t) - anticipated|,
U the alignment network, by `scale` standard deviations of the step. PreDiff's demonstration took the anticipated
intensity from the future that it was to forecast. Here it is a number that the user gives, or a multiple of what was
observed last: the samplers below are never shown a future.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import core
from apps.nowcast.model import AlignmentNetwork
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.weight_files import load_alignment, read_card, weights_hash
from core.operators import Corrected
from core.solvers.ddpm import DDPM
from data_tools.cli import UserError

PREDIFF_SCALE = 50.0
"""PreDiff's strength of the pull, for its 1000 steps. Its sum over a run grows as the root of their number."""


@dataclass(frozen=True, slots=True)
class Anticipated:
    """The mean intensity of the coming frames that somebody expects.

    Attributes:
        value: mean over pixels and frames on the encoded scale [0, 1]; or, where `relative`, in means of the last
            observed frame.
        relative: see `value`.
    """

    value: float
    relative: bool = False

    def of(self, context: Tensor) -> Tensor:
        """The anticipated mean (B,) for observed frames (B, T, H, W) in [0, 1]; at most 1."""
        if not self.relative:
            return context.new_full((len(context),), self.value)
        return (self.value * context[:, -1].mean((-2, -1))).clamp(max=1.0)


def parse_anticipated(text: str) -> Anticipated:
    """`0.12` is a mean intensity, `1.5x` one and a half times that of the last observed frame.

    Raises:
        UserError: anything else, or a mean outside [0, 1].
    """
    relative = text.strip().endswith("x")
    try:
        value = float(text.strip().removesuffix("x"))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf or (value > 1 and not relative):
        raise UserError(
            f"expected --anticipated as a mean intensity from 0 to 1, or like 1.5x as a multiple of that of the last "
            f"observed frame, got {text!r}"
        )
    return Anticipated(value, relative)


@dataclass(frozen=True, eq=False)
class Pull:
    """What alignment adds to a step of ancestral sampling: a residual, see `core.operators.Corrected`.

    Attributes:
        network: reads frames' mean intensities off noisy latents; frozen.
        solver: takes the steps.
        anticipated: mean intensity of each sample, (B,).
        scale: strength, in standard deviations of the step.
    """

    network: AlignmentNetwork
    solver: DDPM
    anticipated: Tensor
    scale: float
    memory: int = field(default=1, init=False)

    def __call__(self, state: core.State, proposal: core.State) -> Tensor:
        return -self.scale * self.solver.spread(state.t, proposal.t) * self.gradient(state.x, state.t)

    def gradient(self, x: Tensor, t: Tensor) -> Tensor:
        """Of each sample's distance |mean_frames U(x, t) - anticipated| in its latents x (B, C, T, h, w)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            times = self.solver.schedule.network_time(t).to(x).expand(len(x))
            intensity = self.network(x.movedim(1, -1), times).mean((1, 2))
            distance = (intensity - self.anticipated.to(intensity)).abs().sum()
            return torch.autograd.grad(distance, x)[0]


@dataclass(frozen=True, eq=False)
class Alignment:
    """What aligned sampling takes: the network, what is anticipated, and how strongly it pulls."""

    network: AlignmentNetwork
    anticipated: Anticipated
    scale: float = PREDIFF_SCALE


def load_alignment_of(
    nowcaster: Nowcaster, anticipated: str, scale: float, path: str | None, folder: Path, device: str
) -> Alignment:
    """The alignment that the options of a command ask for.

    Args:
        nowcaster: the model it is to be used with.
        anticipated: see `parse_anticipated`.
        scale: strength of the pull.
        path: file of the network; alignment.safetensors in `folder`, that of the model, by default.
        folder: see `path`.
        device: where to sample.

    Raises:
        UserError: a number out of range, no such file, or a network of other latents than the model's.
    """
    wanted = parse_anticipated(anticipated)
    if not 0 <= scale < math.inf:
        raise UserError(f"expected --guide_scale of 0 or more, got {scale}; PreDiff's is {PREDIFF_SCALE:g}")
    file = Path(path) if path else folder / "alignment.safetensors"
    network = load_alignment(file)
    target = nowcaster.network.config.target_shape
    if network.config.target_shape != target:
        raise UserError(
            f"expected an alignment network of latents {target} in {file}, got {network.config.target_shape}"
        )
    codec = weights_hash(nowcaster.codec)
    if read_card(file).get("codec", codec) != codec:
        raise UserError(f"expected the alignment network of this model's latents in {file}, got that of another codec")
    return Alignment(network.to(device), wanted, scale)


@dataclass(frozen=True, eq=False)
class AlignedDDPM:
    """Ancestral sampling with alignment, once frames have been observed; with 1000 steps as in PreDiff, with fewer that
    of DDIM with eta = 1."""

    alignment: Alignment
    schedule: core.Schedule
    seeds: Sequence[int]

    def observe(self, context: Tensor) -> Corrected:
        """The solver for observed frames (B, context_frames, H, W) in [0, 1], one row for each seed."""
        solver = DDPM(self.schedule, tuple(self.seeds))
        anticipated = self.alignment.anticipated.of(context)
        return Corrected(solver, Pull(self.alignment.network, solver, anticipated, self.alignment.scale))

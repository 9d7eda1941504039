"""The frozen generative model of a nowcast: codec, velocity field, noise, grid, and the way from context to forecast.

Frames are (B, T, H, W) in [0, 1] (`Quantity.encode`); latents are (B, C, T, h, w), normalised to zero mean and unit
variance per channel over the training data. Sampling runs in float32 whatever the precision of the networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

import core
from apps.nowcast.codec import Codec
from apps.nowcast.data import Windows
from apps.nowcast.model import CuboidTransformerUNet
from apps.nowcast.weight_files import load_codec, load_network, read_card, save_weights, weights_hash
from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE

__all__ = [
    "ASSETS",
    "Codec",
    "Conditioned",
    "Forecast",
    "Nowcaster",
    "Observing",
    "Precision",
    "bound",
    "load_codec",
    "load_network",
    "read_card",
    "save_weights",
    "weights_hash",
]

ASSETS = Path(__file__).parent / "assets" / "mini"
"""The model that ships with the project."""

Precision = Literal["float32", "bfloat16"]


class Conditioned(nn.Module):
    """The network with its context bound: (x (B, C, T, h, w), network time ()) -> prediction, solver layout."""

    def __init__(self, network: CuboidTransformerUNet, context: Tensor, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.context = context.movedim(1, -1)
        self.precision = precision

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        times = time.to(x.device, torch.float32).expand(x.shape[0])
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            prediction = self.network(x.movedim(1, -1), times, self.context)
        return prediction.movedim(-1, 1).to(x.dtype)


@runtime_checkable
class Observing(Protocol):
    """A sampler that depends on the observed frames, not on their latents alone."""

    def observe(self, context: Tensor) -> core.Solver:
        """The solver for observed frames (B, context_frames, H, W) in [0, 1], one row for each sample."""
        ...


class Forecast(NamedTuple):
    """Forecast frames (B * M, T, H, W) in [0, 1] and the network evaluations each member took."""

    frames: Tensor
    nfe: int


class Nowcaster(nn.Module):
    """A frozen latent diffusion model of radar frames.

    Attributes:
        context_frames, target_frames: numbers of observed and of forecast frames.
        quantity: name of the quantity the model was trained on.
        time_steps: minutes between the frames it was trained on; empty where that is not known.
        schedule: the VP schedule the network was trained with (1000 steps, linear in sqrt(beta), as PreDiff).
    """

    def __init__(
        self,
        codec: Codec,
        network: CuboidTransformerUNet,
        precision: Precision = "float32",
        quantity: str = RAINFALL_RATE.name,
        time_steps: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.codec, self.network = codec, network
        self.precision: Precision = precision
        self.quantity, self.time_steps = quantity, tuple(time_steps)
        self.context_frames = network.config.context_shape[0]
        self.target_frames = network.config.target_shape[0]
        self.schedule = core.DiscreteVP.scaled_linear()
        self.requires_grad_(False).eval()

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, T, h, w) of the forecast's latents."""
        time, height, width, channels = self.network.config.target_shape
        return channels, time, height, width

    @property
    def frame_size(self) -> tuple[int, int]:
        """(H, W) of the frames the network was built for."""
        factor = 2 ** (len(self.codec.config.block_out_channels) - 1)
        return self.latent_shape[2] * factor, self.latent_shape[3] * factor

    @property
    def identity(self) -> str:
        """Hash of the weights that solvers were trained for."""
        return weights_hash(self)

    def encode(self, frames: Tensor) -> Tensor:
        return self.codec.encode(frames)

    def decode(self, latents: Tensor) -> Tensor:
        return self.codec.decode(latents)

    def field(self, context: Tensor) -> core.NoisePredictionField | core.VPredictionField:
        """The velocity field given context latents (B, C, context_frames, h, w)."""
        kind = core.VPredictionField if self.network.config.prediction == "v" else core.NoisePredictionField
        return kind(Conditioned(self.network, context, self.precision), self.schedule)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """x_T (B, C, T, h, w): one generator per sample, so that a member depends on its seed alone."""
        draws = [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        device = next(self.parameters()).device
        return torch.stack(draws).to(device)

    def grid(self, steps: int) -> Tensor:
        """Uniform times from 1 (noise) to 0 (data), steps + 1 of them."""
        return core.build_grid("uniform", steps=steps, t_max=1.0, t_min=0.0)

    @torch.no_grad()
    def forecast(
        self, context: Tensor, solver: core.Solver | Observing, grid: Tensor, seeds: Sequence[int]
    ) -> Forecast:
        """Ensemble forecast.

        Args:
            context: observed frames (B, context_frames, H, W) in [0, 1], finite.
            solver: any solver; one that reads the context gets it here.
            grid: descending times, see `grid`.
            seeds: B * M seeds, the M members of a window side by side.

        Raises:
            ValueError: the seeds are no multiple of the windows, or the frames have another size or number.
        """
        expected = (self.context_frames, *self.frame_size)
        if tuple(context.shape[1:]) != expected or not seeds or len(seeds) % len(context):
            raise ValueError(
                f"expected context (B, {', '.join(map(str, expected))}) and a multiple of B seeds, got "
                f"{tuple(context.shape)} and {len(seeds)}; cut windows of the model's size"
            )
        members = len(seeds) // len(context)
        latents = self.encode(context).repeat_interleave(members, 0)
        if isinstance(solver, Observing):
            solver = solver.observe(context.repeat_interleave(members, 0))
        state = core.integrate(self.field(latents), bound(solver, latents), self.noise(seeds), grid)
        return Forecast(self.decode(state.x.float()).clamp(0.0, 1.0), state.nfe)

    @classmethod
    def load(
        cls, folder: Path | str | None = None, *, device: str = "cpu", precision: Precision = "float32"
    ) -> Nowcaster:
        """Load a model; None gives the one that ships with the project.

        Raises:
            UserError: the folder or a file of it is missing, truncated or of another kind.
        """
        folder = ASSETS if folder is None else Path(folder)
        codec = load_codec(folder / "autoencoder.safetensors")
        network = load_network(folder / "unet.safetensors")
        if network.config.target_shape[-1] != codec.config.latent_channels:
            raise UserError(
                f"expected a network of {codec.config.latent_channels} latent channels in {folder}, got "
                f"{network.config.target_shape[-1]}; train the diffusion stage on the autoencoder beside it"
            )
        card = read_card(folder / "unet.safetensors")
        if card.get("codec", weights_hash(codec)) != weights_hash(codec):
            raise UserError(f"expected the autoencoder that the network in {folder} was trained on, got another one")
        data = card.get("data", {})
        quantity, time_steps = data.get("quantity", RAINFALL_RATE.name), data.get("time_step_minutes", ())
        return cls(codec, network, precision, quantity, time_steps).to(device)

    def check(self, windows: Windows) -> None:
        """Refuse windows that the model cannot read.

        Raises:
            UserError: another quantity, frame size or time step.
        """
        if windows.quantity.name != self.quantity:
            raise UserError(
                f"expected {self.quantity}, which the model was trained on, got {windows.quantity.name}; "
                "choose another store or another --model"
            )
        if windows.frames.shape[2:] != self.frame_size:
            raise UserError(
                f"expected frames of {self.frame_size} pixels, got {windows.frames.shape[2:]}; "
                f"ingest with --patch {self.frame_size[0]}, an event store of larger frames with --format store"
            )
        known = self.time_steps or windows.time_step_minutes.tolist()
        low, high = min(known), max(known)
        if not low <= windows.time_step_minutes.min() <= windows.time_step_minutes.max() <= high:
            raise UserError(
                f"expected frames {low:g} to {high:g} minutes apart, as in training, got "
                f"{windows.time_step_minutes.max():g}; ingest with another --frame_step"
            )


def bound(solver: core.Solver, context: Tensor) -> core.Solver:
    """The solver with the context bound, where it reads one."""
    return solver.bind(context) if isinstance(solver, core.Corrected) else solver

"""A frozen image model with what it takes to sample it: noise and labels of seeds, grid, velocity field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import core
from apps.imagegen.models.configurations import Architecture
from apps.imagegen.models.edm import EDMPrecond, written
from apps.imagegen.models.frozen_model import DTYPES, EXPONENTIAL, Precision
from apps.imagegen.models.seeds import SEEDS, check_class, drawn_class, unit_noise
from core.frozen import fingerprint
from core.parametrizations import Target

__all__ = ["CORE_DTYPES", "SEEDS", "ImageModel", "Labelled", "Precision", "image_model"]

CORE_DTYPES = DTYPES

ON_SIGMA = tuple(name for name in core.GRIDS if name not in ("shifted", "discrete"))
"""Grids that a model in the clock sigma can have."""


class Labelled(nn.Module):
    """A denoiser with its labels bound: (x (B, C, H, W), sigma () or (B,)) -> denoised (B, C, H, W)."""

    def __init__(self, network: nn.Module, labels: Tensor | None) -> None:
        super().__init__()
        self.network = network
        self.labels = labels

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.network(x, sigma, self.labels)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageModel:
    """A frozen denoiser with what it takes to sample it.

    Attributes:
        name: of the model.
        network: (x, sigma, labels) -> denoised float32; in eval mode, without gradients of its weights.
        resolution, channels: of the images, which are in about [-1, 1].
        label_dim: number of classes; 0 is unconditional.
        sigma_min, sigma_max: noise levels at which a run ends and starts.
        sigma_data: standard deviation of the data, as the preconditioning has it.
        identity: hash of the weights in float32, the sizes of the network and its preconditioning, which solvers are
            trained for; the same on every device and in every precision.
        card: where the weights come from.
        precision: of the network; states are in float32.
    """

    name: str
    network: nn.Module
    resolution: int
    channels: int
    label_dim: int
    sigma_min: float
    sigma_max: float
    sigma_data: float
    identity: str
    card: Mapping[str, Any]
    precision: Precision = "float32"

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def predicts(self) -> Target:
        return "data"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, self.resolution, self.resolution

    @property
    def image_channels(self) -> int:
        return self.channels

    @property
    def image_resolution(self) -> int:
        return self.resolution

    @property
    def conditions(self) -> str:
        return ""

    @property
    def schedule(self) -> core.EDM:
        return core.EDM(self.sigma_max, self.sigma_min)

    @property
    def chart(self) -> None:
        """x against t: in the clock sigma this is the noise chart."""
        return None

    @property
    def grids(self) -> tuple[str, ...]:
        return ON_SIGMA

    @property
    def prompts(self) -> None:
        return None

    def texts(self, seeds: Sequence[int]) -> None:
        """None: there are no prompts."""

    def default_grid(self, solver: str) -> str:
        """Karras', or log-SNR for the exponential methods, as their authors recommend."""
        return "logsnr" if solver in EXPONENTIAL else "karras"

    def decode(self, x: Tensor) -> Tensor:
        """The images themselves."""
        return x

    def prepare(self, seeds: Sequence[int]) -> None:
        """Nothing: seeds say noise and class."""

    def to(self, device: torch.device | str) -> ImageModel:
        """The model on another device; the network moves, so this one moves with it."""
        self.network.to(device)
        return self

    def field(self, labels: Tensor | None = None) -> core.DenoiserField:
        """The velocity field in the clock sigma.

        Args:
            labels: (B or 1, label_dim), see `labels`; None is "any class" of a conditional model.
        """
        if labels is not None:
            labels = labels.to(self.device)
        return core.DenoiserField(Labelled(self.network, labels).eval())

    def noise(self, seeds: Sequence[int], draw_on: str = "cpu") -> Tensor:
        """Unit noise (B, C, H, W) on the model's device: a generator per image, so that it depends on its seed alone.

        Args:
            seeds: one per image.
            draw_on: device of the generators; published figures drew on "cuda", whose numbers differ.
        """
        return unit_noise(self.shape, seeds, draw_on).to(self.device)

    def start(self, seeds: Sequence[int], draw_on: str = "cpu", t: float | None = None) -> Tensor:
        """x_T (B, C, H, W): noise of standard deviation t, sigma_max where not given."""
        return self.noise(seeds, draw_on) * (self.sigma_max if t is None else t)

    def labels(self, seeds: Sequence[int], class_index: int | None = None, draw_on: str = "cpu") -> Tensor | None:
        """One-hot classes (B, label_dim), or None of an unconditional model.

        Args:
            seeds: one per image; its class is drawn from the same generator, after its noise.
            class_index: the same class for all.
            draw_on: see `noise`.

        Raises:
            UserError: a class that the model does not have.
        """
        check_class(class_index, self.label_dim)
        if not self.label_dim:
            return None
        classes = [
            drawn_class(self.shape, self.label_dim, seed, draw_on) if class_index is None else class_index
            for seed in seeds
        ]
        return torch.eye(self.label_dim)[classes].to(self.device)

    def grid(
        self,
        name: str,
        steps: int,
        *,
        rho: float = 7.0,
        x_T: Tensor | None = None,
        teacher: core.Solver | None = None,
        teacher_grid: Tensor | None = None,
        afs: bool | None = None,
        data: Tensor | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Times (steps + 1,) from sigma_max to sigma_min, see `core.build_grid`; searched grids get this model.

        Raises:
            ValueError: an unknown name, or options that the grid does not take or lacks.
        """
        entry = core.GRIDS.get(name)
        field = self.field() if entry is not None and "field" in entry.needs else None
        return core.build_grid(
            name,
            steps,
            self.sigma_max,
            self.sigma_min,
            rho=rho,
            field=field,
            x_T=x_T,
            teacher=teacher,
            teacher_grid=teacher_grid,
            afs=afs,
            data=data,
            seed=seed,
        )


def image_model(
    network: EDMPrecond, architecture: Architecture, card: Mapping[str, Any], precision: Precision = "float32"
) -> ImageModel:
    """A network in memory as a frozen model; it is frozen in place, and its core cast where the precision is low.

    Weights that a file keeps in float16 come back rounded, so that the model read from it has another identity.
    """
    network.eval().requires_grad_(False)
    sizes = json.dumps([written(architecture.network), architecture.sigma_data], sort_keys=True)
    identity = hashlib.sha256(f"{fingerprint(network)}:{sizes}".encode()).hexdigest()
    network.cast_core(CORE_DTYPES[precision])
    return ImageModel(
        name=architecture.name,
        network=network,
        resolution=architecture.resolution,
        channels=architecture.channels,
        label_dim=architecture.label_dim,
        sigma_min=architecture.sigma_min,
        sigma_max=architecture.sigma_max,
        sigma_data=architecture.sigma_data,
        identity=identity,
        card=card,
        precision=precision,
    )

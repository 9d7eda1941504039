"""A frozen image model with what it takes to sample it: noise and labels of seeds, grid, velocity field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

import core
from apps.imagegen.models.configurations import Architecture
from apps.imagegen.models.edm import EDMPrecond, written
from core.frozen import fingerprint
from data_tools.cli import UserError

Precision = Literal["float32", "bfloat16", "float16"]
CORE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SEEDS = 1 << 32
"""A seed counts modulo this number, as in EDM."""


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
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, self.resolution, self.resolution

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
        draws = [torch.randn(self.shape, generator=_generator(seed, draw_on), device=draw_on) for seed in seeds]
        return torch.stack(draws).to(self.device) if draws else torch.empty(0, *self.shape, device=self.device)

    def start(self, seeds: Sequence[int], draw_on: str = "cpu") -> Tensor:
        """x_T (B, C, H, W): noise of standard deviation sigma_max."""
        return self.noise(seeds, draw_on) * self.sigma_max

    def labels(self, seeds: Sequence[int], class_index: int | None = None, draw_on: str = "cpu") -> Tensor | None:
        """One-hot classes (B, label_dim), or None of an unconditional model.

        Args:
            seeds: one per image; its class is drawn from the same generator, after its noise.
            class_index: the same class for all.
            draw_on: see `noise`.

        Raises:
            UserError: a class that the model does not have.
        """
        if class_index is not None and not 0 <= class_index < self.label_dim:
            known = f"0 to {self.label_dim - 1}" if self.label_dim else "no class, for the model has none"
            raise UserError(f"expected a class from {known}, got {class_index}; change or leave out the class")
        if not self.label_dim:
            return None
        classes = [self._drawn_class(seed, draw_on) if class_index is None else class_index for seed in seeds]
        return torch.eye(self.label_dim)[classes].to(self.device)

    def _drawn_class(self, seed: int, draw_on: str) -> int:
        generator = _generator(seed, draw_on)
        torch.randn(self.shape, generator=generator, device=draw_on)
        return int(torch.randint(self.label_dim, (), generator=generator, device=draw_on))

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


def _generator(seed: int, device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed % SEEDS)

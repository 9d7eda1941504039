"""What solvers, pairs, training, sampling and evaluation know of a frozen model, be it of pixels or of latents.

A sample is a seed. It says the noise, the class where there are classes, and the prompt where there are prompts. The
state (B, C, H, W) that a solver moves is float32 and lives in the model's own space; `decode` makes images of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

import core
from apps.imagegen.models.latent.prompts import Prompts
from core.parametrizations import Target
from data_tools.cli import UserError

Precision = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

EXPONENTIAL = ("dpm-solver++", "unipc", "dpm-solver-v3")
"""Solvers whose authors recommend steps that are even in log-SNR."""


def check_precision(precision: str, device: torch.device | str) -> None:
    """Raise `UserError` unless a network runs in this precision on the device."""
    if precision not in DTYPES:
        raise UserError(f"expected a precision among {', '.join(DTYPES)}, got {precision!r}; choose one")
    if precision == "float16" and str(device).partition(":")[0] != "cuda":
        raise UserError(f"expected --device cuda with precision float16, got {device}; take bfloat16 or float32")


class FrozenModel(Protocol):
    """A frozen network with what it takes to sample it and to train solvers of it.

    Attributes:
        name: of the model.
        identity: hash that solvers are trained for; the same on every device and in every precision.
        precision: of the network; states are in float32.
        card: where the weights come from.
        network: frozen, in eval mode.
        device: of the network.
        shape: (C, H, W) of the state.
        channels, resolution: C and H of the state.
        image_channels, image_resolution: C and H of what `decode` gives.
        sigma_data: standard deviation of the data, as states; 1 for latents, which are scaled to that.
        label_dim: number of classes; 0 where there are none. Prompts are no classes.
        conditions: hash of what labels stand for: the prompts, the text encoder, its precision; empty where seeds say
            it all. Caches of endpoints carry it.
        schedule: the model's clock.
        chart: schedule that handcrafted multistep solvers are built with; None where x against t suits them.
            Exponential methods take `schedule` always.
        grids: names of `core.GRIDS` that it can have.
        prompts: all of them, where labels are rows of prompts; else None.
        predicts: what the network predicts, "velocity" of rectified flow.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def card(self) -> Mapping[str, Any]: ...
    @property
    def network(self) -> nn.Module: ...
    @property
    def predicts(self) -> Target: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def channels(self) -> int: ...
    @property
    def resolution(self) -> int: ...
    @property
    def image_channels(self) -> int: ...
    @property
    def image_resolution(self) -> int: ...
    @property
    def sigma_data(self) -> float: ...
    @property
    def label_dim(self) -> int: ...
    @property
    def conditions(self) -> str: ...
    @property
    def schedule(self) -> core.Schedule: ...
    @property
    def chart(self) -> core.Schedule | None: ...
    @property
    def grids(self) -> tuple[str, ...]: ...
    @property
    def prompts(self) -> Prompts | None: ...

    def default_grid(self, solver: str) -> str:
        """Name of the grid that a handcrafted solver, by its name, runs on where no other is asked for."""
        ...

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
        """Times (steps + 1,) of this model, float64, see `core.build_grid`; searched grids get this model.

        Raises:
            ValueError: a grid that this model cannot have, or options that the grid does not take or lacks.
        """
        ...

    def labels(self, seeds: Sequence[int], class_index: int | None = None, draw_on: str = "cpu") -> Tensor | None:
        """What `field` binds for these seeds: one-hot classes float32 (B, label_dim), or int64 (B, 1) rows of the
        prompts or classes, or None of an unconditional model.

        Args:
            seeds: one per sample.
            class_index: the same class for all; of models with classes.
            draw_on: device of the generators, see `noise`.

        Raises:
            UserError: a class that the model does not have; no prompts of a model that needs them.
        """
        ...

    def texts(self, seeds: Sequence[int]) -> tuple[str, ...] | None:
        """The prompts of these seeds; None of a model without."""
        ...

    def field(self, labels: Tensor | None = None) -> core.VelocityField:
        """The velocity field with its labels and guidance bound; it has a `schedule`, `evaluations_per_call` (2 where
        guidance doubles the batch) and an `analytic_velocity`."""
        ...

    def noise(self, seeds: Sequence[int], draw_on: str = "cpu") -> Tensor:
        """Unit noise (B, C, H, W) float32 on the model's device, a generator per sample.

        Args:
            seeds: one per sample.
            draw_on: device of the generators; published figures drew on "cuda", whose numbers differ.
        """
        ...

    def start(self, seeds: Sequence[int], draw_on: str = "cpu", t: float | None = None) -> Tensor:
        """x_T (B, C, H, W): what runs start from at time t, the schedule's `t_max` where not given."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """Images (B, image_channels, image_resolution, image_resolution) float32 in about [-1, 1] of states; gradients
        pass."""
        ...

    def prepare(self, seeds: Sequence[int]) -> None:
        """Compute and keep what the labels of these seeds stand for, such as text embeddings, if it is not there."""
        ...

    def to(self, device: torch.device | str) -> FrozenModel:
        """The model on another device; the network moves, so this one moves with it."""
        ...

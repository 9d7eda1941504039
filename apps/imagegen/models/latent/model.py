"""A diffusers pipeline's network as a frozen model: states are its latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import core
from apps.imagegen.models.frozen_model import EXPONENTIAL, Precision
from apps.imagegen.models.latent.family import Condition, Conditioned, Family
from apps.imagegen.models.latent.flow import FlowFamily
from apps.imagegen.models.latent.prompts import Prompts
from apps.imagegen.models.latent.text import Text, no_prompts
from apps.imagegen.models.memory import enough_memory
from apps.imagegen.models.seeds import FIRST_SEED, check_class, drawn_class, unit_noise
from core.parametrizations import Target

FLOW_GRIDS = ("shifted", "uniform", "quadratic", "gits")
"""Of rectified flow from pure noise to data, where log-SNR is infinite at both ends."""
DIFFUSION_GRIDS = tuple(name for name in core.GRIDS if name != "shifted")
FINE_STEPS = 60
"""Of the teacher that GITS searches with."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatentModel:
    """A frozen latent model; see `FrozenModel`. One evaluation of its field is a guided one: where guidance doubles the
    batch it counts as two network calls.

    Attributes:
        name: of the catalogue, the hub or the folder.
        family: network, decoder and how they are called.
        identity: hash of the network's weights as stored, its configuration, what it predicts, guidance and size.
        precision: of the network and the decoder; latents are in float32.
        card: where the weights come from.
        text: prompts and their embeddings; None where there are none.
    """

    name: str
    family: Family
    identity: str
    precision: Precision
    card: Mapping[str, Any]
    text: Text | None = None

    @property
    def network(self) -> nn.Module:
        return self.family.network

    @property
    def decoder(self) -> nn.Module:
        return self.family.decoder

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.family.shape

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def resolution(self) -> int:
        return self.shape[1]

    @property
    def image_channels(self) -> int:
        return 3

    @property
    def image_resolution(self) -> int:
        return self.family.size

    @property
    def predicts(self) -> Target:
        return self.family.predicts

    @property
    def guidance(self) -> float:
        return self.family.guidance

    @property
    def sigma_data(self) -> float:
        return 1.0

    @property
    def label_dim(self) -> int:
        return self.family.classes

    @property
    def prompts(self) -> Prompts | None:
        return None if self.text is None else self.text.prompts

    @property
    def conditions(self) -> str:
        return "" if self.text is None else self.text.fingerprint

    @property
    def schedule(self) -> core.Schedule:
        return self.family.schedule

    @property
    def chart(self) -> core.Schedule | None:
        return None if isinstance(self.family, FlowFamily) else self.schedule

    @property
    def grids(self) -> tuple[str, ...]:
        return FLOW_GRIDS if isinstance(self.family, FlowFamily) else DIFFUSION_GRIDS

    def default_grid(self, solver: str) -> str:
        """Shifted in rectified flow; else even in the network's own time, or log-SNR for exponential methods."""
        if isinstance(self.family, FlowFamily):
            return "shifted"
        return "logsnr" if solver in EXPONENTIAL else "discrete"

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
        """See `FrozenModel.grid`. "shifted" has the pipeline's own shift. GITS searches with the first prompts to train
        on, or classes, of `x_T`'s number."""
        if name in core.GRIDS and name not in self.grids:
            raise ValueError(
                f"expected a grid among {', '.join(self.grids)} for {self.name}, got {name!r}; choose one of these"
            )
        needs_field = name in core.GRIDS and "field" in core.GRIDS[name].needs
        known = x_T if x_T is not None else data
        if name == "gits" and teacher_grid is None and isinstance(self.family, FlowFamily):
            teacher_grid = self.grid("shifted", FINE_STEPS)
        return core.build_grid(
            name,
            steps,
            rho=rho,
            shift=self.family.shift if isinstance(self.family, FlowFamily) else 3.0,
            schedule=self.schedule,
            field=self.field(self._first_labels(known)) if needs_field and known is not None else None,
            x_T=x_T,
            teacher=teacher,
            teacher_grid=teacher_grid,
            afs=afs,
            data=data,
            seed=seed,
        )

    def labels(self, seeds: Sequence[int], class_index: int | None = None, draw_on: str = "cpu") -> Tensor | None:
        """int64 (B, 1): rows of the prompts, or classes drawn after the noise; None of an unconditional model."""
        check_class(class_index, self.label_dim)
        if self.label_dim:
            draw = [drawn_class(self.shape, self.label_dim, seed, draw_on) for seed in seeds if class_index is None]
            rows = draw if class_index is None else [class_index] * len(seeds)
        elif self.family.text_components:
            rows = self._needed_text().rows(seeds)
        else:
            return None
        return torch.tensor(rows, dtype=torch.int64, device=self.device).reshape(-1, 1)

    def texts(self, seeds: Sequence[int]) -> tuple[str, ...] | None:
        if self.text is None:
            return None
        texts = self.text.prompts.all
        return tuple(texts[row] for row in self.text.rows(seeds))

    def prepare(self, seeds: Sequence[int]) -> None:
        """Encode the prompts of these seeds that never were."""
        if self.family.text_components:
            text = self._needed_text()
            text.prepare(text.rows(seeds), self.device)

    def field(self, labels: Tensor | None = None) -> core.VelocityField:
        """The velocity field with guidance bound.

        Args:
            labels: (B or 1, 1), see `labels`; None of a model with prompts is the negative text without guidance, and
                of one with classes the class "none".

        Raises:
            UserError: no prompts of a model that needs them.
        """
        if self.family.text_components:
            text = self._needed_text()
            if labels is None:
                return self.bind(text.read_negative(self.device))
            return self.bind(*text.read(labels.flatten().tolist(), self.device))
        if not self.label_dim:
            return self.bind({})
        without = {name: value.to(self.device) for name, value in self.family.without_class().items()}
        if labels is None:
            return self.bind(without)
        return self.bind({"classes": labels.flatten().to(self.device)}, without if self.family.doubles else None)

    def bind(self, condition: Condition, negative: Condition | None = None) -> core.VelocityField:
        """The velocity field of a condition in memory, as `Family.predict` takes it.

        Args:
            condition: {name: (B or 1, ...)} on the model's device.
            negative: of guidance's second evaluation; None for none.
        """
        network = Conditioned(self.family, condition, negative).eval()
        calls = 1 if negative is None else 2
        schedule = self.schedule
        if isinstance(schedule, core.RectifiedFlow):
            return core.FlowField(network, calls, schedule)
        kind = core.VPredictionField if self.family.predicts == "v" else core.NoisePredictionField
        return kind(network, schedule, calls)

    def noise(self, seeds: Sequence[int], draw_on: str = "cpu") -> Tensor:
        """Unit noise (B, C, H, W) on the model's device."""
        return unit_noise(self.shape, seeds, draw_on).to(self.device)

    def start(self, seeds: Sequence[int], draw_on: str = "cpu", t: float | None = None) -> Tensor:
        """Noise, sigma(t) times it in rectified flow; a variance-preserving run starts from unit noise at any t."""
        noise = self.noise(seeds, draw_on)
        if t is None or not isinstance(self.family, FlowFamily):
            return noise
        return noise * float(self.schedule(t).sigma)

    def decode(self, x: Tensor) -> Tensor:
        """Images (B, 3, size, size), decoded some at a time.

        Raises:
            UserError: the device's memory does not suffice.
        """
        with enough_memory():
            return self.family.decode(x)

    def to(self, device: torch.device | str) -> LatentModel:
        with enough_memory():
            self.network.to(device)
            self.decoder.to(device)
        return self

    def _needed_text(self) -> Text:
        if self.text is None:
            raise no_prompts(self.name)
        return self.text

    def _first_labels(self, x: Tensor) -> Tensor | None:
        if self.label_dim:
            return (torch.arange(len(x)) % self.label_dim).reshape(-1, 1)
        if not self.family.text_components:
            return None
        seeds = range(FIRST_SEED, FIRST_SEED + len(x))  # none of a prompt for evaluation
        return torch.tensor(self._needed_text().rows(seeds)).reshape(-1, 1)

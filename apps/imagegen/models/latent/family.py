"""What differs between the families of latent models, and what they have in common.

A family knows one kind of pipeline: what its network is called with, in which clock, what its prediction means, how
texts are encoded and latents decoded. Guidance, batches and fields are common to all.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import core
from apps.imagegen.models.memory import enough_memory
from core.parametrizations import Target

Condition = Mapping[str, Tensor]
"""What a network is told beside state and time: {name: (B or 1, ...)}."""

PIXELS_AT_ONCE = 1 << 22
"""That a decoder gives in one call: four images of 1024 x 1024."""


@dataclass(frozen=True, eq=False)
class Family(ABC):
    """One kind of pipeline, its network and decoder in memory.

    Attributes:
        network: of the velocity or the noise.
        decoder: autoencoder.
        scheduler_config: of the pipeline's own scheduler, for the noise schedule or the shift.
        size: of the images, in pixels a side.
        guidance: scale of the guidance; 1 is none.
    """

    network: nn.Module
    decoder: nn.Module
    scheduler_config: Mapping[str, Any]
    size: int
    guidance: float

    name: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]
    """Class names of the pipelines."""
    network_component: ClassVar[str]
    decoder_component: ClassVar[str] = "vae"
    text_components: ClassVar[tuple[str, ...]] = ()
    """Of the pipeline, needed for encoding texts; () of families without texts."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Components that are never loaded."""
    guided: ClassVar[bool] = True
    """Whether a scale of guidance has anything to scale."""

    @staticmethod
    @abstractmethod
    def default_size(network: Any, decoder: Any) -> int:
        """Pixels a side that the model was trained for."""

    @staticmethod
    @abstractmethod
    def pixels_per_latent(network: Any, decoder: Any) -> int:
        """Pixels a side of one place of the state."""

    @classmethod
    def multiple(cls, network: Any, decoder: Any) -> int:
        """What sizes in pixels have to be a multiple of."""
        return cls.pixels_per_latent(network, decoder)

    @classmethod
    def default_guidance(cls, pipeline: type) -> float:
        """That of the pipeline, where it has one."""
        parameter = inspect.signature(pipeline.__call__).parameters.get("guidance_scale")
        return 1.0 if parameter is None else float(parameter.default)

    @property
    @abstractmethod
    def channels(self) -> int:
        """Of the state."""

    @property
    def classes(self) -> int:
        """Number of classes; 0 where there are none."""
        return 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the state."""
        side = self.size // self.pixels_per_latent(self.network, self.decoder)
        return self.channels, side, side

    @property
    @abstractmethod
    def schedule(self) -> core.Schedule:
        """The clock."""

    @property
    @abstractmethod
    def predicts(self) -> Target:
        """What the network predicts: "velocity" of rectified flow, "noise" or "v"."""

    @property
    def doubles(self) -> bool:
        """Whether guidance takes a second, unconditional evaluation."""
        return self.guidance > 1

    @abstractmethod
    def predict(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """One network call.

        Args:
            x: (B, C, H, W) in the network's type.
            time: () what the schedule tells the network, in float32.
            condition: each (B, ...).

        Returns:
            (B, C, H, W) in the network's type.
        """

    @staticmethod
    def encode(pipeline: Any, texts: Sequence[str], device: torch.device, negative: bool) -> dict[str, Tensor]:
        """Embeddings of texts by the pipeline's own `encode_prompt`: {name: (B, ...)}.

        Args:
            pipeline: with its text components.
            texts: prompts.
            device: of the encoders.
            negative: whether they are what guidance leads away from.
        """
        raise NotImplementedError("expected a family with texts, got one without; it has none to encode")

    @classmethod
    def text_settings(cls, pipeline: type) -> dict[str, Any]:
        """What embeddings depend on beside the encoders and the text, as JSON."""
        return {}

    def without_class(self) -> Condition:
        """The condition of guidance's second evaluation, of families with classes."""
        return {}

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What the prediction depends on beside weights and configuration, as JSON."""
        return {"predicts": self.predicts, "guidance": max(self.guidance, 1.0), "size": self.size}

    def decode(self, x: Tensor) -> Tensor:
        """Images (B, 3, size, size) float32 in about [-1, 1] of latents (B, C, H, W); gradients pass."""
        at_once = max(1, PIXELS_AT_ONCE // self.size**2)
        latents = self.unscaled(x).to(type_of(self.decoder))
        parts = [self.decoder.decode(part, return_dict=False)[0] for part in latents.split(at_once)]  # pyright: ignore
        return torch.cat(parts).float()

    def unscaled(self, x: Tensor) -> Tensor:
        """Latents as the decoder wants them."""
        return x / self.decoder.config.scaling_factor  # pyright: ignore


class Conditioned(nn.Module):
    """A family's network with its condition and guidance bound: (x (B, C, H, W), time ()) -> prediction, float32 at
    least.

    Guidance is one call of twice the batch, [without, with]: without + scale (with - without) (Ho & Salimans 2022,
    arXiv 2207.12598).

    Args:
        family: whose network it is.
        condition: each (B, ...), or (1, ...) of all.
        negative: of the second evaluation; None for no guidance.
    """

    def __init__(self, family: Family, condition: Condition, negative: Condition | None) -> None:
        super().__init__()
        self.network = family.network
        self.family = family
        self.condition = condition
        self.negative = negative

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        state = x.to(type_of(self.network))
        kept = torch.promote_types(state.dtype, torch.float32)
        condition = repeated(self.condition, len(x))
        with enough_memory():
            if self.negative is None:
                return self.family.predict(state, time, condition).to(kept)
            negative = repeated(self.negative, len(x))
            both = {name: torch.cat([negative[name], value]) for name, value in condition.items()}
            prediction = self.family.predict(torch.cat([state, state]), time, both).to(kept)
        without, within = prediction.chunk(2)
        return without + self.family.guidance * (within - without)


def repeated(condition: Condition, count: int) -> dict[str, Tensor]:
    """A condition of one sample for `count` of them; others as they are."""
    return {
        name: value.expand(count, *value.shape[1:]) if len(value) == 1 else value for name, value in condition.items()
    }


def type_of(network: nn.Module) -> torch.dtype:
    """Type of the numbers that a network computes with."""
    return next(parameter.dtype for parameter in network.parameters() if parameter.is_floating_point())


def halvings(blocks: Sequence[int]) -> int:
    """Pixels a side of one latent of an autoencoder whose blocks have these channels: it halves between them."""
    return 2 ** (len(blocks) - 1)

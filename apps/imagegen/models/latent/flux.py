"""FLUX.1: a transformer over packed latents in rectified flow, of text; its guidance is an input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from apps.imagegen.models.latent.family import Condition, halvings
from apps.imagegen.models.latent.flow import FlowFamily

TOKENS = 512
"""Of a prompt in T5."""
SHIFTS = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
"""FLUX.1-dev's: the logarithm of the shift is linear in the number of packed latents."""


class Flux(FlowFamily):
    """`FluxPipeline`: states are latents (B, 16, H/8, W/8), which the network sees packed; guidance costs no second
    evaluation.
    """

    name: ClassVar[str] = "flux"
    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    network_component: ClassVar[str] = "transformer"
    text_components: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    unused: ClassVar[tuple[str, ...]] = ("image_encoder", "feature_extractor")

    @staticmethod
    def default_size(network: Any, decoder: Any) -> int:
        return decoder.config.sample_size

    @staticmethod
    def pixels_per_latent(network: Any, decoder: Any) -> int:
        return halvings(decoder.config.block_out_channels)

    @classmethod
    def multiple(cls, network: Any, decoder: Any) -> int:
        return 2 * cls.pixels_per_latent(network, decoder)

    @property
    def channels(self) -> int:
        return self.network.config.in_channels // 4  # pyright: ignore

    @property
    def doubles(self) -> bool:
        return False

    @property
    def distilled(self) -> bool:
        """Whether the network takes guidance as an input, as FLUX.1-dev does and FLUX.1-schnell does not."""
        return bool(self.network.config.guidance_embeds)  # pyright: ignore

    @property
    def prediction_settings(self) -> dict[str, Any]:
        return {**super().prediction_settings, "guidance": self.guidance if self.distilled else None}

    @property
    def shift(self) -> float:
        config = self.scheduler_config
        if not config.get("use_dynamic_shifting", False):
            return float(config.get("shift") or 1.0)
        tokens, grow, base, top = (config.get(name) or value for name, value in SHIFTS.items())
        _, height, width = self.shape
        slope = (top - base) / (grow - tokens)
        return math.exp(base + slope * (height * width / 4 - tokens))

    def predict(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """noise - data; the network is told sigma."""
        _, _, height, width = x.shape
        embeds = condition["embeds"].to(x.dtype)
        prediction = self.network(
            hidden_states=packed(x),
            timestep=time.expand(len(x)).to(x.dtype),
            guidance=torch.full([len(x)], self.guidance, device=x.device) if self.distilled else None,
            pooled_projections=condition["pooled"].to(x.dtype),
            encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3, device=x.device, dtype=x.dtype),
            img_ids=places(height // 2, width // 2, x),
            return_dict=False,
        )[0]
        return unpacked(prediction, height, width)

    @staticmethod
    def encode(pipeline: Any, texts: Sequence[str], device: torch.device, negative: bool) -> dict[str, Tensor]:
        """{"embeds": (B, 512, D) of T5, "pooled": (B, P) of CLIP}."""
        embeds, pooled, _ = pipeline.encode_prompt(
            list(texts), prompt_2=None, device=device, max_sequence_length=TOKENS
        )
        return {"embeds": embeds, "pooled": pooled}

    @classmethod
    def text_settings(cls, pipeline: type) -> dict[str, Any]:
        return {"tokens": TOKENS}

    def unscaled(self, x: Tensor) -> Tensor:
        config: Any = self.decoder.config
        return x / config.scaling_factor + config.shift_factor


def packed(x: Tensor) -> Tensor:
    """Latents (B, C, H, W) as tokens (B, H/2 W/2, 4C) of 2 x 2 places, channels slowest."""
    batch, channels, height, width = x.shape
    patches = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, 4 * channels)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `packed`: latents (B, C, height, width)."""
    batch, _, size = tokens.shape
    patches = tokens.reshape(batch, height // 2, width // 2, size // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, size // 4, height, width)


def places(rows: int, columns: int, like: Tensor) -> Tensor:
    """(rows * columns, 3): 0, row and column of each token."""
    grid = torch.zeros(rows, columns, 3, device=like.device)
    grid[..., 1] = torch.arange(rows, device=like.device)[:, None]
    grid[..., 2] = torch.arange(columns, device=like.device)
    return grid.reshape(-1, 3).to(like.dtype)

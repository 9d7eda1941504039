"""Stable Diffusion 1 and 2 (Rombach et al. 2022, arXiv 2112.10752): a UNet in latents, of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from apps.imagegen.models.latent.diffusion import DiffusionFamily
from apps.imagegen.models.latent.family import Condition


class StableDiffusion(DiffusionFamily):
    """`StableDiffusionPipeline`: latents (B, 4, H/8, W/8), noise or v prediction; guided by a second evaluation."""

    name: ClassVar[str] = "stable-diffusion"
    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    network_component: ClassVar[str] = "unet"
    text_components: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")
    unused: ClassVar[tuple[str, ...]] = ("safety_checker", "feature_extractor", "image_encoder")

    def predict(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        embeds = condition["embeds"].to(x.dtype)
        return self.network(x, time.expand(len(x)), encoder_hidden_states=embeds, return_dict=False)[0]

    @staticmethod
    def encode(pipeline: Any, texts: Sequence[str], device: torch.device, negative: bool) -> dict[str, Tensor]:
        """{"embeds": (B, 77, D)} of CLIP."""
        embeds, _ = pipeline.encode_prompt(list(texts), device, 1, False)
        return {"embeds": embeds}

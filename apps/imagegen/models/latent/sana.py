"""SANA (Xie et al. 2024, arXiv 2410.10629): a linear transformer in rectified flow, of text."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from apps.imagegen.models.latent.family import Condition, halvings
from apps.imagegen.models.latent.flow import FlowFamily

TOKENS = 300
"""Of a prompt, after those of the instruction."""
SHIFT = 3.0
"""Of the grid, where the pipeline's scheduler does not say (SANA, section 3.3)."""


class Sana(FlowFamily):
    """`SanaPipeline`: latents (B, 32, H/32, W/32); guided by a second evaluation."""

    name: ClassVar[str] = "sana"
    pipelines: ClassVar[tuple[str, ...]] = ("SanaPipeline",)
    network_component: ClassVar[str] = "transformer"
    text_components: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")

    @staticmethod
    def default_size(network: Any, decoder: Any) -> int:
        return network.config.sample_size * Sana.pixels_per_latent(network, decoder)

    @staticmethod
    def pixels_per_latent(network: Any, decoder: Any) -> int:
        return halvings(decoder.config.encoder_block_out_channels)

    @classmethod
    def multiple(cls, network: Any, decoder: Any) -> int:
        return cls.pixels_per_latent(network, decoder) * network.config.patch_size

    @property
    def channels(self) -> int:
        return self.network.config.in_channels  # pyright: ignore

    @property
    def shift(self) -> float:
        config = self.scheduler_config
        return float(config.get("flow_shift") or config.get("shift") or SHIFT)

    def predict(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """noise - data; the network is told 1000 sigma. Where it gives a variance too, that is dropped."""
        config: Any = self.network.config
        prediction = self.network(
            x,
            encoder_hidden_states=condition["embeds"].to(x.dtype),
            encoder_attention_mask=condition["mask"],
            timestep=(1000 * time).expand(len(x)) * config.timestep_scale,
            return_dict=False,
        )[0]
        return prediction[:, : config.in_channels]

    @staticmethod
    def encode(pipeline: Any, texts: Sequence[str], device: torch.device, negative: bool) -> dict[str, Tensor]:
        """{"embeds": (B, 300, D), "mask": (B, 300)}; prompts follow the pipeline's instruction, negative ones do
        not."""
        embeds, mask, _, _ = pipeline.encode_prompt(
            list(texts), do_classifier_free_guidance=False, device=device, max_sequence_length=TOKENS,
            complex_human_instruction=None if negative else instruction(type(pipeline)),
        )  # fmt: skip
        return {"embeds": embeds, "mask": mask}

    @classmethod
    def text_settings(cls, pipeline: type) -> dict[str, Any]:
        return {"tokens": TOKENS, "instruction": instruction(pipeline)}


def instruction(pipeline: type) -> list[str]:
    """The "complex human instruction" that the pipeline puts before a prompt."""
    return list(inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default)

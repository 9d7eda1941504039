"""CLIP score: how well an image fits its prompt, 100 times the cosine of CLIP's embeddings (Radford et al. 2021,
arXiv 2103.00020), not clipped at 0.

DyWeight's tables have this scale (24 to 28); the paper does not say of which CLIP. Ours is ViT-L/14.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from apps.imagegen.local_weights import find_weights, read_network, require_weights, without_chatter
from apps.imagegen.rewards.scorer import pictures, quiet
from data_tools.cli import UserError

CLIP_VARIABLE = "SPANLIFT_CLIP"
"""Environment variable with another CLIP: a folder, or a repository in the hub's cache."""
REPOSITORY = "openai/clip-vit-large-patch14"


class ClipScore:
    """See the module and `Scorer`.

    Args:
        model: a frozen transformers.CLIPModel.
        processor: its CLIPProcessor: resizes the shorter side, crops the centre, cuts prompts at the model's length.
        label: of the weights.
    """

    def __init__(self, model: Any, processor: Any, label: str) -> None:
        self.name = f"CLIP score ({label}, 100 x cosine)"
        self._model, self._processor = model, processor

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        model = self._model
        with quiet():
            inputs = self._processor(
                text=list(prompts),
                images=pictures(images, prompts),
                padding=True,
                truncation=True,
                max_length=model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            ).to(next(model.parameters()).device)
        seen = model.vision_model(pixel_values=inputs["pixel_values"]).pooler_output
        read = model.text_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
        image, text = model.visual_projection(seen).double(), model.text_projection(read).double()
        return 100 * F.cosine_similarity(image, text).cpu()


def at_hand() -> bool:
    """Whether `load_clip` would find package and weights; imports nothing."""
    return find_spec("transformers") is not None and find_weights(CLIP_VARIABLE, REPOSITORY) is not None


def load_clip(device: torch.device | str = "cpu") -> ClipScore:
    """CLIP of SPANLIFT_CLIP, else ViT-L/14 of the hub's cache, on a device.

    Raises:
        UserError: transformers is not installed; there are no weights, or those of another network.
    """
    folder = require_weights(CLIP_VARIABLE, REPOSITORY, "CLIP", "leave out --scores clip")
    from transformers import CLIPModel, CLIPProcessor

    model = read_network(CLIPModel, folder, CLIP_VARIABLE)
    try:
        with without_chatter():
            processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever missing or damaged files make transformers say
        got = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise UserError(
            f"expected CLIP's tokenizer and preprocessor_config.json in {folder}, got {got}; fetch them again or "
            f"change {CLIP_VARIABLE}"
        ) from None
    label = (os.environ.get(CLIP_VARIABLE) or REPOSITORY).rstrip("/").rpartition("/")[2]
    return ClipScore(model.to(device), processor, label)

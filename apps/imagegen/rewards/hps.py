"""HPS v2.1: a CLIP fitted to human preference (Wu et al. 2023, arXiv 2306.09341), the package hpsv2.

The cosine of its embeddings, as the package's `score` gives it and DyWeight's table has it (0.27 to 0.30).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.backbones import read_tensors
from apps.imagegen.local_weights import cached_file
from apps.imagegen.rewards.scorer import importing, pictures, quiet
from data_tools.cli import UserError

HPS_VARIABLE = "SPANLIFT_HPS"
"""Environment variable with the file of the weights."""
REPOSITORY, FILE = "xswu/HPSv2", "HPS_v2.1_compressed.pt"
ARCHITECTURE = "ViT-H-14"
NEEDS = (
    "the wheel of hpsv2 1.2.0 lacks its vocabulary and needs tkinter; take its repair: pip install --no-deps hpsv2x, "
    "then pip install ftfy regex timm clint requests huggingface_hub"
)


class HPS:
    """See the module and `Scorer`.

    Args:
        model: the package's CLIP with these weights; {"image_features", "text_features"} of unit length.
        preprocess: a picture to (3, 224, 224): resized and padded.
        tokenize: texts to tokens (B, 77).
    """

    name = "HPS v2.1"

    def __init__(
        self, model: Any, preprocess: Callable[[Any], Tensor], tokenize: Callable[[list[str]], Tensor]
    ) -> None:
        self._model, self._preprocess, self._tokenize = model, preprocess, tokenize

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        device = next(self._model.parameters()).device
        shown = torch.stack([self._preprocess(picture) for picture in pictures(images, prompts)]).to(device)
        with quiet(), torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):  # as the package does
            found = self._model(shown, self._tokenize(list(prompts)).to(device))
        return (found["image_features"].double() * found["text_features"].double()).sum(-1).cpu()


def at_hand() -> bool:
    """Whether `load_hps` would find package and weights; imports nothing."""
    try:
        _weights()
    except UserError:
        return False
    return find_spec("hpsv2") is not None


def load_hps(device: torch.device | str = "cpu") -> HPS:
    """HPS v2.1 on a device, its weights read without running what a file may hold.

    Raises:
        UserError: the package is missing or does not import, or its weights are not on this machine or others.
    """
    if find_spec("hpsv2") is None:
        raise UserError(f"expected the package hpsv2 for the score, got none; {NEEDS}")
    with importing("the package hpsv2", NEEDS):
        from hpsv2.src.open_clip import (  # pyright: ignore[reportMissingImports]
            create_model_and_transforms,
            get_tokenizer,
        )
    path = _weights()
    weights = read_tensors(path).get("state_dict")
    if not isinstance(weights, dict):
        raise UserError(f"expected the weights of HPS v2.1 in {path}, got another file; fetch it again")
    with quiet():  # built without the weights of its ancestor, which these replace
        model, _, preprocess = create_model_and_transforms(
            ARCHITECTURE, None, precision="amp", device=str(device), light_augmentation=True, output_dict=True
        )
        tokenize = get_tokenizer(ARCHITECTURE)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        got = " ".join(str(error).split())[:160]
        raise UserError(f"expected the weights of HPS v2.1 in {path}, got others ({got}); fetch them again") from None
    return HPS(model.eval().requires_grad_(False), preprocess, tokenize)


def _weights() -> Path:
    given = os.environ.get(HPS_VARIABLE)
    path = Path(given).expanduser() if given else cached_file(REPOSITORY, FILE)
    if path is None or not path.is_file():
        raise UserError(
            f"expected {FILE}, got {f'no file at {given}' if given else 'none in the cache'}; fetch it once "
            f"(hf download {REPOSITORY} {FILE}) or give it as {HPS_VARIABLE}"
        )
    return path

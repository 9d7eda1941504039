"""ImageReward: a model of human preference (Xu et al. 2023, arXiv 2304.05977), the package image-reward.

Standardised: 0 is the mean and 1 the standard deviation over the images that it was made with.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.imagegen.local_weights import cached_file
from apps.imagegen.rewards.scorer import importing, pictures, quiet
from data_tools.cli import UserError

REWARD_VARIABLE = "SPANLIFT_IMAGE_REWARD"
"""Environment variable with a folder of ImageReward.pt and med_config.json."""
FILES = ("ImageReward.pt", "med_config.json")
PACKAGE_CACHE = Path("~/.cache/ImageReward")
"""Where the package itself keeps them."""
REPOSITORIES = ("zai-org/ImageReward", "THUDM/ImageReward")
"""The second is its old name."""
TOKENS = 35
"""Length that the package pads and cuts prompts to."""
NEEDS = (
    "image-reward 1.5 works beside transformers<4.56, in an environment of its own: pip install image-reward "
    "clip-anytorch 'setuptools<81' 'transformers<4.56' 'diffusers<0.36' 'datasets<4' 'huggingface_hub<1'"
)


class ImageReward:
    """See the module and `Scorer`.

    Args:
        model: what the package's `load` gives.
    """

    name = "ImageReward"

    def __init__(self, model: Any) -> None:
        self._model = model

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        model = self._model
        shown = torch.stack([model.preprocess(picture) for picture in pictures(images, prompts)]).to(model.device)
        with quiet():
            read = model.blip.tokenizer(
                list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
            ).to(model.device)
            # The package's own `score` takes one image at a time; this is what it computes, of many.
            scores = model.score_gard(read.input_ids, read.attention_mask, shown)
        return scores.flatten().double().cpu()


def at_hand() -> bool:
    """Whether `load_image_reward` would find package and weights; imports nothing."""
    try:
        for name in FILES:
            _file(name)
    except UserError:
        return False
    return find_spec("ImageReward") is not None


def load_image_reward(device: torch.device | str = "cpu") -> ImageReward:
    """ImageReward-v1.0 on a device, its weights read without running what a file may hold.

    Raises:
        UserError: the package is missing or does not import beside the installed transformers, or its files are not
            on this machine.
    """
    if find_spec("ImageReward") is None:
        raise UserError(f"expected the package image-reward for the score, got none; {NEEDS}")
    with importing("the package image-reward", NEEDS):
        import ImageReward as package  # pyright: ignore[reportMissingImports]
    weights, config = (_file(name) for name in FILES)
    again = f"fetch {weights} again, or the tokenizer once (hf download bert-base-uncased)"
    with importing("ImageReward's weights and the tokenizer bert-base-uncased", again):
        model = package.load(str(weights), device=str(device), med_config=str(config))
    return ImageReward(model.eval().requires_grad_(False))


def _file(name: str) -> Path:
    given = os.environ.get(REWARD_VARIABLE)
    folder = Path(given or PACKAGE_CACHE).expanduser()
    in_cache = [] if given else [cached_file(repository, name) for repository in REPOSITORIES]
    found = [path for path in (folder / name, *in_cache) if path is not None and path.is_file()]
    if not found:
        raise UserError(
            f"expected {name} of ImageReward, got none in {folder}; fetch it once (hf download {REPOSITORIES[0]}) or "
            f"give its folder as {REWARD_VARIABLE}"
        )
    return found[0]

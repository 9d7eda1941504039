"""Scores of images against their prompts, each by the package and the weights that its authors published.

    clip          CLIP score, 100 x cosine (transformers)
    image-reward  ImageReward-v1.0 (image-reward)
    hpsv2         Human Preference Score v2.1 (hpsv2)

Nothing stands in for what is missing, and nothing is downloaded: without package or weights there is one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from apps.imagegen.rewards.clip import ClipScore, load_clip
from apps.imagegen.rewards.hps import HPS, load_hps
from apps.imagegen.rewards.image_reward import ImageReward, load_image_reward
from apps.imagegen.rewards.scorer import Scorer
from data_tools.cli import UserError

__all__ = ["HPS", "SCORERS", "ClipScore", "ImageReward", "Scorer", "load_scorers"]

SCORERS: Mapping[str, Callable[[torch.device | str], Scorer]] = MappingProxyType(
    {"clip": load_clip, "image-reward": load_image_reward, "hpsv2": load_hps}
)
"""Name -> loader onto a device. The names of published.json's metrics are clip, image-reward and hps-v2.1."""


def load_scorers(text: str, device: torch.device | str = "cpu") -> dict[str, Scorer]:
    """Scorers by name, from a line like "clip,image-reward"; an empty line names none.

    Raises:
        UserError: a name that is not known or comes twice, or a package or weights that are missing.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in SCORERS or names.count(name) > 1:
            raise UserError(f"expected --scores of {', '.join(SCORERS)}, each once, got {name!r} in {text!r}")
    return {name: SCORERS[name](device) for name in names}

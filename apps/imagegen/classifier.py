"""A small classifier of grey digits; what its last hidden layer sees is a feature space for Fréchet distances."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from core.fitting import write_atomically
from data_tools.cli import UserError

FORMAT = "spanlift-digit-classifier"
CLASSES, FEATURES, SIDE = 10, 64, 16


class DigitClassifier(nn.Module):
    """Three convolutions, a mean over positions, a hidden layer of 64, ten classes; 28 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(64, FEATURES)
        self.head = nn.Linear(FEATURES, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """x (B, 1, H, W) in [-1, 1], brought to 16 x 16 pixels -> (B, 64)."""
        if x.shape[-2:] != (SIDE, SIDE):
            x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        return F.silu(self.hidden(self.trunk(x).mean(dim=(-2, -1))))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 1, H, W) in [-1, 1] -> logits (B, 10)."""
        return self.head(self.features(x))


def save_classifier(path: Path, network: DigitClassifier, card: Mapping[str, Any]) -> Path:
    """Write weights and what is known of them as one safetensors file, whole or not at all."""
    metadata = {"format": FORMAT, "card": json.dumps(dict(card), allow_nan=False)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))
    return path


def load_classifier(path: Path) -> tuple[DigitClassifier, dict[str, Any]]:
    """The frozen classifier of a file, on the CPU in evaluation mode, and its card.

    Raises:
        UserError: no such file, or one of something else.
    """
    if not path.is_file():
        raise UserError(
            f"expected a digit classifier, found none at {path}; make one with python -m apps.imagegen.train_features"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format {metadata.get('format')!r}")
        network = DigitClassifier()
        network.load_state_dict(tensors)
        card = json.loads(metadata["card"])
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"expected a digit classifier in {path}, got something else ({reason}); train it again"
        ) from None
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise UserError(f"expected finite weights in {path}, got NaN or infinity; train it again")
    return network.requires_grad_(False).eval(), card

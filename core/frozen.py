"""What must not change while something else is trained: checked to be frozen, and known by its hash."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def check_frozen(network: nn.Module) -> None:
    """Raise ValueError unless the network is in eval mode and none of its parameters requires gradients."""
    loose = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if loose:
        raise ValueError(
            f"expected a frozen {type(network).__name__}, got {len(loose)} parameters that require gradients, "
            f"e.g. {loose[0]}; call requires_grad_(False)"
        )
    if any(module.training for module in network.modules()):
        raise ValueError(f"expected {type(network).__name__} in eval mode, got training mode; call eval()")


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers with their names: the identity of frozen weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

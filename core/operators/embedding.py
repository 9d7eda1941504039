"""Embedding of a step's condition c = (t, log-SNR, h), which drives FiLM in the residual operators."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOG_SNR_RANGE = 20.0
"""log(alpha^2 / sigma^2) beyond this is as good as pure data or pure noise, also where it is infinite."""
LOG_STEP_RANGE = 14.0
"""|log |h|| beyond this: steps below 1e-6 or above 1e6 in the chart's variable."""


def step_features(t: float, log_snr: float, h: float) -> tuple[float, float, float]:
    """(t, log-SNR / 20, log|h| / 14), the latter two within [-1, 1].

    Args:
        t: time of the step's start as a fraction of the schedule's largest.
        log_snr: log(alpha^2 / sigma^2) there.
        h: length of the step in the chart's variable.
    """
    log_step = math.log(abs(h)) if h else -math.inf
    return t, _clamp(log_snr / LOG_SNR_RANGE), _clamp(log_step / LOG_STEP_RANGE)


def _clamp(value: float) -> float:
    return min(max(value, -1.0), 1.0)


class StepEmbedding(nn.Module):
    """Features of a step -> vector: sines and cosines of each feature at doubling frequencies, then one hidden layer.

    Args:
        width: length of the vector.
        frequencies: number of frequencies a feature; the slowest makes a quarter turn from 0 to 1.
    """

    frequency: Tensor

    def __init__(self, width: int, frequencies: int = 6) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.pi * 2.0 ** (torch.arange(frequencies) - 1), persistent=False)
        self.hidden = nn.Linear(3 * (2 * frequencies + 1), width)
        self.out = nn.Linear(width, width)

    def forward(self, features: tuple[float, float, float]) -> Tensor:
        """What `step_features` gives -> (width,)."""
        values = self.hidden.weight.new_tensor(features)
        angle = values[:, None] * self.frequency.to(values.dtype)
        waves = torch.cat([values, angle.sin().flatten(), angle.cos().flatten()])
        return F.silu(self.out(F.silu(self.hidden(waves))))

"""Dynamic thresholding of predicted data, for models of pixels in [-1, 1]."""

from __future__ import annotations

import math

from torch import Tensor

QUANTILE = 0.995
"""Share of a sample's values that keep their size, as in the published samplers."""


def dynamic_threshold(data: Tensor) -> Tensor:
    """Predicted data brought back to [-1, 1]: clipped at s and divided by s, s = max(quantile of |data|, 1) per sample.

    The quantile interpolates linearly between order statistics. Data within [-1, 1] stay as they are, so that a second
    application changes nothing. Not for latents, which have no such bounds.

    Args:
        data: (B, *space).

    Source: Saharia et al. 2022, arXiv 2205.11487, section 2.3.
    """
    sizes = data.flatten(1).abs()
    place = QUANTILE * (sizes.shape[1] - 1)
    below = math.floor(place)
    largest = sizes.topk(sizes.shape[1] - below, dim=1).values  # descending: the last one is order statistic `below`
    lower, upper = largest[:, -1], largest[:, max(largest.shape[1] - 2, 0)]
    bound = lower.lerp(upper, place - below).clamp(min=1).view(-1, *(1,) * (data.ndim - 1))
    return data.clamp(-bound, bound) / bound

"""The clock of a variance-preserving model, for models that have none: EDM's sigma told as the time of VP."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

VP_END = 1e-3
"""Where the clock stops, as networks of VP do (Song et al. 2021, arXiv 2011.13456, appendix C)."""


@dataclass(frozen=True, slots=True)
class VPClock:
    """tau in [1e-3, 1], the time of the VP schedule that runs through both ends of a range of sigma / alpha.

    There log(1 + ratio^2) = growth tau^2 / 2 + rate tau; the two ends give growth and rate (Karras et al. 2022,
    arXiv 2206.00364, appendix C.1). The rate may be slightly negative.

    Attributes:
        ratio_max, ratio_min: sigma / alpha at tau = 1 and at tau = 1e-3.
    """

    ratio_max: float = 80.0
    ratio_min: float = 0.002

    def __post_init__(self) -> None:
        if not 0 <= self.ratio_min < self.ratio_max < math.inf:
            raise ValueError(
                f"expected 0 <= ratio_min < ratio_max < infinity, got {self.ratio_min} and {self.ratio_max}; "
                "keep away from the time without data"
            )
        if min(self.growth, self.growth * VP_END) + self.rate <= 0:
            raise ValueError(
                f"expected a wide range of sigma / alpha for a VP clock, got {self.ratio_min} to {self.ratio_max}, on "
                "which it would run backwards; lower the last time or use a grid even in log-SNR"
            )

    @property
    def growth(self) -> float:
        first, last = math.log1p(self.ratio_max**2), math.log1p(self.ratio_min**2)
        return 2 * (last / VP_END - first) / (VP_END - 1)

    @property
    def rate(self) -> float:
        return math.log1p(self.ratio_max**2) - self.growth / 2

    def ratio(self, tau: Tensor) -> Tensor:
        """sigma / alpha at tau."""
        return torch.expm1((self.growth * tau**2 / 2 + self.rate * tau).clamp(min=0)).sqrt()

    def pace(self, tau: Tensor) -> Tensor:
        """Derivative of `ratio` in tau."""
        ratio = self.ratio(tau)
        return (1 + ratio**2) * (self.growth * tau + self.rate) / (2 * ratio)

    def time_at(self, ratio: Tensor) -> Tensor:
        """The tau at which sigma / alpha is `ratio`."""
        level = torch.log1p(ratio**2)
        root = (self.rate**2 + 2 * self.growth * level).sqrt()
        return 2 * level / (root + self.rate) if self.rate > 0 else (root - self.rate) / self.growth

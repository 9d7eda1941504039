"""What families in rectified flow share: the clock t = sigma, from 1 (noise) to 0 (data)."""

from __future__ import annotations

from abc import abstractmethod

import core
from apps.imagegen.models.latent.family import Family
from core.parametrizations import Target


class FlowFamily(Family):
    """A network of noise - data at (1 - sigma) data + sigma noise (Liu et al. 2022, arXiv 2209.03003)."""

    @property
    def schedule(self) -> core.RectifiedFlow:
        return core.RectifiedFlow()

    @property
    def predicts(self) -> Target:
        return "velocity"

    @property
    @abstractmethod
    def shift(self) -> float:
        """Of the grid: steps even in t / (shift - (shift - 1) t) (Esser et al. 2024, eq. 23)."""

"""Residual operators: what is added to a base solver's proposed step."""

from __future__ import annotations

from core.operators.corrected import Corrected, Residual, spanlift
from core.operators.residual import BoundResidual, ResidualConfig, SpanLiftResidual
from core.operators.scalar import ScalarConfig, ScalarResidual

__all__ = [
    "BoundResidual",
    "Corrected",
    "Residual",
    "ResidualConfig",
    "ScalarConfig",
    "ScalarResidual",
    "SpanLiftResidual",
    "spanlift",
]

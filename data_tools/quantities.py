"""Physical quantities: how a stored field is named, scaled to a network's [0, 1], and which thresholds score it.

Two quantities are known. `vil` is SEVIR's vertically integrated liquid in its own 0-254 code (scores are taken on the
code, as in the literature); `rainfall_rate` is a rain rate in mm/h. A network sees `encode(values)`, which is linear
for the VIL code (already a logarithmic code of kg/m^2) and logarithmic for rain rates, whose distribution spans three
decades.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

Field = TypeVar("Field", np.ndarray, torch.Tensor)

RAIN_FLOOR = 0.1
"""mm/h; rates below it are drizzle that radars do not see reliably. It sets the linear part of the logarithmic
scale."""

RAIN_CEILING = 150.0
"""mm/h mapped to 1. Heavier rates are clipped: they are hail or clutter more often than rain."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A physical quantity of the event store.

    Attributes:
        name: variable name in the store, `vil` or `rainfall_rate`.
        units: CF units of the decoded values.
        long_name: for axes and attributes.
        standard_name: CF standard name, or None where there is none.
        thresholds: default verification thresholds on the stored scale.
        maximum: the value that `encode` maps to 1.
        logarithmic: whether `encode` is log(1 + v / RAIN_FLOOR) or linear.
        storage: (numpy dtype, scale_factor, missing code) of the packed variable.
    """

    name: str
    units: str
    long_name: str
    standard_name: str | None
    thresholds: tuple[float, ...]
    maximum: float
    logarithmic: bool
    storage: tuple[str, float, int]

    def encode(self, values: Field) -> Field:
        """Map values on the stored scale to [0, 1]; negative values to 0, values over `maximum` to 1, NaN stays NaN."""
        fraction = values.clip(0.0, self.maximum) / self.maximum
        if not self.logarithmic:
            return fraction
        ratio = self.maximum / RAIN_FLOOR
        return _log1p(fraction)(fraction * ratio) / float(np.log1p(ratio))

    def decode(self, encoded: Field) -> Field:
        """Inverse of `encode` on [0, 1]; values outside are clipped first, NaN stays NaN."""
        encoded = encoded.clip(0.0, 1.0)
        if not self.logarithmic:
            return encoded * self.maximum
        ratio = self.maximum / RAIN_FLOOR
        return _expm1(encoded)(encoded * float(np.log1p(ratio))) * RAIN_FLOOR


def _log1p(values: Field) -> Callable[[Field], Field]:
    return torch.log1p if isinstance(values, torch.Tensor) else np.log1p  # type: ignore[return-value]


def _expm1(values: Field) -> Callable[[Field], Field]:
    return torch.expm1 if isinstance(values, torch.Tensor) else np.expm1  # type: ignore[return-value]


VIL = Quantity(
    name="vil",
    units="1",
    long_name="vertically integrated liquid, SEVIR code 0-254",
    standard_name=None,
    thresholds=(16.0, 74.0, 133.0, 160.0, 181.0, 219.0),  # SEVIR, as in Earthformer and PreDiff
    maximum=255.0,
    logarithmic=False,
    storage=("uint8", 1.0, 255),
)

RAINFALL_RATE = Quantity(
    name="rainfall_rate",
    units="kg m-2 h-1",  # numerically mm/h; the unit that CF's rainfall_flux accepts
    long_name="rainfall rate",
    standard_name="rainfall_flux",
    thresholds=(0.1, 0.5, 1.0, 2.0, 5.0),
    maximum=RAIN_CEILING,
    logarithmic=True,
    storage=("uint16", 0.01, 65535),
)

QUANTITIES = {quantity.name: quantity for quantity in (VIL, RAINFALL_RATE)}

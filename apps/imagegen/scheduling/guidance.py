"""The guidance that a solver was trained with, and the one that a pipeline is called with.

A trained solver corrects the guided field of one scale. The scale is an argument of the pipeline's call, of which a
scheduler is not told, so the pipeline is asked when a run begins.
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import core
from apps.imagegen.models.latent.catalogue import CATALOGUE
from apps.imagegen.models.latent.folders import FAMILIES

SAME = 1e-6


def trained_guidance(card: core.Card, pipeline: Any) -> float | None:
    """The scale that the solver of a card was trained with; None where the card does not say.

    Args:
        card: of a trained solver; a training without `--guidance` took that of the catalogue, else the default of the
            pipeline's kind.
        pipeline: of its model.
    """
    command, name = card.extra.get("command"), card.extra.get("model")
    if not isinstance(command, dict) or "guidance" not in command:
        return None
    told = command["guidance"]
    if isinstance(told, int | float):
        return float(told)
    if isinstance(name, str) and name in CATALOGUE:
        return CATALOGUE[name].guidance
    kinds = [kind for kind in FAMILIES if type(pipeline).__name__ in kind.pipelines and kind.guided]
    return kinds[0].default_guidance(type(pipeline)) if kinds else None


class GuidanceWatch:
    """Warns where a pipeline is called with another guidance than its solver was trained with.

    Args:
        scale: of the training.
        pipeline: is not kept alive by this, and does not go with a copy to another process.
    """

    def __init__(self, scale: float, pipeline: Any) -> None:
        self.scale = scale
        self._pipeline: weakref.ref[Any] | None = weakref.ref(pipeline)

    def __call__(self) -> None:
        """Compare, at the beginning of a run; scales up to 1 are none, and all the same."""
        pipeline = None if self._pipeline is None else self._pipeline()
        asked = getattr(pipeline, "_guidance_scale", None)
        if isinstance(asked, int | float) and abs(max(asked, 1.0) - max(self.scale, 1.0)) > SAME:
            warnings.warn(
                f"expected guidance_scale={self.scale:g}, which this solver was trained with, got {asked:g}; pass "
                f"{self.scale:g}, or train one with python -m apps.imagegen.train --guidance {asked:g}",
                stacklevel=3,
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"scale": self.scale, "_pipeline": None}

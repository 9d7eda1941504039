"""Options that every command on models of diffusers shares: what its samples are of, and how they are guided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from apps.imagegen.models import FrozenModel, Precision, load_model
from apps.imagegen.models.latent.prompting import Prompting


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Options of models that come as diffusers pipelines; all others have none of them.

    Attributes:
        prompts: file of prompts, for models that draw by text: .txt with one a line, .json, .csv or .tsv.
        train_prompts: how many of them solvers are trained on, the rest being for evaluation; one sixth by default.
        guidance: scale of classifier-free guidance, or what a distilled model is told; the pipeline's own by default.
        size: pixels a side; the pipeline's own by default.
        text_cache: folder that embeddings of prompts are kept in.
    """

    prompts: str | None = None
    train_prompts: int | None = None
    guidance: float | None = None
    size: int | None = None
    text_cache: str = "out/text"

    def prompting(self) -> Prompting:
        """What the model is loaded with."""
        return Prompting(
            prompts=self.prompts, train_prompts=self.train_prompts, guidance=self.guidance, size=self.size,
            text_cache=self.text_cache,
        )  # fmt: skip

    def load(
        self, name_or_path: str, device: torch.device | str = "cpu", precision: Precision = "float32"
    ) -> FrozenModel:
        """The model, see `load_model`, with these options.

        Raises:
            UserError: see `load_model`; an option that the model does not have.
        """
        return load_model(name_or_path, device, precision, self.prompting())


NAMES = tuple(field.name for field in fields(PromptOptions))
"""Of the options."""


def written(options: PromptOptions) -> dict[str, Any]:
    """All options of a command as JSON has them; those of this module only where they are given."""
    defaults = {field.name: field.default for field in fields(PromptOptions)}
    return {key: value for key, value in asdict(options).items() if key not in NAMES or value != defaults[key]}


def prompts_of(model: FrozenModel, seeds: Sequence[int]) -> dict[str, str]:
    """The prompt of each seed, by its number as text; empty of a model without prompts."""
    texts = model.texts(seeds)
    return {} if texts is None else {str(seed): text for seed, text in zip(seeds, texts, strict=True)}

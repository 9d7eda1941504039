"""Which texts a latent model makes pictures of, and how: what commands and `load_model` share."""

from __future__ import annotations

from dataclasses import dataclass

from apps.imagegen.models.latent.prompts import Prompts, load_prompts
from data_tools.cli import UserError


@dataclass(frozen=True)
class Prompting:
    """Which texts a model makes pictures of, and how.

    Attributes:
        prompts: file of prompts, see `load_prompts`; models without texts have none.
        train_prompts: how many of them solvers are trained on; a sixth where not given.
        guidance: scale of the guidance; the pipeline's own where not given. 1 is none.
        size: pixels a side; those that the model was trained for where not given.
        text_cache: folder of text embeddings, which are computed once.
        negative: text that guidance leads away from.
        seed: of the split of the prompts.
    """

    prompts: str | None = None
    train_prompts: int | None = None
    guidance: float | None = None
    size: int | None = None
    text_cache: str = "out/text"
    negative: str = ""
    seed: int = 0


def read_prompts(prompting: Prompting) -> Prompts | None:
    """The prompts that are asked for, checked before anything large is loaded.

    Raises:
        UserError: no such file, or one without prompts; options of prompts without a file.
    """
    if prompting.prompts is None:
        if prompting.train_prompts is not None:
            raise UserError(f"expected --prompts beside --train_prompts {prompting.train_prompts}, got none; give both")
        return None
    return load_prompts(prompting.prompts, prompting.train_prompts, prompting.seed)

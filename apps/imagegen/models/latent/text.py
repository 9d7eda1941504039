"""The prompts of a latent model, and their embeddings: encoded once by the pipeline's own encoders, which are loaded
for that and then dropped."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from apps.imagegen.models.latent.extra import quiet
from apps.imagegen.models.latent.family import Condition, Family
from apps.imagegen.models.latent.identity import hashed
from apps.imagegen.models.latent.prompting import Prompting
from apps.imagegen.models.latent.prompts import Prompts
from apps.imagegen.models.latent.text_cache import TextCache
from apps.imagegen.models.memory import enough_memory
from apps.imagegen.models.seeds import place
from data_tools.cli import UserError, progress_bar

AT_ONCE = 8
"""Texts that are encoded together."""


class Text:
    """Prompts by seed, and conditions by row.

    Args:
        family: whose `encode` is used.
        pipeline: its class, for its settings.
        prompts: split.
        prompting: folder of the caches and the negative text.
        encoders: hash of the text encoders.
        load: gives a pipeline with its text components, on the CPU.
        precision: of the encoders.
        guided: whether negative embeddings are needed.
    """

    def __init__(
        self,
        family: type[Family],
        pipeline: type,
        prompts: Prompts,
        prompting: Prompting,
        encoders: str,
        load: Callable[[], Any],
        precision: str,
        guided: bool,
    ) -> None:
        self.prompts = prompts
        self.negative, self.guided = prompting.negative, guided
        self._family, self._load = family, load
        identity = {"encoders": encoders, "precision": precision, **family.text_settings(pipeline)}
        self._positive = TextCache(prompting.text_cache, {**identity, "negative": False})
        self._negative = TextCache(prompting.text_cache, {**identity, "negative": True})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of prompts, negative text and all that their embeddings depend on."""
        parts = {"prompts": self.prompts.fingerprint, "embeddings": self._positive.fingerprint}
        return hashed({**parts, "negative": self.negative if self.guided else None})

    def rows(self, seeds: Sequence[int]) -> list[int]:
        """The place of each seed's prompt in `prompts.all`; see `apps.imagegen.models.seeds`."""
        return [self.prompts.row(found.index, found.training) for found in map(place, seeds)]

    def prepare(self, rows: Sequence[int], device: torch.device) -> None:
        """Encode what is missing of these rows' prompts, and the negative text.

        Raises:
            UserError: the text encoder cannot be loaded; the cache cannot be written.
        """
        texts = self.prompts.all
        jobs = [(self._positive, [texts[row] for row in rows], False)]
        if self.guided:
            jobs.append((self._negative, [self.negative], True))
        self._fill(jobs, device)

    def _fill(self, jobs: Sequence[tuple[TextCache, Sequence[str], bool]], device: torch.device) -> None:
        """Complete caches with texts, which are negative or not."""
        jobs = [(cache, cache.missing(texts), negative) for cache, texts, negative in jobs]
        count = sum(len(texts) for _, texts, _ in jobs)
        if not count:
            return
        done = 0
        with quiet(), enough_memory(), progress_bar() as bar:
            task = bar.add_task("text", total=count, note="loading the text encoder")
            pipeline = self._load().to(device)
            for cache, texts, negative in jobs:
                encode = partial(self._family.encode, pipeline, device=device, negative=negative)
                cache.fill(
                    texts, encode, AT_ONCE, lambda n, _, done=done: bar.update(task, completed=done + n, note="")
                )
                done += len(texts)
            del pipeline, encode
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def read(self, rows: Sequence[int], device: torch.device) -> tuple[Condition, Condition | None]:
        """Conditions (B, ...) of these rows and of guidance's second evaluation (1, ...), on the device."""
        self.prepare(rows, device)
        texts = self.prompts.all
        found = self._positive.read([texts[row] for row in rows])
        return _on(found, device), self.read_negative(device) if self.guided else None

    def read_negative(self, device: torch.device) -> Condition:
        """The condition (1, ...) of the negative text."""
        self._fill([(self._negative, [self.negative], True)], device)
        return _on(self._negative.read([self.negative]), device)


def no_prompts(name: str) -> UserError:
    """What to say where a model of texts has none."""
    return UserError(
        f"expected --prompts for the model {name}, which makes pictures of texts, got none; give a file, one a line"
    )


def _on(condition: Condition, device: torch.device) -> Condition:
    return {name: value.to(device) for name, value in condition.items()}

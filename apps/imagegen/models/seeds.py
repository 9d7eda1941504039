"""Seeds: what they are for, and the noise that they stand for. A sample is a seed, on every machine and in any batch.

below FIRST_SEED    sampling and evaluation
from FIRST_SEED on  training: a block of SEEDS_OF_A_RUN for each run, its second half, from HELD_OUT on, to measure on
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from data_tools.cli import UserError

SEEDS = 1 << 32
"""A seed counts modulo this number, as in EDM."""

FIRST_SEED, SEEDS_OF_A_RUN, HELD_OUT = 1 << 31, 1 << 20, 1 << 19
"""Seeds of training noise: apart from those of images, a block for each run, its second half held out."""


class Place(NamedTuple):
    """What a seed is for: to train on or not, and which it is among those."""

    training: bool
    index: int


def place(seed: int) -> Place:
    """Whether a solver is trained on the seed, and the seed's number among those of its kind."""
    if seed < FIRST_SEED:
        return Place(False, seed)
    index = (seed - FIRST_SEED) % SEEDS_OF_A_RUN
    return Place(index < HELD_OUT, index % HELD_OUT)


def generator_of(seed: int, device: str = "cpu") -> torch.Generator:
    """The generator that a sample's noise, and then its class, are drawn from."""
    return torch.Generator(device).manual_seed(seed % SEEDS)


def unit_noise(shape: tuple[int, ...], seeds: Sequence[int], draw_on: str = "cpu") -> Tensor:
    """Unit noise (B, *shape) float32 on `draw_on`: a generator per sample, so that it depends on its seed alone."""
    draws = [torch.randn(shape, generator=generator_of(seed, draw_on), device=draw_on) for seed in seeds]
    return torch.stack(draws) if draws else torch.empty(0, *shape, device=draw_on)


def drawn_class(shape: tuple[int, ...], classes: int, seed: int, draw_on: str = "cpu") -> int:
    """The class of a seed, from 0 to `classes` - 1: drawn from the same generator, after the noise."""
    generator = generator_of(seed, draw_on)
    torch.randn(shape, generator=generator, device=draw_on)
    return int(torch.randint(classes, (), generator=generator, device=draw_on))


def check_class(class_index: int | None, classes: int) -> None:
    """Raise UserError for a class that a model of so many classes does not have; None is any."""
    if class_index is not None and not 0 <= class_index < classes:
        known = f"0 to {classes - 1}" if classes else "no class, for the model has none"
        raise UserError(f"expected a class from {known}, got {class_index}; change or leave out the class")

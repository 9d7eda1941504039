"""What all scores of an image against its prompt have in common."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from data_tools.cli import UserError


class Scorer(Protocol):
    """A frozen judge of images by their prompts; higher is better. `name` is written beside every score."""

    @property
    def name(self) -> str: ...

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """images uint8 (B, 3, H, W) and B prompts -> float64 (B,) on the CPU.

        Raises:
            ValueError: images of another type or shape, or another number of prompts.
        """
        ...


def pictures(images: Tensor, prompts: Sequence[str]) -> list[Image.Image]:
    """The images as the judges' own preprocessing takes them; checks both arguments of a `Scorer`."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected uint8 images (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    if len(images) != len(prompts):
        raise ValueError(f"expected a prompt for each of {len(images)} images, got {len(prompts)}")
    return [Image.fromarray(pixels) for pixels in images.permute(0, 2, 3, 1).contiguous().cpu().numpy()]


@contextlib.contextmanager
def importing(package: str, needs: str) -> Iterator[None]:
    """Import a judge's package without its chatter; one line where it is missing or does not import.

    Raises:
        UserError: that line, with what the package `needs`.
    """
    try:
        with quiet():
            yield
    except Exception as error:  # old packages fail beside new ones in more ways than ImportError
        got = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise UserError(f"expected {package} to import, got {got}; {needs}") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """stdout is kept for results, and other packages' deprecations are not the user's business."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield

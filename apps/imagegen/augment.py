"""Non-leaking augmentation of small data sets (Karras et al. 2022, appendix F.2, after their 2020 work on GANs).

Images are mirrored, scaled, turned, stretched and moved, and the network is told by how much: nine numbers that are
zero for an image as it was. Sampling gives zeros, so that what was learned from changed images does not show in new
ones. Where the paper resamples through a wavelet filter, this does bicubically, which blurs a little more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

AUGMENT_DIM = 9
"""Numbers that describe what was done: mirrored (x, y), log2 of the scale, cosine - 1 and sine of the turn, stretch
along its two axes, shift (x, y); the last five in units of their deviation."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How images are changed.

    Attributes:
        probability: of each kind of change, independently; the mirror image in x alone comes in half of all cases.
        mirror_x: left and right may be exchanged; not where images mean something else in the mirror, like digits.
        mirror_y: top and bottom may be exchanged.
        scale: standard deviation of log2 of the size.
        turn: largest angle, radians.
        stretch: standard deviation of log2 of the stretch along a random axis.
        shift: standard deviation of the shift, in units of the image's side.
    """

    probability: float = 0.12
    mirror_x: bool = True
    mirror_y: bool = True
    scale: float = 0.2
    turn: float = math.pi
    stretch: float = 0.2
    shift: float = 0.125

    def __call__(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Change images.

        Args:
            images: (B, C, H, H) float in [-1, 1].
            generator: of the draws, on the CPU.

        Returns:
            Images of the same shape in [-1, 1], and what was done, (B, 9) float32. An image that nothing was done to
            is returned bit for bit.
        """
        count = len(images)

        def chance(probability: float) -> Tensor:
            return (torch.rand(count, generator=generator) < probability).float()

        def normal() -> Tensor:
            return torch.randn(count, generator=generator)

        def angle(largest: float) -> Tensor:
            return (2 * torch.rand(count, generator=generator) - 1) * largest

        p = self.probability
        mirror_x = chance(0.5) * self.mirror_x
        mirror_y = chance(p / 2) * self.mirror_y
        scale = normal() * chance(p) * (self.scale > 0)
        turn = angle(self.turn) * chance(p)
        axis, stretch = angle(math.pi), normal() * chance(p) * (self.stretch > 0)
        shift = torch.stack([normal(), normal()], 1) * chance(p)[:, None] * (self.shift > 0)

        # From where in the old image each place of the new one is taken: the inverse of what is done.
        pull = _diagonal((-scale * self.scale).exp2(), (-scale * self.scale).exp2())
        pull = pull @ _rotation(-turn)
        along, across = (-stretch * self.stretch).exp2(), (stretch * self.stretch).exp2()
        pull = pull @ _rotation(axis) @ _diagonal(along, across) @ _rotation(-axis)
        pull = _diagonal(1 - 2 * mirror_x, 1 - 2 * mirror_y) @ pull
        start = -2 * self.shift * (pull @ shift[..., None])  # sides of an image are 2 long in a sampling grid
        described = [mirror_x, mirror_y, scale, turn.cos() - 1, turn.sin(), stretch * axis.cos(), stretch * axis.sin()]
        labels = torch.cat([torch.stack(described, 1), shift], 1)
        return _resampled(images, torch.cat([pull, start], 2), labels), labels.to(images.device)


def _resampled(images: Tensor, pull: Tensor, labels: Tensor) -> Tensor:
    changed = labels.ne(0).any(1)
    if not changed.any():
        return images
    old = images[changed]
    places = functional.affine_grid(pull[changed].to(old), list(old.shape), align_corners=False)
    new = functional.grid_sample(old, places, mode="bicubic", padding_mode="reflection", align_corners=False)
    result = images.clone()
    result[changed] = new.clamp(-1, 1)
    return result


def _rotation(angle: Tensor) -> Tensor:
    rows = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1)
    return rows.view(-1, 2, 2)


def _diagonal(first: Tensor, second: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([first, second], 1))

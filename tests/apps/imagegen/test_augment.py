"""Augmentation does what its nine numbers say, and nothing where they are zero."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from apps.imagegen.augment import AUGMENT_DIM, Augmentation

NOTHING = Augmentation(probability=0.0, mirror_x=False, mirror_y=False)
STILL = {"mirror_x": False, "mirror_y": False, "scale": 0.0, "turn": 0.0, "stretch": 0.0, "shift": 0.0}


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int, side: int = 24, x: float = 0.3, y: float = -0.2) -> Tensor:
    """A bright blob on black, off the centre: its place and width can be measured."""
    places = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
    square = (places[None, :] - x) ** 2 + (places[:, None] - y) ** 2
    return (2 * torch.exp(-square / 0.03) - 1).expand(count, 2, side, side).clone()


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Place (B, 2), as (x, y), and covariance (B, 2, 2) of the brightness."""
    side = images.shape[-1]
    places = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(places, places, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], 1)
    weights = (images[:, 0].flatten(1) + 1).clamp_min(0)
    weights = weights / weights.sum(1, keepdim=True)
    mean = weights @ points
    centred = points[None] - mean[:, None]
    return mean, torch.einsum("bn,bni,bnj->bij", weights, centred, centred)


def test_nothing_is_nothing() -> None:
    images = torch.rand(5, 3, 8, 8) * 2 - 1
    same, labels = NOTHING(images, draw())
    assert torch.equal(same, images)
    assert torch.equal(labels, torch.zeros(5, AUGMENT_DIM))


def test_only_what_is_labelled_changes_and_never_out_of_range() -> None:
    images = torch.rand(200, 2, 9, 9, generator=draw(1)) * 2 - 1
    changed, labels = Augmentation(probability=0.2)(images, draw())
    untouched = labels.eq(0).all(1)
    assert 20 < untouched.sum() < 100
    assert torch.equal(changed[untouched], images[untouched])
    assert all(not torch.equal(a, b) for a, b in zip(changed[~untouched], images[~untouched], strict=True))
    assert changed.abs().max() <= 1
    again, same = Augmentation(probability=0.2)(images, draw())
    assert torch.equal(again, changed)
    assert torch.equal(same, labels)


@pytest.mark.parametrize(("axis", "label"), [("mirror_x", 0), ("mirror_y", 1)])
def test_mirror_images(axis: str, label: int) -> None:
    images = torch.rand(400, 1, 6, 6, dtype=torch.float64, generator=draw(2)) * 2 - 1
    changed, labels = Augmentation(**{**STILL, axis: True}, probability=1.0)(images, draw())
    mirrored = labels[:, label].bool()
    assert 160 < mirrored.sum() < 240  # half of them
    assert labels.sum() == mirrored.sum()
    expected = images[mirrored].flip(-1 if axis == "mirror_x" else -2)
    torch.testing.assert_close(changed[mirrored], expected, atol=1e-6, rtol=0)


def test_shifts_move_by_what_the_labels_say() -> None:
    images = blobs(40, x=0.0, y=0.0)
    changed, labels = Augmentation(**{**STILL, "shift": 0.1}, probability=1.0)(images, draw())
    near = labels[:, 7:].abs().amax(1) < 2  # the others leave the picture
    place, _ = moments(changed[near])
    assert near.sum() > 20
    torch.testing.assert_close(place, 2 * 0.1 * labels[near, 7:].double(), atol=0.02, rtol=0)


def test_scales_enlarge_by_what_the_labels_say() -> None:
    images = blobs(40)
    changed, labels = Augmentation(**{**STILL, "scale": 0.2}, probability=1.0)(images, draw())
    (place, spread), (old_place, old_spread) = moments(changed), moments(images)
    factor = (labels[:, 2].double() * 0.2).exp2()[:, None]
    inside = (factor[:, 0] - 1).abs() < 0.3  # of the others, parts beyond the border come in, mirrored
    torch.testing.assert_close(place[inside], (old_place * factor)[inside], atol=0.02, rtol=0)
    width, old_width = spread[:, 0, 0].sqrt(), old_spread[:, 0, 0].sqrt()
    torch.testing.assert_close(width[inside], (old_width * factor[:, 0])[inside], atol=0.01, rtol=0)
    assert inside.sum() > 25


def test_turns_have_the_labelled_angle() -> None:
    images = blobs(40)
    changed, labels = Augmentation(**{**STILL, "turn": math.pi}, probability=1.0)(images, draw())
    cosine, sine = labels[:, 3].double() + 1, labels[:, 4].double()
    torch.testing.assert_close(cosine**2 + sine**2, torch.ones(40, dtype=torch.float64), atol=1e-6, rtol=0)
    x, y = moments(images)[0].unbind(1)
    turned = torch.stack([cosine * x - sine * y, sine * x + cosine * y], 1)
    torch.testing.assert_close(moments(changed)[0], turned, atol=0.02, rtol=0)
    assert turned.std(0).min() > 0.1


def test_stretches_keep_the_area_and_follow_the_labelled_axis() -> None:
    images = blobs(40, x=0.0, y=0.0)
    changed, labels = Augmentation(**{**STILL, "stretch": 0.3}, probability=1.0)(images, draw())
    spread, old = moments(changed)[1], moments(images)[1]
    torch.testing.assert_close(torch.linalg.det(spread), torch.linalg.det(old), rtol=0.15, atol=0)
    along = labels[:, 5:7].double()
    size = along.norm(dim=1)
    clear = size > 0.5
    axis = along[clear] / size[clear, None]  # times the sign of the stretch, which the square below forgets
    width = torch.einsum("bi,bij,bj->b", axis, spread[clear], axis) / old[clear, 0, 0]
    ratio = width.log2() / 2 / 0.3
    torch.testing.assert_close(ratio.abs(), size[clear], atol=0.15, rtol=0)
    assert ratio.min() < 0 < ratio.max()


def test_all_changes_together_are_rare_or_certain() -> None:
    images = torch.zeros(3000, 1, 2, 2)
    _, labels = Augmentation(probability=0.12)(images, draw())
    shares = labels.ne(0).float().mean(0)
    expected = torch.tensor([0.5, 0.06, *[0.12] * 7])
    assert (shares - expected).abs().max() < 0.03

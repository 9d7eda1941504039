"""References of latent models: folders of any images, cut and resized, those of the prompts where names tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from apps.imagegen import references
from apps.imagegen.metrics import Moments
from apps.imagegen.references import fingerprint_of, fitted, load_reference
from data_tools.cli import UserError

SIDE = 12


@dataclass(frozen=True)
class Latents:
    """As much of a model with latents as a reference looks at: states (5, 3, 3), images of 12 x 12."""

    channels: int = 5
    resolution: int = 3
    image_channels: int = 3
    image_resolution: int = SIDE


class Averages:
    """Features that a test can compute by itself: the mean of each channel, and of the image's left half."""

    name, distance, dim = "averages", "FD-averages", 4

    def __call__(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, SIDE, SIDE)
        values = images.double()
        return torch.cat([values.mean((2, 3)), values[..., : SIDE // 2].mean((1, 2, 3))[:, None]], 1)


def save(folder: Path, name: str, pixels: np.ndarray) -> np.ndarray:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    return pixels


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Path, list[np.ndarray]]]:
    """`make(*names)`: a folder of images of the model's size, and these."""

    def put(*names: str) -> tuple[Path, list[np.ndarray]]:
        generator = np.random.default_rng(3)
        shape = (SIDE, SIDE, 3)
        images = [save(tmp_path / "in", name, generator.integers(0, 256, shape, np.uint8)) for name in names]
        return tmp_path / "in", images

    return put


def moments_of(images: list[np.ndarray]) -> Moments:
    return Moments.of(Averages()(torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2))))


def test_images_of_the_models_size_are_taken_as_they_are(make, monkeypatch) -> None:
    folder, images = make("a/1.png", "a/2.png", "b/3.png", "b/4.png", "b/5.png")
    monkeypatch.setattr(references, "DECODED_BATCH", 2)
    seen: list[int] = []
    found = load_reference(str(folder), Latents(), Averages(), report=seen.append)
    assert seen == [2, 2, 1]
    assert found.images == 5
    assert torch.allclose(found.moments.mean, moments_of(images).mean)
    assert torch.allclose(found.moments.covariance, moments_of(images).covariance)
    assert found.features is not None
    assert torch.equal(found.features, Averages()(torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2))))
    assert found.fingerprint == fingerprint_of(str(folder), Latents())


def test_names_of_prompts_choose_among_the_files(make) -> None:
    folder, images = make("food/x1.png", "food/x2.png", "people/x3.png", "people/x4.png")
    found = load_reference(str(folder), Latents(), Averages(), names=["x4", "x1", "absent"])
    assert found.images == 2
    assert torch.allclose(found.moments.mean, moments_of([images[0], images[3]]).mean)
    assert found.name == f"{folder} (2 images of 3 prompts)"
    unnamed = load_reference(str(folder), Latents(), Averages(), names=["other"])
    assert (unnamed.images, unnamed.name) == (4, str(folder))
    assert unnamed.fingerprint != found.fingerprint


def test_others_lose_their_margins_and_are_resized() -> None:
    wide = np.zeros((24, 40, 3), np.uint8)
    wide[:, 8:20], wide[:, 20:32] = 200, 80  # the central square is columns 8 to 32
    cut = fitted(wide, SIDE)
    assert cut.shape == (3, SIDE, SIDE)
    assert (cut[:, :, :3] == 200).all()
    assert (cut[:, :, -3:] == 80).all()
    tall = fitted(wide.transpose(1, 0, 2)[..., :1], SIDE)
    assert tall.shape == (1, SIDE, SIDE)
    assert (tall[0, :3] == 200).all()
    same = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    assert np.array_equal(fitted(same, SIDE), same.transpose(2, 0, 1))


def test_grey_and_other_sizes_go_together(make) -> None:
    folder, _ = make("a.png", "b.png")
    save(folder, "c.png", np.full((31, 20), 77, np.uint8))
    found = load_reference(str(folder), Latents(), Averages())
    assert found.images == 3
    assert found.features is not None
    assert torch.equal(found.features[2], torch.full((4,), 77.0, dtype=torch.float64))


def test_a_fingerprint_knows_names_and_pixels(make) -> None:
    folder, _ = make("a.png", "b.png")
    before = fingerprint_of(str(folder), Latents())
    (folder / "b.png").rename(folder / "c.png")
    renamed = fingerprint_of(str(folder), Latents())
    save(folder, "c.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    assert len({before, renamed, fingerprint_of(str(folder), Latents())}) == 3


def test_folders_that_are_no_reference(make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"expected PNG or JPEG images in .*empty"):
        load_reference(str(tmp_path / "empty"), Latents(), Averages())
    folder, _ = make("a.png")
    with pytest.raises(UserError, match="at least 2 reference images, got 1"):
        load_reference(str(folder), Latents(), Averages())
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    with pytest.raises(UserError, match=r"expected a PNG or JPEG image at .*b\.png"):
        load_reference(str(folder), Latents(), Averages())
    with pytest.raises(UserError, match="nothing there"):
        load_reference(str(tmp_path / "nowhere"), Latents(), Averages())
    with pytest.raises(UserError, match="expected grey images, got RGB"):
        load_reference(str(folder), Latents(image_channels=1), Averages())

"""DINOv2's features, with a tiny random DINOv2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from apps.imagegen import dino, local_weights
from apps.imagegen.dino import DINO_VARIABLE, SIDE, Dino, dino_at_hand, load_dino
from core.frozen import check_frozen
from core.perceptual import Decoded, FeatureDistance
from data_tools.cli import UserError

transformers = pytest.importorskip("transformers")


def _network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.Dinov2Config(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    return transformers.Dinov2Model(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dino")
    _network().save_pretrained(path)
    return path


@pytest.fixture
def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Dino, str]:
    monkeypatch.setenv(DINO_VARIABLE, str(folder))
    assert dino_at_hand()
    return load_dino()


def test_it_is_frozen_and_named_by_its_weights(
    loaded: tuple[Dino, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, name = loaded
    check_frozen(network)
    assert name.startswith("DINOv2 12x2 ")
    assert load_dino()[1] == name
    _network(seed=1).save_pretrained(tmp_path)
    monkeypatch.setenv(DINO_VARIABLE, str(tmp_path))
    assert load_dino()[1] != name


def test_features_are_the_class_token_of_normalised_pixels(loaded: tuple[Dino, str]) -> None:
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((images + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    expected = _network()(pixel_values=pixels).last_hidden_state[:, 0]
    assert torch.allclose(loaded[0](images), expected, atol=1e-5)


def test_size_and_grey_do_not_matter_to_flat_images(loaded: tuple[Dino, str]) -> None:
    see = loaded[0]
    level = torch.tensor([-0.3, 0.7])[:, None, None, None]
    expected = see(level.expand(2, 3, SIDE, SIDE))
    assert expected.shape == (2, 12)
    for shape in ((1, 40, 56), (3, 300, 260)):
        assert torch.allclose(see(level.expand(2, *shape)), expected, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-2


def test_what_is_out_of_range_counts_as_its_end(loaded: tuple[Dino, str]) -> None:
    images = 2 * torch.randn(1, 3, 30, 34, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded[0](images), loaded[0](images.clip(-1, 1)))


def test_the_gradient_is_that_of_finite_differences(loaded: tuple[Dino, str]) -> None:
    see = loaded[0].double()
    generator = torch.Generator().manual_seed(0)
    images, direction = (torch.rand(2, 3, 9, 11, generator=generator, dtype=torch.float64) - 0.5 for _ in range(2))
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(see(images).square().sum(), images)
    step = 1e-5
    ends = [see(images.detach() + sign * step * direction).square().sum() for sign in (1, -1)]
    assert (gradient * direction).sum() == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-6)
    assert gradient.flatten(1).norm(dim=1).min() > 0


def test_it_serves_a_loss_of_decoded_latents(loaded: tuple[Dino, str]) -> None:
    see, name = loaded
    decoder = torch.nn.ConvTranspose2d(4, 3, 4, 4).eval().requires_grad_(False)
    distance = Decoded(FeatureDistance(lambda images: (see(images),), name, normalised=False), decoder)
    generator = torch.Generator().manual_seed(0)
    latents, reference = (torch.randn(2, 4, 5, 7, generator=generator) for _ in range(2))
    assert distance(reference, reference) == 0
    latents.requires_grad_()
    distance(latents, reference).backward()
    assert latents.grad is not None
    assert latents.grad.norm() > 0


def test_without_weights_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DINO_VARIABLE, str(tmp_path / "nothing"))
    assert not dino_at_hand()
    with pytest.raises(UserError, match=f"{DINO_VARIABLE}.*nothing.*hf download facebook/dinov2-base"):
        load_dino()
    monkeypatch.delenv(DINO_VARIABLE)
    monkeypatch.setattr(local_weights, "cached_file", lambda repository, name: None)
    assert not dino_at_hand()
    with pytest.raises(UserError, match="none in the cache"):
        load_dino()


def test_without_the_package_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_weights, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install spanlift\[imagegen\]"):
        load_dino()
    assert local_weights.cached_file(dino.REPOSITORY, "config.json") is None


def test_the_hubs_cache_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DINO_VARIABLE, raising=False)
    monkeypatch.setattr(local_weights, "cached_file", lambda repository, name: folder / name)
    assert local_weights.find_weights(DINO_VARIABLE, dino.REPOSITORY) == folder
    (folder / "copy").mkdir(exist_ok=True)
    (folder / "copy" / "config.json").write_text("{}")  # its weights were not fetched
    assert local_weights.find_weights(DINO_VARIABLE, dino.REPOSITORY) == folder
    monkeypatch.setattr(local_weights, "cached_file", lambda repository, name: folder / "copy" / name)
    assert local_weights.find_weights(DINO_VARIABLE, dino.REPOSITORY) is None


@pytest.mark.parametrize("damage", ["cut", "other", "part", "config"])
def test_a_wrong_folder_is_one_line(folder: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (folder / "model.safetensors").read_bytes()
    config = json.loads((folder / "config.json").read_text())
    if damage == "cut":
        content = content[: len(content) // 2]
    if damage == "part":
        config["num_hidden_layers"] = 3
    if damage == "other":
        config["hidden_size"] = 24
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_text("{" if damage == "config" else json.dumps(config))
    monkeypatch.setenv(DINO_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=f"expected a Dinov2Model in .*{DINO_VARIABLE}") as caught:
        load_dino()
    assert len(str(caught.value).splitlines()) == 1

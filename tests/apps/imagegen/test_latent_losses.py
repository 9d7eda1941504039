"""Losses of latent models: latents are compared as they are, and as the images that are decoded from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apps.imagegen.dino import DINO_VARIABLE
from apps.imagegen.losses import default_loss, parse_loss
from apps.imagegen.models import FrozenModel, load_model
from apps.imagegen.models.latent.model import LatentModel
from core.supervision import Example
from data_tools.cli import UserError


@pytest.fixture(scope="module")
def model(latent_options: Callable[[str], dict]) -> FrozenModel:
    return load_model(latent_options("ldm")["model"])


@pytest.fixture
def dino_folder(tmp_path: Path) -> Path:
    """A DINOv2 of random weights and two small layers."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


def pair(model: FrozenModel) -> tuple[Tensor, Example]:
    reference, other = torch.randn(2, 2, *model.shape, generator=torch.Generator().manual_seed(0))
    return other.requires_grad_(), Example(reference, None, reference)


def test_mse_is_of_latents_and_features_are_of_images(model: FrozenModel) -> None:
    prediction, example = pair(model)
    mse = parse_loss("mse=2", model)
    assert mse.networks == ()
    torch.testing.assert_close(mse(prediction, example), 2 * (prediction - example.endpoint).square().mean())
    features = parse_loss("features=1", model)
    assert features.name == "1 decoded(features(EfficientNet-lite0,plain))"
    assert isinstance(model, LatentModel)
    assert model.decoder in features.networks
    assert features(example.endpoint, example) == 0
    network = features.networks[0]

    def see(images: Tensor) -> Tensor:
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        pixels = torch.nn.functional.interpolate((images.clip(-1, 1) + 1) / 2, (224, 224), mode="bilinear")
        return network.extract_features((pixels - mean) / std).mean((2, 3))  # pyright: ignore

    with torch.no_grad():
        expected = (see(model.decode(prediction)) - see(model.decode(example.endpoint))).square().mean()
    torch.testing.assert_close(features(prediction, example).detach(), expected)


def test_gradients_pass_through_decoder_and_features(
    latent_options: Callable[[str], dict], dino_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient along a direction is the difference quotient; the frozen networks get none."""
    model = load_model(latent_options("ldm-class")["model"])  # whose decoder does not quantise
    monkeypatch.setenv(DINO_VARIABLE, str(dino_folder))
    loss = parse_loss("dino=1,mse=0.5", model)
    assert loss.name.startswith("1 decoded(features(DINOv2 24x2")
    prediction, example = pair(model)
    loss(prediction, example).backward()
    assert prediction.grad is not None
    direction = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ends = [loss(prediction + sign * 1e-2 * direction, example) for sign in (1, -1)]
    quotient = (ends[0] - ends[1]) / 2e-2
    assert float((prediction.grad * direction).sum()) == pytest.approx(float(quotient), rel=0.05)
    assert all(p.grad is None and not p.requires_grad for network in loss.networks for p in network.parameters())


def test_dino_is_taken_where_it_is_and_efficientnet_stands_in(
    model: FrozenModel, dino_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(DINO_VARIABLE, str(dino_folder))
    assert default_loss(model) == "mse=1,dino=0.1"
    monkeypatch.setenv(DINO_VARIABLE, str(tmp_path / "nothing"))
    assert default_loss(model) == "mse=1,features=0.1"
    with pytest.raises(UserError, match="features=1"):  # what is asked for by name is not replaced
        parse_loss("dino=1", model)
    assert default_loss(load_model("digits")) == "features=1,mse=1"


def test_dino_sees_pixels_too(dino_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DINO_VARIABLE, str(dino_folder))
    digits = load_model("digits")
    prediction, example = pair(digits)
    loss = parse_loss("dino=1", digits)
    assert loss.name.startswith("1 features(DINOv2")
    assert len(loss.networks) == 1
    assert loss(prediction, example) > 0
    assert loss(example.endpoint, example) == 0


def test_lpips_counts_the_pixels_of_images(model: FrozenModel) -> None:
    pytest.importorskip("lpips", reason="needs lpips")
    with pytest.raises(UserError, match="32 pixels a side for the loss lpips, got 16"):
        parse_loss("lpips=1", model)

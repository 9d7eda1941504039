"""The digits model that ships: small, of the data it names, with samples of their strokes and contrast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import core
from apps.imagegen.classifier import load_classifier
from apps.imagegen.data import load_images
from apps.imagegen.models.files import ASSETS, ImageModel, load_model
from apps.imagegen.sampling import sample_batch
from apps.imagegen.train_model import TrainModelOptions

SEEDS = range(48)


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return load_model("digits")


@pytest.fixture(scope="module")
def samples(model: ImageModel) -> Tensor:
    return sample_batch(model, core.build_solver("heun"), model.grid("karras", 10), SEEDS)[0]


def test_it_is_small_and_says_where_it_comes_from(model: ImageModel) -> None:
    assert (ASSETS / "digits.safetensors").stat().st_size < 3e6
    assert (model.resolution, model.channels, model.label_dim) == (16, 1, 0)
    assert model.card["data"]["fingerprint"] == load_images("digits").fingerprint
    described = (ASSETS / "MODEL_CARD.md").read_text()
    assert "python -m apps.imagegen.train_model" in described
    assert model.identity[:12] in described


def test_it_is_what_the_default_command_makes(model: ImageModel) -> None:
    made, stage = model.card["stage"], TrainModelOptions().stage()
    assert "weights" not in model.card  # of a run that was stopped
    assert model.card["command"]["size"] == "digits"
    assert (made["batch"], made["seed"]) == (stage.batch, stage.seed)
    for name in ("iterations", "learning_rate", "warmup", "ema_decay"):
        assert made["fitting"][name] == getattr(stage.fitting, name)


def test_samples_have_the_strokes_of_upright_digits_of_all_kinds(samples: Tensor) -> None:
    """Nearer to digits than digits that are turned. Whether each is a digit, this cannot tell: see the model card."""
    network, _ = load_classifier(ASSETS / "digits-features.safetensors")
    known = network.features(load_images("digits").scaled(slice(None)))

    def distance(images: Tensor) -> float:
        return torch.cdist(network.features(images), known).min(1).values.mean().item()

    turned = load_images("digits", "test").scaled(slice(None)).rot90(1, (2, 3))
    assert distance(samples) < 0.5 * distance(turned)
    assert len(set(network(samples).argmax(1).tolist())) >= 8


def test_samples_have_the_contrast_of_the_data(samples: Tensor) -> None:
    data = load_images("digits").scaled(slice(None))
    assert samples.mean().item() == pytest.approx(data.mean().item(), abs=0.05)
    assert samples.std().item() == pytest.approx(data.std().item(), abs=0.05)
    assert (samples.abs() < 1.2).float().mean() > 0.999


def test_samples_are_not_copies_of_training_images(samples: Tensor) -> None:
    """They are not much nearer to the training images than unseen digits are."""
    train = load_images("digits").scaled(slice(None)).flatten(1)
    unseen = load_images("digits", "test").scaled(slice(None)).flatten(1)
    near = torch.cdist(samples.flatten(1), train).min(1).values.median()
    near_unseen = torch.cdist(unseen, train).min(1).values.median()
    assert near > 0.6 * near_unseen

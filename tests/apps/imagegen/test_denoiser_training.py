"""The training of a denoiser: its draws, its loss, and that a run that was stopped ends as one that was not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.imagegen.augment import Augmentation
from apps.imagegen.data import Images, load_images
from apps.imagegen.models.edm import EDMPrecond
from apps.imagegen.stages import denoiser
from apps.imagegen.stages.denoiser import DenoiserStage, denoising_error, draw, train_denoiser
from core.fitting import FitConfig

FITTING = FitConfig(iterations=7, learning_rate=5e-3, ema_decay=0.9, checkpoint_every=3, log_every=1)
STAGE = DenoiserStage(FITTING, batch=5, seed=3)


def network(label_dim: int = 0, augment_dim: int = 0, dropout: float = 0.2) -> EDMPrecond:
    torch.manual_seed(0)
    return EDMPrecond(
        8, 1, label_dim=label_dim, augment_dim=augment_dim, model_type="SongUNet", model_channels=8,
        channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4], dropout=dropout,
    )  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train", 8)


class Rank:
    """One of several processes that never meet."""

    def __init__(self, global_rank: int, world_size: int) -> None:
        self.global_rank, self.world_size = global_rank, world_size

    def barrier(self, name: str | None = None) -> None: ...


def test_a_batch_depends_on_seed_and_iteration_alone(digits: Images) -> None:
    first, again = draw(STAGE, digits, network(), 4), draw(STAGE, digits, network(), 4)
    assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3], strict=True))
    assert first.dropout == again.dropout
    others = [draw(STAGE, digits, network(), 5), draw(replace(STAGE, seed=4), digits, network(), 4)]
    assert not any(torch.equal(first.noise, other.noise) or torch.equal(first.clean, other.clean) for other in others)
    assert first.clean.shape == first.noise.shape == (5, 1, 8, 8)
    assert first.labels is None
    assert first.augmented is None


def test_noise_levels_are_log_normal_one_in_each_stratum(digits: Images) -> None:
    stage, model = replace(STAGE, batch=8), network()
    logs = torch.stack([draw(stage, digits, model, i).sigma.log() for i in range(500)])
    assert logs.mean().item() == pytest.approx(-1.2, abs=0.03)
    assert logs.std().item() == pytest.approx(1.2, abs=0.04)
    strata = (torch.special.ndtr((logs.double() + 1.2) / 1.2) * 8).floor()
    assert torch.equal(strata, torch.arange(8.0, dtype=torch.float64).expand(500, 8))


def test_labels_belong_to_their_images(digits: Images) -> None:
    assert digits.labels is not None
    batch = draw(replace(STAGE, batch=40), digits, network(label_dim=10), 0)
    assert batch.labels is not None
    classes = {image.tobytes(): label for image, label in zip(digits.pixels, digits.labels, strict=True)}
    drawn = ((batch.clean + 1) * 127.5).round().to(torch.uint8).numpy()
    assert [classes[image.tobytes()] for image in drawn] == batch.labels.argmax(1).tolist()


def test_only_a_network_that_is_told_gets_augmented_images(digits: Images) -> None:
    stage = replace(STAGE, batch=30, augmentation=Augmentation(probability=0.5))
    assert draw(stage, digits, network(), 0).augmented is None
    batch = draw(stage, digits, network(augment_dim=9), 0)
    assert batch.augmented is not None
    plain = draw(replace(stage, augmentation=None), digits, network(augment_dim=9), 0)
    untouched = batch.augmented.eq(0).all(1)
    assert 0 < untouched.sum() < 20
    assert torch.equal(batch.clean[untouched], plain.clean[untouched])


def test_the_loss_is_the_papers(digits: Images) -> None:
    model = network(label_dim=10, augment_dim=9).eval()
    stage = replace(STAGE, augmentation=Augmentation(probability=0.5))
    batch = draw(stage, digits, model, 0)
    assert batch.labels is not None
    assert batch.augmented is not None
    got = denoising_error(model, batch, torch.tensor([4, 1]), torch.device("cpu"))
    for value, row in zip(got.tolist(), (4, 1), strict=True):
        sigma = batch.sigma[row].item()
        noised = batch.clean[row : row + 1] + sigma * batch.noise[row : row + 1]
        told = (batch.labels[row : row + 1], False, batch.augmented[row : row + 1])
        error = (model(noised, torch.tensor(sigma), *told) - batch.clean[row]).pow(2).sum().item() / 64
        assert value == pytest.approx((sigma**2 + 0.25) / (0.5 * sigma) ** 2 * error, rel=1e-4)


def test_every_noise_level_starts_with_weight_one() -> None:
    """A network that says nothing, on data of the assumed deviation: lambda * sigma^2 s^2 / (sigma^2 + s^2) = 1."""
    model = network(dropout=0.0)
    last = model.model.dec["8x8_aux_conv"]
    for parameter in last.parameters():
        torch.nn.init.zeros_(parameter)
    grey = np.random.default_rng(0).normal(127.5, 0.5 * 127.5, (600, 1, 8, 8))
    images = Images(grey.round().clip(0, 255).astype(np.uint8), None, "noise")
    batch = draw(replace(STAGE, batch=400), images, model, 0)
    with torch.no_grad():
        error = denoising_error(model, batch, torch.arange(400), torch.device("cpu"))
    for part in error.split(100):  # lowest noise to highest
        assert part.mean().item() == pytest.approx(1.0, abs=0.08)


def test_shares_of_processes_make_the_whole_gradient(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over processes of their losses is the loss of one process with the whole batch."""
    losses: list[float] = []

    def only_look(module, loss, *_, **__) -> None:
        module.eval()  # without dropout, which differs between processes
        losses.append(loss(2)[0].item())

    monkeypatch.setattr(denoiser, "fit", only_look)
    for rank in (Rank(0, 1), Rank(0, 2), Rank(1, 2)):
        train_denoiser(STAGE, network(), digits, Path("unused"), rank)  # pyright: ignore[reportArgumentType]
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-5)
    assert abs(losses[1] - losses[2]) > 1e-3


def test_a_stopped_run_ends_with_the_same_weights(
    digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_denoiser(STAGE, network(), digits, tmp_path / "whole")

    def stops(stage: DenoiserStage, images: Images, model: EDMPrecond, iteration: int) -> denoiser.Batch:
        if iteration == 5:
            raise KeyboardInterrupt
        return draw(stage, images, model, iteration)

    with monkeypatch.context() as patched:
        patched.setattr(denoiser, "draw", stops)
        with pytest.raises(KeyboardInterrupt):
            train_denoiser(STAGE, network(), digits, tmp_path / "stopped")
    torch.manual_seed(99)  # whatever was drawn in between
    resumed = train_denoiser(STAGE, network(), digits, tmp_path / "stopped")
    fresh = network().state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert any(not torch.equal(value, fresh[name]) for name, value in whole.state_dict().items())
    assert not resumed.training


@pytest.mark.parametrize("change", ["seed", "batch", "data", "network"])
def test_another_run_in_the_folder_is_refused(digits: Images, tmp_path: Path, change: str) -> None:
    short = replace(STAGE, fitting=replace(FITTING, iterations=1))
    train_denoiser(short, network(), digits, tmp_path)
    images, model, stage = digits, network(), short
    if change == "data":
        images = load_images("digits", "test", 8)
    elif change == "network":
        model = network(dropout=0.1)
    else:
        stage = replace(short, **{change: 6})
    with pytest.raises(ValueError, match="another configuration"):
        train_denoiser(stage, model, images, tmp_path)


def test_training_learns(digits: Images, tmp_path: Path) -> None:
    stage = replace(STAGE, batch=16, fitting=replace(FITTING, iterations=80, ema_decay=0.8))
    fresh = network().eval()
    trained = train_denoiser(stage, network(), digits, tmp_path)
    test = load_images("digits", "test", 8)
    batch, rows = draw(replace(stage, batch=200), test, fresh, 1000), torch.arange(200)
    with torch.no_grad():
        before, after = (denoising_error(n, batch, rows, torch.device("cpu")).mean() for n in (fresh, trained))
    assert math.isfinite(after)
    assert after < 0.7 * before

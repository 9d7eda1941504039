"""`python -m apps.imagegen.train_features`: train the digit classifier that FD-digits takes its features from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from apps.imagegen.classifier import CLASSES, SIDE, DigitClassifier, save_classifier
from apps.imagegen.data import DIGITS, Images, load_images
from core.fitting import FitConfig, fit
from data_tools.cli import UserError, check_outputs, console, progress_bar, run

FILE_NAME = "digits-features.safetensors"
LARGEST_SHIFT = 1
"""Pixels that a training image is moved by at most. Noise and blur are not trained on: features that did not see them
would not see what a poor sampler leaves behind."""


@dataclass(frozen=True)
class TrainFeaturesOptions:
    """Options of the command.

    Attributes:
        iterations: of the optimiser.
        batch: images per iteration.
        learning_rate: at its peak.
        seed: of the weights, of the batches and of the shifts.
        out: folder to write to. A run that was interrupted there goes on.
    """

    iterations: int = 3000
    batch: int = 64
    learning_rate: float = 3e-3
    seed: int = 0
    out: str = "out/features"


def main(options: TrainFeaturesOptions) -> None:
    """Train, measure on the test split, write.

    Raises:
        UserError: a number that cannot be, or a folder of another run.
    """
    for name in ("iterations", "batch", "learning_rate"):
        if not getattr(options, name) > 0:
            raise UserError(f"expected --{name} above 0, got {getattr(options, name)}")
    if not 0 <= options.seed < 2**40:
        raise UserError(f"expected --seed from 0 to 2^40, got {options.seed}")
    check_outputs([Path(options.out) / FILE_NAME], overwrite=True)
    images, held_out = load_images(DIGITS, "train", SIDE), load_images(DIGITS, "test", SIDE)
    try:
        network = train(options, images)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error
    network.requires_grad_(False).eval()
    right = accuracy(network, held_out)
    card: dict[str, Any] = {
        "data": images.name,
        "fingerprint": images.fingerprint,
        "iterations": options.iterations,
        "batch": options.batch,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "accuracy": {"test": right, "images": len(held_out)},
    }
    path = save_classifier(Path(options.out) / FILE_NAME, network, card)
    console.print(f"{right:.1%} of {len(held_out)} test digits right; wrote {path}", highlight=False)


def train(options: TrainFeaturesOptions, images: Images) -> DigitClassifier:
    """A classifier of the images, fitted to cross entropy on slightly moved ones."""
    torch.manual_seed(options.seed)
    network = DigitClassifier()
    assert images.labels is not None
    x, labels = images.scaled(slice(None)), torch.from_numpy(images.labels)

    def loss(iteration: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + iteration)
        rows = torch.randint(len(x), (options.batch,), generator=generator)
        value = F.cross_entropy(network(moved(x[rows], generator)), labels[rows])
        return value, {}

    config = FitConfig(options.iterations, options.learning_rate, weight_decay=1e-2, checkpoint_every=250)
    identity = {"data": images.fingerprint, "seed": options.seed, "batch": options.batch, "classes": CLASSES}
    with progress_bar() as bar:
        task = bar.add_task("digit classifier", total=options.iterations, note="")

        def report(iteration: int, values: Any) -> None:
            bar.update(task, completed=iteration + 1, note=f"loss {values['loss']:.3f}")

        fit(network, loss, config, Path(options.out), identity=identity, report=report)
    return network


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 1, H, W), each moved by up to `LARGEST_SHIFT` pixels down and across; black comes in."""
    shift, side = LARGEST_SHIFT, x.shape[-1]
    padded = F.pad(x, (shift,) * 4, value=-1.0)
    corners = torch.randint(2 * shift + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack([image[:, a : a + side, b : b + side] for image, (a, b) in zip(padded, corners, strict=True)])


@torch.no_grad()
def accuracy(network: DigitClassifier, images: Images) -> float:
    """Share of labelled images that are classified rightly."""
    assert images.labels is not None
    guesses = network(images.scaled(slice(None))).argmax(1)
    return float((guesses == torch.from_numpy(images.labels)).double().mean())


if __name__ == "__main__":
    run(
        TrainFeaturesOptions,
        main,
        prog="python -m apps.imagegen.train_features",
        description="Train a small classifier of digits; its last hidden layer is the feature space of FD-digits.",
        examples="""examples:
  python -m apps.imagegen.train_features
  python -m apps.imagegen.train_features --iterations 6000 --seed 1 --out out/other-features""",
    )

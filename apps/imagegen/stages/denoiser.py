"""The training of a denoiser (Karras et al. 2022, section 5).

Loss (their equation 2 with Table 1's last column): E over sigma, image y and noise n of
lambda(sigma) |D(y + n; sigma) - y|^2, with ln sigma ~ N(-1.2, 1.2^2) and lambda = (sigma^2 + s^2) / (sigma s)^2, where
s is the standard deviation of the data that the preconditioning assumes; so every noise level starts with weight one.
Noise levels are drawn stratified over the batch, which lowers the variance of the gradient and nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from apps.imagegen.augment import Augmentation
from apps.imagegen.data import Images
from apps.imagegen.models.edm import EDMPrecond
from core.distributed import Alone, Fabric, share
from core.fitting import FitConfig, fit
from core.supervision import Example
from data_tools.progress import Report

LOG_SIGMA_MEAN, LOG_SIGMA_STD = -1.2, 1.2
"""Of the noise levels in training (Karras et al. 2022, Table 1)."""

FINE = 0.2
"""Noise below this only blurs details; the log shows the loss there."""


@dataclass(frozen=True, slots=True)
class DenoiserStage:
    """What a training is run with.

    Attributes:
        fitting: see `FitConfig`.
        batch: images per iteration, over all processes.
        seed: of every draw.
        augmentation: of the images, where the network can be told of it; None changes nothing.
        precision: of the network.
    """

    fitting: FitConfig
    batch: int
    seed: int
    augmentation: Augmentation | None = None
    precision: Literal["float32", "bfloat16"] = "float32"


class Batch(NamedTuple):
    """What one iteration sees.

    Attributes:
        clean: images (B, C, H, W) in [-1, 1].
        noise: unit noise of that shape.
        sigma: noise levels (B,).
        labels: one-hot classes (B, label_dim), or None.
        augmented: what was done to each image (B, augment_dim), or None.
        dropout: seed of what the network draws.
    """

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    labels: Tensor | None
    augmented: Tensor | None
    dropout: int


def train_denoiser(
    stage: DenoiserStage, network: EDMPrecond, images: Images, folder: Path, fabric: Fabric | None = None
) -> EDMPrecond:
    """Fit a network with fresh weights, in place; it ends with the average of its weights.

    A run that was killed goes on from `folder` and ends with the same weights.

    Args:
        stage: see `DenoiserStage`.
        network: on its device.
        images: of its size, labelled where it is conditional.
        folder: of the run's checkpoint and log.
        fabric: processes that share each batch; None is this one alone.

    Raises:
        ValueError, FloatingPointError: see `core.fitting.fit`.
    """
    processes = fabric or Alone()
    network.train().requires_grad_(True)
    device = next(network.parameters()).device
    identity = {"stage": asdict(stage), "data": images.fingerprint, "network": network.model.config}

    def loss(iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch = draw(stage, images, network, iteration)
        order = torch.arange(stage.batch)
        mine, weight = share(Example(order, None, order), processes)
        torch.manual_seed(batch.dropout + processes.global_rank)
        error = denoising_error(network, batch, mine.endpoint, device)
        fine = batch.sigma[mine.endpoint] < FINE
        shown = error.detach()[fine.to(device)].mean() if bool(fine.any()) else error.detach().mean()
        return weight * error.mean(), {"loss_fine": shown}

    def run(report: Report | None) -> None:
        fit(
            network,
            loss,
            stage.fitting,
            folder,
            identity=identity,
            report=report,
            autocast=stage.precision,
            fabric=processes,
        )

    if processes.global_rank == 0:
        with Report("denoiser", stage.fitting.iterations) as report:
            run(report)
    else:
        run(None)
    return network.eval()


def draw(stage: DenoiserStage, images: Images, network: EDMPrecond, iteration: int) -> Batch:
    """The batch of an iteration, on the CPU: a function of the seed and the iteration alone."""
    generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + iteration)
    rows = torch.randint(len(images), (stage.batch,), generator=generator).numpy()
    clean = images.scaled(rows)
    augmented = None
    if stage.augmentation is not None and network.model.config.augment_dim:
        clean, augmented = stage.augmentation(clean, generator)
    strata = torch.rand(stage.batch, generator=generator, dtype=torch.float64)
    quantiles = (torch.arange(stage.batch) + strata) / stage.batch
    log_sigma = LOG_SIGMA_MEAN + LOG_SIGMA_STD * torch.special.ndtri(quantiles.clamp(1e-6, 1 - 1e-6))
    return Batch(
        clean=clean,
        noise=torch.randn(clean.shape, generator=generator),
        sigma=log_sigma.exp().float(),
        labels=images.one_hot(rows, network.label_dim) if network.label_dim else None,
        augmented=augmented,
        dropout=int(torch.randint(2**62, (), generator=generator)),
    )


def denoising_error(network: EDMPrecond, batch: Batch, rows: Tensor, device: torch.device) -> Tensor:
    """lambda(sigma) times the mean square over pixels, of these rows of a batch: (len(rows),)."""

    def mine(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows].to(device)

    clean, sigma = batch.clean[rows].to(device), batch.sigma[rows].to(device)
    noised = clean + sigma[:, None, None, None] * batch.noise[rows].to(device)
    denoised = network(noised, sigma, mine(batch.labels), augment_labels=mine(batch.augmented))
    weight = (sigma**2 + network.sigma_data**2) / (sigma * network.sigma_data) ** 2
    return weight * (denoised - clean).square().mean((1, 2, 3))

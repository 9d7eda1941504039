"""Second stage: the network on latents.

Loss: mean squared error of the noise, or of v, at times drawn uniformly from the schedule's 1000, context latents given
clean (with the noise: PreDiff's simple loss; the learned log-variance of its full loss only rescales gradients).
Times are drawn stratified over the batch, which lowers the variance of the gradient and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import core
from apps.nowcast.data import Windows, generator
from apps.nowcast.model import CuboidTransformerUNet, UNetConfig
from apps.nowcast.nowcaster import Codec, Precision, save_weights, weights_hash
from apps.nowcast.stages.latents import choose_pairs, encode_pairs
from core.fitting import FitConfig, fit
from core.parametrizations import mixture_of
from data_tools.progress import Report


@dataclass(frozen=True, slots=True)
class DiffusionStage:
    """What the diffusion stage is run with."""

    model: UNetConfig
    fitting: FitConfig
    batch: int
    seed: int
    variants: int = 2
    precision: Precision = "float32"


def train_diffusion(
    stage: DiffusionStage, codec: Codec, windows: Windows, folder: Path, device: str, card: dict
) -> CuboidTransformerUNet:
    """Fit the network, write its averaged weights to `folder/unet.safetensors`."""
    latents = encode_pairs(
        codec, windows, choose_pairs(windows, stage.variants, stage.seed), folder / "latents", device
    )
    torch.manual_seed(stage.seed)  # initial weights and dropout
    network = CuboidTransformerUNet(stage.model).to(device).train()
    schedule = core.DiscreteVP.scaled_linear()
    context = stage.model.context_shape[0]
    identity = {"stage": stage, "data": windows.fingerprint, "codec": weights_hash(codec)}

    def loss(iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        source = generator(stage.seed, iteration)
        torch.manual_seed(int(torch.randint(2**62, (), generator=source)))  # dropout of this iteration
        chosen = torch.randint(len(latents), (stage.batch,), generator=source)
        clean = latents[chosen].float().to(device).movedim(1, -1)  # (B, T, h, w, C), the network's layout
        noise = torch.randn(clean[:, context:].shape, generator=source).to(device)
        strata = (torch.arange(stage.batch) + torch.rand(stage.batch, generator=source)) / stage.batch
        steps = (strata * 1000).long().clamp(max=999)
        signal, future = _signal(schedule, steps, clean), clean[:, context:]
        p, q = mixture_of(stage.model.prediction, signal)
        predicted = network(signal.alpha * future + signal.sigma * noise, steps.to(device), clean[:, :context])
        error = (predicted.float() - (p * future + q * noise)).square().mean((1, 2, 3, 4))
        late = error.detach()[steps < 200].mean() if bool((steps < 200).any()) else error.detach().mean()
        return error.mean(), {"mse_below_200": late}

    with Report("diffusion", stage.fitting.iterations) as report:
        fit(network, loss, stage.fitting, folder / "unet", identity=identity, report=report, autocast=stage.precision)
    network.eval()
    card = card | {"codec": weights_hash(codec)}
    save_weights(folder / "unet.safetensors", network, "unet", stage.model, card)
    return network


def _signal(schedule: core.DiscreteVP, steps: Tensor, like: Tensor) -> core.Signal:
    """The signal of integer network times, shaped to multiply a batch."""
    shape = (-1, *(1,) * (like.ndim - 1))
    return core.Signal(*(value.to(like).view(shape) for value in schedule((steps.double() + 1) / 1000)))

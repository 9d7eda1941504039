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
from apps.nowcast.stages.execution import Execution
from apps.nowcast.stages.latents import choose_pairs, encode_pairs
from apps.nowcast.stages.times import signal_of, stratified
from core.distributed import Portion, rows_of
from core.fitting import FitConfig
from core.parametrizations import mixture_of
from core.sharding import gathered


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
    stage: DiffusionStage, codec: Codec, windows: Windows, folder: Path, execution: Execution, card: dict
) -> CuboidTransformerUNet:
    """Fit the network, write its averaged weights to `folder/unet.safetensors`."""
    device = execution.device
    pairs = choose_pairs(windows, stage.variants, stage.seed)
    latents = encode_pairs(codec, windows, pairs, folder / "latents", device, execution.fabric)
    torch.manual_seed(stage.seed)  # initial weights and dropout
    network = CuboidTransformerUNet(stage.model).to(device).train()
    execution.prepare(network)
    schedule = core.DiscreteVP.scaled_linear()
    context = stage.model.context_shape[0]
    identity = {"stage": stage, "data": windows.fingerprint, "codec": weights_hash(codec)}

    def loss(portion: Portion, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        rows, weight = rows_of(stage.batch, portion)
        source = generator(stage.seed, iteration)
        dropout = int(torch.randint(2**62, (), generator=source))
        chosen = torch.randint(len(latents), (stage.batch,), generator=source)[rows]
        clean = latents[chosen].float().to(device).movedim(1, -1)  # (B, T, h, w, C), the network's layout
        shape = (stage.batch, *clean[0, context:].shape)
        noise = torch.randn(shape, generator=source)[rows].to(device)
        all_steps = stratified(stage.batch, source)
        steps = all_steps[rows]
        signal, future = signal_of(schedule, steps, clean), clean[:, context:]
        p, q = mixture_of(stage.model.prediction, signal)
        torch.manual_seed(dropout + portion.index)  # dropout of this iteration
        predicted = network(signal.alpha * future + signal.sigma * noise, steps.to(device), clean[:, :context])
        error = (predicted.float() - (p * future + q * noise)).square().mean((1, 2, 3, 4))
        # The mean over portions of what each logs is the mean of the batch.
        below = int((all_steps < 200).sum())
        late = error.detach()[steps < 200].sum() * (portion.count / below) if below else weight * error.detach().mean()
        return weight * error.mean(), {"mse_below_200": late}

    execution.fit(
        "diffusion",
        network,
        loss,
        stage.fitting,
        folder / "unet",
        identity=identity,
        precision=stage.precision,
    )
    network = gathered(network, lambda: CuboidTransformerUNet(stage.model).to(device)).eval()
    if execution.leads:
        save_weights(folder / "unet.safetensors", network, "unet", stage.model, card | {"codec": weights_hash(codec)})
    execution.fabric.barrier()  # none ends before the one that writes
    return network

"""The alignment network: mean intensities of the coming frames, read off their noisy latents.

Loss: mean squared error of each frame's mean on the encoded scale [0, 1], missing pixels counting as dry as they do in
the latents, at times drawn as in the diffusion stage (PreDiff, Gao et al. 2023, section 3.3). A mean does not change
when a frame is turned or mirrored, so every symmetry of a window has the same targets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import core
from apps.nowcast.codec import Codec
from apps.nowcast.data import Windows, generator, seen
from apps.nowcast.model import AlignmentConfig, AlignmentNetwork
from apps.nowcast.nowcaster import Precision
from apps.nowcast.stages.execution import Execution
from apps.nowcast.stages.latents import choose_pairs, encode_pairs
from apps.nowcast.stages.times import signal_of, stratified
from apps.nowcast.weight_files import save_weights, weights_hash
from core.distributed import Portion, rows_of
from core.fitting import FitConfig, write_atomically
from core.sharding import gathered
from data_tools.cli import progress_bar


@dataclass(frozen=True, slots=True)
class AlignmentStage:
    """What the alignment stage is run with."""

    model: AlignmentConfig
    fitting: FitConfig
    batch: int
    seed: int
    variants: int = 2
    precision: Precision = "float32"


def train_alignment(
    stage: AlignmentStage, codec: Codec, windows: Windows, folder: Path, execution: Execution, card: dict
) -> AlignmentNetwork:
    """Fit the network on latents of `codec`, write its averaged weights to `folder/alignment.safetensors`."""
    device, frames = execution.device, stage.model.target_shape[0]
    pairs = choose_pairs(windows, stage.variants, stage.seed)
    latents = encode_pairs(codec, windows, pairs, folder / "latents", device, execution.fabric)
    means = mean_intensities(windows, frames, folder / "latents", execution)
    events = torch.tensor([index for index, _ in pairs])
    torch.manual_seed(stage.seed)  # initial weights
    network = AlignmentNetwork(stage.model).to(device).train()
    execution.prepare(network)
    schedule = core.DiscreteVP.scaled_linear()
    identity = {"stage": stage, "data": windows.fingerprint, "codec": weights_hash(codec)}

    def loss(portion: Portion, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        rows, weight = rows_of(stage.batch, portion)
        source = generator(stage.seed, iteration, 5)
        dropout = int(torch.randint(2**62, (), generator=source))
        chosen = torch.randint(len(pairs), (stage.batch,), generator=source)[rows]
        clean = latents[chosen][:, :, -frames:].float().to(device).movedim(1, -1)  # (B, T, h, w, C)
        noise = torch.randn((stage.batch, *clean.shape[1:]), generator=source)[rows].to(device)
        steps = stratified(stage.batch, source)[rows]
        signal = signal_of(schedule, steps, clean)
        torch.manual_seed(dropout + portion.index)
        predicted = network(signal.alpha * clean + signal.sigma * noise, steps.to(device))[..., 0].float()
        error = (predicted - means[events[chosen]].to(device)).square().mean()
        return weight * error, {"error_of_means": weight * error.detach().sqrt()}

    execution.fit(
        "alignment", network, loss, stage.fitting, folder / "alignment", identity=identity, precision=stage.precision
    )
    network = gathered(network, lambda: AlignmentNetwork(stage.model).to(device)).eval()
    if execution.leads:
        card = card | {"codec": weights_hash(codec)}
        save_weights(folder / "alignment.safetensors", network, "alignment", stage.model, card)
    execution.fabric.barrier()  # none ends before the one that writes
    return network


def mean_intensities(windows: Windows, frames: int, folder: Path, execution: Execution) -> Tensor:
    """Means (windows, frames) of the last frames of every window on the encoded scale, kept in `folder`."""
    name = hashlib.sha256(f"{windows.fingerprint}/{frames}".encode()).hexdigest()[:16]
    path = folder / f"means-{name}.safetensors"
    if execution.leads and not path.exists():
        means = []
        with progress_bar() as bar:
            task = bar.add_task("mean intensities", total=len(windows), note="")
            for index in range(len(windows)):
                means.append(seen(windows, windows.frames[index][-frames:]).mean((-2, -1)))
                bar.advance(task)
        write_atomically(path, lambda temporary: save_file({"means": torch.stack(means)}, temporary))
    execution.fabric.barrier()  # the others read what the first has written
    try:
        return load_file(path)["means"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"expected mean intensities in {path}, got a damaged file ({error}); remove it") from error

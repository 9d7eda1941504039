"""First stage: the frame-wise KL autoencoder.

Loss: mean |x - x̂| + mean (x - x̂)^2 on the encoded scale + peak_weight * mean |p - p̂| + kl_weight * KL in nats per
frame, p the maxima over squares of 4 x 4 pixels. The absolute error keeps edges sharp, the maxima keep the peaks of
small cells, which the mean over mostly dry pixels does not see; neither needs a discriminator at this size. The network
is convolutional (but for one attention at the coarsest level), so most steps see crops; the last fifth sees whole
frames, which the attention must know. A third of the crops takes every second pixel of a square twice as large: cells
smaller than those that the training archives happened to see.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from apps.nowcast.data import Windows, draw_frames, generator
from apps.nowcast.model import AutoencoderConfig
from apps.nowcast.nowcaster import Codec, Precision, save_weights
from apps.nowcast.stages.execution import Execution
from core.distributed import Portion, rows_of
from core.fitting import FitConfig
from core.sharding import gathered


@dataclass(frozen=True, slots=True)
class AutoencoderStage:
    """What the autoencoder stage is run with."""

    model: AutoencoderConfig
    fitting: FitConfig
    batch: int
    seed: int
    kl_weight: float = 1e-6
    peak_weight: float = 0.5
    peak_size: int = 4
    crop: int = 64
    coarse: float = 1 / 3
    whole_frames: float = 0.2
    precision: Precision = "float32"

    def sees_whole_frames(self, iteration: int) -> bool:
        return iteration >= (1 - self.whole_frames) * self.fitting.iterations

    def count(self, iteration: int) -> int:
        """Frames of a step: `batch` crops, or a quarter as many whole frames, which cost the same."""
        return self.whole_frames_of(self.batch) if self.sees_whole_frames(iteration) else self.batch

    @staticmethod
    def whole_frames_of(batch: int) -> int:
        """Whole frames of a step that otherwise sees so many crops."""
        return max(1, batch // 4)


def train_autoencoder(
    stage: AutoencoderStage, windows: Windows, folder: Path, execution: Execution, card: dict
) -> Codec:
    """Fit the autoencoder on single frames, measure the latents' scale, write `folder/autoencoder.safetensors`."""
    device = execution.device
    torch.manual_seed(stage.seed)  # initial weights
    codec = Codec(stage.model).to(device)
    for part in codec.autoencoder.children():
        execution.prepare(part)
    identity = {"stage": stage, "data": windows.fingerprint}

    def loss(portion: Portion, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        count = stage.count(iteration)
        rows, weight = rows_of(count, portion)
        frames = _draw(stage, windows, iteration, rows).to(device)
        posterior = codec.autoencoder.encode(frames)
        noise = torch.randn((count, *posterior.mean.shape[1:]), generator=generator(stage.seed, iteration, 1))[rows]
        decoded = codec.autoencoder.decode(posterior.mean + torch.exp(0.5 * posterior.logvar) * noise.to(device))
        decoded = decoded.float()
        kl = posterior.kl().float().mean()
        absolute, squared = (decoded - frames).abs().mean(), (decoded - frames).square().mean()
        peaks = (F.max_pool2d(decoded, stage.peak_size) - F.max_pool2d(frames, stage.peak_size)).abs().mean()
        total = absolute + squared + stage.peak_weight * peaks + stage.kl_weight * kl
        return weight * total, {
            "mae": weight * absolute.detach(),
            "peaks": weight * peaks.detach(),
            "kl": weight * kl.detach(),
        }

    execution.fit(
        "autoencoder",
        codec,
        loss,
        stage.fitting,
        folder / "autoencoder",
        identity=identity,
        precision=stage.precision,
    )
    codec = gathered(codec, lambda: Codec(stage.model).to(device)).eval()
    _normalise(codec, windows, stage.seed, device)
    if execution.leads:
        save_weights(folder / "autoencoder.safetensors", codec, "autoencoder", stage.model, card)
    execution.fabric.barrier()  # the next stage reads it in every process
    return codec


def _draw(stage: AutoencoderStage, windows: Windows, iteration: int, rows: slice) -> Tensor:
    """These rows of the frames of one step: crops, the last of them coarse ones, or whole frames."""
    key, count = (stage.seed, iteration), stage.count(iteration)
    if stage.sees_whole_frames(iteration):
        return draw_frames(windows, count, key, rows=rows)
    coarse = round(stage.coarse * count) if min(windows.frames.shape[2:]) >= 2 * stage.crop else 0
    fine = count - coarse
    parts = []
    if rows.start < fine:
        parts.append(draw_frames(windows, fine, key, stage.crop, slice(rows.start, min(rows.stop, fine))))
    if rows.stop > fine:
        mine = slice(max(rows.start - fine, 0), rows.stop - fine)
        parts.append(draw_frames(windows, coarse, (*key, 3), 2 * stage.crop, mine)[..., ::2, ::2])
    return torch.cat(parts)


@torch.no_grad()
def _normalise(codec: Codec, windows: Windows, seed: int, device: str, frames: int = 512) -> None:
    """Set the latent mean and standard deviation from training frames."""
    drawn = draw_frames(windows, frames, (seed, 0, 2)).to(device)
    modes = torch.cat([codec.autoencoder.encode(part).mode() for part in drawn.split(16)])
    codec.latent_mean.copy_(modes.mean((0, 2, 3)))
    codec.latent_std.copy_(modes.std((0, 2, 3)))

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
from core.fitting import FitConfig, fit
from data_tools.progress import Report


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


def train_autoencoder(stage: AutoencoderStage, windows: Windows, folder: Path, device: str, card: dict) -> Codec:
    """Fit the autoencoder on single frames, measure the latents' scale, write `folder/autoencoder.safetensors`."""
    torch.manual_seed(stage.seed)  # initial weights
    codec = Codec(stage.model).to(device)
    identity = {"stage": stage, "data": windows.fingerprint}

    def loss(iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        frames = _draw(stage, windows, iteration).to(device)
        posterior = codec.autoencoder.encode(frames)
        noise = torch.randn(posterior.mean.shape, generator=generator(stage.seed, iteration, 1)).to(device)
        decoded = codec.autoencoder.decode(posterior.mean + torch.exp(0.5 * posterior.logvar) * noise).float()
        kl = posterior.kl().float().mean()
        absolute, squared = (decoded - frames).abs().mean(), (decoded - frames).square().mean()
        peaks = (F.max_pool2d(decoded, stage.peak_size) - F.max_pool2d(frames, stage.peak_size)).abs().mean()
        return absolute + squared + stage.peak_weight * peaks + stage.kl_weight * kl, {
            "mae": absolute.detach(),
            "peaks": peaks.detach(),
            "kl": kl.detach(),
        }

    with Report("autoencoder", stage.fitting.iterations) as report:
        fit(
            codec,
            loss,
            stage.fitting,
            folder / "autoencoder",
            identity=identity,
            report=report,
            autocast=stage.precision,
        )
    codec.eval()
    _normalise(codec, windows, stage.seed, device)
    save_weights(folder / "autoencoder.safetensors", codec, "autoencoder", stage.model, card)
    return codec


def _draw(stage: AutoencoderStage, windows: Windows, iteration: int) -> Tensor:
    """Frames of one step: crops, or a quarter as many whole frames, which cost the same."""
    if iteration >= (1 - stage.whole_frames) * stage.fitting.iterations:
        return draw_frames(windows, max(1, stage.batch // 4), (stage.seed, iteration))
    coarse = round(stage.coarse * stage.batch) if min(windows.frames.shape[2:]) >= 2 * stage.crop else 0
    crops = draw_frames(windows, stage.batch - coarse, (stage.seed, iteration), stage.crop)
    if not coarse:
        return crops
    large = draw_frames(windows, coarse, (stage.seed, iteration, 3), 2 * stage.crop)
    return torch.cat([crops, large[..., ::2, ::2]])


@torch.no_grad()
def _normalise(codec: Codec, windows: Windows, seed: int, device: str, frames: int = 512) -> None:
    """Set the latent mean and standard deviation from training frames."""
    drawn = draw_frames(windows, frames, (seed, 0, 2)).to(device)
    modes = torch.cat([codec.autoencoder.encode(part).mode() for part in drawn.split(16)])
    codec.latent_mean.copy_(modes.mean((0, 2, 3)))
    codec.latent_std.copy_(modes.std((0, 2, 3)))

"""First stage: the frame-wise KL autoencoder.

Loss: mean |x - x̂| + mean (x - x̂)^2 on the encoded scale + kl_weight * KL, in nats per frame. The absolute
error keeps edges sharp, the squared one keeps peaks; neither needs a discriminator at this size. The network is
convolutional (but for one attention at the coarsest level), so most steps see crops; the last fifth sees whole frames,
which the attention must know.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from apps.nowcast.data import Windows, draw_frames, generator
from apps.nowcast.model import AutoencoderConfig
from apps.nowcast.nowcaster import Codec, Precision, save_weights
from apps.nowcast.progress import Report
from core.fitting import FitConfig, fit


@dataclass(frozen=True, slots=True)
class AutoencoderStage:
    """What the autoencoder stage is run with."""

    model: AutoencoderConfig
    fitting: FitConfig
    batch: int
    seed: int
    kl_weight: float = 1e-6
    crop: int = 64
    whole_frames: float = 0.2
    precision: Precision = "float32"


def train_autoencoder(stage: AutoencoderStage, windows: Windows, folder: Path, device: str, card: dict) -> Codec:
    """Fit the autoencoder on single frames, measure the latents' scale, write `folder/autoencoder.safetensors`."""
    torch.manual_seed(stage.seed)  # initial weights
    codec = Codec(stage.model).to(device)
    identity = {"stage": stage, "data": windows.fingerprint}

    def loss(iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        whole = iteration >= (1 - stage.whole_frames) * stage.fitting.iterations
        count, crop = (max(1, stage.batch // 4), None) if whole else (stage.batch, stage.crop)  # equal cost
        frames = draw_frames(windows, count, (stage.seed, iteration), crop).to(device)
        posterior = codec.autoencoder.encode(frames)
        noise = torch.randn(posterior.mean.shape, generator=generator(stage.seed, iteration, 1)).to(device)
        decoded = codec.autoencoder.decode(posterior.mean + torch.exp(0.5 * posterior.logvar) * noise)
        error = decoded - frames
        kl = posterior.kl().mean()
        absolute, squared = error.abs().mean(), error.square().mean()
        return absolute + squared + stage.kl_weight * kl, {
            "mae": absolute.detach(),
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


@torch.no_grad()
def _normalise(codec: Codec, windows: Windows, seed: int, device: str, frames: int = 512) -> None:
    """Set the latent mean and standard deviation from training frames."""
    drawn = draw_frames(windows, frames, (seed, 0, 2)).to(device)
    modes = torch.cat([codec.autoencoder.encode(part).mode() for part in drawn.split(16)])
    codec.latent_mean.copy_(modes.mean((0, 2, 3)))
    codec.latent_std.copy_(modes.std((0, 2, 3)))

"""MLCast's contract of a network: x (batch, time, channels, H, W), steps, ensemble_size -> (batch, steps, members,
H, W), both on its normalised scale, reflectivity from 0 to 60 dBZ (Z = 200 R^1.6) over -1 to 1.

MLCast's Lightning module calls its network so and takes the channels of the answer for members; ours can stand there,
frozen: it forecasts and is not trained further. Nothing of MLCast is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apps.nowcast.adapters.nowcasting import PystepsNowcast
from apps.nowcast.data import member_seed
from data_tools.quantities import RAINFALL_RATE

_MOST_DBZ = 60.0


def normalise(rate: Tensor) -> Tensor:
    """mm/h to [-1, 1]: -1 is 0 dBZ, about 0.037 mm/h, and below; 1 is 60 dBZ and above."""
    decibel = 10.0 * torch.log10(200.0 * rate.clamp(min=0.0) ** 1.6 + 1e-16)
    return decibel.clamp(0.0, _MOST_DBZ) / (_MOST_DBZ / 2.0) - 1.0


def denormalise(normalised: Tensor) -> Tensor:
    """The inverse of `normalise`; -1, which stands for no rain, becomes 0."""
    decibel = (normalised.clamp(-1.0, 1.0) + 1.0) * (_MOST_DBZ / 2.0)
    rate = (10.0 ** (decibel / 10.0) / 200.0) ** (1.0 / 1.6)
    return torch.where(decibel > 0.0, rate, 0.0)


class MLCastNetwork(nn.Module):
    """A frozen nowcaster with its solver as a network of MLCast's kind.

    Args:
        nowcast: model and solver, see `PystepsNowcast.load`.
        seed: a member depends on it, on its place in the batch and on its number.
    """

    def __init__(self, nowcast: PystepsNowcast, seed: int = 0) -> None:
        super().__init__()
        if nowcast.method.solver is None or nowcast.method.grid is None:
            raise ValueError(f"expected a method that samples the model, got {nowcast.method.label}")
        self.nowcaster, self.method, self.seed = nowcast.nowcaster, nowcast.method, seed

    @torch.no_grad()
    def forward(self, x: Tensor, steps: int, ensemble_size: int = 1) -> Tensor:
        """Forecast.

        Args:
            x: (B, time, 1, H, W) in [-1, 1], finite, at least as many frames as the model sees, of its size.
            steps: frames to forecast, 1 to what the model forecasts.
            ensemble_size: members.

        Returns:
            (B, steps, ensemble_size, H, W) in [-1, 1], of x's dtype.

        Raises:
            ValueError: shapes, steps or members do not fit the model.
        """
        model = self.nowcaster
        expected = (1, *model.frame_size)
        if x.ndim != 5 or x.shape[1] < model.context_frames or tuple(x.shape[2:]) != expected:
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"expected x (B, {model.context_frames} or more, {sizes}), got {tuple(x.shape)}")
        if not 1 <= steps <= model.target_frames or ensemble_size < 1:
            raise ValueError(
                f"expected 1 to {model.target_frames} steps and a member or more, got {steps} and {ensemble_size}"
            )
        assert self.method.solver is not None
        assert self.method.grid is not None
        context = RAINFALL_RATE.encode(denormalise(x[:, -model.context_frames :, 0].float()))
        seeds = [member_seed(self.seed, str(row), member) for row in range(len(x)) for member in range(ensemble_size)]
        forecast = model.forecast(context, self.method.solver(seeds), self.method.grid, seeds).frames[:, :steps]
        rate = RAINFALL_RATE.decode(forecast)
        return normalise(rate).unflatten(0, (len(x), ensemble_size)).transpose(1, 2).to(x.dtype)

"""Sizes of the nowcasting model: frozen values, each with the presets `mini` (a laptop) and `prediff` (the paper's)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Prediction = Literal["noise", "v"]


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """Size of the frame-wise KL autoencoder.

    Every level but the last halves height and width, so four levels compress 8 x 8.

    Raises:
        ValueError: a count below one, or channels that the normalisation groups do not divide.
    """

    in_channels: int = 1
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 64
    norm_num_groups: int = 32

    def __post_init__(self) -> None:
        counts = (*self.block_out_channels, self.in_channels, self.layers_per_block, self.latent_channels)
        if not self.block_out_channels or min(counts) < 1 or self.norm_num_groups < 1:
            raise ValueError(f"expected at least one level and counts of at least one, got {self}; correct them")
        uneven = [c for c in self.block_out_channels if c % self.norm_num_groups]
        if uneven:
            raise ValueError(
                f"expected block_out_channels divisible by norm_num_groups={self.norm_num_groups}, got {uneven}; "
                "change one of the two"
            )

    @property
    def compression(self) -> int:
        """Pixels per latent cell along height and along width."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def mini(cls) -> AutoencoderConfig:
        """128 x 128 frames to 16 x 16 x 16 latents, 1.0 M parameters."""
        return cls(block_out_channels=(16, 32, 64, 64), layers_per_block=1, latent_channels=16, norm_num_groups=8)

    @classmethod
    def prediff(cls) -> AutoencoderConfig:
        """PreDiff's SEVIR-LR autoencoder: 128 x 128 frames to 16 x 16 x 64 latents, 84.5 M parameters."""
        return cls()


def check_levels(target_shape: Sequence[int], depth: Sequence[int], base_units: int, num_heads: int) -> None:
    """Check the levels of a cuboid network over frames (T, H, W, C).

    Raises:
        ValueError: no level, a height or width that cannot be halved often enough, or units that the heads do not
            divide.
    """
    if not depth or min(depth) < 1:
        raise ValueError(f"expected at least one attention block per level, got depth={depth}; correct it")
    halvings = 2 ** (len(depth) - 1)
    if any(size % halvings for size in target_shape[1:3]):
        raise ValueError(
            f"expected height and width divisible by {halvings} for {len(depth)} levels, got "
            f"{tuple(target_shape[1:3])}; use fewer levels or other latents"
        )
    if base_units % num_heads or base_units % 2:
        raise ValueError(
            f"expected an even base_units divisible by num_heads={num_heads}, got {base_units}; change one of the two"
        )


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """Size of the UNet, and what it predicts. Shapes are (frames, height, width, latent channels).

    `depth` counts the cuboid blocks of each level; every level after the first halves height and width and doubles
    the channels, from `base_units`. `dropout` is that of attention, feed-forward and the first projection,
    `time_embed_dropout` that of the residual blocks which read the diffusion time. Group normalisation takes
    `norm_num_groups` groups where they divide the channels, else one group per channel. Keep two channels or more to a
    group: alone in its group, a channel loses the constant that the time embedding adds, and the level no longer sees
    the diffusion time.

    Raises:
        ValueError: context and target that differ in more than their frames, a height or width that cannot be halved
            often enough, or units that the heads do not divide.
    """

    context_shape: tuple[int, int, int, int] = (7, 16, 16, 64)
    target_shape: tuple[int, int, int, int] = (6, 16, 16, 64)
    base_units: int = 256
    depth: tuple[int, ...] = (4, 4)
    num_heads: int = 4
    dropout: float = 0.1
    time_embed_multiplier: int = 4
    norm_num_groups: int = 32
    prediction: Prediction = "noise"
    time_embed_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise ValueError(f"expected a prediction of {' or '.join(get_args(Prediction))}, got {self.prediction!r}")
        if self.context_shape[1:] != self.target_shape[1:]:
            raise ValueError(
                f"expected context and target frames of one shape, got {self.context_shape[1:]} and "
                f"{self.target_shape[1:]}; only the number of frames may differ"
            )
        check_levels(self.target_shape, self.depth, self.base_units, self.num_heads)

    @property
    def frames(self) -> int:
        """Context and target frames together: what the network sees on its time axis."""
        return self.context_shape[0] + self.target_shape[0]

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, finest first."""
        return tuple(self.base_units * 2**level for level in range(len(self.depth)))

    @property
    def level_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(frames, height, width) of every level, finest first."""
        _, height, width, _ = self.target_shape
        return tuple((self.frames, height >> level, width >> level) for level in range(len(self.depth)))

    @classmethod
    def mini(cls, base_units: int = 32) -> UNetConfig:
        """7 + 6 frames of 16 x 16 x 16 latents. No dropout: a network this small underfits before it overfits.

        It predicts v: at the noise end of PreDiff's schedule alpha is .027, and a noise prediction's errors would be
        divided by that.
        """
        return cls(
            context_shape=(7, 16, 16, 16),
            target_shape=(6, 16, 16, 16),
            base_units=base_units,
            depth=(1, 1),
            dropout=0.0,
            norm_num_groups=8,
            prediction="v",
        )

    @classmethod
    def prediff(cls) -> UNetConfig:
        """PreDiff's SEVIR-LR network: 7 + 6 frames of 16 x 16 x 64 latents, 136.8 M parameters."""
        return cls()

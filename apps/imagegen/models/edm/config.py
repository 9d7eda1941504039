"""Sizes of EDM's two networks: frozen values with the defaults of Karras et al. 2022 (arXiv 2206.00364, appendix F)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

Embedding = Literal["positional", "fourier"]
EncoderKind = Literal["standard", "skip", "residual"]
DecoderKind = Literal["standard", "skip"]

LARGEST = {"img_resolution": 4096, "model_channels": 4096, "num_blocks": 64, "channel_mult_emb": 64}
"""Bounds of what a file may ask to be built."""
MOST_LEVELS = 10
MOST_TAPS = 16
MOST_LABELS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """What both networks share.

    Attributes:
        img_resolution: height and width of the images, pixels.
        in_channels, out_channels: of the images that go in and come out.
        label_dim: number of classes; 0 is unconditional.
        augment_dim: length of the vector that tells how an image was augmented; 0 where none is told.
        model_channels: width of the finest level.
        channel_mult: width of each level, finest first, as a multiple of `model_channels`.
        channel_mult_emb: width of the embedding as a multiple of `model_channels`.
        num_blocks: residual blocks of a level of the encoder; the decoder has one more.
        attn_resolutions: resolutions whose blocks attend.
        dropout: probability that a value within a block is dropped in training.
        label_dropout: probability that a label is dropped in training, for guidance without a classifier.

    Raises:
        ValueError: a value that no network can have.
    """

    model_type: ClassVar[str]

    img_resolution: int
    in_channels: int
    out_channels: int
    label_dim: int = 0
    augment_dim: int = 0
    model_channels: int
    channel_mult: tuple[int, ...]
    channel_mult_emb: int = 4
    num_blocks: int
    attn_resolutions: tuple[int, ...]
    dropout: float = 0.10
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("channel_mult", "attn_resolutions"):
            object.__setattr__(self, name, _integers(name, getattr(self, name)))
        for name in ("in_channels", "out_channels", *LARGEST):
            _check_count(name, getattr(self, name), 1, LARGEST.get(name, 1024))
        for name in ("label_dim", "augment_dim"):
            _check_count(name, getattr(self, name), 0, MOST_LABELS)
        for name in ("dropout", "label_dropout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"expected {name} in [0, 1), got {value!r}; give a probability")
        levels = len(self.channel_mult)
        if not 1 <= levels <= MOST_LEVELS or self.img_resolution % 2 ** (levels - 1):
            raise ValueError(
                f"expected 1 to {MOST_LEVELS} levels whose halvings divide img_resolution, got {levels} levels for "
                f"{self.img_resolution} pixels; change channel_mult"
            )
        for multiple in self.channel_mult:
            _check_count("channel_mult", multiple, 1, 64)

    @property
    def levels(self) -> list[tuple[int, int]]:
        """(resolution, channels) of each level, finest first."""
        return [(self.img_resolution >> i, self.model_channels * m) for i, m in enumerate(self.channel_mult)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SongConfig(UNetConfig):
    """Song et al. 2021's DDPM++ ("positional", "standard") and NCSN++ ("fourier", "residual") as EDM has them.

    Attributes:
        embedding_type: how the noise level is embedded.
        channel_mult_noise: width of that embedding as a multiple of `model_channels`.
        encoder_type: what the input image adds to coarser levels: nothing, its downsampled self, or a running residual.
        decoder_type: whether only the finest level gives the output, or all of them a part of it.
        resample_filter: taps of the separable filter that resamples.
    """

    model_type: ClassVar[str] = "SongUNet"

    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    embedding_type: Embedding = "positional"
    channel_mult_noise: int = 1
    encoder_type: EncoderKind = "standard"
    decoder_type: DecoderKind = "standard"
    resample_filter: tuple[int, ...] = (1, 1)

    def __post_init__(self) -> None:
        UNetConfig.__post_init__(self)
        object.__setattr__(self, "resample_filter", _integers("resample_filter", self.resample_filter))
        _check_count("channel_mult_noise", self.channel_mult_noise, 1, 64)
        for name, known in (
            ("embedding_type", ("positional", "fourier")),
            ("encoder_type", ("standard", "skip", "residual")),
            ("decoder_type", ("standard", "skip")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"expected {name} among {', '.join(known)}, got {getattr(self, name)!r}; choose one")
        taps = self.resample_filter
        if not 2 <= len(taps) <= MOST_TAPS or len(taps) % 2 or sum(taps) <= 0:
            raise ValueError(f"expected an even number of taps of a positive sum, got {taps}; [1, 1] averages")


@dataclass(frozen=True, slots=True, kw_only=True)
class DhariwalConfig(UNetConfig):
    """Dhariwal & Nichol 2021's ADM (arXiv 2105.05233) as EDM has it."""

    model_type: ClassVar[str] = "DhariwalUNet"

    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)


NETWORKS: dict[str, type[UNetConfig]] = {config.model_type: config for config in (SongConfig, DhariwalConfig)}
"""Configurations by the name of their network."""

Config = TypeVar("Config", bound=UNetConfig)


def network_config(model_type: str, values: Mapping[str, Any]) -> UNetConfig:
    """The configuration of a network.

    Args:
        model_type: a name in `NETWORKS`.
        values: fields of it; the others keep their defaults.

    Raises:
        TypeError: an unknown field, or one that is missing.
        ValueError: an unknown network, or a value it cannot have.
    """
    kind = NETWORKS.get(model_type)
    if kind is None:
        raise ValueError(f"expected a network among {', '.join(NETWORKS)}, got {model_type!r}; choose one")
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise TypeError(
            f"expected keyword arguments of {model_type}, got {unknown[0]!r}; it takes {', '.join(sorted(known))}"
        )
    return kind(**values)


def written(config: UNetConfig) -> dict[str, Any]:
    """The configuration as JSON: what `network_config` takes, with "model_type"."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    return {"model_type": config.model_type, **values}


def _integers(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or not all(type(value) is int for value in values):
        raise ValueError(f"expected whole numbers as {name}, got {values!r}; give a list of them")
    return tuple(values)


def _check_count(name: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"expected {name} from {least} to {most}, got {value!r}; give a whole number")

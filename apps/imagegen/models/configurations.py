"""The image models by name: the published checkpoints of EDM (Karras et al. 2022, arXiv 2206.00364) and ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from apps.imagegen.models.edm import DhariwalConfig, EDMPrecond, SongConfig, UNetConfig, network_config, written
from data_tools.cli import UserError

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
"""Noise levels that EDM samples all its networks between (Karras et al. 2022, Table 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A denoiser under EDM's preconditioning, without its weights.

    Attributes:
        name: of the model.
        dataset: that it was, or is to be, trained on.
        network: sizes of its network.
        use_fp16: whether its authors ran the core in half precision on CUDA.
        sigma_min, sigma_max: ends of the noise levels it is sampled over.
        sigma_data: standard deviation of the data, of the preconditioning.
        file: name of the published checkpoint, which `apps.imagegen.convert` reads; None where it is ours.

    Raises:
        ValueError: noise levels that are not 0 < sigma_min < sigma_max, or another number of channels out than in.
    """

    name: str
    dataset: str
    network: UNetConfig
    use_fp16: bool = False
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    sigma_data: float = 0.5
    file: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < float("inf") or not 0 < self.sigma_data < float("inf"):
            raise ValueError(
                f"expected 0 < sigma_min < sigma_max and sigma_data > 0, got {self.sigma_min}, {self.sigma_max} and "
                f"{self.sigma_data}; give standard deviations of the noise"
            )
        if self.network.in_channels != self.network.out_channels:
            raise ValueError(
                f"expected as many channels out as in, got {self.network.in_channels} in and "
                f"{self.network.out_channels} out; a denoiser gives an image of the same kind"
            )

    @property
    def resolution(self) -> int:
        return self.network.img_resolution

    @property
    def channels(self) -> int:
        return self.network.in_channels

    @property
    def label_dim(self) -> int:
        return self.network.label_dim

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments of `EDMPrecond`."""
        values = asdict(self.network)
        for name in ("in_channels", "out_channels"):
            del values[name]
        given = {"img_channels": self.channels, "use_fp16": self.use_fp16, "model_type": self.network.model_type}
        noise = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max, "sigma_data": self.sigma_data}
        return {**given, **noise, **values}

    def build(self, device: torch.device | str = "cpu") -> EDMPrecond:
        """A denoiser with fresh weights, drawn from torch's global generator; "meta" gives one without any."""
        with torch.device(device):
            return EDMPrecond(**self.kwargs)

    def with_labels(self, label_dim: int) -> Architecture:
        """The same for another number of classes."""
        return replace(self, network=replace(self.network, label_dim=label_dim))

    def written(self) -> dict[str, Any]:
        """As JSON, see `read_architecture`."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "network"}
        return {**values, "network": written(self.network)}


def read_architecture(values: Mapping[str, Any]) -> Architecture:
    """What `Architecture.written` wrote.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: it is something else.
    """
    values = dict(values)
    network = dict(values.pop("network"))
    for name in ("sigma_min", "sigma_max", "sigma_data"):
        if isinstance(values[name], bool) or not isinstance(values[name], int | float):
            raise ValueError(f"expected a number as {name}, got {values[name]!r}; the file is not ours")
        values[name] = float(values[name])
    if not isinstance(values["name"], str) or not isinstance(values["dataset"], str):
        raise ValueError("expected texts as name and dataset; the file is not ours")
    if not isinstance(values["use_fp16"], bool) or not isinstance(values["file"], str | None):
        raise ValueError("expected true or false as use_fp16 and a text or null as file; the file is not ours")
    return Architecture(network=network_config(network.pop("model_type"), network), **values)


def _song(resolution: int, label_dim: int, kind: str, *, channel_mult: tuple[int, ...], dropout: float) -> SongConfig:
    """EDM's SongUNet, "vp" (DDPM++) or "ve" (NCSN++): the paper's Table 7, configurations C and after."""
    size = SongConfig(
        img_resolution=resolution,
        in_channels=3,
        out_channels=3,
        label_dim=label_dim,
        augment_dim=9,
        channel_mult=channel_mult,
        dropout=dropout,
    )
    if kind == "vp":
        return size
    return replace(
        size,
        embedding_type="fourier",
        channel_mult_noise=2,
        encoder_type="residual",
        resample_filter=(1, 3, 3, 1),
    )


def _published() -> list[Architecture]:
    found = []
    for kind in ("vp", "ve"):
        for condition, labels in (("uncond", 0), ("cond", 10)):
            network = _song(32, labels, kind, channel_mult=(2, 2, 2), dropout=0.13)
            found.append((f"cifar10-32x32-{condition}-{kind}", "CIFAR-10", network))
        for dataset, title, dropout in (("ffhq", "FFHQ", 0.05), ("afhqv2", "AFHQv2", 0.25)):
            network = _song(64, 0, kind, channel_mult=(1, 2, 2, 2), dropout=dropout)
            found.append((f"{dataset}-64x64-uncond-{kind}", title, network))
    adm = DhariwalConfig(img_resolution=64, in_channels=3, out_channels=3, label_dim=1000)
    found.append(("imagenet-64x64-cond-adm", "ImageNet", adm))
    return [
        Architecture(name=name, dataset=dataset, network=network, use_fp16=network is adm, file=f"edm-{name}.pkl")
        for name, dataset, network in found
    ]


DIGITS = Architecture(
    name="digits",
    dataset="scikit-learn digits, 16 x 16",
    network=SongConfig(
        img_resolution=16,
        in_channels=1,
        out_channels=1,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(8,),
        dropout=0.05,
    ),
)
"""Small enough for a laptop's CPU."""

CIFAR10_SMALL = Architecture(
    name="cifar10-small",
    dataset="CIFAR-10",
    network=SongConfig(
        img_resolution=32,
        in_channels=3,
        out_channels=3,
        augment_dim=9,
        model_channels=64,
        channel_mult=(2, 2, 2),
        num_blocks=4,
        dropout=0.13,
    ),
)
"""EDM's network for CIFAR-10 at half its width: hours of one GPU instead of days of eight."""

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {architecture.name: architecture for architecture in (*_published(), DIGITS, CIFAR10_SMALL)}
)
"""The models that are known by name."""


def find_architecture(name: str) -> Architecture:
    """An architecture by its name.

    Raises:
        UserError: an unknown name.
    """
    if name not in ARCHITECTURES:
        raise UserError(f"expected an architecture among {', '.join(ARCHITECTURES)}, got {name!r}; choose one")
    return ARCHITECTURES[name]

"""Denoisers around a raw network F: D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), Karras et al. 2022, eq. 7.

The published checkpoints are all `EDMPrecond`; `VPPrecond` and `VEPrecond` are what the networks of Song et al. 2021
need, whose raw output is the noise.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from apps.imagegen.models.edm.config import network_config
from apps.imagegen.models.edm.layers import Convolution, GroupNorm
from apps.imagegen.models.edm.networks import DhariwalUNet, SongUNet, build_network


class Coefficients(NamedTuple):
    """Of equation 7, in the shape of sigma (Table 1)."""

    skip: Tensor | float
    out: Tensor
    into: Tensor | float
    noise: Tensor


class Preconditioned(nn.Module):
    """What the three preconditionings share: network, types, labels and equation 7.

    Args:
        img_resolution: height and width of the images.
        img_channels: of the images.
        label_dim: number of classes, 0 is unconditional.
        use_fp16: run the core in half precision on CUDA.
        model_type: "SongUNet" or "DhariwalUNet".
        model_kwargs: fields of `SongConfig` or `DhariwalConfig`.

    Attributes:
        core_dtype: of the convolutions between the embedding and the output; float16 only on CUDA.
        sigma_min, sigma_max: noise levels that the network was made for.

    Raises:
        TypeError: an unknown keyword.
        ValueError: a value that no network can have.
    """

    sigma_min: float
    sigma_max: float

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        model_type: str = "SongUNet",
        **model_kwargs: Any,
    ) -> None:
        super().__init__()
        fixed = {
            "img_resolution": img_resolution,
            "in_channels": img_channels,
            "out_channels": img_channels,
            "label_dim": label_dim,
        }
        for name in sorted(fixed.keys() & model_kwargs.keys()):
            raise TypeError(f"expected no {name!r} for the network, got one; the image gives it")
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.core_dtype = torch.float16 if use_fp16 else torch.float32
        self.model: SongUNet | DhariwalUNet = build_network(network_config(model_type, {**fixed, **model_kwargs}))

    @property
    def use_fp16(self) -> bool:
        return self.core_dtype == torch.float16

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Table 1 of Karras et al. 2022."""
        raise NotImplementedError

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        """The noise level nearest to sigma that the network knows: sigma itself."""
        return torch.as_tensor(sigma)

    def cast_core(self, dtype: torch.dtype) -> None:
        """Run the core in this type from now on, with its weights stored in it: no cast is left in a forward pass.

        Embeddings, their layers and the preconditioning stay as they are.
        """
        for layer in self.modules():
            if isinstance(layer, Convolution | GroupNorm):
                layer.to(dtype)
        self.core_dtype = dtype

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        force_fp32: bool = False,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """The denoised image (B, C, H, W), float32.

        Args:
            x: image plus noise (B, C, H, W), in about [-1, 1] without the noise.
            sigma: standard deviation of the noise, () or (B,).
            class_labels: (B or 1, label_dim) one-hot; None is zeros, which is "any class".
            force_fp32: run the core in float32 whatever `core_dtype` says.
            augment_labels: (B or 1, augment_dim); None is not augmented.

        Raises:
            ValueError: x of another number of channels or dimensions.
        """
        if x.ndim != 4 or x.shape[1] != self.img_channels:
            raise ValueError(f"expected images (B, {self.img_channels}, H, W), got {tuple(x.shape)}; check the model")
        x, sigma = x.to(torch.float32), torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1)
        labels = self._labels(class_labels, x)
        skip, out, into, noise = self.coefficients(sigma)
        raw = self.model((_aligned(into) * x).to(self._core_type(x, force_fp32)), noise, labels, augment_labels)
        return _aligned(skip) * x + _aligned(out) * raw.to(torch.float32)

    def _core_type(self, x: Tensor, force_fp32: bool) -> torch.dtype:
        if force_fp32 or (self.core_dtype == torch.float16 and x.device.type != "cuda"):
            return torch.float32
        return self.core_dtype

    def _labels(self, labels: Tensor | None, x: Tensor) -> Tensor | None:
        if not self.label_dim:
            return None
        if labels is None:
            return torch.zeros(1, self.label_dim, device=x.device)
        return labels.to(x.device, torch.float32).reshape(-1, self.label_dim)


class EDMPrecond(Preconditioned):
    """Karras et al. 2022's own preconditioning (Table 1, last column).

    Args:
        sigma_min, sigma_max: noise levels it is made for.
        sigma_data: standard deviation of the data.
        img_resolution, img_channels, label_dim, use_fp16, model_type, model_kwargs: see `Preconditioned`.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        sigma_data: float = 0.5,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Any,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        data = self.sigma_data
        total = sigma**2 + data**2
        return Coefficients(data**2 / total, sigma * data / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4)


class VPPrecond(Preconditioned):
    """Variance preserving, linear beta (Table 1, first column).

    Args:
        beta_d, beta_min: slope and start of beta.
        M: number of noise levels the network was trained on.
        epsilon_t: time of the least noise.
        network: see `Preconditioned`.
    """

    def __init__(
        self, *, beta_d: float = 19.9, beta_min: float = 0.1, M: int = 1000, epsilon_t: float = 1e-5, **network: Any
    ) -> None:
        super().__init__(**network)
        self.beta_d, self.beta_min, self.M = beta_d, beta_min, M
        self.sigma_min, self.sigma_max = self._sigma(epsilon_t), self._sigma(1.0)

    def _sigma(self, t: float) -> float:
        return math.sqrt(math.expm1(0.5 * self.beta_d * t**2 + self.beta_min * t))

    def time(self, sigma: Tensor) -> Tensor:
        """t in [0, 1] at which the noise is sigma."""
        return ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * self.time(sigma))


class VEPrecond(Preconditioned):
    """Variance exploding (Table 1, second column).

    Args:
        sigma_min, sigma_max: noise levels it is made for.
        network: see `Preconditioned`.
    """

    def __init__(self, *, sigma_min: float = 0.02, sigma_max: float = 100.0, **network: Any) -> None:
        super().__init__(**network)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(1.0, sigma, 1.0, (sigma / 2).log())


def _aligned(value: Tensor | float) -> Tensor | float:
    """(B,) -> (B, 1, 1, 1)."""
    return value[:, None, None, None] if isinstance(value, Tensor) else value

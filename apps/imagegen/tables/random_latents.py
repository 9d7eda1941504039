"""Latent models of published shapes with random weights: what they cost does not depend on the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from apps.imagegen.models.frozen_model import DTYPES, Precision
from apps.imagegen.models.latent.extra import quiet, require
from apps.imagegen.models.latent.family import Condition, Family
from apps.imagegen.models.latent.flux import Flux
from apps.imagegen.models.latent.model import LatentModel
from apps.imagegen.models.latent.sana import Sana
from apps.imagegen.models.memory import enough_memory

DC_BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
DC_SCALES = ((), (), (), (5,), (5,), (5,))
SANA = {
    "in_channels": 32, "out_channels": 32, "num_layers": 28, "num_attention_heads": 36, "attention_head_dim": 32,
    "num_cross_attention_heads": 16, "cross_attention_head_dim": 72, "cross_attention_dim": 1152,
    "caption_channels": 2304, "mlp_ratio": 2.5, "patch_size": 1, "sample_size": 32,
}  # fmt: skip
DC_AE = {
    "latent_channels": 32, "encoder_block_types": DC_BLOCKS, "decoder_block_types": DC_BLOCKS,
    "encoder_qkv_multiscales": DC_SCALES, "decoder_qkv_multiscales": DC_SCALES, "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate", "scaling_factor": 0.41407,
}  # fmt: skip
FLUX = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True, "axes_dims_rope": (16, 56, 56),
    "patch_size": 1,
}  # fmt: skip
KL = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 16, "sample_size": 1024,
    "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611, "shift_factor": 0.1159,
}  # fmt: skip
SHIFTED = {"use_dynamic_shifting": True, "shift": 3.0}
"""Of FLUX's scheduler; SANA reads the shift alone."""


@dataclass(frozen=True)
class Shape:
    """A published model.

    Attributes:
        family: how it is called.
        network, decoder: classes of diffusers and their configurations.
        texts: shapes of the embeddings of one prompt.
        size: pixels a side.
        guidance: scale of it.
    """

    family: type[Family]
    network: tuple[str, Mapping[str, Any]]
    decoder: tuple[str, Mapping[str, Any]]
    texts: Mapping[str, tuple[int, ...]]
    size: int
    guidance: float


RANDOM: Mapping[str, Shape] = {
    "sana-0.6b": Shape(
        Sana, ("SanaTransformer2DModel", SANA), ("AutoencoderDC", DC_AE),
        {"embeds": (300, 2304), "mask": (300,)}, 1024, 4.5,
    ),
    "flux-dev": Shape(
        Flux, ("FluxTransformer2DModel", FLUX), ("AutoencoderKL", KL),
        {"embeds": (512, 4096), "pooled": (768,)}, 1024, 3.5,
    ),
    "tiny": Shape(
        Sana,
        (
            "SanaTransformer2DModel",
            SANA | {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "num_cross_attention_heads": 2,
                    "cross_attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 24},
        ),
        ("AutoencoderDC", DC_AE), {"embeds": (11, 24), "mask": (11,)}, 256, 4.5,
    ),
    "tiny-flux": Shape(
        Flux,
        (
            "FluxTransformer2DModel",
            FLUX | {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
                    "joint_attention_dim": 24, "pooled_projection_dim": 20, "axes_dims_rope": (4, 4, 8)},
        ),
        ("AutoencoderKL", KL), {"embeds": (13, 24), "pooled": (20,)}, 128, 3.5,
    ),
}  # fmt: skip


class RandomTexts:
    """In place of prompts: one random embedding for all, as `apps.imagegen.models.latent.text.Text` gives them."""

    fingerprint = "random"

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, guided: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self._condition = {
            name: torch.randn(1, *shape, generator=generator).to(dtype) for name, shape in shapes.items()
        }
        if "mask" in shapes:
            self._condition["mask"] = torch.ones(1, *shapes["mask"], dtype=torch.int64)
        self._guided = guided

    def rows(self, seeds: Sequence[int]) -> list[int]:
        return [0] * len(seeds)

    def prepare(self, rows: Sequence[int], device: torch.device) -> None:
        """Nothing to compute."""

    def read(self, rows: Sequence[int], device: torch.device) -> tuple[Condition, Condition | None]:
        condition = {name: value.to(device) for name, value in self._condition.items()}
        return condition, condition if self._guided else None


def built(of: tuple[str, Mapping[str, Any]], device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """A network of diffusers with random weights, made where and as it shall be."""
    import diffusers

    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with quiet(), enough_memory(), torch.device(device), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return getattr(diffusers, of[0])(**of[1]).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(usual)


def random_latent(
    name: str, device: torch.device | str = "cpu", precision: Precision = "float32", size: int | None = None
) -> LatentModel:
    """A latent model of published shape with random weights; of the decoder there is the configuration alone.

    Args:
        name: of `RANDOM`.
        device: where its network is made.
        precision: that it is made in.
        size: pixels a side; the model's own where not given.

    Raises:
        UserError: diffusers is not installed, or there is not enough memory.
    """
    require()
    shape, dtype = RANDOM[name], DTYPES[precision]
    network, decoder = built(shape.network, device, dtype), built(shape.decoder, "meta", dtype)
    family = shape.family(network, decoder, SHIFTED, size or shape.size, shape.guidance)
    text: Any = RandomTexts(shape.texts, dtype, family.doubles)
    return LatentModel(
        name=f"{name}, random weights",
        family=family,
        identity=f"random {name}",
        precision=precision,
        card={},
        text=text,
    )

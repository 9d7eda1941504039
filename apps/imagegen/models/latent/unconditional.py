"""Latent diffusion without texts (Rombach et al. 2022, arXiv 2112.10752): of one data set, or by class."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from apps.imagegen.models.latent.diffusion import DiffusionFamily
from apps.imagegen.models.latent.family import Condition


class Unconditional(DiffusionFamily):
    """`LDMPipeline`: a UNet2DModel and a VQ or KL decoder."""

    name: ClassVar[str] = "latent-diffusion"
    pipelines: ClassVar[tuple[str, ...]] = ("LDMPipeline",)
    network_component: ClassVar[str] = "unet"
    decoder_component: ClassVar[str] = "vqvae"
    guided: ClassVar[bool] = False

    @property
    def doubles(self) -> bool:
        return False

    def predict(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return self.network(x, time.expand(len(x)), return_dict=False)[0]


class ByClass(Unconditional):
    """`LatentClassPipeline`: a UNet2DModel or UNet2DConditionModel with class embedding, whose last class is "none";
    guided by a second evaluation of that.
    """

    name: ClassVar[str] = "latent-diffusion-by-class"
    pipelines: ClassVar[tuple[str, ...]] = ("LatentClassPipeline",)
    decoder_component: ClassVar[str] = "vae"
    guided: ClassVar[bool] = True

    @property
    def classes(self) -> int:
        return self.network.config.num_class_embeds - 1  # pyright: ignore

    @property
    def doubles(self) -> bool:
        return self.guidance > 1

    def predict(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The classes are `condition["classes"]` (B,), int64."""
        times, classes = time.expand(len(x)), condition["classes"]
        if type(self.network).__name__ == "UNet2DConditionModel":
            return self.network(x, times, None, class_labels=classes, return_dict=False)[0]
        return self.network(x, times, class_labels=classes, return_dict=False)[0]

    def without_class(self) -> Condition:
        return {"classes": torch.tensor([self.classes])}

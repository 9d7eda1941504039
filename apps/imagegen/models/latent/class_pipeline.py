"""A diffusers pipeline of class-conditional latent diffusion; diffusers has one without classes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


class LatentClassPipeline(DiffusionPipeline):
    """Latent diffusion by class, guided by the difference to the class "none" (Rombach et al. 2022, arXiv 2112.10752).

    Args:
        vae: AutoencoderKL or VQModel.
        unet: UNet2DModel or UNet2DConditionModel with `num_class_embeds`, whose last class is "none".
        scheduler: of noise prediction.
    """

    def __init__(self, vae: Any, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        guidance_scale: float = 2.0,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Images of these classes.

        Args:
            class_labels: (B,), from 0 to num_class_embeds - 2.
            guidance_scale: 1 is no guidance.
            num_inference_steps: network calls, half of those that guidance makes.
            generator: of the initial noise.
            latents: (B, C, h, w) initial noise in place of drawn one.
            output_type: "pil"; "np", float (B, H, W, 3) in [0, 1]; or "latent".

        Raises:
            ValueError: classes that the model does not have.
        """
        config, self._guidance_scale = self.unet.config, guidance_scale
        labels = torch.as_tensor(class_labels, device=self.device)
        if labels.ndim != 1 or not bool(((labels >= 0) & (labels < config.num_class_embeds - 1)).all()):
            raise ValueError(
                f"expected a list of classes from 0 to {config.num_class_embeds - 2}, got {class_labels}; choose among "
                "these"
            )
        guided = guidance_scale > 1
        if guided:
            labels = torch.cat([torch.full_like(labels, config.num_class_embeds - 1), labels])
        if latents is None:
            size = (config.in_channels, config.sample_size, config.sample_size)
            latents = randn_tensor((len(class_labels), *size), generator, self.device)
        x = latents.to(self.device, torch.promote_types(latents.dtype, torch.float32)) * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        progress: Any = self.progress_bar
        for t in progress(self.scheduler.timesteps):
            told = self.scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t).to(self.unet.dtype)
            if hasattr(self.unet, "encoder_hid_proj"):  # a UNet2DConditionModel
                noise = self.unet(told, t, None, class_labels=labels).sample
            else:
                noise = self.unet(told, t, class_labels=labels).sample
            noise = noise.to(x.dtype)
            if guided:
                without, within = noise.chunk(2)
                noise = without + guidance_scale * (within - without)
            x = self.scheduler.step(noise, t, x).prev_sample
        if output_type == "latent":
            return ImagePipelineOutput(images=x)  # pyright: ignore[reportArgumentType]
        images = self.vae.decode((x / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        images = (images / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(images) if output_type == "pil" else images)

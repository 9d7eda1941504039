"""Tiny pipelines with random weights, complete with tokenizers and text encoders, made without any download.

They make no pictures worth looking at. They are for trying every command of latent models in seconds, and for the
tests: `python -m apps.imagegen.models.latent.tiny sana out/tiny-sana`, then `--model out/tiny-sana`.

The networks' weights are drawn wide enough for their flows to bend, so that few steps are wrong in ways that training
can mend.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from apps.imagegen.models.latent.extra import quiet, require
from core.names import nearest
from data_tools.cli import UserError, console, run

Kind = Literal["sana", "flux", "sd", "ldm", "ldm-class"]
KINDS: tuple[Kind, ...] = get_args(Kind)

WIDTH = 16
"""Channels of the text encoders."""
CLASSES = 3
"""Of the pipeline by class."""
CHARACTERS = string.ascii_letters + string.digits + string.punctuation


def tiny_pipeline(kind: Kind, seed: int = 0) -> Any:
    """A `DiffusionPipeline` with random weights, on the CPU in float32.

    Args:
        kind: "sana", "flux" (guidance-distilled, as FLUX.1-dev), "sd" (Stable Diffusion), "ldm" (unconditional latent
            diffusion with a VQ decoder) or "ldm-class" (by class, see `class_pipeline`).
        seed: of the weights.

    Raises:
        UserError: diffusers or transformers is not installed.
    """
    require()
    builders = {"sana": _sana, "flux": _flux, "sd": _sd, "ldm": _ldm, "ldm-class": _ldm_class}
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        pipeline = builders[kind]()
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _sana() -> Any:
    """32 x 32 pixels, latents (4, 8, 8)."""
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    transformer: Any = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=WIDTH,
        sample_size=8, patch_size=1,
    )  # fmt: skip
    slow(transformer.time_embed.emb.timestep_embedder.linear_1)
    bend(transformer, 1.6)
    for block in transformer.transformer_blocks:
        for layer in (block.attn2.to_v, block.attn2.to_out):  # so that prompts tell in the picture
            bend(layer, 4.0)
    blocks: Any = ("ResBlock", "ResBlock", "EfficientViTBlock")
    vae = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=4, encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)), decoder_qkv_multiscales=((), (), (5,)),
        upsample_block_type="interpolate", downsample_block_type="Conv", scaling_factor=0.41407,
    )  # fmt: skip
    tokenizer = _gemma_tokenizer()
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=8192,
            pad_token_id=0, eos_token_id=1, bos_token_id=2,
        )
    )  # fmt: skip
    return SanaPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=vae, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def _flux() -> Any:
    """16 x 16 pixels, latents (4, 8, 8), packed to 16 tokens of 16."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    slow(transformer.time_text_embed.timestep_embedder.linear_1)
    bend(transformer, 2.5)
    vae = AutoencoderKL(
        **_kl(4, 16), shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False
    )
    tokenizer_2 = _t5_tokenizer()
    encoder_2 = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer_2), d_model=WIDTH, d_kv=8, d_ff=2 * WIDTH, num_layers=2, num_heads=2)
    )
    tokenizer, encoder = _clip()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=vae,
        text_encoder=encoder, tokenizer=tokenizer, text_encoder_2=encoder_2, tokenizer_2=tokenizer_2,
        transformer=transformer,
    )  # fmt: skip


def _sd() -> Any:
    """16 x 16 pixels, latents (4, 8, 8)."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        **_unet(4),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
    )
    tokenizer, encoder = _clip()
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**_kl(4, 16), scaling_factor=0.18215), text_encoder=encoder, tokenizer=tokenizer,
        unet=_bent(unet), scheduler=_ddim(), safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None, requires_safety_checker=False,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def _ldm() -> Any:
    """16 x 16 pixels, latents (3, 8, 8), a VQ decoder."""
    from diffusers import LDMPipeline, UNet2DModel, VQModel

    unet = UNet2DModel(**_unet(3), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=3, num_vq_embeddings=64, scaling_factor=1.0,
        sample_size=16,
    )  # fmt: skip
    nn.init.normal_(vqvae.quantize.embedding.weight)
    return LDMPipeline(vqvae=vqvae, unet=_bent(unet), scheduler=_ddim())


def _ldm_class() -> Any:
    """16 x 16 pixels, latents (4, 8, 8), `CLASSES` classes and "none"."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from apps.imagegen.models.latent.class_pipeline import LatentClassPipeline

    unet = UNet2DConditionModel(
        **_unet(4), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        mid_block_type="UNetMidBlock2D", num_class_embeds=CLASSES + 1, attention_head_dim=8,
    )  # fmt: skip
    nn.init.normal_(unet.class_embedding.weight)  # pyright: ignore
    return LatentClassPipeline(AutoencoderKL(**_kl(4, 16), scaling_factor=0.18215), _bent(unet), _ddim())


def bend(network: nn.Module, gain: float) -> nn.Module:
    """Multiply all matrices by `gain`, so that what the network says turns with state and time."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(gain)
    return network


def _bent(unet: Any) -> Any:
    """The same of a UNet."""
    slow(unet.time_embedding.linear_1)
    return bend(unet, 1.5)


def slow(embedder: nn.Linear) -> None:
    """Make a time embedding's first layer deaf to waves that turn round more than once in a run; random weights would
    take all of them for equally important, and no grid could follow.

    Args:
        embedder: of 2K inputs, K cosines and K sines of k-th frequency 10^(-4 k / K), for times from 0 to 1000.
    """
    half = embedder.in_features // 2
    turns = 1000 * 10 ** (-4 * torch.arange(half) / half) / (2 * torch.pi)
    with torch.no_grad():
        embedder.weight[:, (turns > 1).repeat(2)] = 0


def _unet(channels: int) -> dict[str, Any]:
    """What all UNets share."""
    return {
        "sample_size": 8, "in_channels": channels, "out_channels": channels, "layers_per_block": 1,
        "block_out_channels": (8, 16), "norm_num_groups": 4,
    }  # fmt: skip


def _kl(channels: int, size: int) -> dict[str, Any]:
    """A KL autoencoder that halves its images, which have `size` pixels a side."""
    return {
        "in_channels": 3, "out_channels": 3, "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "block_out_channels": (8, 8), "layers_per_block": 1,
        "latent_channels": channels, "norm_num_groups": 4, "sample_size": size,
    }  # fmt: skip


def _ddim() -> Any:
    """Stable Diffusion's table of betas."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


def _gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *CHARACTERS]
    return GemmaTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0)]
    pieces = [(piece, -2.0) for piece in ("▁", *CHARACTERS)]
    return T5Tokenizer(vocab=[*special, *pieces], extra_ids=0)


def _clip() -> tuple[Any, Any]:
    """CLIP's tokenizer and text encoder."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=77)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(pieces), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=77, projection_dim=WIDTH, bos_token_id=0, eos_token_id=1,
            pad_token_id=1,
        )
    )  # fmt: skip
    return tokenizer, encoder


@dataclass
class TinyOptions:
    """Options of the command.

    Attributes:
        kind: sana, flux, sd, ldm or ldm-class.
        out: folder to write the pipeline to.
        seed: of the weights.
        overwrite: replace what is there.
    """

    kind: str
    out: str
    seed: int = 0
    overwrite: bool = False


def main(options: TinyOptions) -> None:
    """Write a tiny pipeline. Raises UserError: an unknown kind; the folder is in use."""
    kind: Any = options.kind
    if kind not in KINDS:
        raise UserError(f"expected a kind among {', '.join(KINDS)}, got {options.kind!r}{nearest(options.kind, KINDS)}")
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not options.overwrite:
        raise UserError(f"expected an empty folder, got {out}, which is in use; choose another or pass --overwrite")
    pipeline = tiny_pipeline(kind, options.seed)
    with quiet():
        pipeline.save_pretrained(out)
    console.print(f"a tiny random {options.kind} pipeline in {out}")


if __name__ == "__main__":
    run(
        TinyOptions,
        main,
        prog="python -m apps.imagegen.models.latent.tiny",
        description="Write a tiny pipeline with random weights, to try the commands of latent models with.",
        examples="""examples:
  python -m apps.imagegen.models.latent.tiny sana out/tiny-sana
  python -m apps.imagegen.sample --model out/tiny-sana --prompts prompts.txt""",
        positional=[("kind", ", ".join(KINDS)), ("out", "folder to write the pipeline to")],
    )

"""The networks' options by the names that PreDiff's configuration files give them.

Its published sizes are the defaults. What these networks do not do, such as global vectors or shifted cuboids, is
refused by name rather than ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from apps.nowcast.model.configs import AutoencoderConfig, UNetConfig
from core.names import nearest


class AutoencoderOptions(TypedDict, total=False):
    """Arguments of PreDiff's `AutoencoderKL`."""

    in_channels: int
    out_channels: int
    block_out_channels: Sequence[int]
    layers_per_block: int
    latent_channels: int
    norm_num_groups: int
    act_fn: str
    down_block_types: Sequence[str]
    up_block_types: Sequence[str]


class UNetOptions(TypedDict, total=False):
    """Arguments of PreDiff's `CuboidTransformerUNet`; those without a choice here stand in `FIXED` with their value."""

    input_shape: Sequence[int]
    target_shape: Sequence[int]
    base_units: int
    depth: Sequence[int]
    num_heads: int
    attn_drop: float
    proj_drop: float
    ffn_drop: float
    time_embed_channels_mult: int
    time_embed_dropout: float
    scale_alpha: float
    downsample: int
    downsample_type: str
    upsample_type: str
    upsample_kernel_size: int
    self_pattern: str
    block_attn_patterns: str
    num_global_vectors: int
    use_dec_self_global: bool
    dec_self_update_global: bool
    use_dec_cross_global: bool
    use_global_vector_ffn: bool
    use_global_self_attn: bool
    separate_global_qkv: bool
    global_dim_ratio: int
    ffn_activation: str
    gated_ffn: bool
    norm_layer: str
    use_inter_ffn: bool
    padding_type: str
    pos_embed_type: str
    hierarchical_pos_embed: bool
    checkpoint_level: int
    use_relative_pos: bool
    self_attn_use_final_proj: bool
    attn_linear_init_mode: str
    ffn_linear_init_mode: str
    ffn2_linear_init_mode: str
    attn_proj_linear_init_mode: str
    conv_init_mode: str
    down_linear_init_mode: str
    up_linear_init_mode: str
    down_up_linear_init_mode: str
    global_proj_linear_init_mode: str
    norm_init_mode: str
    time_embed_use_scale_shift_norm: bool
    unet_res_connect: bool


FIXED: Mapping[str, Any] = {
    "scale_alpha": 1.0, "downsample": 2, "downsample_type": "patch_merge", "upsample_type": "upsample",
    "upsample_kernel_size": 3, "self_pattern": "axial", "block_attn_patterns": "axial", "num_global_vectors": 0,
    "ffn_activation": "gelu", "gated_ffn": False, "norm_layer": "layer_norm", "use_inter_ffn": True,
    "padding_type": "zeros", "pos_embed_type": "t+h+w", "hierarchical_pos_embed": False, "use_relative_pos": True,
    "self_attn_use_final_proj": True, "attn_linear_init_mode": "0", "ffn_linear_init_mode": "0",
    "ffn2_linear_init_mode": "2", "attn_proj_linear_init_mode": "2", "conv_init_mode": "0",
    "down_linear_init_mode": "0", "up_linear_init_mode": "0", "down_up_linear_init_mode": "0", "norm_init_mode": "0",
    "time_embed_use_scale_shift_norm": False, "unet_res_connect": True, "act_fn": "silu",
}  # fmt: skip
"""What these networks are, in PreDiff's words. Options of global vectors do nothing where there are none, and the level
of checkpointing changes no value: they are taken as they come."""

DROPOUTS = ("attn_drop", "proj_drop", "ffn_drop")


def unet_config(options: Mapping[str, Any]) -> UNetConfig:
    """Sizes of the UNet in PreDiff's words, see `UNetOptions`.

    Raises:
        TypeError: an option that PreDiff's network does not have.
        ValueError: one that this network cannot follow, or sizes that do not fit each other.
    """
    _check(options, UNetOptions)
    drops = {options[name] for name in DROPOUTS if name in options}
    if len(drops) > 1:
        raise ValueError(f"expected one rate of attn_drop, proj_drop and ffn_drop, got {sorted(drops)}; give one")
    ours = {"input_shape": "context_shape", "time_embed_channels_mult": "time_embed_multiplier"}
    sizes = ("target_shape", "base_units", "depth", "num_heads", "time_embed_dropout", *ours)
    values = {ours.get(name, name): _frozen(options[name]) for name in sizes if name in options}
    return UNetConfig(**values, **({"dropout": drops.pop()} if drops else {}))


def autoencoder_config(options: Mapping[str, Any]) -> AutoencoderConfig:
    """Sizes of the autoencoder in PreDiff's words, see `AutoencoderOptions`; raises what `unet_config` raises."""
    _check(options, AutoencoderOptions)
    sizes = ("in_channels", "block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups")
    config = AutoencoderConfig(**{name: _frozen(options[name]) for name in sizes if name in options})
    if options.get("out_channels", config.in_channels) != config.in_channels:
        raise ValueError(
            f"expected as many channels out as in, got {options.get('out_channels')} for {config.in_channels}"
        )
    for name, block in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        levels = list(options.get(name, [block] * len(config.block_out_channels)))
        if levels != [block] * len(config.block_out_channels):
            raise ValueError(f"expected {name} of {len(config.block_out_channels)} {block}, got {levels}")
    return config


def _check(options: Mapping[str, Any], known: type) -> None:
    names = known.__annotations__
    for name, value in options.items():
        if name not in names:
            raise TypeError(f"expected options of PreDiff's network, got {name}{nearest(name, list(names))}")
        if name in FIXED and value != FIXED[name]:
            raise ValueError(f"expected {name}={FIXED[name]!r}, which this network has, got {value!r}")


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) else value

"""The rows of the paper's table as configurations, and the networks by the names of PreDiff's own configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from apps.nowcast.evaluate import CONFIGS as OF_EVALUATION
from apps.nowcast.evaluate import EvaluateOptions
from apps.nowcast.model import AutoencoderConfig, AutoencoderKL, CuboidTransformerUNet, UNetConfig
from apps.nowcast.train_options import CONFIGS as OF_TRAINING
from apps.nowcast.train_options import TrainOptions, check
from data_tools.cli import build_parser, named_configs

SPANLIFT = ("spanlift-mse-teacher", "spanlift-inception-teacher", "spanlift-inception-target")
PREDIFF: dict[str, Any] = {
    "input_shape": [7, 16, 16, 64], "target_shape": [6, 16, 16, 64], "base_units": 256, "scale_alpha": 1.0,
    "num_heads": 4, "attn_drop": 0.1, "proj_drop": 0.1, "ffn_drop": 0.1, "downsample": 2,
    "downsample_type": "patch_merge", "upsample_type": "upsample", "upsample_kernel_size": 3, "depth": [4, 4],
    "self_pattern": "axial", "num_global_vectors": 0, "use_dec_self_global": False, "dec_self_update_global": True,
    "use_dec_cross_global": False, "use_global_vector_ffn": False, "use_global_self_attn": True,
    "separate_global_qkv": True, "global_dim_ratio": 1, "ffn_activation": "gelu", "gated_ffn": False,
    "norm_layer": "layer_norm", "padding_type": "zeros", "pos_embed_type": "t+h+w", "checkpoint_level": 0,
    "use_relative_pos": True, "self_attn_use_final_proj": True, "attn_linear_init_mode": "0",
    "ffn_linear_init_mode": "0", "ffn2_linear_init_mode": "2", "attn_proj_linear_init_mode": "2",
    "conv_init_mode": "0", "down_up_linear_init_mode": "0", "global_proj_linear_init_mode": "2",
    "norm_init_mode": "0", "time_embed_channels_mult": 4, "time_embed_use_scale_shift_norm": False,
    "time_embed_dropout": 0.0, "unet_res_connect": True,
}  # fmt: skip
"""The published UNet, word by word."""


def read(options: type, folder: Path, name: str) -> Any:
    parser = build_parser(options, prog="x", description="x", examples="x")
    values = vars(parser.parse_args(named_configs(["--config", name], folder)))
    return options(**{key: value for key, value in values.items() if key != "config"})


@pytest.mark.parametrize("name", SPANLIFT)
def test_rows_are_trained_as_their_names_say(name: str) -> None:
    options = read(TrainOptions, OF_TRAINING, name)
    check(options)
    _, loss, supervision = name.split("-")
    assert (options.stage, options.supervision, options.steps) == ("solver", supervision, 5)
    assert options.loss == {"mse": "latent=1", "inception": "inception=1"}[loss]
    if supervision == "teacher":
        assert (options.teacher, options.teacher_steps) == ("ddim", 100)
    assert read(EvaluateOptions, OF_EVALUATION, name).solver == options.out


def test_every_row_is_scored() -> None:
    names = {path.stem for path in OF_EVALUATION.glob("*.yaml")}
    assert names == {"ddim-5", "references", *SPANLIFT}
    few = read(EvaluateOptions, OF_EVALUATION, "ddim-5")
    assert (few.methods, few.solver, few.split) == ("ddim-5", "", "test")
    assert read(EvaluateOptions, OF_EVALUATION, "references").methods == "ddpm-1000,ddim-100"


def test_all_training_configurations_are_what_the_command_reads() -> None:
    names = sorted(path.stem for path in OF_TRAINING.glob("*.yaml"))
    assert set(SPANLIFT) <= set(names)
    for name in names:
        check(read(TrainOptions, OF_TRAINING, name))
        assert yaml.safe_load((OF_TRAINING / f"{name}.yaml").read_text())["stage"]


def test_a_row_is_scored_by_name(
    run_here: Callable[..., Any], tiny_store: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("--data", str(tiny_store), "--model", str(tiny_model), "--json", str(tmp_path / "e.json"), "--events", "1")
    done = run_here("apps.nowcast.evaluate", "--config", "ddim-5", *words, "--members", "1")
    assert done.returncode == 0, done.stderr
    assert "ddim" in done.stdout
    wrong = run_here("apps.nowcast.train", "--config", "spanlift-5")
    assert wrong.returncode == 2
    assert "one of" in wrong.stderr
    assert "spanlift-mse-teacher" in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1


def test_the_published_unet_by_its_own_words() -> None:
    with torch.device("meta"):
        unet = CuboidTransformerUNet(**PREDIFF)
        assert CuboidTransformerUNet(input_shape=(7, 16, 16, 64)).config == UNetConfig.prediff()
    assert unet.config == UNetConfig.prediff()
    assert sum(parameter.numel() for parameter in unet.parameters()) == 136_817_538


def test_networks_of_other_sizes_by_prediffs_words() -> None:
    small = CuboidTransformerUNet(
        input_shape=[3, 8, 4, 5], target_shape=[2, 8, 4, 5], base_units=24, num_heads=3, downsample=2, depth=[2, 1],
        self_pattern="axial", num_global_vectors=0, attn_drop=0.0, proj_drop=0.0, ffn_drop=0.0,
        time_embed_channels_mult=2, time_embed_dropout=0.2,
    )  # fmt: skip
    assert small.config == UNetConfig(
        (3, 8, 4, 5), (2, 8, 4, 5), 24, (2, 1), 3, dropout=0.0, time_embed_multiplier=2, time_embed_dropout=0.2
    )
    noise = small(torch.randn(1, 2, 8, 4, 5), torch.tensor([4]), torch.randn(1, 3, 8, 4, 5))
    assert noise.shape == (1, 2, 8, 4, 5)
    vae = AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=[32, 64], layers_per_block=1, latent_channels=6,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, act_fn="silu",
    )  # fmt: skip
    assert vae.config == AutoencoderConfig(1, (32, 64), 1, 6, 32)
    assert vae.decode(vae.encode(torch.rand(2, 1, 8, 16)).mode()).shape == (2, 1, 8, 16)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_global_vectors": 8}, ValueError, "expected num_global_vectors=0, which this network has, got 8"),
        ({"self_pattern": "video_swin_2x8"}, ValueError, "expected self_pattern='axial'"),
        ({"attn_drop": 0.1, "ffn_drop": 0.2}, ValueError, r"got \[0.1, 0.2\]"),
        ({"base_unit": 64}, TypeError, "base_unit; did you mean 'base_units'"),
        ({"depth": [4, 4, 4, 4, 4, 4]}, ValueError, "height and width divisible by 32"),
        ({"config": UNetConfig.mini(), "base_units": 8}, TypeError, "got both: base_units"),
    ],
)
def test_what_the_unet_cannot_follow_is_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message), torch.device("meta"):
        CuboidTransformerUNet(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out_channels": 3}, ValueError, "as many channels out as in, got 3 for 1"),
        ({"act_fn": "relu"}, ValueError, "act_fn='silu'"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, ValueError, "4 DownEncoderBlock2D"),
        ({"latents": 4}, TypeError, "latents"),
        ({"config": AutoencoderConfig.mini(), "latent_channels": 8}, TypeError, "got both: latent_channels"),
    ],
)
def test_what_the_autoencoder_cannot_follow_is_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message), torch.device("meta"):
        AutoencoderKL(**options)

"""Conversion of PreDiff's checkpoints, on tiny networks written as its tools write them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from apps.nowcast.convert import ConvertOptions, main
from apps.nowcast.model import (
    AlignmentConfig,
    AlignmentNetwork,
    AutoencoderConfig,
    AutoencoderKL,
    CuboidTransformerUNet,
    UNetConfig,
)
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.prediff_checkpoints import read_networks
from apps.nowcast.weight_files import load_alignment, load_codec, load_network, read_card
from data_tools.cli import UserError

VAE = AutoencoderConfig(block_out_channels=(4, 8, 12), layers_per_block=1, latent_channels=3, norm_num_groups=4)
UNET = UNetConfig((7, 8, 4, 3), (6, 8, 4, 3), base_units=12, depth=(2, 1), num_heads=3, norm_num_groups=4)
ALIGN = AlignmentConfig((6, 8, 4, 3), base_units=8, depth=(1, 2), num_heads=2, norm_num_groups=4)
Run = Callable[..., subprocess.CompletedProcess[str]]
SCHEDULE = ("betas", "alphas_cumprod", "logvar")


def random(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """A state dict of random parameters."""
    source = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=source) if value.is_floating_point() else value.clone()
        for name, value in module.state_dict().items()
    }


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    modules = {
        "autoencoder": AutoencoderKL(VAE),
        "unet": CuboidTransformerUNet(UNET),
        "alignment": AlignmentNetwork(ALIGN),
    }
    return {name: random(module, seed) for seed, (name, module) in enumerate(modules.items())}


@pytest.fixture
def lightning(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> Path:
    """A checkpoint of the UNet's training: raw weights, their average, the frozen autoencoder twice, the schedule."""
    average = {
        name.replace(".", ""): value + 1.0 for name, value in states["unet"].items() if value.is_floating_point()
    }
    state = {
        **under("torch_nn_module.", states["unet"]),
        **under("model_ema.", {**average, "decay": torch.tensor(0.9999), "num_updates": torch.tensor(5)}),
        **under("first_stage_model.", states["autoencoder"]),
        **under("cond_stage_model.", states["autoencoder"]),
        **{name: torch.zeros(1000) for name in SCHEDULE},
    }
    torch.save(
        {"epoch": 3, "global_step": 70, "state_dict": state, "lr_schedulers": [{"lr": 1e-3}]}, tmp_path / "l.ckpt"
    )
    return tmp_path / "l.ckpt"


def convert(source: Path, out: Path, **options: object) -> None:
    main(ConvertOptions(str(source), str(out), groups=4, **options))  # type: ignore[arg-type]


def test_published_files_make_a_model(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    for kind, state in states.items():
        torch.save(state, tmp_path / f"{kind}.pt")
        convert(tmp_path / f"{kind}.pt", tmp_path / "model")
    codec = load_codec(tmp_path / "model/autoencoder.safetensors")
    assert codec.config == VAE
    assert all(torch.equal(codec.autoencoder.state_dict()[n], v) for n, v in states["autoencoder"].items())
    assert torch.equal(codec.latent_std, torch.ones(3))
    assert not codec.latent_mean.any()
    network, alignment = (
        load_network(tmp_path / "model/unet.safetensors"),
        load_alignment(tmp_path / "model/alignment.safetensors"),
    )
    assert (network.config, alignment.config) == (UNET, ALIGN)
    assert all(torch.equal(network.state_dict()[n], v) for n, v in states["unet"].items())
    assert all(torch.equal(alignment.state_dict()[n], v) for n, v in states["alignment"].items())
    nowcaster = Nowcaster.load(tmp_path / "model")
    assert (nowcaster.quantity, nowcaster.time_steps) == ("vil", (10.0,))
    assert nowcaster.network.config.prediction == "noise"


def test_defaults_are_the_published_sizes() -> None:
    """Sizes are read off key tables alone: shapes without weights."""
    from apps.nowcast.prediff_sizes import alignment_sizes, autoencoder_sizes, unet_sizes

    with torch.device("meta"):
        vae, unet, net = AutoencoderKL(), CuboidTransformerUNet(), AlignmentNetwork(AlignmentConfig.prediff())
    assert autoencoder_sizes(vae.state_dict(), 32) == AutoencoderConfig.prediff()
    assert unet_sizes(unet.state_dict(), 32, 6) == UNetConfig.prediff()
    assert alignment_sizes(net.state_dict(), 32) == AlignmentConfig.prediff()


@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_lightning_holds_raw_weights_their_average_and_the_autoencoder(
    states: dict[str, dict[str, Tensor]], lightning: Path, tmp_path: Path, weights: str
) -> None:
    convert(lightning, tmp_path / "model", weights=weights)
    network, shift = load_network(tmp_path / "model/unet.safetensors"), float(weights == "ema")
    for name, value in network.state_dict().items():
        expected = states["unet"][name]
        assert torch.equal(value, expected + shift if value.is_floating_point() else expected)
    nowcaster = Nowcaster.load(tmp_path / "model")
    assert torch.equal(nowcaster.codec.autoencoder.quant_conv.weight, states["autoencoder"]["quant_conv.weight"])
    assert read_card(tmp_path / "model/unet.safetensors")["weights"] == weights


def test_averages_under_dotted_names(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    averages = {name: value - 2.0 for name, value in states["unet"].items() if value.is_floating_point()}
    content = {**under("torch_nn_module.", states["unet"]), **under("torch_nn_module_ema.", averages)}
    torch.save({"state_dict": content}, tmp_path / "c.ckpt")
    (found,) = read_networks(tmp_path / "c.ckpt", "ema", groups=4)
    assert all(torch.equal(found.tensors[name], value) for name, value in averages.items())


def test_newer_names_of_the_attention(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    renamed = {}
    for name, value in states["autoencoder"].items():
        for old, other in new.items():
            name = name.replace(f"attentions.0.{old}.", f"attentions.0.{other}.")
        renamed[name] = value
    assert sum("to_" in name for name in renamed) == 16
    torch.save(under("module.", renamed), tmp_path / "new.pt")
    (found,) = read_networks(tmp_path / "new.pt", groups=4)
    assert found.prefix == "module."
    assert found.tensors.keys() == states["autoencoder"].keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in states["autoencoder"].items())


def test_half_precision_becomes_float32(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    halves = {n: v.bfloat16() if v.is_floating_point() else v for n, v in states["alignment"].items()}
    torch.save(halves, tmp_path / "a.pt")
    (found,) = read_networks(tmp_path / "a.pt", groups=4)
    assert all(torch.equal(found.tensors[n], v.float() if v.is_floating_point() else v) for n, v in halves.items())


STRANGE = {
    "whole": torch.zeros(3, dtype=torch.int64),
    "complex": torch.zeros(3, dtype=torch.complex64),
    "meta": torch.zeros(3, device="meta"),
    "empty": torch.zeros(0),
    "expanded": torch.zeros(1).expand(3),
}


def spoil(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    state = dict(state)
    if how == "missing":
        del state["down_self_blocks.1.0.ffn_l.2.ffn_1.bias"]
    elif how == "left over":
        state["global_vectors"] = torch.zeros(8, 4)
    elif how == "shape":
        state["final_proj.bias"] = torch.zeros(5)
    elif how == "nan":
        state["up_self_blocks.0.1.attn_l.0.proj.weight"] = torch.full((12, 12), math.nan)
    elif how == "pattern":
        state["down_self_blocks.0.0.attn_l.1.relative_position_index"] = torch.zeros(8, 8, dtype=torch.int64)
    elif how == "first":
        del state["pos_embed.T_embed.weight"]
    elif how in STRANGE:
        state["final_proj.bias"] = STRANGE[how]
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "missing down_self_blocks.1.0.ffn_l.2.ffn_1.bias"),
        ("left over", "left over global_vectors"),
        ("shape", r"of another shape final_proj.bias \(5,\) for \(3,\)"),
        ("nan", "NaN or infinity in up_self_blocks.0.1.attn_l.0.proj.weight"),
        ("pattern", "another pattern in down_self_blocks.0.0.attn_l.1.relative_position_index"),
        ("first", "no tensor 'pos_embed.T_embed.weight'"),
        *((how, "plain tensors of real numbers for the unet in .*, got others in final_proj.bias;") for how in STRANGE),
    ],
)
def test_what_does_not_fit_is_named(
    states: dict[str, dict[str, Tensor]], tmp_path: Path, how: str, message: str
) -> None:
    torch.save(spoil(states["unet"], how), tmp_path / "u.pt")
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "u.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_autoencoders_that_differ_are_refused(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in states["autoencoder"].items()}
    torch.save(
        {**under("first_stage_model.", states["autoencoder"]), **under("cond_stage_model.", other)}, tmp_path / "c"
    )
    with pytest.raises(UserError, match=r"two that differ, under 'cond_stage_model\.' and 'first_stage_model\.'"):
        read_networks(tmp_path / "c", groups=4)


def test_an_average_that_is_not_there_is_told(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    torch.save(states["unet"], tmp_path / "u.pt")
    with pytest.raises(UserError, match=r"expected a running average in .*; take --weights raw"):
        read_networks(tmp_path / "u.pt", "ema", groups=4)


class Opened:
    """What must never be made."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (os.mkdir, ("made-by-a-pickle",))  # type: ignore[return-value]


def test_nothing_of_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": Opened()}, tmp_path / "bad.ckpt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="which would have to be executed"):
        read_networks(tmp_path / "bad.ckpt")
    assert not (tmp_path / "made-by-a-pickle").exists()


def test_the_command(run_cli: Run, run_here: Run, states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    torch.save(states["autoencoder"], tmp_path / "v.pt")
    command = ("apps.nowcast.convert", str(tmp_path / "v.pt"), str(tmp_path / "own.safetensors"), "--groups", "4")
    done = run_cli(*command)
    assert done.returncode == 0, done.stderr
    count = sum(value.numel() for value in states["autoencoder"].values())
    assert f"autoencoder, {count:,} parameters in {len(states['autoencoder'])} tensors" in done.stdout
    before = (tmp_path / "own.safetensors").read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        convert(tmp_path / "v.pt", tmp_path / "own.safetensors")
    (tmp_path / "v.pt").write_bytes((tmp_path / "v.pt").read_bytes()[:2000])
    cut = run_here(*command, "--overwrite")
    assert cut.returncode == 2
    last = cut.stderr.strip().splitlines()[-1]
    assert last.startswith("python -m apps.nowcast.convert: expected a torch file")
    assert "Traceback" not in cut.stderr
    assert (tmp_path / "own.safetensors").read_bytes() == before


def test_settings_of_a_training_are_passed_over(
    states: dict[str, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning writes what PreDiff was configured with as objects of a package that need not be installed."""
    package = types.ModuleType("omegaconf.dictconfig")
    kind = type("DictConfig", (), {"__module__": "omegaconf.dictconfig", "__qualname__": "DictConfig"})
    package.DictConfig = kind  # type: ignore[attr-defined]
    configured = kind()
    configured.__dict__.update(_content={"lr": 1e-3}, _parent=None, folder=Path("here"), counts=defaultdict(int, a=1))
    content = {"state_dict": under("torch_nn_module.", states["autoencoder"]), "hyper_parameters": configured}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
        patch.setitem(sys.modules, "omegaconf.dictconfig", package)
        torch.save(content, tmp_path / "c.ckpt")
    allowed = set(torch.serialization.get_safe_globals())
    (found,) = read_networks(tmp_path / "c.ckpt", groups=4)
    assert all(torch.equal(found.tensors[name], value) for name, value in states["autoencoder"].items())
    assert set(torch.serialization.get_safe_globals()) == allowed  # nothing stays allowed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"weight": torch.zeros(2)}}, "expected an autoencoder, a UNet or an alignment network"),
        ([1, 2], "expected a state dict"),
        (None, "got no file"),
    ],
)
def test_foreign_files_are_told(tmp_path: Path, content: object, message: str) -> None:
    if content is not None:
        torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=message):
        read_networks(tmp_path / "x.pt")

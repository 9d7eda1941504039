"""EDM's networks: published names, shapes and outputs; the formulas of the preconditioning; what must not matter."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apps.imagegen.models import ARCHITECTURES
from apps.imagegen.models.edm import (
    EDMPrecond,
    Preconditioned,
    VEPrecond,
    VPPrecond,
)
from apps.imagegen.models.edm.blocks import UNetBlock
from apps.imagegen.models.edm.layers import Convolution, GroupNorm

PRECONDITIONINGS: dict[str, type[Preconditioned]] = {"edm": EDMPrecond, "vp": VPPrecond, "ve": VEPrecond}
OFFICIAL = [name for name, architecture in ARCHITECTURES.items() if architecture.file]
TINY = ("song_ddpmpp", "song_ncsnpp_cond", "adm_cond")
CASES = [f"{kind}/sigma{sigma}" for kind in PRECONDITIONINGS for sigma in (0.05, 1.5, 40.0)] + ["edm_vecsigma"]
SMALL: dict[str, Any] = {
    "img_resolution": 16,
    "img_channels": 3,
    "model_type": "SongUNet",
    "model_channels": 8,
    "channel_mult": [1, 2, 3],
    "num_blocks": 1,
    "attn_resolutions": [8],
}


@cache
def published_keys(shared: Path) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """name -> keyword arguments and "key<tab>shape" lines, as the reference wrote them."""
    found: dict[str, tuple[dict[str, Any], list[str]]] = {}
    lines: list[str] = []
    for line in (shared / "golden/edm_state_dict_keys.txt").read_text().splitlines():
        if line.startswith("###"):
            title, _, values = line.partition("kwargs=")
            lines = []
            found[title.removeprefix("### TINY").removeprefix("###").split()[0]] = json.loads(values), lines
        elif line.strip():
            lines.append(line)
    return found


@cache
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden/golden_solvers.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name.startswith("unet/")}


def keys_of(network: nn.Module) -> list[str]:
    return [f"{name}\t{tuple(value.shape)}" for name, value in network.state_dict().items()]


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """The weights of the golden values."""
    for index, (name, parameter) in enumerate(network.named_parameters()):
        count = parameter.numel()
        wave = torch.sin(0.37 * torch.arange(count, dtype=torch.float64) + 0.11 * index)
        if parameter.ndim > 1:
            wave = wave / math.sqrt(count // parameter.shape[0])
        else:
            wave = 0.05 * wave + name.endswith("weight")
        parameter.copy_(wave.reshape(parameter.shape))
    for name, buffer in network.named_buffers():
        if name.endswith("freqs"):
            buffer.copy_(4 * torch.sin(1.3 * torch.arange(len(buffer), dtype=torch.float64) + 0.5))


def small(seed: int = 0, **values: Any) -> EDMPrecond:
    """A small network in eval mode whose every weight matters."""
    torch.manual_seed(seed)
    network = EDMPrecond(**{**SMALL, **values})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2 / math.sqrt(max(1, parameter[0].numel())))
    return network.eval().requires_grad_(False)


def images(batch: int = 2, size: int = 16) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [*OFFICIAL, *TINY])
def test_names_and_shapes_of_the_published_checkpoints(shared: Path, name: str) -> None:
    known = published_keys(shared)
    if name not in known:  # afhqv2's networks are those of ffhq
        assert name.startswith("afhqv2")
        assert keys_of(ARCHITECTURES[name].build("meta")) == known[name.replace("afhqv2", "ffhq")][1]
        return
    values, lines = known[name]
    with torch.device("meta"):
        assert keys_of(EDMPrecond(img_channels=3, **values)) == lines
    if name in OFFICIAL:
        architecture = ARCHITECTURES[name]
        assert keys_of(architecture.build("meta")) == lines
        assert {key: architecture.kwargs[key] for key in values} == {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TINY)
def test_outputs_of_the_reference(shared: Path, name: str, case: str) -> None:
    values, _ = published_keys(shared)[name]
    network = PRECONDITIONINGS[case[:3].split("/")[0]](img_channels=3, **values)
    fill(network)
    network.eval()
    state = torch.from_numpy(golden(shared)["unet/X"])
    labels = torch.eye(4)[[1, 3]] if name.endswith("cond") else None
    if case == "edm_vecsigma":
        sigma, x = torch.tensor([0.3, 5.0]), 2 * state
    else:
        sigma = torch.tensor(float(case.partition("sigma")[2]))
        x = (1 + sigma) * state
    with torch.no_grad():
        got = network(x, sigma, labels)
    expected = torch.from_numpy(golden(shared)[f"unet/{name}/{case}"])
    scale = max(1.0, float(expected.abs().max()))  # of the noise levels where outputs reach 200
    assert got.dtype == torch.float32
    assert float((got - expected).abs().max()) < 1e-5 * scale


def test_the_preconditioning_keeps_unit_variance() -> None:
    """Karras et al. 2022, appendix B.6: input and target of the network have unit variance, c_out is least."""
    network = small(sigma_data=0.7)
    sigma = torch.tensor([0.002, 0.3, 1.0, 7.0, 80.0], dtype=torch.float64)
    skip, out, into, noise = network.coefficients(sigma)
    one = torch.ones_like(sigma)
    torch.testing.assert_close(into**2 * (sigma**2 + 0.7**2), one)
    torch.testing.assert_close((((1 - skip) * 0.7) ** 2 + (skip * sigma) ** 2) / out**2, one)
    least = min(float(((1 - s) * 0.7) ** 2 + (s * 7.0) ** 2) for s in torch.linspace(0, 1, 100_001).tolist())
    assert float(out[3] ** 2) == pytest.approx(least, rel=1e-6)
    torch.testing.assert_close((4 * noise).exp(), sigma)


def test_times_of_the_variance_preserving_network() -> None:
    network = VPPrecond(**SMALL)
    ends = torch.tensor([network.sigma_min, network.sigma_max], dtype=torch.float64)
    torch.testing.assert_close(network.time(ends), torch.tensor([1e-5, 1.0], dtype=torch.float64))
    assert network.sigma_max == pytest.approx(152.17, rel=1e-4)  # of beta from 0.1 to 20, Song et al. 2021


@pytest.mark.parametrize(
    ("kind", "clock", "sigma_max"),
    [("edm", {"sigma_max": 9.0}, 9.0), ("vp", {"beta_d": 5.0}, math.sqrt(math.expm1(2.6))), ("ve", {}, 100.0)],
)
def test_every_preconditioning_has_the_same_networks_and_a_clock_of_its_own(
    kind: str, clock: dict[str, float], sigma_max: float
) -> None:
    network = PRECONDITIONINGS[kind](**SMALL, **clock, label_dim=4)
    assert (network.img_resolution, network.img_channels, network.label_dim) == (16, 3, 4)
    assert network.sigma_max == pytest.approx(sigma_max)
    with pytest.raises(TypeError, match="'sigma_maxx'"):
        PRECONDITIONINGS[kind](**SMALL, sigma_maxx=9.0)
    with pytest.raises(TypeError, match="img_resolution"):
        PRECONDITIONINGS[kind](img_channels=3)


@pytest.mark.parametrize("kind", ["SongUNet", "DhariwalUNet"])
def test_a_fresh_network_predicts_nothing(kind: str) -> None:
    torch.manual_seed(0)
    network = EDMPrecond(**{**SMALL, "model_type": kind}).eval().requires_grad_(False)
    x, sigma = images(), torch.tensor(0.5)
    assert float((network(x, sigma) - 0.5 * x).abs().max()) < 1e-3  # c_skip is a half where sigma is sigma_data


def test_an_image_depends_on_nothing_of_its_batch() -> None:
    network, x = small(label_dim=5), images(3)
    sigma, labels = torch.tensor([0.1, 2.0, 30.0]), torch.eye(5)[[4, 0, 2]]
    together = network(x, sigma, labels)
    for index in range(3):
        alone = network(x[index : index + 1], sigma[index], labels[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["SongUNet", "DhariwalUNet"])
def test_labels(kind: str) -> None:
    network, x, sigma = small(label_dim=5, augment_dim=4, model_type=kind), images(), torch.tensor(2.0)
    anything = network(x, sigma)
    torch.testing.assert_close(anything, network(x, sigma, torch.zeros(2, 5)))
    torch.testing.assert_close(anything, network(x, sigma, augment_labels=torch.zeros(2, 4)))
    for told in (network(x, sigma, torch.eye(5)[[1, 1]]), network(x, sigma, augment_labels=torch.ones(2, 4))):
        assert float((told - anything).abs().max()) > 1e-3


def test_dropped_labels_are_any_class() -> None:
    network, x, sigma = small(label_dim=5, label_dropout=0.999999, dropout=0.0), images(), torch.tensor(2.0)
    labels = torch.eye(5)[[1, 3]]
    told = network(x, sigma, labels)
    torch.testing.assert_close(network.train()(x, sigma, labels), network.eval()(x, sigma))
    assert float((told - network(x, sigma)).abs().max()) > 1e-3


def test_dropout_is_for_training() -> None:
    network, x, sigma = small(dropout=0.5), images(), torch.tensor(2.0)
    assert torch.equal(network(x, sigma), network(x, sigma))
    network.train()
    assert not torch.equal(network(x, sigma), network(x, sigma))


def test_the_core_in_low_precision() -> None:
    network, x, sigma = small(), images(), torch.tensor(2.0)
    exact = network(x, sigma)
    seen: set[torch.dtype] = set()
    for layer in network.modules():
        if isinstance(layer, UNetBlock | Convolution | GroupNorm):
            layer.register_forward_pre_hook(lambda layer, inputs: seen.add(inputs[0].dtype))
    network.cast_core(torch.bfloat16)
    rough = network(x, sigma)
    assert seen == {torch.bfloat16}
    stored = {name: value.dtype for name, value in network.named_parameters()}
    assert {dtype for name, dtype in stored.items() if "conv" in name or "norm" in name} == {torch.bfloat16}
    assert {dtype for name, dtype in stored.items() if "map_" in name or "affine" in name} == {torch.float32}
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.05 * float(exact.abs().max())
    seen.clear()
    fine = network(x, sigma, force_fp32=True)
    assert seen == {torch.float32}
    assert float((fine - exact).abs().mean()) < float((rough - exact).abs().mean())


def test_half_precision_is_for_cuda() -> None:
    assert torch.equal(small(use_fp16=True)(images(), torch.tensor(2.0)), small()(images(), torch.tensor(2.0)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="half precision runs on CUDA alone")
@pytest.mark.parametrize("kind", ["SongUNet", "DhariwalUNet"])
def test_half_precision_on_cuda(kind: str) -> None:
    network, x, sigma = small(use_fp16=True, model_type=kind).cuda(), images().cuda(), torch.tensor(2.0).cuda()
    exact, rough = network(x, sigma, force_fp32=True), network(x, sigma)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.01 * float(exact.abs().max())


def test_the_gradient_reaches_every_weight() -> None:
    network = small(label_dim=5, augment_dim=4, embedding_type="fourier", encoder_type="residual", decoder_type="skip")
    network.requires_grad_(True)
    out = network(images(), torch.tensor([0.3, 4.0]), torch.eye(5)[[1, 3]], augment_labels=torch.ones(2, 4))
    out.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("encoder", "decoder"), [("skip", "standard"), ("standard", "skip"), ("skip", "skip")])
def test_what_carries_nothing_changes_nothing(encoder: str, decoder: str) -> None:
    """With its own weights at zero, a kind of encoder or decoder is the standard one."""
    plain, rich = small(), small(encoder_type=encoder, decoder_type=decoder, resample_filter=[1, 1])
    weights = plain.state_dict()
    state = {name: weights.get(name, torch.zeros_like(value)) for name, value in rich.state_dict().items()}
    assert state.keys() > weights.keys()
    rich.load_state_dict(state)
    assert torch.equal(rich(images(), torch.tensor(2.0)), plain(images(), torch.tensor(2.0)))
    told = small(encoder_type=encoder, decoder_type=decoder)
    told.load_state_dict({**told.state_dict(), **weights})
    assert not torch.equal(told(images(), torch.tensor(2.0)), plain(images(), torch.tensor(2.0)))


def test_images_of_another_kind() -> None:
    with pytest.raises(ValueError, match=r"expected images \(B, 3, H, W\), got \(2, 1, 16, 16\)"):
        small()(torch.zeros(2, 1, 16, 16), torch.tensor(1.0))

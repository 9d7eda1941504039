"""The model against numbers of PreDiff's own code: key tables, parameter counts, cost and forward values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from apps.nowcast.model import (
    AlignmentConfig,
    AlignmentNetwork,
    AutoencoderConfig,
    AutoencoderKL,
    CuboidTransformerUNet,
    UNetConfig,
)
from apps.nowcast.model.residual import sinusoids


def build(kind: str, device: str) -> nn.Module:
    """The paper's autoencoder, alignment network or UNet on a device; `meta` costs no memory."""
    with torch.device(device):
        if kind == "vae":
            return AutoencoderKL(AutoencoderConfig.prediff())
        if kind == "alignment":
            return AlignmentNetwork(AlignmentConfig.prediff())
        return CuboidTransformerUNet(UNetConfig.prediff())


def fill(module: nn.Module) -> nn.Module:
    """Weights that anyone can recompute: b = sin(0.37 j + 0.11 k), j the flat index, k the rank of the name.

    Matrices and kernels b / sqrt(fan-in), one-dimensional weights 1 + 0.1 b, other vectors 0.05 b.
    """
    names = sorted(n for n in module.state_dict() if not n.endswith("relative_position_index"))
    filled = {}
    for k, name in enumerate(names):
        shape = module.state_dict()[name].shape
        b = torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64) + 0.11 * k).reshape(shape)
        if len(shape) >= 2:
            filled[name] = b / math.sqrt(math.prod(shape[1:]))
        else:
            filled[name] = 1.0 + 0.1 * b if name.endswith("weight") else 0.05 * b
    missing, unexpected = module.double().load_state_dict(filled, strict=False)
    assert not unexpected
    assert all(name.endswith("relative_position_index") for name in missing)
    return module.eval()


def wave(function: Callable[[Tensor], Tensor], rate: float, *shape: int) -> Tensor:
    """function(rate n) over the flat index n, in float64."""
    return function(rate * torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape)


def check(values: Tensor, mean: float, std: float | None, first: list[float], last: list[float], rtol: float) -> None:
    """Mean, population deviation, first and last entries of a golden tensor; absolute part for the printed digits."""
    flat = values.flatten()
    expected = torch.tensor([mean, *first, *last], dtype=torch.float64)
    got = torch.stack([flat.mean(), *flat[: len(first)], *flat[len(flat) - len(last) :]])
    torch.testing.assert_close(got, expected, rtol=rtol, atol=2e-11)
    if std is not None:
        assert flat.std(correction=0).item() == pytest.approx(std, rel=rtol, abs=2e-11)


@pytest.mark.parametrize(
    ("kind", "parameters", "entries"),
    [("unet", 136_817_538, 688), ("vae", 84_499_393, 248), ("alignment", 8_937_033, 125)],
)
def test_state_dict_has_the_published_keys(kind: str, parameters: int, entries: int, shared: Path) -> None:
    module = build(kind, "meta")
    state = module.state_dict()
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert len(state) == entries
    rows = (shared / "golden" / f"prediff_{kind}_keys.tsv").read_text().splitlines()
    expected = [tuple(row.split("\t")[:2]) for row in rows]
    assert [(name, str(tuple(value.shape))) for name, value in state.items()] == expected
    whole = {name for name, value in state.items() if value.dtype == torch.int64}
    assert whole == {name for name in state if name.endswith("relative_position_index")}


def test_cost_of_the_published_sizes() -> None:
    unet, vae = build("unet", "meta").eval(), build("vae", "meta").eval()
    x, cond = torch.empty(1, 6, 16, 16, 64, device="meta"), torch.empty(1, 7, 16, 16, 64, device="meta")
    for expected, call in (
        (653, lambda: unet(x, torch.empty(1, device="meta"), cond)),
        (476, lambda: vae.encode(torch.empty(7, 1, 128, 128, device="meta"))),
        (931, lambda: vae.decode(torch.empty(6, 64, 16, 16, device="meta"))),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
        assert counter.get_total_flops() / 1e9 == pytest.approx(expected, rel=0.002)


def test_sinusoids_of_time_seven() -> None:
    embedded = sinusoids(torch.tensor([7]), 256)
    assert embedded.dtype == torch.float32
    picked = embedded[0, [0, 1, 128]]
    torch.testing.assert_close(picked, torch.tensor([0.753902, 0.973479, 0.656987]), rtol=0, atol=1e-6)


def test_small_unet_values() -> None:
    config = UNetConfig(context_shape=(3, 8, 8, 4), target_shape=(2, 8, 8, 4), base_units=32, depth=(1, 1))
    unet = fill(CuboidTransformerUNet(config))
    assert sum(p.numel() for p in unet.parameters()) == 1_034_526
    with torch.no_grad():
        noise = unet(
            wave(torch.sin, 0.013, 2, 2, 8, 8, 4), torch.tensor([7, 500]), wave(torch.cos, 0.017, 2, 3, 8, 8, 4)
        )
    check(
        noise,
        mean=0.718077182624,
        std=6.313632699978,
        first=[2.206681721604, -2.133590351812, -5.414972304288],
        last=[4.973295766334, 4.168483859323, 1.241210713383],
        rtol=1e-9,
    )


def test_alignment_network_values() -> None:
    network = fill(build("alignment", "cpu"))
    with torch.no_grad():
        means = network(wave(torch.sin, 0.013, 2, 6, 16, 16, 64), torch.tensor([7, 500]))
    assert means.shape == (2, 6, 1)
    first = [0.285415617020, 0.279504261120, 0.286115590701]
    check(means, 0.283220004975, 0.002789056049, first, [0.281686576718], rtol=1e-9)


@pytest.mark.slow
def test_prediff_autoencoder_values() -> None:
    vae = fill(build("vae", "cpu"))
    assert isinstance(vae, AutoencoderKL)
    with torch.no_grad():
        posterior = vae.encode(0.5 + 0.5 * wave(torch.sin, 0.013, 1, 1, 128, 128))
        decoded = vae.decode(posterior.mode())
    mean_first = [0.195724372679, 0.195150587067, 0.194695417188]
    check(posterior.mean, -0.001828723386, 0.205484283394, mean_first, [], rtol=1e-9)
    check(posterior.logvar, 0.003077062113, None, [0.033895271066], [], rtol=1e-9)
    assert posterior.kl().tolist() == pytest.approx([517.084426558972], rel=1e-9)
    decoded_first = [-0.178463622490, -0.298677145022, -0.304234573513]
    check(decoded, -0.191141803835, 0.108518711426, decoded_first, [-0.128216842056], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("t", "mean", "std", "first", "last"),
    [
        (
            7,
            -0.011838774410,
            2.222167380774,
            [-1.988238253020, -2.739212758338, -2.890725034635],
            [2.715267620754, 2.621815662775, 1.956866269414],
        ),
        (500, -0.011835620292, None, [-1.988455320003], [1.956907901109]),
    ],
)
def test_prediff_unet_values(t: int, mean: float, std: float | None, first: list[float], last: list[float]) -> None:
    unet = fill(build("unet", "cpu"))
    with torch.no_grad():
        noise = unet(
            wave(torch.sin, 0.013, 1, 6, 16, 16, 64), torch.tensor([t]), wave(torch.cos, 0.017, 1, 7, 16, 16, 64)
        )
    # The time embedding is float32: its sines differ by a last digit between processors.
    check(noise, mean, std, first, last, rtol=1e-9)

"""Image models: known by name, written and read whole, and the same image for the same seed whatever else is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import core
from apps.imagegen.models import Architecture, image_model, load_model, save_model
from apps.imagegen.models.edm import EDMPrecond, SongConfig
from core.frozen import check_frozen
from data_tools.cli import UserError

TINY = Architecture(
    name="tiny",
    dataset="none",
    network=SongConfig(
        img_resolution=8, in_channels=2, out_channels=2, label_dim=5, model_channels=8, channel_mult=(1, 2),
        num_blocks=1, attn_resolutions=(4,),
    ),
    sigma_max=40.0,
)  # fmt: skip


def network_of(architecture: Architecture, seed: int = 0) -> EDMPrecond:
    """One whose output is not almost zero."""
    torch.manual_seed(seed)
    network = architecture.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", network_of(TINY), TINY, {"seed": 0})


def rewritten(path: Path, out: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], object]) -> Path:
    """The file with something changed in its tensors or its header."""
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, header)
    save_file(tensors, out, header)
    return out


def test_a_model_comes_back_as_it_was(saved: Path) -> None:
    network, model = network_of(TINY), load_model(saved)
    check_frozen(model.network)
    assert model.card == {"seed": 0}
    assert (model.name, model.resolution, model.channels, model.label_dim) == ("tiny", 8, 2, 5)
    assert (model.sigma_min, model.sigma_max, model.sigma_data) == (0.002, 40.0, 0.5)
    expected = network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.network.state_dict().items())
    x, sigma, labels = model.start([0, 1, 2]), torch.tensor(7.0), model.labels([0, 1, 2])
    with torch.no_grad():
        assert torch.equal(model.network(x, sigma, labels), network.eval()(x, sigma, labels))


def test_half_the_size_costs_rounding_alone(tmp_path: Path, saved: Path) -> None:
    half = save_model(tmp_path / "half.safetensors", network_of(TINY), TINY, {}, storage="float16")
    assert half.stat().st_size < 0.7 * saved.stat().st_size
    got, exact = load_model(half).network.state_dict(), load_model(saved).network.state_dict()
    for name, value in got.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=1e-3, atol=1e-6)


def test_the_identity_is_that_of_weights_and_sizes(tmp_path: Path, saved: Path) -> None:
    same = load_model(saved).identity
    assert same == load_model(saved, precision="bfloat16").identity
    assert same == image_model(network_of(TINY), replace(TINY, name="another", dataset="other"), {}).identity
    assert same != image_model(network_of(TINY, seed=1), TINY, {}).identity
    told = replace(TINY, sigma_data=0.6)
    assert same != image_model(network_of(told), told, {}).identity


def test_low_precision_of_the_network_alone(saved: Path) -> None:
    exact, rough = load_model(saved), load_model(saved, precision="bfloat16")
    solver, grid, seeds = core.build_solver("euler"), exact.grid("karras", 3), [3, 4]
    ends = [core.integrate(model.field(), solver, model.start(seeds), grid).x for model in (exact, rough)]
    assert ends[1].dtype == torch.float32
    assert 0 < float((ends[0] - ends[1]).abs().max()) < 0.1 * float(ends[0].abs().max())


def test_noise_depends_on_its_seed_alone(saved: Path) -> None:
    model = load_model(saved)
    noise = model.noise([7, 2**32 + 1, 0])
    assert noise.shape == (3, 2, 8, 8)
    for index, seed in enumerate((7, 1, 0)):
        expected = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(noise[index], expected)
    assert torch.equal(model.start([7]), 40.0 * noise[:1])
    assert model.noise([]).shape == (0, 2, 8, 8)
    assert float(model.noise(range(64)).std()) == pytest.approx(1, abs=0.02)


def test_a_label_is_drawn_after_the_noise(saved: Path) -> None:
    model = load_model(saved)
    labels = model.labels([7, 8, 9, 10])
    assert labels is not None
    assert labels.shape == (4, 5)
    for index, seed in enumerate((7, 8, 9, 10)):
        generator = torch.Generator().manual_seed(seed)
        torch.randn(2, 8, 8, generator=generator)
        drawn_class = int(torch.randint(5, (), generator=generator))
        assert labels[index].tolist() == [number == drawn_class for number in range(5)]
    drawn = model.labels(range(100))
    assert drawn is not None
    assert drawn.sum(0).min() > 5
    chosen = model.labels([7, 8], class_index=3)
    assert chosen is not None
    assert chosen.tolist() == [[0, 0, 0, 1, 0]] * 2


@pytest.mark.parametrize("index", [-1, 5])
def test_a_class_that_is_none(saved: Path, index: int) -> None:
    with pytest.raises(UserError, match=rf"expected a class from 0 to 4, got {index}"):
        load_model(saved).labels([0], class_index=index)


def test_an_unconditional_model_has_no_labels() -> None:
    architecture = TINY.with_labels(0)
    model = image_model(architecture.build(), architecture, {})
    assert model.labels([0, 1]) is None
    with pytest.raises(UserError, match="no class, for the model has none"):
        model.labels([0], class_index=0)


def test_a_run_of_the_field(saved: Path) -> None:
    model = load_model(saved)
    labels, grid = model.labels([5, 6, 7]), model.grid("karras", 4)
    assert grid.shape == (5,)
    assert (float(grid[0]), float(grid[-1])) == (40.0, 0.002)
    state = core.integrate(model.field(labels), core.build_solver("ipndm"), model.start([5, 6, 7]), grid)
    assert state.nfe == 4
    assert labels is not None
    alone = core.integrate(model.field(labels[1:2]), core.build_solver("ipndm"), model.start([6]), grid)
    torch.testing.assert_close(alone.x[0], state.x[1], rtol=1e-4, atol=1e-4)
    x, sigma = model.start([5]), torch.tensor(3.0)
    expected = (x - model.network(x, sigma, labels[:1])) / sigma
    torch.testing.assert_close(model.field(labels[:1])(x, sigma), expected)
    assert not torch.allclose(model.field()(x, sigma), expected)


def test_grids(saved: Path) -> None:
    model = load_model(saved)
    steep, flat = model.grid("karras", 4, rho=9.0), model.grid("karras", 4, rho=5.0)
    assert torch.all(steep[1:-1] < flat[1:-1])
    searched = model.grid("gits", 3, x_T=model.start([0, 1]), teacher_grid=model.grid("karras", 8))
    assert len(searched) == 4
    assert set(searched.tolist()) <= set(model.grid("karras", 8).tolist())
    with pytest.raises(ValueError, match="did you mean 'karras'"):
        model.grid("karas", 4)


def test_names_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got no file .*none\.safetensors; correct the path"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match=r"a file or a model among .*, got 'digts'"):
        load_model("digts")
    with pytest.raises(UserError, match=r"download edm-cifar10-32x32-uncond-vp\.pkl .*apps\.imagegen\.convert"):
        load_model("cifar10-32x32-uncond-vp")
    pickled = tmp_path / "edm-x.pkl"
    pickled.write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=rf"python -m apps.imagegen.convert {pickled} edm-x.safetensors"):
        load_model(pickled)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_file(tmp_path: Path, saved: Path, share: float) -> None:
    content = saved.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="truncated or foreign"):
        load_model(path)


def test_a_foreign_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="expected a file of format spanlift-image-model 1"):
        load_model(tmp_path / "foreign.safetensors")


NAME = "model.enc.8x8_conv.weight"
DAMAGES: dict[str, tuple[Callable[[dict, dict], object], str]] = {
    "lost tensor": (lambda tensors, _: tensors.pop(NAME), f"without {NAME}"),
    "another tensor": (lambda tensors, _: tensors.update(odd=torch.zeros(1)), "unknown odd"),
    "another shape": (
        lambda tensors, _: tensors.update({NAME: torch.zeros(8, 3, 3, 3)}),
        r"weight of shape \(8, 3, 3, 3\) in place of \(8, 2, 3, 3\)",
    ),
    "whole numbers": (
        lambda tensors, _: tensors.update({NAME: tensors[NAME].to(torch.int32)}),
        f"{NAME} of type torch.int32",
    ),
    "not a number": (
        lambda tensors, _: tensors.update({NAME: tensors[NAME] * float("nan")}),
        f"values of {NAME} that are not finite",
    ),
    "no architecture": (lambda _, header: header.pop("architecture"), "expected an architecture"),
    "no JSON": (lambda _, header: header.update(architecture="{"), "expected an architecture"),
    "a list": (lambda _, header: header.update(architecture="[]"), "expected an architecture"),
    "card of text": (lambda _, header: header.update(card='"x"'), "a card that is str"),
    "deep card": (lambda _, header: header.update(card="[" * 100_000), "expected an architecture"),
    "newer": (lambda _, header: header.update(version="2"), "format spanlift-image-model 1, got .* 2"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(tmp_path: Path, saved: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    path = rewritten(saved, tmp_path / "damaged.safetensors", change)
    with pytest.raises(UserError, match=message):
        load_model(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted({**TINY.written(), **TINY.written()["network"]})), value=JSON)
def test_any_architecture_in_a_header(tmp_path: Path, saved: Path, field: str, value: Any) -> None:
    """Whatever stands in the header, a file is read or refused in words."""
    written = TINY.written()
    (written if field in written else written["network"])[field] = value
    path = rewritten(
        saved, tmp_path / "any.safetensors", lambda _, header: header.update(architecture=json.dumps(written))
    )
    try:
        model = load_model(path)
    except UserError:
        return
    assert model.shape == (2, 8, 8)


def test_a_giant_in_a_header_takes_no_memory(tmp_path: Path, saved: Path) -> None:
    written = TINY.written()
    written["network"].update(model_channels=4096, channel_mult=[64] * 4, num_blocks=64, img_resolution=4096)
    path = rewritten(
        saved, tmp_path / "giant.safetensors", lambda _, header: header.update(architecture=json.dumps(written))
    )
    with pytest.raises(UserError, match="expected the weights of tiny"):
        load_model(path)


def test_sizes_in_a_header_that_no_network_has(tmp_path: Path, saved: Path) -> None:
    written = TINY.written()
    written["network"]["model_channels"] = 9
    path = rewritten(
        saved, tmp_path / "odd.safetensors", lambda _, header: header.update(architecture=json.dumps(written))
    )
    with pytest.raises(UserError, match=r"odd\.safetensors, got sizes that no network has .*groups divide, got 9"):
        load_model(path)


def test_precisions_and_devices_that_are_none(saved: Path) -> None:
    with pytest.raises(UserError, match="expected a precision among float32, bfloat16, float16, got 'half'"):
        load_model(saved, precision="half")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected --device cuda with precision float16, got cpu"):
        load_model(saved, precision="float16")
    with pytest.raises(UserError, match="expected a device of this machine, got cuda:99"):
        load_model(saved, device="cuda:99")
    with pytest.raises(UserError, match="expected a device of this machine, got nowhere"):
        load_model(saved, device="nowhere")


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    network = network_of(TINY)
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        save_model(tmp_path / "model.pt", network, TINY, {})
    with pytest.raises(ValueError, match=r"unknown model.map_label.weight and 1 more"):
        save_model(tmp_path / "model.safetensors", network, TINY.with_labels(0), {})
    with torch.no_grad():
        network.model.map_layer0.bias.fill_(1e6)
    with pytest.raises(ValueError, match=r"values of model.map_layer0.bias that are not finite"):
        save_model(tmp_path / "model.safetensors", network, TINY, {}, storage="float16")
    assert list(tmp_path.iterdir()) == []

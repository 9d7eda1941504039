"""What latent models are to solvers, pairs and tables: the protocol of frozen models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import core
from apps.imagegen.models import FrozenModel, load_model
from apps.imagegen.models.diffusers import LatentModel, Prompting, latent_model, load_latent
from apps.imagegen.models.latent import family as family_module
from apps.imagegen.models.latent.identity import identity_of_files, identity_of_network
from apps.imagegen.models.latent.tiny import CLASSES, KINDS, tiny_pipeline
from apps.imagegen.models.seeds import FIRST_SEED, HELD_OUT, SEEDS_OF_A_RUN, place
from data_tools.cli import UserError

Options = Callable[[str], dict[str, str | int]]


@pytest.fixture(scope="module")
def models(latent_options: Options) -> Callable[[str], LatentModel]:
    """Tiny models by kind, each loaded once."""
    found: dict[str, LatentModel] = {}

    def get(kind: str) -> LatentModel:
        if kind not in found:
            options: dict[str, Any] = latent_options(kind)
            found[kind] = load_latent(options.pop("model"), prompting=Prompting(**options))
        return found[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_frozen_model(kind: str, models: Callable[[str], LatentModel]) -> None:
    model: FrozenModel = models(kind)
    pixels: FrozenModel = load_model("digits")
    names = [name for name in dir(FrozenModel) if not name.startswith("_")]
    assert len(names) > 20
    for one in (model, pixels):
        assert not [name for name in names if not hasattr(one, name)]
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    x = model.start([1, 2, 3])
    assert x.shape == (3, *model.shape)
    assert (model.channels, model.resolution) == model.shape[:2]
    field = model.field(model.labels([1, 2, 3]))
    with torch.no_grad():
        velocity = field(x, torch.tensor(model.schedule.t_max / 2, dtype=torch.float64))
        images = model.decode(x)
    assert velocity.shape == x.shape
    assert velocity.dtype == images.dtype == torch.float32
    assert images.shape == (3, model.image_channels, model.image_resolution, model.image_resolution)
    assert hasattr(field, "analytic_velocity")


@pytest.mark.parametrize("kind", ["sana", "ldm"])
def test_a_sample_depends_on_its_seed_alone(kind: str, models: Callable[[str], LatentModel]) -> None:
    model = models(kind)
    together, alone = (velocity_of(model, seeds) for seeds in ([3, 4, 5], [4]))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    assert float((together[0] - together[1]).abs().max()) > 1e-2


def velocity_of(model: FrozenModel, seeds: list[int]) -> Tensor:
    with torch.no_grad():
        return model.field(model.labels(seeds))(model.start(seeds), torch.tensor(0.5, dtype=torch.float64))


def test_seeds_choose_prompts(models: Callable[[str], LatentModel]) -> None:
    model = models("sana")
    prompts = model.prompts
    assert prompts is not None
    train, held_out = len(prompts.train), len(prompts.evaluation)
    assert (train, held_out) == (12, 6)
    run = FIRST_SEED + 2 * SEEDS_OF_A_RUN
    seeds = [0, held_out + 1, run, run + train + 3, run + HELD_OUT, run + HELD_OUT + held_out + 2]
    assert model.texts(seeds) == (
        prompts.evaluation[0], prompts.evaluation[1], prompts.train[0], prompts.train[3], prompts.evaluation[0],
        prompts.evaluation[2],
    )  # fmt: skip
    labels = model.labels(seeds)
    assert labels is not None
    assert labels.dtype == torch.int64
    assert labels.shape == (6, 1)
    assert [prompts.all[row] for row in labels.flatten().tolist()] == list(model.texts(seeds) or ())
    assert not any(place(seed).training for seed in (0, FIRST_SEED - 1, run + HELD_OUT, run + SEEDS_OF_A_RUN - 1))
    assert place(run + HELD_OUT - 1).training


def test_classes_are_drawn_after_the_noise(models: Callable[[str], LatentModel]) -> None:
    model = models("ldm-class")
    assert model.label_dim == CLASSES
    expected = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        torch.randn(model.shape, generator=generator)
        expected.append(int(torch.randint(CLASSES, (), generator=generator)))
    labels = model.labels(range(5))
    assert labels is not None
    assert labels.flatten().tolist() == expected
    assert model.labels([7, 8], class_index=2).tolist() == [[2], [2]]  # pyright: ignore
    with pytest.raises(UserError, match=f"a class from 0 to {CLASSES - 1}, got {CLASSES}"):
        model.labels([0], class_index=CLASSES)
    with pytest.raises(UserError, match="no class"):
        models("ldm").labels([0], class_index=0)


def test_a_label_counts_for_a_whole_batch(models: Callable[[str], LatentModel]) -> None:
    model = models("sana")
    labels = model.labels([1])
    assert labels is not None
    x, t = model.start([4, 5]), torch.tensor(0.4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model.field(labels)(x, t), model.field(labels.expand(2, 1))(x, t))


def test_grids(models: Callable[[str], LatentModel]) -> None:
    sana, flux, sd = models("sana"), models("flux"), models("sd")
    u = torch.linspace(1, 0, 5, dtype=torch.float64)
    torch.testing.assert_close(sana.grid("shifted", 4), 3 * u / (1 + 2 * u))
    mu = 0.5 + (1.15 - 0.5) * (16 - 256) / (4096 - 256)  # of 16 tokens
    shift = math.exp(mu)
    torch.testing.assert_close(flux.grid(flux.default_grid("ipndm"), 4), shift * u / (1 + (shift - 1) * u))
    torch.testing.assert_close(sd.grid("discrete", 3), torch.tensor([1000, 667, 334, 1]).double() / 1000)
    assert [m.default_grid("unipc") for m in (sana, sd)] == ["shifted", "logsnr"]
    assert sd.default_grid("ipndm") == "discrete"
    for model in (sana, sd):
        for name in set(model.grids) - {"gits", "ays"}:
            grid = model.grid(name, 3)
            assert grid[0] == model.schedule.t_max
            assert grid[-1] == model.schedule.t_min
    with pytest.raises(ValueError, match=r"expected a grid among shifted, .* for sana, got 'karras'"):
        sana.grid("karras", 3)
    found = sana.grid("gits", 3, x_T=sana.start(range(2)))
    assert len(found) == 4
    assert (found[0], found[-1]) == (1, 0)


def test_starts(models: Callable[[str], LatentModel]) -> None:
    sana, sd = models("sana"), models("sd")
    assert torch.equal(sana.start([3]), sana.noise([3]))
    torch.testing.assert_close(sana.start([3], t=0.25), 0.25 * sana.noise([3]))
    assert torch.equal(sd.start([3], t=0.5), sd.noise([3]))
    assert sana.chart is None
    assert sd.chart == sd.schedule
    assert isinstance(sd.schedule, core.DiscreteVP)
    torch.testing.assert_close(sd.schedule(1e-3).sigma, torch.tensor(0.00085**0.5, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["sana", "flux", "sd"])
def test_gradients_pass_through_field_and_decoder(kind: str, models: Callable[[str], LatentModel]) -> None:
    model = models(kind)
    field, t = model.field(model.labels([1])), torch.tensor(0.6, dtype=torch.float64)
    x = model.start([1])
    direction = model.noise([2])
    weights = model.noise([3])

    def value(step: float) -> Tensor:
        return (field(x + step * direction, t) * weights).sum() + model.decode(x + step * direction).mean()

    moved = x.clone().requires_grad_()
    ((field(moved, t) * weights).sum() + model.decode(moved).mean()).backward()
    assert moved.grad is not None
    with torch.no_grad():
        slope = float(value(1e-2) - value(-1e-2)) / 2e-2
    assert float((moved.grad * direction).sum()) == pytest.approx(slope, rel=0.05)
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_decoding_in_parts_is_decoding_at_once(
    models: Callable[[str], LatentModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("sana")
    x = model.start(range(5))
    with torch.no_grad():
        whole = model.decode(x)
        monkeypatch.setattr(family_module, "PIXELS_AT_ONCE", 2 * model.image_resolution**2)
        torch.testing.assert_close(model.decode(x), whole, rtol=1e-4, atol=1e-5)


def test_identity_is_of_weights_guidance_and_size(
    latent_options: Options, models: Callable[[str], LatentModel]
) -> None:
    options: dict[str, Any] = latent_options("sana")
    folder = options.pop("model")
    model = models("sana")
    same = load_latent(folder, precision="bfloat16", prompting=Prompting(**options))
    assert same.identity == model.identity
    assert same.conditions != model.conditions  # its text encoder rounds
    assert latent_model(tiny_pipeline("sana")).identity == model.identity
    others = [
        load_latent(folder, prompting=Prompting(**options, guidance=3.0)),
        load_latent(folder, prompting=Prompting(**options, size=64)),
        latent_model(tiny_pipeline("sana", seed=1)),
    ]
    assert len({model.identity, *(other.identity for other in others)}) == 4
    assert others[1].shape == (4, 16, 16)
    assert load_latent(folder, prompting=Prompting(**options, negative="blurred")).conditions != model.conditions


def test_the_split_into_files_does_not_count(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = tiny_pipeline("ldm").unet
    state = network.state_dict()
    names = list(state)
    save_file(dict(state), tmp_path / "one.safetensors")
    save_file({n: state[n] for n in names[::2]}, tmp_path / "a.safetensors")
    save_file({n: state[n] for n in names[1::2]}, tmp_path / "b.safetensors")
    whole = identity_of_files([tmp_path / "one.safetensors"])
    assert whole == identity_of_files([tmp_path / "b.safetensors", tmp_path / "a.safetensors"])
    assert whole == identity_of_network(network)
    assert whole != identity_of_files([tmp_path / "a.safetensors"])


def test_low_precision_is_of_the_network_alone(latent_options: Options, models: Callable[[str], LatentModel]) -> None:
    options: dict[str, Any] = latent_options("sana")
    model = load_latent(options.pop("model"), precision="bfloat16", prompting=Prompting(**options))
    assert next(model.network.parameters()).dtype == torch.bfloat16
    ours, exact = velocity_of(model, [1, 2]), velocity_of(models("sana"), [1, 2])
    assert ours.dtype == torch.float32
    assert 1e-4 < float((ours - exact).norm() / exact.norm()) < 0.2


def test_the_text_encoder_is_loaded_only_where_embeddings_lack(
    latent_options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {**latent_options("flux"), "text_cache": str(tmp_path)}
    model = load_latent(options.pop("model"), prompting=Prompting(**options))
    text: Any = model.text
    loads, load = [], text._load
    monkeypatch.setattr(text, "_load", lambda: loads.append(1) or load())
    model.prepare([0, 1, 0])
    model.prepare([1])
    model.field(model.labels([0, 1]))
    assert len(loads) == 1
    again = load_latent(str(latent_options("flux")["model"]), prompting=Prompting(**options))
    monkeypatch.setattr(again.text, "_load", lambda: pytest.fail("it was encoded before"))
    again.field(again.labels([1, 0]))
    model.field(model.labels([2]))
    assert len(loads) == 2


def test_a_condition_of_ones_own(models: Callable[[str], LatentModel]) -> None:
    model = models("flux")
    bound: Any = model.field(model.labels([1, 2]))
    own = model.bind(bound.network.condition)
    assert torch.equal(velocity_of(model, [1, 2]), own(model.start([1, 2]), torch.tensor(0.5, dtype=torch.float64)))
    unprompted = replace(model, text=None)
    with pytest.raises(UserError, match="expected --prompts for the model flux"):
        unprompted.labels([0])
    with pytest.raises(UserError, match="expected --prompts"):
        unprompted.field()
    assert unprompted.texts([0]) is None
    assert models("ldm").texts([0]) is None
    assert models("ldm").conditions == ""

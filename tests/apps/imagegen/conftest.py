"""Random models of a few thousand numbers: everything image generation does, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

import core
from apps.imagegen.methods import MethodOptions
from apps.imagegen.models import Architecture, ImageModel, find_architecture, image_model, save_model
from apps.imagegen.models.edm import SongConfig
from apps.imagegen.solvers import build_method, sampling_card

TINY = Architecture(
    name="tiny",
    dataset="none",
    network=SongConfig(
        img_resolution=16, in_channels=1, out_channels=1, model_channels=8, channel_mult=(1, 1), num_blocks=1,
        attn_resolutions=(), dropout=0.0,
    ),
)  # fmt: skip


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of random models of 8 x 8 pixels: `grey` without classes, `colour` with three."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    found = {}
    for name, channels, classes in (("grey", 1, 0), ("colour", 3, 3)):
        digits = find_architecture("digits")
        sizes = {"img_resolution": 8, "in_channels": channels, "out_channels": channels, "label_dim": classes}
        network = replace(digits.network, model_channels=8, channel_mult=(1,), attn_resolutions=(), **sizes)
        architecture = replace(digits, name=name, network=network)
        denoiser = architecture.build()
        with torch.no_grad():  # outputs that are not zero and depend on the class
            for parameter in denoiser.parameters():
                parameter += 0.05 * torch.randn(parameter.shape)
        found[name] = save_model(folder / f"{name}.safetensors", denoiser, architecture, {"seed": 0})
    return found


@pytest.fixture(scope="session")
def tiny() -> ImageModel:
    """A random model of 16 x 16 grey pixels, for tables."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return image_model(TINY.build(), TINY, {})


@pytest.fixture(scope="session")
def tiny_file(tiny: ImageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", tiny.network, TINY, {})  # pyright: ignore


@pytest.fixture(scope="session")
def put_solver() -> Callable[..., Path]:
    """`put_solver(model, folder, spec)` writes a solver as training leaves it, its learned numbers moved away from its
    base; `identity` is that of another model, `sampling` changes what its card says."""

    def put(model: ImageModel, folder: Path, spec: MethodOptions, identity: str = "", sampling: object = None) -> Path:
        method = build_method(model, spec)
        assert isinstance(method.solver, torch.nn.Module)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in method.solver.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        extra = {"sampling": sampling_card(method, spec.nfe or 3) if sampling is None else sampling}
        return core.save(
            folder, method.solver, grid=method.grid, field_identity=identity or model.identity, supervision="teacher",
            loss="mse", extra=extra,
        )  # fmt: skip

    return put


def beside(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def nvidia() -> ModuleType:
    """`nvidia.py` of this folder: checkpoints as EDM's authors pickle them."""
    return beside("nvidia")


@pytest.fixture(scope="session")
def runs() -> ModuleType:
    """`pipeline_runs.py` of this folder: what a pipeline does with a scheduler."""
    return beside("pipeline_runs")


@pytest.fixture(scope="session")
def latent_options(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str | int]]:
    """`latent_options("sana")`: options by which a command finds a tiny random pipeline of that kind, written once,
    with prompts where it needs them and a cache of their embeddings that all tests share."""
    folder = tmp_path_factory.mktemp("pipelines")
    texts = [f"a {colour} {thing} {place}" for colour in ("red", "blue", "grey") for thing in ("cat", "tree", "house")
             for place in ("at night", "in snow")]  # fmt: skip
    (folder / "prompts.txt").write_text("\n".join(texts))

    def options(kind: str) -> dict[str, str | int]:
        from apps.imagegen.models.latent.tiny import tiny_pipeline

        if not (folder / kind).exists():
            tiny_pipeline(kind).save_pretrained(folder / kind)  # pyright: ignore[reportArgumentType]
        found: dict[str, str | int] = {"model": str(folder / kind), "text_cache": str(folder / "text")}
        named = kind in ("sana", "flux", "sd")
        return {**found, "prompts": str(folder / "prompts.txt"), "train_prompts": 12} if named else found

    return options

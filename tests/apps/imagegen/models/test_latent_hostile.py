"""Folders of pipelines that are damaged, incomplete or meant to harm: one line, and no code of theirs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from apps.imagegen.models.diffusers import LatentModel, Prompting, load_latent
from apps.imagegen.models.latent.catalogue import is_latent
from apps.imagegen.models.latent.identity import identity_of_folder
from apps.imagegen.models.latent.tiny import tiny_pipeline
from apps.imagegen.models.memory import enough_memory
from data_tools.cli import UserError

Options = Callable[[str], dict[str, str | int]]


@pytest.fixture
def sana(latent_options: Options, tmp_path: Path) -> Path:
    """A tiny SANA of one's own, to damage."""
    return Path(shutil.copytree(str(latent_options("sana")["model"]), tmp_path / "sana"))


def asked(latent_options: Options, tmp_path: Path, **settings: Any) -> Prompting:
    """Prompts whose embeddings are not there yet."""
    return Prompting(prompts=str(latent_options("sana")["prompts"]), text_cache=str(tmp_path / "text"), **settings)


def said(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_latent(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["None.py", "transformer/diffusers.py", "vae/model_index.json"])
def test_what_some_versions_run_unasked_is_refused(name: str, sana: Path) -> None:
    """diffusers 0.32 runs the first two without being asked to, and does not look at what a nested index names."""
    (sana / name).write_text("{}")
    line = said(sana)
    assert name in line
    assert "no other code is loaded" in line


@pytest.mark.parametrize(
    "text",
    ['{"weight_map": {"a": "../vae/diffusion_pytorch_model.safetensors"}}', '{"weight_map": {"a": "weights.bin"}}',
     '{"weight_map": {"a": 5}}', '{"weight_map": {"a": "/etc/passwd"}}', "[]", "[" * 100_000, "\ufeff"],
    ids=["elsewhere", "pickle", "number", "absolute", "list", "deep", "mark"],
)  # fmt: skip
def test_lists_of_weights_name_files_beside_them(text: str, sana: Path) -> None:
    (sana / "text_encoder" / "model.safetensors.index.json").write_text(text)
    assert "a list of safetensors files beside it" in said(sana)


def test_weights_that_lack_one(sana: Path, latent_options: Options, tmp_path: Path) -> None:
    """transformers would draw them at random, and diffusers leave them without memory."""
    for part, name in (("text_encoder", "model"), ("transformer", "diffusion_pytorch_model")):
        path = sana / part / f"{name}.safetensors"
        tensors = load_file(path)
        save_file(dict(list(tensors.items())[1:]), path, {"format": "pt"})
        with pytest.raises(UserError, match=f"all weights of.*{part.partition('_')[0]}") as caught:
            load_latent(sana, prompting=asked(latent_options, tmp_path)).prepare([0])
        assert "\n" not in str(caught.value)


def test_a_folder_of_one_variant_has_texts_too(sana: Path, latent_options: Options, tmp_path: Path) -> None:
    plain = load_latent(sana, prompting=asked(latent_options, tmp_path / "plain"))
    for path in list(sana.rglob("*.safetensors")):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    model = load_latent(sana, prompting=asked(latent_options, tmp_path))
    assert (model.identity, model.conditions) == (plain.identity, plain.conditions)
    x, t = model.start([3]), torch.tensor(0.7)
    with torch.no_grad():
        assert torch.equal(model.field(model.labels([3]))(x, t), plain.field(plain.labels([3]))(x, t))


def test_the_split_of_a_text_encoder_does_not_count(tmp_path: Path) -> None:
    whole, split = tmp_path / "whole", tmp_path / "split"
    state = {"a": torch.ones(3), "b": torch.zeros(2, 5)}
    for folder in (whole, split):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    save_file(state, whole / "model.safetensors")
    for number, name in enumerate(state):
        save_file({name: state[name]}, split / f"model-{number}.safetensors")
    (split / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-0.safetensors"}}))
    assert identity_of_folder(whole) == identity_of_folder(split)
    (split / "config.json").write_text('{"more": 1}')
    assert identity_of_folder(whole) != identity_of_folder(split)


def test_guidance_counts_where_it_is_used(latent_options: Options) -> None:
    def identity(kind: str, guidance: float | None) -> str:
        return load_latent(str(latent_options(kind)["model"]), prompting=Prompting(guidance=guidance)).identity

    assert identity("sana", 4) == identity("sana", 4.0) != identity("sana", 1.0)
    assert identity("sana", 0.5) == identity("sana", 1.0)  # pipelines do not guide below 1
    assert identity("ldm", 1.0) == identity("ldm", None)
    with pytest.raises(UserError, match=r"expected no --guidance for a model without texts or classes, got 3\.0"):
        identity("ldm", 3.0)


def test_names_with_a_point_are_of_the_hub_too() -> None:
    for name in ("black-forest-labs/FLUX.1-dev", "owner/model_1.5", "owner/SANA1.5_1.6B_1024px_diffusers"):
        assert is_latent(name)
    assert not is_latent("out/solver.safetensors")


def test_a_model_of_the_hub_is_not_called_by_its_hash(
    sana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DiffusionPipeline

    snapshot = sana.rename(tmp_path / "0123abcd")
    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: str(snapshot))
    model = load_latent("owner/tiny-sana.5")
    assert isinstance(model, LatentModel)
    assert model.name == "tiny-sana.5"
    monkeypatch.chdir(snapshot)
    assert load_latent(".").name == "0123abcd"


def test_the_memory_of_any_device_is_told_of() -> None:
    with pytest.raises(UserError, match="fits the memory of the device"), enough_memory():
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="shapes"), enough_memory():
        torch.matmul(torch.zeros(2, 3), torch.zeros(2, 3))


def test_the_pipeline_by_class_takes_low_precision_and_its_own_classes_alone() -> None:
    pipe = tiny_pipeline("ldm-class")

    def latents(classes: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(number) for number in classes]
        return pipe(classes, num_inference_steps=3, generator=generators, output_type="latent").images

    whole = latents([0, 2])
    pipe.to(torch.bfloat16)
    low = latents([0, 2])
    assert low.dtype == torch.float32
    assert 0 < float((low - whole).abs().max()) < 0.1 * float(whole.abs().max())
    assert pipe([1], num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 3)
    for wrong in ([3], [-1], 0):
        with pytest.raises(ValueError, match="classes from 0 to 2"):
            pipe(wrong, num_inference_steps=2)

"""Latent models from folders, the hub and names, and what is said where that cannot be."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from apps.imagegen.models import ImageModel, load_model
from apps.imagegen.models.diffusers import CATALOGUE, FAMILIES, LatentModel, Prompting, latent_model, load_latent
from apps.imagegen.models.latent import extra
from apps.imagegen.models.latent.catalogue import is_latent
from apps.imagegen.models.latent.diffusion import table_of
from apps.imagegen.models.latent.folders import weights_of
from apps.imagegen.models.latent.tiny import KINDS, tiny_pipeline
from apps.imagegen.models.memory import enough_memory
from data_tools.cli import UserError

Options = Callable[[str], dict[str, str | int]]
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(latent_options: Options, tmp_path: Path) -> Path:
    """A tiny unconditional pipeline of one's own, to damage."""
    return Path(shutil.copytree(str(latent_options("ldm")["model"]), tmp_path / "ldm"))


def said(name: object, **settings: Any) -> str:
    """The one line that loading ends with."""
    with pytest.raises(UserError) as caught:
        load_latent(str(name), prompting=Prompting(**settings))
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("expected ")
    return line


@pytest.mark.parametrize("kind", ["ldm", "ldm-class"])
def test_one_function_loads_all(kind: str, latent_options: Options) -> None:
    model = load_model(latent_options(kind)["model"])  # pyright: ignore[reportArgumentType]
    assert isinstance(model, LatentModel)
    assert model.card["pipeline"] in ("LDMPipeline", "LatentClassPipeline")
    assert isinstance(load_model("digits"), ImageModel)
    assert isinstance(load_model("digits", prompting=Prompting(seed=3)), ImageModel)


@pytest.mark.parametrize(
    "option", [{"prompts": "p.txt"}, {"guidance": 2.0}, {"size": 32}, {"train_prompts": 2}], ids=lambda o: next(iter(o))
)
def test_models_of_pixels_take_no_prompts(option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"expected no --{next(iter(option))} for digits"):
        load_model("digits", prompting=Prompting(**option))


@pytest.mark.parametrize(
    ("name", "latent"),
    [("sana-0.6b", True), ("org/name", True), ("digits", False), ("out/model.safetensors", False), ("a/b/c", False),
     ("./here", False), ("../there", False), ("missing.safetensors", False), ("cifar10-32x32-uncond-vp", False)],
)  # fmt: skip
def test_what_a_name_is(name: str, latent: bool) -> None:
    assert is_latent(name) == latent


def test_a_folder_that_is_there_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "run").mkdir(parents=True)
    assert not is_latent("out/run")


def test_no_network_and_no_local_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "nobody/nothing on this machine or by the network, got neither" in said("nobody/nothing")
    assert "black-forest-labs/FLUX.1-dev" in said("flux-dev")
    assert "convert its checkpoint" in said("ldm-bedroom")


def test_the_catalogue_names_families() -> None:
    families = {family.name for family in FAMILIES}
    assert {entry.family for entry in CATALOGUE.values()} <= families


def test_another_pipeline(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "DDPMPipeline"}))
    assert "a pipeline among SanaPipeline, FluxPipeline" in said(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"_class_name": 3}', "[" * 100_000, "\udcff"])
def test_an_index_that_is_none(text: str, folder: Path) -> None:
    (folder / "model_index.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "model_index.json" in said(folder) or "a pipeline among" in said(folder)


def test_code_of_others_is_not_run(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    for library in ("evil", "os"):
        (folder / "model_index.json").write_text(json.dumps({**index, "unet": [library, "UNet2DModel"]}))
        assert "no other code is loaded" in said(folder)


@pytest.mark.parametrize("part", ["unet", "vqvae", "scheduler"])
def test_missing_components(part: str, folder: Path) -> None:
    shutil.rmtree(folder / part)
    assert f"without {part}" in said(folder)


def test_weights_that_are_cut_or_pickled(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "expected weights in safetensors" in said(folder)
    weights.unlink()
    torch.save(tiny_pipeline("ldm").unet.state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    assert "expected weights in safetensors" in said(folder)


def test_variants_and_shards_are_the_same_weights(folder: Path, tmp_path: Path) -> None:
    plain = load_latent(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert load_latent(folder).identity == plain.identity
    tiny_pipeline("ldm").unet.save_pretrained(tmp_path / "unet", max_shard_size="60KB")
    shutil.rmtree(folder / "unet")
    shutil.move(tmp_path / "unet", folder / "unet")
    assert len(weights_of(folder / "unet")) > 1
    assert load_latent(folder).identity == plain.identity


def test_settings_that_a_model_cannot_have(folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\n")
    assert "no --prompts" in said(folder, prompts=str(prompts), train_prompts=1)
    assert "a multiple of 2 pixels" in said(folder, size=17)
    assert "a multiple of 2 pixels" in said(folder, size=0)
    assert "--guidance of at least 0" in said(folder, guidance=-1.0)
    assert "--prompts beside --train_prompts" in said(folder, train_prompts=3)
    with pytest.raises(UserError, match="device cuda with precision float16"):
        load_latent(folder, precision="float16")
    with pytest.raises(UserError, match="expected a precision among"):
        load_latent(folder, precision="int8")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("config", "line"),
    [({"prediction_type": "sample"}, "predicts epsilon or v_prediction"),
     ({"trained_betas": [0.5, 1.0]}, "strictly between 0 and 1"),
     ({"rescale_betas_zero_snr": True}, "keeps some signal"), ({"beta_schedule": "sigmoid"}, "sigmoid")],
)  # fmt: skip
def test_schedulers_that_have_no_clock_here(config: dict[str, Any], line: str, folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    assert line in said(folder)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_tables_are_those_of_diffusers(kind: str) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=200, beta_start=0.0015, beta_end=0.0195, beta_schedule=kind)
    ours = torch.tensor(table_of(scheduler.config))
    torch.testing.assert_close(ours, scheduler.betas, rtol=1e-4, atol=1e-7)
    trained = DDIMScheduler(trained_betas=[0.1, 0.2])
    assert table_of(trained.config) == (0.1, 0.2)
    with pytest.raises(UserError, match="beta_schedule among linear"):
        table_of({"beta_schedule": "sigmoid"})


def test_a_pipeline_in_memory_that_lacks_encoders(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\n")
    pipe = tiny_pipeline("flux")
    pipe.text_encoder_2 = None
    with pytest.raises(UserError, match="expected text_encoder_2 in the pipeline"):
        latent_model(pipe, prompting=Prompting(str(prompts), text_cache=str(tmp_path)))
    assert latent_model(pipe).shape == (4, 8, 8)


def test_out_of_memory_names_the_knobs() -> None:
    line = "--batch, take --precision bfloat16 or a smaller --size"
    with pytest.raises(UserError, match=line) as caught, enough_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity")
    assert "(tried to allocate 2.00 GiB)" in str(caught.value)
    with pytest.raises(RuntimeError, match="another"), enough_memory():
        raise RuntimeError("another")


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "diffusers" else name)
    assert "pip install spanlift[imagegen]" in said(folder)


def test_tiny_pipelines_are_written_and_differ_by_seed(run_here: Cli, tmp_path: Path) -> None:
    module = "apps.imagegen.models.latent.tiny"
    for kind in KINDS:
        assert run_here(module, kind, str(tmp_path / kind)).returncode == 0
        assert (tmp_path / kind / "model_index.json").is_file()
    assert run_here(module, "ldm", str(tmp_path / "other"), "--seed", "1").returncode == 0
    assert load_latent(tmp_path / "other").identity != load_latent(tmp_path / "ldm").identity
    again = run_here(module, "ldm", str(tmp_path / "ldm"))
    assert again.returncode == 2
    assert "in use" in again.stderr
    assert "did you mean 'flux'" in run_here(module, "fluxx", str(tmp_path / "none")).stderr


def test_the_command_as_a_user_runs_it(run_cli: Cli, tmp_path: Path) -> None:
    done = run_cli("apps.imagegen.models.latent.tiny", "sana", str(tmp_path / "sana"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("a tiny random sana pipeline in ")
    assert done.stderr.count("\n") == 1

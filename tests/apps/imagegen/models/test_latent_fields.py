"""Fields and decoders of latent models against the pipelines that they come from, which run by diffusers' own
schedulers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import core
from apps.imagegen.models.diffusers import LatentModel, Prompting, latent_model
from apps.imagegen.models.latent.flux import packed, unpacked
from apps.imagegen.models.latent.sana import instruction
from apps.imagegen.models.latent.tiny import tiny_pipeline

TEXTS = ["a red circle", "two grey cats, one of them asleep"]
SEEDS = (5, 11)
STEPS = 4
CLOSE = 1e-5


@pytest.fixture
def prompts(tmp_path: Any) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(TEXTS))
    return str(path)


def asked(prompts: str | None, tmp_path: Any, **settings: Any) -> Prompting:
    return Prompting(prompts, 0 if prompts else None, text_cache=str(tmp_path / "text"), **settings)


def endpoint(model: LatentModel, grid: Tensor) -> Tensor:
    """By our loop, in the order of `SEEDS`."""
    solver = core.build_solver("euler", schedule=model.chart)
    with torch.no_grad():
        return core.integrate(model.field(model.labels(SEEDS)), solver, model.start(SEEDS), grid).x


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    """Largest difference, in units of the largest value, below `CLOSE`."""
    assert ours.shape == theirs.shape
    scale = float(theirs.abs().max())
    assert scale > 0.1
    assert float((ours - theirs).abs().max()) < CLOSE * scale


@pytest.mark.parametrize("guidance", [1.0, 4.5])
def test_sana_is_its_pipeline(guidance: float, prompts: str, tmp_path: Any) -> None:
    pipe = tiny_pipeline("sana")
    model = latent_model(pipe, prompting=asked(prompts, tmp_path, guidance=guidance))
    grid = model.grid("shifted", STEPS)
    texts = list(model.texts(SEEDS) or ())
    sigmas = np.linspace(1, 1 / STEPS, STEPS)  # shifted by 3 by their scheduler
    common: dict[str, Any] = {
        "guidance_scale": guidance, "latents": model.start(SEEDS), "sigmas": sigmas, "height": 32, "width": 32,
        "use_resolution_binning": False, "num_inference_steps": STEPS,
    }  # fmt: skip
    theirs = pipe(texts, output_type="latent", **common).images
    ours = endpoint(model, grid)
    assert_near(ours, theirs)
    images = torch.from_numpy(pipe(texts, output_type="np", **common).images).movedim(-1, 1)
    assert_near(model.decode(theirs).div(2).add(0.5).clamp(0, 1), images)
    assert core.nfe_of(model.field(model.labels(SEEDS))) == (1 if guidance == 1 else 2)


@pytest.mark.parametrize("guidance", [1.0, 4.5])
def test_flux_is_its_pipeline(guidance: float, prompts: str, tmp_path: Any) -> None:
    pipe = tiny_pipeline("flux")
    model = latent_model(pipe, prompting=asked(prompts, tmp_path, guidance=guidance))
    texts = list(model.texts(SEEDS) or ())
    common: dict[str, Any] = {
        "guidance_scale": guidance, "latents": packed(model.start(SEEDS)), "height": 16, "width": 16,
        "num_inference_steps": STEPS,
    }  # fmt: skip
    theirs = unpacked(pipe(texts, output_type="latent", **common).images, 8, 8)
    assert_near(endpoint(model, model.grid("shifted", STEPS)), theirs)
    images = torch.from_numpy(pipe(texts, output_type="np", **common).images).movedim(-1, 1)
    assert_near(model.decode(theirs).div(2).add(0.5).clamp(0, 1), images)
    assert core.nfe_of(model.field(model.labels(SEEDS))) == 1


def test_flux_without_guidance_is_told_none(prompts: str, tmp_path: Any) -> None:
    """As FLUX.1-schnell: no guidance input, no dynamic shift."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    pipe = tiny_pipeline("flux")
    config = {**pipe.transformer.config, "guidance_embeds": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        pipe.transformer = FluxTransformer2DModel(**{n: v for n, v in config.items() if not n.startswith("_")})
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    models = [latent_model(pipe, prompting=asked(prompts, tmp_path, guidance=scale)) for scale in (0.0, 3.5)]
    assert models[0].identity == models[1].identity
    grid = models[0].grid("shifted", STEPS)
    torch.testing.assert_close(grid, torch.linspace(1, 0, STEPS + 1, dtype=torch.float64))
    theirs = pipe(
        list(models[0].texts(SEEDS) or ()), latents=packed(models[0].start(SEEDS)), height=16, width=16,
        num_inference_steps=STEPS, output_type="latent",
    ).images  # fmt: skip
    assert_near(endpoint(models[0], grid), unpacked(theirs, 8, 8))


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_stable_diffusion_is_its_pipeline(guidance: float, prediction: str, prompts: str, tmp_path: Any) -> None:
    pipe = tiny_pipeline("sd")
    pipe.scheduler.register_to_config(prediction_type=prediction)
    model = latent_model(pipe, prompting=asked(prompts, tmp_path, guidance=guidance))
    texts = list(model.texts(SEEDS) or ())
    common: dict[str, Any] = {
        "guidance_scale": guidance, "latents": model.start(SEEDS), "num_inference_steps": STEPS
    }  # fmt: skip
    theirs = pipe(texts, output_type="latent", **common).images
    assert_near(endpoint(model, ddim_times(pipe.scheduler)), theirs)
    images = torch.from_numpy(pipe(texts, output_type="np", **common).images).movedim(-1, 1)
    assert_near(model.decode(theirs).div(2).add(0.5).clamp(0, 1), images)


def test_unconditional_latent_diffusion_is_its_pipeline() -> None:
    pipe = tiny_pipeline("ldm")
    model = latent_model(pipe)
    generators: Any = [torch.Generator().manual_seed(seed) for seed in SEEDS]  # what the pipeline draws, the seeds draw
    images = pipe(2, generator=generators, num_inference_steps=STEPS, output_type="np").images
    ours = model.decode(endpoint(model, ddim_times(pipe.scheduler)))
    near = (ours.div(2).add(0.5).clamp(0, 1) - torch.from_numpy(images).movedim(-1, 1)).abs() < 1e-4
    assert near.float().mean() > 0.99  # a latent between two entries of the codebook may go either way


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_latent_diffusion_by_class_is_its_pipeline(guidance: float) -> None:
    pipe = tiny_pipeline("ldm-class")
    model = latent_model(pipe, prompting=Prompting(guidance=guidance))
    labels = model.labels(SEEDS)
    assert labels is not None
    theirs = pipe(
        labels.flatten().tolist(), guidance_scale=guidance, latents=model.start(SEEDS), num_inference_steps=STEPS,
        output_type="latent",
    ).images  # fmt: skip
    assert_near(endpoint(model, ddim_times(pipe.scheduler)), theirs)
    assert core.nfe_of(model.field(labels)) == (1 if guidance == 1 else 2)


def ddim_times(scheduler: Any) -> Tensor:
    """The times of DDIM's entries of the table, and of the first entry, where it ends."""
    scheduler.set_timesteps(STEPS)
    entries = [*scheduler.timesteps.tolist(), 0]
    return (torch.tensor(entries, dtype=torch.float64) + 1) / 1000


def test_a_variance_beside_the_velocity_is_dropped(prompts: str, tmp_path: Any) -> None:
    from diffusers import SanaTransformer2DModel

    pipe = tiny_pipeline("sana")
    config = {n: v for n, v in pipe.transformer.config.items() if not n.startswith("_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        pipe.transformer = SanaTransformer2DModel(**{**config, "out_channels": 8, "timestep_scale": 0.5})
    model = latent_model(pipe, prompting=asked(prompts, tmp_path))
    theirs = pipe(
        list(model.texts(SEEDS) or ()), output_type="latent", latents=model.start(SEEDS), height=32, width=32,
        sigmas=np.linspace(1, 1 / STEPS, STEPS), use_resolution_binning=False, num_inference_steps=STEPS,
    ).images  # fmt: skip
    assert_near(endpoint(model, model.grid("shifted", STEPS)), theirs)


@pytest.mark.parametrize("kind", ["sana", "flux", "sd"])
def test_embeddings_are_those_of_the_pipeline(kind: Any, prompts: str, tmp_path: Any) -> None:
    pipe = tiny_pipeline(kind)
    model = latent_model(pipe, prompting=asked(prompts, tmp_path, negative="blurred"))
    texts = list(model.texts(SEEDS) or ())
    network: Any = model.field(model.labels(SEEDS)).network  # pyright: ignore[reportAttributeAccessIssue]
    if kind == "sana":
        embeds, mask, negative, negative_mask = pipe.encode_prompt(
            texts, True, "blurred", complex_human_instruction=instruction(type(pipe))
        )
        assert torch.equal(network.condition["embeds"], embeds)
        assert torch.equal(network.condition["mask"], mask)
        assert torch.equal(network.negative["embeds"], negative[:1])
        assert torch.equal(network.negative["mask"], negative_mask[:1])
    elif kind == "flux":
        embeds, pooled, _ = pipe.encode_prompt(texts)
        assert torch.equal(network.condition["embeds"], embeds)
        assert torch.equal(network.condition["pooled"], pooled)
        assert network.negative is None
    else:
        embeds, negative = pipe.encode_prompt(texts, "cpu", 1, True, ["blurred", "blurred"])
        assert torch.equal(network.condition["embeds"], embeds)
        assert torch.equal(network.negative["embeds"], negative[:1])


def test_packing_is_undone(prompts: str) -> None:
    from diffusers import FluxPipeline

    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    tokens = packed(x)
    assert torch.equal(tokens, FluxPipeline._pack_latents(x, 2, 3, 4, 6))
    assert torch.equal(unpacked(tokens, 4, 6), x)


def test_guidance_is_linear_in_its_scale(prompts: str, tmp_path: Any) -> None:
    model = latent_model(tiny_pipeline("sana"), prompting=asked(prompts, tmp_path, guidance=2.0))
    fields = []
    for scale in (1.0, 2.0, 3.0):
        scaled = replace(model, family=replace(model.family, guidance=scale))  # a guided field of scale 1, too
        fields.append(scaled.field(model.labels(SEEDS)))
    x, t = model.start(SEEDS), torch.tensor(0.7, dtype=torch.float64)
    with torch.no_grad():
        one, two, three = (field(x, t) for field in fields)
    torch.testing.assert_close(three - two, two - one, rtol=1e-3, atol=1e-5)
    assert float((two - one).abs().max()) > 1e-3

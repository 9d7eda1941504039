"""diffusers' pipelines as frozen models: SANA, FLUX, Stable Diffusion and latent diffusion without texts.

    from apps.imagegen.models.diffusers import Prompting, load_latent

    model = load_latent("sana-0.6b", "cuda", "bfloat16", Prompting("prompts.txt"))
    field = model.field(model.labels([0, 1]))          # the prompts of two seeds, guidance bound
    grid = model.grid("shifted", 20)
    solver = core.build_solver("ipndm", order=2)
    images = model.decode(core.integrate(field, solver, model.start([0, 1]), grid).x)  # (2, 3, 1024, 1024)

It takes `pip install spanlift[imagegen]`.
"""

from __future__ import annotations

from apps.imagegen.models.latent.catalogue import CATALOGUE, Entry
from apps.imagegen.models.latent.family import Conditioned, Family
from apps.imagegen.models.latent.flux import Flux
from apps.imagegen.models.latent.folders import FAMILIES
from apps.imagegen.models.latent.loading import latent_model, load_latent
from apps.imagegen.models.latent.model import LatentModel
from apps.imagegen.models.latent.prompting import Prompting
from apps.imagegen.models.latent.sana import Sana
from apps.imagegen.models.latent.stable_diffusion import StableDiffusion
from apps.imagegen.models.latent.unconditional import ByClass, Unconditional

__all__ = [
    "CATALOGUE",
    "FAMILIES",
    "ByClass",
    "Conditioned",
    "Entry",
    "Family",
    "Flux",
    "LatentModel",
    "Prompting",
    "Sana",
    "StableDiffusion",
    "Unconditional",
    "latent_model",
    "load_latent",
]

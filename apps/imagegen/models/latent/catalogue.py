"""Latent models by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

INDEX = "model_index.json"
"""The file that makes a folder a pipeline."""
FILES = (".safetensors", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".npz", ".onnx", ".gguf", ".zip")
"""Endings of files, which no name of the hub has; others, as in "owner/model-1.5", say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A published latent model.

    Attributes:
        hub: its name on the hub of diffusers; None where its authors publish it in another form only.
        family: name of its family.
        size: pixels a side.
        guidance: that it is published with; 1 is none.
        note: where it comes from, and what to do where it is not on the hub.
    """

    hub: str | None
    family: str
    size: int
    guidance: float
    note: str


CATALOGUE: Mapping[str, Entry] = MappingProxyType(
    {
        "sana-0.6b": Entry(
            hub="Efficient-Large-Model/Sana_600M_1024px_diffusers",
            family="sana",
            size=1024,
            guidance=4.5,
            note="SANA-0.6B (arXiv 2410.10629)",
        ),
        "sana-1.6b": Entry(
            hub="Efficient-Large-Model/Sana_1600M_1024px_diffusers",
            family="sana",
            size=1024,
            guidance=4.5,
            note="SANA-1.6B (arXiv 2410.10629)",
        ),
        "flux-dev": Entry(
            hub="black-forest-labs/FLUX.1-dev",
            family="flux",
            size=1024,
            guidance=3.5,
            note="FLUX.1-dev; its license has to be accepted on the hub",
        ),
        "flux-schnell": Entry(
            hub="black-forest-labs/FLUX.1-schnell",
            family="flux",
            size=1024,
            guidance=1.0,
            note="FLUX.1-schnell, distilled to few steps; it takes no guidance",
        ),
        "sd15": Entry(
            hub="stable-diffusion-v1-5/stable-diffusion-v1-5",
            family="stable-diffusion",
            size=512,
            guidance=7.5,
            note="Stable Diffusion 1.5 (arXiv 2112.10752)",
        ),
        "sd14": Entry(
            hub="CompVis/stable-diffusion-v1-4",
            family="stable-diffusion",
            size=512,
            guidance=7.5,
            note="Stable Diffusion 1.4 (arXiv 2112.10752)",
        ),
        "ldm-bedroom": Entry(
            hub=None,
            family="latent-diffusion",
            size=256,
            guidance=1.0,
            note="latent diffusion of LSUN-Bedroom, VQ-4 (arXiv 2112.10752)",
        ),
        "ldm-imagenet256": Entry(
            hub=None,
            family="latent-diffusion-by-class",
            size=256,
            guidance=2.0,
            note="latent diffusion of ImageNet by class (arXiv 2112.10752)",
        ),
    }
)
"""The models that are known by name, with the settings that their authors, or the tables of solvers, use."""


def is_latent(name_or_path: str | Path) -> bool:
    """Whether `load_latent` is who to ask: a name of the catalogue, a pipeline's folder, or a name of the hub."""
    name, path = str(name_or_path), Path(name_or_path)
    if name in CATALOGUE or (path / INDEX).is_file():
        return True
    owner, _, rest = name.partition("/")
    named = bool(owner and rest) and "/" not in rest and owner not in (".", "..", "~")
    return named and not path.exists() and path.suffix.lower() not in FILES

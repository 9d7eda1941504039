"""Folders of diffusers' pipelines: which family they are of, whether they are complete, which files hold weights.

An index may name no other classes than those of the families.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from apps.imagegen.models.latent.catalogue import INDEX
from apps.imagegen.models.latent.family import Family
from apps.imagegen.models.latent.flux import Flux
from apps.imagegen.models.latent.sana import Sana
from apps.imagegen.models.latent.stable_diffusion import StableDiffusion
from apps.imagegen.models.latent.unconditional import ByClass, Unconditional
from data_tools.cli import UserError

FAMILIES: tuple[type[Family], ...] = (Sana, Flux, StableDiffusion, Unconditional, ByClass)
LIBRARIES = ("diffusers", "transformers", "apps.imagegen.models.latent.class_pipeline", "apps.imagegen.scheduler")
"""That an index may name classes of."""


def family_of_folder(folder: Path) -> tuple[type[Family], dict[str, Any]]:
    """The family of a folder, and its index."""
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
        components = {
            name: tuple(value) for name, value in index.items() if not name.startswith("_") and isinstance(value, list)
        }
        name = str(index["_class_name"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(
            f"expected the index of a pipeline in {folder / INDEX}, got something else ({type(error).__name__}); "
            "get it again"
        ) from None
    kind = family_of(name, str(folder))
    _check_harmless(folder)
    for part, value in components.items():
        if part in kind.unused or value == (None, None):
            continue
        if len(value) != 2 or value[0] not in LIBRARIES:
            raise UserError(
                f"expected components of {' or '.join(LIBRARIES[:2])} in {folder / INDEX}, got {part} of {value[0]!r}; "
                "no other code is loaded"
            )
    needed = (kind.network_component, kind.decoder_component, "scheduler")
    lacking = [part for part in needed if components.get(part, (None,))[0] is None or not (folder / part).is_dir()]
    if lacking:
        raise UserError(f"expected a complete {name} in {folder}, got one without {', '.join(lacking)}; get it again")
    return kind, components


def _check_harmless(folder: Path) -> None:
    """Raise UserError for what older versions of diffusers run or follow unasked: code beside a component, an index
    within one, and lists of weights that leave their folder or name pickles."""
    strange = [*folder.glob("None.py"), *folder.glob("*/*.py"), *folder.glob(f"*/{INDEX}")]
    if strange:
        raise UserError(f"expected a pipeline without code of its own, got {strange[0]}; no other code is loaded")
    for path in sorted(folder.glob("*/*.safetensors.index*.json")):
        shards_of(path)


def family_of(pipeline: str, where: str) -> type[Family]:
    for kind in FAMILIES:
        if pipeline in kind.pipelines:
            return kind
    known = ", ".join(name for kind in FAMILIES for name in kind.pipelines)
    raise UserError(f"expected a pipeline among {known}, got {pipeline} in {where}; take a model of one of these")


def pipeline_class(kind: type[Family]) -> Any:
    if kind is ByClass:
        from apps.imagegen.models.latent.class_pipeline import LatentClassPipeline

        return LatentClassPipeline
    import diffusers

    return getattr(diffusers, kind.pipelines[0])


def weights_of(folder: Path) -> list[Path]:
    """The files of a network's weights that `from_pretrained` reads."""
    variant = variant_of(folder)
    stem = "diffusion_pytorch_model.safetensors"
    stem = stem if variant is None else stem.replace(".safetensors", f".{variant}.safetensors")
    split = folder / (
        f"{stem}.index.json" if variant is None else f"diffusion_pytorch_model.safetensors.index.{variant}.json"
    )
    if split.is_file():
        return shards_of(split)
    return [folder / stem]


def shards_of(split: Path) -> list[Path]:
    """The files that a list of weights names, which lie beside it.

    Raises:
        UserError: it is no such list, or names others.
    """
    try:
        names = sorted(set(json.loads(split.read_text("utf-8"))["weight_map"].values()))
        if any(name != Path(name).name or not name.endswith(".safetensors") for name in names):
            raise ValueError("files elsewhere or of another kind")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(
            f"expected a list of safetensors files beside it in {split}, got something else ({error}); get it again"
        ) from None
    return [split.with_name(name) for name in names]


def variant_of(folder: Path, stem: str = "diffusion_pytorch_model") -> str | None:
    """Name of the only variant of the weights where the plain ones are not there, e.g. "fp16"."""
    names = [path.name for path in folder.glob(f"{stem}*.safetensors")]
    if not names or any(name.split(".")[1].startswith("safetensors") or "-of-" in name.split(".")[0] for name in names):
        return None
    found = sorted({name.split(".")[1].split("-")[0] for name in names})
    return found[0] if len(found) == 1 else None

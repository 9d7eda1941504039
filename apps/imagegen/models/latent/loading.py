"""Latent models from folders of diffusers' pipelines, from the hub, and from pipelines in memory.

Weights are read from safetensors alone, and a folder's index may name no other classes than those of the families: it
runs no code.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apps.imagegen.models.frozen_model import DTYPES, Precision, check_precision
from apps.imagegen.models.latent.catalogue import CATALOGUE, INDEX, is_latent
from apps.imagegen.models.latent.diffusion import DiffusionFamily, table_of
from apps.imagegen.models.latent.extra import dtype_keyword, quiet, require
from apps.imagegen.models.latent.family import Family
from apps.imagegen.models.latent.folders import (
    family_of,
    family_of_folder,
    pipeline_class,
    variant_of,
    weights_of,
)
from apps.imagegen.models.latent.identity import (
    hashed,
    identity_of_files,
    identity_of_folder,
    identity_of_network,
    written_config,
)
from apps.imagegen.models.latent.model import LatentModel
from apps.imagegen.models.latent.prompting import Prompting, read_prompts
from apps.imagegen.models.latent.prompts import Prompts
from apps.imagegen.models.latent.text import Text
from apps.imagegen.models.memory import enough_memory
from apps.processes import check_device
from data_tools.cli import UserError


def load_latent(
    name_or_path: str | Path,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    prompting: Prompting | None = None,
) -> LatentModel:
    """A latent model, its text encoders not yet loaded.

    Args:
        name_or_path: a name of `CATALOGUE`, a folder that `save_pretrained` of a pipeline wrote, or "owner/name" of the
            hub, which is downloaded once.
        device: where network and decoder go.
        precision: of network, decoder and text encoders; with "float16", which is for CUDA alone, the decoder computes
            in float32, for decoders overflow, with weights as rounded as the others.
        prompting: prompts, guidance and size.

    Raises:
        UserError: no such model, no network to get it by, an unknown pipeline or one that lacks components, sizes that
            it cannot have, prompts that it has no use for, no memory, or a device that this machine has not.
    """
    require()
    prompting = prompting or Prompting()
    check_precision(precision, device)
    check_device(str(device))
    prompts = read_prompts(prompting)
    name = str(name_or_path)
    folder = _folder(name)
    kind, index = family_of_folder(folder)
    _check_prompts(kind, prompts, name)
    weights = identity_of_files(weights_of(folder / kind.network_component))
    with quiet(), enough_memory():
        pipeline = _load(folder, index, kind, DTYPES[precision], kind.text_components)
    entry = CATALOGUE.get(name)
    guidance = entry.guidance if entry is not None and prompting.guidance is None else prompting.guidance
    family = _built(kind, pipeline, guidance, prompting.size, precision)
    loose = type(pipeline)
    del pipeline
    gc.collect()
    text = None
    if prompts is not None:
        encoders = hashed({part: identity_of_folder(folder / part) for part in kind.text_components})
        load = partial(_text_pipeline, folder, index, kind, DTYPES[precision])
        text = Text(kind, loose, prompts, prompting, encoders, load, precision, family.doubles)
    card = {"pipeline": loose.__name__, "source": name, **({"note": entry.note} if entry else {})}
    called = name if entry else Path(name).name or folder.resolve().name  # a folder of the hub's is named by a hash
    return _model(called, family, weights, precision, card, text).to(device)


def latent_model(
    pipeline: Any,
    name: str = "pipeline",
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    prompting: Prompting | None = None,
) -> LatentModel:
    """A pipeline in memory as a latent model, whose components are frozen and cast in place.

    Args:
        pipeline: of a known family; it may lack text encoders where there are no prompts.
        name, device, precision, prompting: see `load_latent`.

    Raises:
        UserError: see `load_latent`.
    """
    prompting = prompting or Prompting()
    check_precision(precision, device)
    prompts = read_prompts(prompting)
    kind = family_of(type(pipeline).__name__, name)
    _check_prompts(kind, prompts, name)
    weights = identity_of_network(getattr(pipeline, kind.network_component))
    encoders = _encoders_in_memory(pipeline, kind) if prompts is not None else ""
    family = _built(kind, pipeline, prompting.guidance, prompting.size, precision)
    text = None
    if prompts is not None:
        load = _same(pipeline, kind, DTYPES[precision])
        text = Text(kind, type(pipeline), prompts, prompting, encoders, load, precision, family.doubles)
    return _model(name, family, weights, precision, {"pipeline": type(pipeline).__name__}, text).to(device)


def _model(
    name: str, family: Family, weights: str, precision: Precision, card: Mapping[str, Any], text: Text | None
) -> LatentModel:
    parts = {"weights": weights, "network": written_config(family.network), "prediction": family.prediction_settings}
    return LatentModel(
        name=name, family=family, identity=hashed(parts), precision=precision, card=card, text=text,
    )  # fmt: skip


def _built(kind: type[Family], pipeline: Any, guidance: float | None, size: int | None, precision: Precision) -> Family:
    """The family's network and decoder of a pipeline, frozen."""
    network, decoder = getattr(pipeline, kind.network_component), getattr(pipeline, kind.decoder_component)
    for component, name in ((network, kind.network_component), (decoder, kind.decoder_component)):
        if not isinstance(component, nn.Module):
            raise UserError(f"expected a pipeline with {name}, got none; get a complete one")
        if any(value.is_meta for value in (*component.parameters(), *component.buffers())):
            raise UserError(f"expected a pipeline with all weights of {name}, got one that lacks some; get it again")
    config = dict(pipeline.scheduler.config)
    size = kind.default_size(network, decoder) if size is None else size
    multiple = kind.multiple(network, decoder)
    if size < multiple or size % multiple:
        raise UserError(f"expected --size as a multiple of {multiple} pixels for this model, got {size}; change it")
    guidance = kind.default_guidance(type(pipeline)) if guidance is None else float(guidance)
    if guidance > 1 and not kind.guided:
        raise UserError(f"expected no --guidance for a model without texts or classes, got {guidance}; leave it out")
    if not 0 <= guidance < float("inf"):
        raise UserError(f"expected --guidance of at least 0, got {guidance}; 1 is none")
    with quiet():
        network.to(DTYPES[precision]).eval().requires_grad_(False)
        decoder.to(torch.float32 if precision == "float16" else DTYPES[precision]).eval().requires_grad_(False)
    if issubclass(kind, DiffusionFamily):
        table_of(config)
    return kind(network, decoder, config, size, guidance)


def _check_prompts(kind: type[Family], prompts: Prompts | None, name: str) -> None:
    if prompts is not None and not kind.text_components:
        raise UserError(f"expected no --prompts for {name}, a model without texts, got {prompts.name}; leave it out")


def _folder(name: str) -> Path:
    """The folder of a model, downloaded where it is of the hub."""
    entry = CATALOGUE.get(name)
    if (Path(name) / INDEX).is_file():
        return Path(name)
    if entry is not None and entry.hub is None:
        raise UserError(
            f"expected a folder for {name}, {entry.note}, which is not on the hub; convert its checkpoint to "
            "diffusers' form and give the folder as --model"
        )
    if entry is None and not is_latent(name):
        raise UserError(f"expected a folder with {INDEX}, got {name}, which has none; give a pipeline's folder")
    hub = name if entry is None or entry.hub is None else entry.hub
    from diffusers import DiffusionPipeline

    try:
        with quiet(bars=True):
            return Path(DiffusionPipeline.download(hub, use_safetensors=True))
    except Exception as error:  # of whatever kind the hub's client, the network or the repository brings
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"expected the model {hub} on this machine or by the network, got neither ({type(error).__name__}: "
            f"{reason}); check the name, log in where it is gated, or give a downloaded pipeline's folder as --model"
        ) from None


def _load(
    folder: Path, index: Mapping[str, Any], kind: type[Family], dtype: torch.dtype, without: Sequence[str]
) -> Any:
    """A pipeline with its components but those of `without` and those that are never used."""
    given: dict[str, Any] = {part: None for part in (*without, *kind.unused) if part in index}
    if "safety_checker" in given:
        given["requires_safety_checker"] = False
    variant = variant_of(folder / kind.network_component)
    try:
        wanted = [part for part in kind.text_components if part in index and part not in given]
        given |= {part: found for part in wanted if (found := _encoder(folder / part, index[part], dtype)) is not None}
        return pipeline_class(kind).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, variant=variant, **{dtype_keyword(): dtype}, **given
        )
    except (torch.OutOfMemoryError, UserError):
        raise
    except Exception as error:  # of whatever kind diffusers, transformers or a file brings
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"expected a pipeline in {folder}, got one that cannot be loaded ({type(error).__name__}: {reason}); "
            "get it again"
        ) from None


def _encoder(folder: Path, named: Sequence[str], dtype: torch.dtype) -> nn.Module | None:
    """A text encoder, all of whose weights are in its folder: transformers draws others at random. None of a tokenizer.

    Raises:
        UserError: some are not there.
    """
    import transformers

    kind: Any = getattr(transformers, named[1], None) if named[0] == "transformers" else None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        return None
    load: Any = kind.from_pretrained
    network, report = load(
        folder, use_safetensors=True, local_files_only=True, variant=variant_of(folder, "model"), torch_dtype=dtype,
        output_loading_info=True,
    )  # fmt: skip
    lacking = [*report["missing_keys"], *report["mismatched_keys"]]
    if lacking:
        raise UserError(
            f"expected all weights of the text encoder in {folder}, got {len(lacking)} too few; get it again"
        )
    return network


def _text_pipeline(folder: Path, index: Mapping[str, Any], kind: type[Family], dtype: torch.dtype) -> Any:
    """The pipeline with nothing but its text components and the scheduler."""
    lacking = [part for part in kind.text_components if not (folder / part).is_dir()]
    if lacking:
        raise UserError(f"expected {', '.join(lacking)} in {folder} to encode prompts with, got none; get it again")
    return _load(folder, index, kind, dtype, (kind.network_component, kind.decoder_component))


def _same(pipeline: Any, kind: type[Family], dtype: torch.dtype) -> Callable[[], Any]:
    """Gives a pipeline of the text components of one in memory, in this type."""

    def load() -> Any:
        others = {name: None for name in pipeline.components if name not in (*kind.text_components, "scheduler")}
        found = type(pipeline)(**{**pipeline.components, **others}, **_unchecked(kind))
        return found.to(dtype)

    return load


def _unchecked(kind: type[Family]) -> dict[str, Any]:
    return {"requires_safety_checker": False} if "safety_checker" in kind.unused else {}


def _encoders_in_memory(pipeline: Any, kind: type[Family]) -> str:
    parts = {}
    for name in kind.text_components:
        component = getattr(pipeline, name, None)
        if component is None:
            raise UserError(f"expected {name} in the pipeline to encode prompts with, got none; give a complete one")
        if isinstance(component, nn.Module):
            parts[name] = identity_of_network(component)
        else:
            parts[name] = hashed(dict(component.get_vocab()))
    return hashed(parts)

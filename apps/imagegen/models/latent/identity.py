"""What latent models and text encoders are known by: hashes of their weights as they are stored.

A tensor counts with its name, type, shape and bytes. Tensors are hashed side by side and their hashes together, so
that the hash of a network of twelve billion parameters takes seconds, and neither the split into files nor the order
in them matters.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from data_tools.cli import UserError

THREADS = 8


def identity_of_files(files: Iterable[Path]) -> str:
    """SHA-256 of the tensors of safetensors files, as of one network.

    Raises:
        UserError: a file is truncated or of another kind.
    """
    parts: list[tuple[str, Callable[[], str]]] = []
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                parts += [(name, _hashed_later(path, name)) for name in file.keys()]  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"expected weights in safetensors, got {path}, which is truncated or foreign ({error}); get it again"
            ) from None
    return _joined(parts)


def identity_of_network(network: nn.Module) -> str:
    """The same of a network in memory; that of its files where they hold the same tensors in the same types."""
    return _joined([(name, lambda value=value: _of(value)) for name, value in network.state_dict().items()])


def identity_of_folder(folder: Path) -> str:
    """SHA-256 of a component's folder: its weights, and all other files, such as a tokenizer's, byte for byte."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    weights = [path for path in files if path.suffix == ".safetensors"]
    digest = hashlib.sha256(identity_of_files(weights).encode())
    for path in files:
        if path.suffix in (".json", ".txt", ".model") and ".index" not in path.suffixes:  # which lists the split
            with path.open("rb") as file:
                digest.update(f"{path.relative_to(folder)}:{hashlib.file_digest(file, 'sha256').hexdigest()};".encode())
    return digest.hexdigest()


def written_config(component: Any) -> dict[str, Any]:
    """What of a diffusers component's configuration differs from its class's defaults: new options of newer versions
    do not show."""
    defaults = {name: p.default for name, p in inspect.signature(type(component).__init__).parameters.items()}
    values = {name: value for name, value in component.config.items() if not name.startswith("_") and name in defaults}
    return json.loads(
        json.dumps({n: v for n, v in values.items() if not _same(v, defaults[n])}, sort_keys=True, default=str)
    )


def hashed(values: Mapping[str, Any]) -> str:
    """SHA-256 of JSON."""
    return hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()


def _same(value: Any, default: Any) -> bool:
    as_list = [list(v) if isinstance(v, tuple) else v for v in (value, default)]
    return as_list[0] == as_list[1]


def _hashed_later(path: Path, name: str) -> Callable[[], str]:
    def hash_it() -> str:
        with safe_open(path, "pt") as file:
            return _of(file.get_tensor(name))

    return hash_it


def _joined(parts: list[tuple[str, Callable[[], str]]]) -> str:
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter's lock
        found = zip([name for name, _ in parts], pool.map(lambda part: part[1](), parts), strict=True)
        return hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()


def _of(value: Tensor) -> str:
    value = value.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{value.dtype}:{tuple(value.shape)};".encode())
    digest.update(value.flatten().view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()

"""Networks of other people in the layout of transformers, from this machine alone: nothing is downloaded here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from data_tools.cli import UserError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""Of a network in one file, or in several."""


def find_weights(variable: str, repository: str) -> Path | None:
    """Folder with a network's config.json and its weights as safetensors; None where there is none.

    Args:
        variable: environment variable that holds a folder, or the name of another repository.
        repository: "owner/name" that is looked for in the hub's cache where the variable is not set.
    """
    given = os.environ.get(variable) or repository
    folder = Path(given).expanduser()
    if not folder.is_dir():
        config = cached_file(given, "config.json")
        if config is None:
            return None
        folder = config.parent
    whole = (folder / "config.json").is_file() and any((folder / name).is_file() for name in WEIGHTS)
    return folder if whole else None


def cached_file(repository: str, name: str) -> Path | None:
    """A file of a repository in the hub's cache; None where it is not there."""
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, name)
    except HFValidationError:  # e.g. a folder that is not there
        return None
    return Path(found) if isinstance(found, str) else None


def require_weights(variable: str, repository: str, what: str, instead: str) -> Path:
    """`find_weights`, or a line that says how to come by them.

    Raises:
        UserError: transformers is not installed, or there are no weights.
    """
    if find_spec("transformers") is None:
        raise UserError(f"expected the package transformers for {what}, got none; pip install spanlift[imagegen]")
    found = find_weights(variable, repository)
    if found is None:
        given = os.environ.get(variable)
        raise UserError(
            f"expected config.json and model.safetensors of {what}, got none in "
            f"{f'{variable}={given}' if given else 'the cache'}; fetch them once (hf download {repository}), give "
            f"their folder as {variable}, or {instead}"
        )
    return found


def read_network(kind: Any, folder: Path, variable: str) -> nn.Module:
    """A network of a class of transformers from a folder, float32, frozen, in eval mode, on the CPU.

    Raises:
        UserError: the folder holds another network, or a damaged one.
    """
    try:
        with without_chatter():
            network, report = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # whatever a damaged file makes transformers and safetensors say
        raise UserError(_unreadable(kind, folder, variable, f"{type(error).__name__}: {error}")) from None
    lacking = [*report["missing_keys"], *report["mismatched_keys"]]
    if lacking:  # transformers would leave these at random
        raise UserError(_unreadable(kind, folder, variable, f"{len(lacking)} weights that do not fit"))
    return network.float().eval().requires_grad_(False)


def file_hash(folder: Path) -> str:
    """SHA-256 of a folder's safetensors files, in the order of their names: whatever transformers makes of them."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Without the bars, reports and deprecations that transformers prints; errors are still raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _unreadable(kind: Any, folder: Path, variable: str, got: str) -> str:
    got = " ".join(got.split())[:160]
    return f"expected a {kind.__name__} in {folder}, got {got}; fetch it again or change {variable}"

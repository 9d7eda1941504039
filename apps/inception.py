"""torch-fidelity's Inception of 2015-12-05: the network of FID, and of the papers' feature losses."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import tempfile
import urllib.error
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from apps.backbones import read_tensors
from data_tools.cli import UserError, console

INCEPTION_VARIABLE = "SPANLIFT_INCEPTION_WEIGHTS"
"""Environment variable with the path of torch-fidelity's Inception weights."""
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
HASH = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""The file's SHA-256; with other weights the distance is not called FID."""


def load_inception(instead: str) -> tuple[nn.Module, str, bool]:
    """torch-fidelity's Inception on the CPU, what it is called, and whether its weights are the genuine ones.

    Where the weights are not at hand they are downloaded.

    Args:
        instead: what a user can ask for who has no way to them, e.g. `--loss features=1`.

    Raises:
        UserError: no package, or no weights and no way to download them.
    """
    if not installed():
        raise UserError(
            "expected the package torch-fidelity, which holds Inception's graph: pip install torch-fidelity; "
            f"or take {instead}"
        )
    path = _weights() or _download(instead)
    network = _fidelity_network(path)
    genuine = hashlib.sha256(path.read_bytes()).hexdigest() == HASH
    name = "Inception 2015-12-05 (torch-fidelity)" if genuine else f"Inception with weights {path.name}"
    return network, name, genuine


def differentiable(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Images (B, 1 or 3, H, W) in [-1, 1] -> pool features (B, 2048) of torch-fidelity's Inception, with gradients.

    The network takes whole numbers alone. It is shown empty images, and its first convolution what it would have made
    of these: 127.5 (x + 1) clipped to [0, 255], resized as TensorFlow did, (v - 128) / 128.
    """
    from torch_fidelity.interpolate_compat_tensorflow import (  # pyright: ignore[reportMissingImports]
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    first, side = network.Conv2d_1a_3x3, int(network.INPUT_IMAGE_SIZE)  # pyright: ignore

    def see(images: Tensor) -> Tensor:
        pixels = (127.5 * (images + 1)).clip(0, 255).expand(-1, 3, -1, -1)
        resized = interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(side, side), align_corners=False)
        shown = (resized - 128) / 128
        handle = first.register_forward_pre_hook(lambda module, inputs: (shown,))  # pyright: ignore
        try:
            empty = torch.zeros(len(images), 3, 2, 2, dtype=torch.uint8, device=images.device)
            return network(empty)[0]
        finally:
            handle.remove()  # pyright: ignore

    return see


def installed() -> bool:
    """Whether the package with the graph is there."""
    return importlib.util.find_spec("torch_fidelity") is not None


def at_hand() -> bool:
    """Whether the network can be had without a download."""
    return installed() and _weights() is not None


def _cached() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def _weights() -> Path | None:
    """The file of the variable, else what torch has cached."""
    given = os.environ.get(INCEPTION_VARIABLE)
    if given:
        return Path(given)
    return _cached() if _cached().is_file() else None


def _download(instead: str) -> Path:
    path = _cached()
    path.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"downloading {URL}", highlight=False)
    try:
        torch.hub.download_url_to_file(URL, str(path), hash_prefix=HASH)
    except (OSError, urllib.error.URLError, RuntimeError) as error:
        raise UserError(
            f"expected Inception's weights, found none at {path} and could not download them ({error}); "
            f"give the file {INCEPTION_FILE} with {INCEPTION_VARIABLE}, or take {instead}"
        ) from None
    return path


def _fidelity_network(path: Path) -> nn.Module:
    """torch-fidelity's Inception with the weights of a file.

    It unpickles what it is given, so it is given a copy that we wrote of nothing but the file's tensors.
    """
    tensors = read_tensors(path)
    if not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"expected plain tensors in {path}, got something else; give torch-fidelity's weights")
    from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
        FeatureExtractorInceptionV3,
    )

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        copy = Path(folder) / "weights.pth"
        torch.save(tensors, copy)
        try:
            return FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(copy)
            )
        except RuntimeError:
            raise UserError(f"expected torch-fidelity's Inception weights, got other layers in {path}") from None

"""Checkpoints of PreDiff: which networks a torch file holds, of which sizes, and their tensors under our names.

Three kinds of files are known: a bare state dict, which is how the weights were published; a checkpoint of Lightning,
whose `state_dict` holds the network that was trained, the frozen autoencoder and the running average (its names with
all dots taken out); and either of them under prefixes such as `module.`. Networks are told apart by their keys, sizes
read off the shapes of the tensors. Nothing of a file is executed.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from apps.nowcast.model import AlignmentConfig, AlignmentNetwork, AutoencoderKL, CuboidTransformerUNet, UNetConfig
from apps.nowcast.prediff_sizes import AnyConfig, alignment_sizes, autoencoder_sizes, unet_sizes
from apps.nowcast.weight_files import Kind
from data_tools.cli import UserError

Weights = Literal["raw", "ema"]

NEW_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Attention of newer releases of diffusers, and of the one that PreDiff was written for."""
ATTENTION = re.compile(r"(attentions\.\d+\.)(to_q|to_k|to_v|to_out\.0)\.")

FROZEN = ("first_stage_model.", "cond_stage_model.", "alignment_model.")
"""Where Lightning keeps networks that are not trained: they have no running average."""

INDEX = "relative_position_index"
"""Buffers that follow from the sizes."""
SHOWN = 6
"""Names that a message lists at most."""


@dataclass(frozen=True, eq=False)
class Found:
    """A network of a checkpoint.

    Attributes:
        kind: what it is.
        config: its sizes.
        tensors: by our names, float32, all that the network has.
        prefix: what its names began with in the file.
    """

    kind: Kind
    config: AnyConfig
    tensors: dict[str, Tensor]
    prefix: str


def read_networks(path: Path, weights: Weights = "raw", target_frames: int = 6, groups: int = 32) -> list[Found]:
    """The networks of a checkpoint, at most one of a kind.

    Args:
        path: a torch file.
        weights: `raw` as they were trained (what PreDiff publishes and samples with), or their running average, which
            Lightning checkpoints hold.
        target_frames: frames that a UNet predicts, which its tensors do not tell from those it is given.
        groups: of the group normalisations, which no tensor tells.

    Raises:
        UserError: no such file, one that holds more than tensors and plain values, no network of PreDiff in it, no
            average where one is asked for, two different networks of a kind, or keys that are missing, left over or of
            another shape, by name.
    """
    state = _read(path)
    found: dict[Kind, Found] = {}
    for kind, prefix in _places(state):
        network = _network(path, kind, prefix, _under(state, prefix), target_frames, groups)
        other = found.setdefault(kind, network)
        if not _same(other, network):
            raise UserError(
                f"expected one {kind} in {path}, got two that differ, under {other.prefix!r} and {prefix!r}; "
                "save the one that is meant as a state dict of its own"
            )
    if not found:
        raise UserError(
            f"expected an autoencoder, a UNet or an alignment network of PreDiff in {path}, got keys such as "
            f"{_listed(state) or 'none'}; see apps.nowcast.convert --help"
        )
    if weights == "ema":
        found = {kind: _averaged(path, network, state) for kind, network in found.items()}
    return list(found.values())


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict or a Lightning checkpoint, their attention under the names of our networks."""
    if not path.is_file():
        raise UserError(f"expected a checkpoint, got no file {path}; correct the path")
    try:
        content: Any = _load(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"expected a torch file at {path}, got a damaged or another one; copy it again") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise UserError(f"expected a state dict in {path}, got {type(content).__name__}; save a model's state_dict()")
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return {ATTENTION.sub(lambda m: f"{m[1]}{NEW_NAMES[m[2]]}.", name): value for name, value in tensors.items()}


class Setting:
    """What stands for a setting of a training that is written beside the weights: it takes what it is given, and does
    nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        del state


def empty(*_: object) -> dict:
    """What stands for the making of a mapping, which torch fills where it is a plain one."""
    return {}


SETTINGS = ("omegaconf.", "pathlib.", "typing.", "collections.", "builtins.", "lightning.", "pytorch_lightning.")
"""Where the classes of settings come from that Lightning writes. None of them is imported."""


def _load(path: Path) -> Any:
    """The content of a torch file by `torch.load(weights_only=True)`, classes of settings replaced by `Setting`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        names = _classes(path) or [asked[1] if asked else "something else"]
    strange = [name for name in names if not name.startswith(SETTINGS)]
    if strange:
        raise UserError(
            f"expected tensors and settings alone in {path}, got {_listed(strange)}, which would have to be executed; "
            "save the state_dict alone where its code is at home"
        )
    inert = [(empty if name == "collections.defaultdict" else Setting, name) for name in names]
    with torch.serialization.safe_globals(inert):  # type: ignore[arg-type]
        return torch.load(path, map_location="cpu", weights_only=True)


def _classes(path: Path) -> list[str]:
    """Names that a file asks for beyond tensors; none where it is of the old format, which is not looked through."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (RuntimeError, ValueError):
        return []


MARKS: Mapping[str, tuple[Kind, ...]] = {
    "encoder.conv_in.weight": ("autoencoder",),
    "first_proj.in_layers.2.weight": ("unet", "alignment"),
}
"""Keys that a kind of network alone has; the second pair differs in what follows."""


def _places(state: Mapping[str, Tensor]) -> list[tuple[Kind, str]]:
    """(kind, prefix) of every network, those without a prefix first."""
    places: list[tuple[Kind, str]] = []
    for name in state:
        for mark, kinds in MARKS.items():
            prefix = name.removesuffix(mark)
            if prefix == name or (prefix and not prefix.endswith(".")) or "_ema." in prefix:
                continue
            down = f"{prefix}out.2.qkv_proj.weight" in state
            places.append((kinds[-1] if down else kinds[0], prefix))
    return sorted(places, key=lambda place: (len(place[1]), place[1]))


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _network(
    path: Path, kind: Kind, prefix: str, tensors: Mapping[str, Tensor], target_frames: int, groups: int
) -> Found:
    strange = [name for name, value in tensors.items() if not _is_plain(name, value)]
    if strange:
        raise UserError(
            f"expected plain tensors of real numbers for the {kind} in {path}, got others in {_listed(strange)}; "
            "save the state_dict on a CPU"
        )
    try:
        if kind == "autoencoder":
            config: AnyConfig = autoencoder_sizes(tensors, groups)
        elif kind == "alignment":
            config = alignment_sizes(tensors, groups)
        else:
            config = unet_sizes(tensors, groups, target_frames)
        expected = _build(config).state_dict()
    except (KeyError, ValueError, IndexError) as error:
        what = f"no tensor {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"expected a whole {kind} of PreDiff in {path}, got {what}; copy the file again") from None
    missing = [name for name in expected if name not in tensors and not name.endswith(INDEX)]
    extra = [name for name in tensors if name not in expected]
    shaped = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    wrong = [
        f"{title} {_listed(names)}"
        for title, names in (("missing", missing), ("left over", extra), ("of another shape", shaped))
        if names
    ]
    if wrong:
        raise UserError(
            f"expected the {len(expected)} tensors of PreDiff's {kind} in {path}, got {'; '.join(wrong)}; "
            "this is a network of another make, or the file was cut"
        )
    kept = {name: tensors[name] for name in expected if name in tensors}
    return Found(kind, config, _filled(path, config, kept), prefix)


def _is_plain(name: str, value: Tensor) -> bool:
    """Whether a tensor is what networks are made of, and all that its shape promises lies in memory."""
    numbers = value.is_floating_point() or name.endswith(INDEX)
    dense = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    return dense and numbers and 0 < value.nbytes <= value.untyped_storage().nbytes()


def _build(config: AnyConfig) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        if isinstance(config, AlignmentConfig):
            return AlignmentNetwork(config)
        return CuboidTransformerUNet(config) if isinstance(config, UNetConfig) else AutoencoderKL(config)


def _filled(path: Path, config: AnyConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of the network in float32; position indices, which follow from the sizes, must be ours."""
    values = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    spoilt = [name for name, value in values.items() if not bool(torch.isfinite(value).all())]
    if spoilt:
        raise UserError(f"expected finite weights in {path}, got NaN or infinity in {_listed(spoilt)}; train it again")
    for name, value in _build(config).state_dict().items():
        if name.endswith(INDEX):
            positions = torch.arange(len(value))
            index = positions[:, None] - positions[None, :] + len(value) - 1
            if name in values and not torch.equal(values[name].long(), index):
                raise UserError(f"expected axial attention in {path}, got another pattern in {name}")
            values[name] = index
    return values


def _averaged(path: Path, network: Found, state: Mapping[str, Tensor]) -> Found:
    """The network with the running average of its parameters; what is frozen in the file has none and stays."""
    if network.prefix.startswith(FROZEN):
        return network
    averages = {name.partition("_ema.")[2]: value for name, value in state.items() if "_ema." in name}
    if not averages:
        raise UserError(f"expected a running average in {path}, got none; take --weights raw")
    by_name = {name: averages.get(name, averages.get(name.replace(".", ""))) for name in network.tensors}
    missing = [name for name, value in by_name.items() if value is None and not name.endswith(INDEX)]
    misfits = [n for n, value in by_name.items() if value is not None and value.shape != network.tensors[n].shape]
    if missing or misfits:
        raise UserError(
            f"expected the running average of the {network.kind} in {path}, got none of its shape for "
            f"{_listed([*missing, *misfits])}; take --weights raw"
        )
    tensors = {name: value for name, value in by_name.items() if value is not None}
    return Found(network.kind, network.config, _filled(path, network.config, tensors), network.prefix)


def _same(one: Found, other: Found) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(value, other.tensors[name]) for name, value in one.tensors.items()
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

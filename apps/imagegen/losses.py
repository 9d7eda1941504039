"""Endpoint losses of image solvers: which distances, from a line of text like `features=1,mse=0.1`.

    mse         of states: pixels in [-1, 1], or latents
    features    of what a network that ships sees: a digit classifier of grey images, EfficientNet-lite0 of colour ones
    dino        of DINOv2's features, SpanLift's loss for latents beside mse (equation 16; needs transformers)
    inception   of Inception's pool features, DyWeight's and SpanLift's loss for pixels (needs torch-fidelity)
    lpips       LPIPS, S4S's and LD3's loss (needs the lpips package and the ImageNet weights of its trunk)

Feature losses are the mean squared difference of the features of images as they will be seen: clipped to the range of
pixels, but not rounded (Zhao et al. 2026, arXiv 2603.11607). Of latent models they see what is decoded, and gradients
pass through decoder and features, which are computed again for them: memory is that of the larger of the two.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apps.backbones import IMAGENET_MEAN, IMAGENET_STD, efficientnet_lite0, read_tensors
from apps.imagegen.classifier import load_classifier
from apps.imagegen.dino import dino_at_hand, load_dino
from apps.imagegen.features import DIGIT_WEIGHTS, EFFICIENTNET_SIDE
from apps.imagegen.models import FrozenModel
from apps.imagegen.models.latent.model import LatentModel
from apps.inception import differentiable, load_inception
from core.losses import LPIPS, MSE, Decoded, Distance, FeatureDistance, WeightedSum
from core.supervision import Example
from data_tools.cli import UserError

TERMS = ("mse", "features", "inception", "lpips", "dino")

PERCEPTUAL_WEIGHT = 0.1
"""lambda of equation 16, which the paper does not state: ours. It puts both terms in the same order where a few-step
solver starts, latents being of unit variance and so are DINOv2's normalised features."""

LPIPS_VARIABLE = "SPANLIFT_PERCEPTUAL_WEIGHTS"
"""Environment variable with torchvision's ImageNet weights of VGG-16, AlexNet or SqueezeNet 1.1."""
LPIPS_FILES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""What torch caches them as, the first found being taken."""
LPIPS_SIDE = 32
"""Smallest images that its trunks can see."""


@dataclass(frozen=True, eq=False)
class ImageLoss:
    """A weighted sum of distances between endpoints (B, C, H, W).

    Attributes:
        distance: of student and reference.
        networks: frozen networks inside.
    """

    distance: WeightedSum
    networks: tuple[nn.Module, ...]

    @property
    def name(self) -> str:
        return self.distance.name

    def __call__(self, prediction: Tensor, example: Example) -> Tensor:
        return self.distance(prediction, example.endpoint)


def parse_loss(text: str, model: FrozenModel) -> ImageLoss:
    """The loss of a line like `features=1,mse=0.1`, its networks on the model's device.

    Raises:
        UserError: a term that is not known, comes twice or does not fit the images, a weight that is no number above 0,
            or packages or weights that are missing.
    """
    terms: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        if name not in TERMS or name in terms:
            raise UserError(f"expected --loss of the terms {', '.join(TERMS)}, each once, got {name!r} in {text!r}")
        try:
            terms[name] = float(weight or 1.0)
        except ValueError:
            terms[name] = float("nan")
        if not 0 < terms[name] < float("inf"):
            raise UserError(f"expected --loss like features=1,mse=0.1 with weights above 0, got {weight!r} for {name}")
    built = {name: _seen(model, name) for name in terms}
    networks = [network for _, network in built.values() if network is not None]
    if networks and isinstance(model, LatentModel):
        networks.append(model.decoder)
    return ImageLoss(
        WeightedSum(tuple((terms[name], distance) for name, (distance, _) in built.items())), tuple(networks)
    )


def default_loss(model: FrozenModel) -> str:
    """What is taken where no loss is named.

    Of pixels features, which need nothing that is not installed. Of latents equation 16: DINOv2 beside mse where its
    weights are at hand, else EfficientNet, which ships, stands in for it.
    """
    if isinstance(model, LatentModel):
        return f"mse=1,{'dino' if dino_at_hand() else 'features'}={PERCEPTUAL_WEIGHT:g}"
    return "features=1,mse=1" if model.channels == 1 else "features=1"


def _seen(model: FrozenModel, name: str) -> tuple[Distance, nn.Module | None]:
    """The distance of a term, of images where it is no mse, and its network."""
    distance, network = _BUILDERS[name](model)
    return (Decoded(distance, model.decode) if isinstance(model, LatentModel) and name != "mse" else distance), network


def _mse(model: FrozenModel) -> tuple[Distance, nn.Module | None]:
    del model
    return MSE(), None


def _features(model: FrozenModel) -> tuple[Distance, nn.Module | None]:
    if model.image_channels == 1:
        classifier, _ = load_classifier(DIGIT_WEIGHTS)
        classifier = classifier.to(model.device)
        return _plain(lambda images: classifier.features(images.clip(-1, 1)), "digit classifier"), classifier
    network = efficientnet_lite0().to(model.device)
    mean, std = (torch.tensor(values, device=model.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    size = (EFFICIENTNET_SIDE, EFFICIENTNET_SIDE)

    def see(images: Tensor) -> Tensor:
        """Its 1280 pool features."""
        x = F.interpolate((images.clip(-1, 1) + 1) / 2, size=size, mode="bilinear", align_corners=False)
        return network.extract_features((x - mean) / std).mean(dim=(-2, -1))

    return _plain(see, "EfficientNet-lite0"), network


def _inception(model: FrozenModel) -> tuple[Distance, nn.Module | None]:
    network, name, _ = load_inception("--loss features=1")
    network = network.to(model.device).eval().requires_grad_(False)
    return _plain(differentiable(network), name), network


def _dino(model: FrozenModel) -> tuple[Distance, nn.Module | None]:
    network, name = load_dino()
    network = network.to(model.device).eval().requires_grad_(False)
    return _plain(network, name), network


def _lpips(model: FrozenModel) -> tuple[Distance, nn.Module | None]:
    if importlib.util.find_spec("lpips") is None:
        raise UserError("expected the package lpips for the loss lpips: pip install lpips; or take --loss features=1")
    if model.image_resolution < LPIPS_SIDE:
        raise UserError(
            f"expected images of at least {LPIPS_SIDE} pixels a side for the loss lpips, got {model.image_resolution}; "
            "take --loss features=1"
        )
    import lpips

    path = _trunk_weights()
    state = {name: value for name, value in read_tensors(path).items() if name.startswith("features.")}
    for kind in LPIPS_FILES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's, of arguments that lpips gives it
            network = lpips.LPIPS(net=kind, pnet_rand=True, verbose=False)
        trunk = {name.split(".", 1)[1]: name for name in network.net.state_dict()}  # "slice2.4.weight": 4 is its own
        found = {f"features.{name}": full for name, full in trunk.items()}
        if found.keys() <= state.keys() and all(
            state[short].shape == network.net.state_dict()[full].shape for short, full in found.items()
        ):
            network.net.load_state_dict({full: state[short] for short, full in found.items()})
            network = network.to(model.device).eval().requires_grad_(False)
            return LPIPS(network, kind, as_images=lambda images: images.expand(-1, 3, -1, -1)), network
    raise UserError(f"expected torchvision's weights of VGG-16, AlexNet or SqueezeNet 1.1, got others in {path}")


def _trunk_weights() -> Path:
    """The file of the variable, else what torch has cached."""
    given = os.environ.get(LPIPS_VARIABLE)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for path in [Path(given)] if given else [cache / file for file in LPIPS_FILES.values()]:
        if path.is_file():
            return path
    raise UserError(
        f"expected ImageNet weights of LPIPS's trunk, found none at {given or cache / LPIPS_FILES['vgg']}; give a file "
        f"of torchvision's with {LPIPS_VARIABLE}, or take --loss features=1"
    )


def _plain(see: Callable[[Tensor], Tensor], label: str) -> Distance:
    return FeatureDistance(lambda images: (see(images),), label, normalised=False)


_BUILDERS = {"mse": _mse, "features": _features, "dino": _dino, "inception": _inception, "lpips": _lpips}

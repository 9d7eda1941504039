"""Endpoint losses of the nowcast: which distances, between what, from a line of text."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from apps.inception import differentiable, load_inception
from apps.nowcast.metrics import PerceptualDistance
from apps.nowcast.nowcaster import Nowcaster
from core.losses import MSE, Distance, EnsembleMean, FairCRPS, FeatureDistance, PerMember, Pooled, WeightedSum
from core.supervision import Example
from data_tools.cli import UserError

DEFAULT_LOSS = {"teacher": "latent=1", "target": "crps=1,mse=0.5,crps8=0.1,features=0.12"}
"""Chosen on validation windows; see the model card."""

NAMED_LOSSES = {"crps": "crps=1,crps8=0.1"}
"""A single word that stands for several terms. The fair CRPS is least where the members are draws from the distribution
of the future given the context: of pixels it asks that of each pixel alone, of maxima over squares also that members
agree on where neighbouring cells are."""

TERMS = (
    "latent (mean squared error of latents), mse and mean (of frames, per member and of the ensemble mean), "
    "crps and crps2 .. crps16 (fair CRPS of frames and of max-pooled frames), features (perceptual distance), "
    "inception (squared difference of Inception's pool features)"
)


@dataclass(frozen=True, eq=False)
class EndpointLoss:
    """Weighted distances between an ensemble's endpoints and their reference, in latents and in frames.

    Attributes:
        nowcaster: decodes endpoints.
        members: consecutive rows of the batch that share a window.
        latent: weight of the mean squared error of latents.
        frames: the distance of decoded frames (B, M, T, H, W) and (B, T, H, W); None decodes nothing.
        networks: frozen networks inside the distances.
    """

    nowcaster: Nowcaster
    members: int
    latent: float
    frames: WeightedSum | None
    networks: tuple[nn.Module, ...] = ()

    @property
    def name(self) -> str:
        parts = [f"{self.latent:g} latent-mse"] if self.latent else []
        return " + ".join(parts + ([self.frames.name] if self.frames else []))

    def __call__(self, prediction: Tensor, example: Example) -> Tensor:
        """Loss of latents (B * M, C, T, h, w); the endpoint is latents of the same shape or frames (B, T, H, W).

        Where a frame has missing pixels (NaN), forecast and reference count as dry there: they add nothing.
        """
        of_latents = example.endpoint.ndim == prediction.ndim
        total = prediction.new_zeros(())
        if self.latent:
            total = total + self.latent * MSE()(prediction, self._latents(example.endpoint))
        if self.frames is not None:
            reference = self.nowcaster.decode(example.endpoint) if of_latents else example.endpoint
            members = 1 if of_latents else self.members
            decoded = self.nowcaster.decode(prediction).unflatten(0, (-1, members))
            missing = reference.isnan()
            decoded = decoded.masked_fill(missing.unsqueeze(1), 0.0)
            total = total + self.frames(decoded, reference.masked_fill(missing, 0.0))
        return total

    def _latents(self, endpoint: Tensor) -> Tensor:
        if endpoint.ndim == 5:
            return endpoint
        return self.nowcaster.encode(endpoint.nan_to_num(0.0)).repeat_interleave(self.members, 0)


def parse_loss(text: str, nowcaster: Nowcaster, members: int) -> EndpointLoss:
    """The loss of a line like `crps=1,crps8=0.5,features=0.05`, or of a single name of `NAMED_LOSSES`.

    Raises:
        UserError: a term that is not known, a weight that is no number, an ensemble term with a single member, or
            Inception without its package or weights.
    """
    latent, terms = 0.0, []
    networks: list[nn.Module] = []
    for part in NAMED_LOSSES.get(text.strip(), text).split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        try:
            value = float(weight or 1.0)
        except ValueError:
            value = float("nan")
        if not 0 < value < float("inf"):
            raise UserError(
                f"expected --loss like crps=1,features=0.05 with weights above 0, got {weight!r} for {name!r}"
            )
        if name == "latent":
            latent += value
        else:
            distance, network = _distance(name, members)
            terms.append((value, distance))
            networks += [] if network is None else [network.to(next(nowcaster.parameters()).device)]
    frames = WeightedSum(tuple(terms)) if terms else None
    return EndpointLoss(nowcaster, members, latent, frames, tuple(networks))


def _distance(name: str, members: int) -> tuple[Distance, nn.Module | None]:
    """The distance of a term, and the frozen network inside where it has one."""
    if name == "mse":
        return PerMember(MSE()), None
    if name == "mean":
        return EnsembleMean(MSE()), None
    if name == "features":
        net = PerceptualDistance("efficientnet")
        distance = FeatureDistance(net.features, net.name, as_images=lambda frames: frames.flatten(0, 1))
        return PerMember(distance), net
    if name == "inception":
        return _inception()
    if name.startswith("crps") and name[4:] in {"", "2", "4", "8", "16"}:
        if members < 2:
            raise UserError(
                f"expected --members of 2 or more and --supervision target for the loss term {name}, got {members} "
                "to compare"
            )
        return Pooled(FairCRPS(), int(name[4:])) if name[4:] else FairCRPS(), None
    raise UserError(f"expected --loss terms among {TERMS}; got {name!r}")


def _inception() -> tuple[Distance, nn.Module]:
    """The papers' feature loss: frames are grey images, one each, and amplitude counts."""
    network, called, _ = load_inception("--loss features=1")
    network = network.eval().requires_grad_(False)
    see = differentiable(network)
    distance = FeatureDistance(
        lambda images: (see(images),),
        called,
        normalised=False,
        as_images=lambda frames: 2 * frames.flatten(0, 1)[:, None] - 1,
    )
    return PerMember(distance), network

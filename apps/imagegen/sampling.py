"""Images from seeds: one batch, the way to pixels, and what a user may write for seeds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import core
from apps.imagegen.methods import DEFAULT_NFE, MethodOptions
from apps.imagegen.models import FrozenModel
from apps.imagegen.models.files import ASSETS
from apps.imagegen.models.seeds import SEEDS
from apps.imagegen.solvers import build_method, is_trained, sampling_of, seeded
from core.frozen import fingerprint
from data_tools.cli import UserError

MOST_SEEDS = 10_000_000


@torch.no_grad()
def endpoint_batch(
    model: FrozenModel,
    solver: core.Solver,
    grid: Tensor,
    seeds: Sequence[int],
    afs: bool = False,
    denoise: bool = False,
    class_index: int | None = None,
) -> tuple[Tensor, int]:
    """The last state for each seed; it depends on its seed alone, up to the rounding of batched arithmetic.

    Args:
        model: frozen, prepared for these seeds.
        solver: on the model's device.
        grid: (N + 1,) descending times, from the first of which the noise is.
        seeds: noise, class or prompt and, of stochastic solvers, all later noise come from these.
        afs: analytic first step, see `core.integrate`.
        denoise: end with the predicted data, see `core.integrate`.
        class_index: class of all images; drawn from the seeds where it is None and the model has classes.

    Returns:
        States float32 (B, C, H, W), and the network calls that each took: with guidance two an evaluation.

    Raises:
        UserError: a class that the model does not have.
        FloatingPointError: a state is not finite; it says at which step that began.
    """
    field = model.field(model.labels(seeds, class_index))
    x_T = model.start(seeds, t=float(grid[0]))
    state = core.integrate(field, seeded(solver, seeds), x_T, grid, afs=afs, denoise=denoise)
    return state.x, state.nfe


@torch.no_grad()
def sample_batch(
    model: FrozenModel,
    solver: core.Solver,
    grid: Tensor,
    seeds: Sequence[int],
    afs: bool = False,
    denoise: bool = False,
    class_index: int | None = None,
) -> tuple[Tensor, int]:
    """One image float32 (B, C', H', W') in about [-1, 1] for each seed, and its network calls: see `endpoint_batch`."""
    x, nfe = endpoint_batch(model, solver, grid, seeds, afs, denoise, class_index)
    return model.decode(x), nfe


@dataclass(frozen=True, eq=False)
class Sampler:
    """A way to sample, by name.

    Attributes:
        name: of the method, such as `ipndm`, or of a trained solver's file.
        nfe: evaluations per image that were asked for, or that a solver was trained for: network calls, where guidance
            does not take two for each.
        trained: whether it is a trained solver.
        solver, grid, afs, denoise: see `sample_batch`.
    """

    name: str
    nfe: int
    trained: bool
    solver: core.Solver
    grid: Tensor
    afs: bool = False
    denoise: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} {self.nfe}"

    def endpoint(self, model: FrozenModel, seeds: Sequence[int], class_index: int | None = None) -> tuple[Tensor, int]:
        """See `endpoint_batch`."""
        return endpoint_batch(model, self.solver, self.grid, seeds, self.afs, self.denoise, class_index)

    def sample(self, model: FrozenModel, seeds: Sequence[int], class_index: int | None = None) -> tuple[Tensor, int]:
        """See `sample_batch`."""
        return sample_batch(model, self.solver, self.grid, seeds, self.afs, self.denoise, class_index)

    def written(self) -> dict[str, Any]:
        """All that its images depend on beside model and seed, as JSON."""
        times = {"grid": self.grid.tolist(), "afs": self.afs, "denoise": self.denoise}
        return {"name": self.name, "nfe": self.nfe, "solver": solver_identity(self.solver), **times}


def build_sampler(model: FrozenModel, spec: MethodOptions) -> Sampler:
    """The sampler that a user asks for.

    Raises:
        UserError: see `build_method`.
    """
    method = build_method(model, spec)
    if not is_trained(spec.solver):
        return Sampler(spec.solver, DEFAULT_NFE if spec.nfe is None else spec.nfe, False, *method)
    path = Path(spec.solver)
    name = path.parent.name if path.stem == "solver" and path.parent.name else path.stem
    written = sampling_of(method.solver.card, spec.solver).nfe  # pyright: ignore[reportAttributeAccessIssue]
    return Sampler(name, written or len(method.grid) - 1 - method.afs, True, *method)


def shipped_samplers(model: FrozenModel) -> list[Sampler]:
    """The trained solvers that come with the project for this model, by name."""
    found = []
    for path in sorted(ASSETS.glob("*.safetensors")):
        with suppress(UserError):  # a model, features, or a solver of another model
            found.append(build_sampler(model, MethodOptions(str(path))))
    return found


def to_uint8(x: Tensor) -> Tensor:
    """Pixels of images in about [-1, 1]: trunc(clip(127.5 x + 128, 0, 255)), as EDM's published samples are made."""
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)


def parse_seeds(text: str) -> list[int]:
    """Seeds of a text like `0-63` or `1,2,5-10`, each once, in the order given.

    Raises:
        UserError: anything else, a range that runs backward, more than ten million, or one that is no seed of its own:
            EDM's rule takes them modulo 2^32, so that those above repeat the images of others.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", part.strip(), re.ASCII)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise UserError(f"expected --seeds like 0-63 or 1,2,5-10, got {text!r}")
        if last >= SEEDS:
            raise UserError(
                f"expected --seeds below {SEEDS}, where the images begin again, got {last}; take lower ones"
            )
        if last - first >= MOST_SEEDS - len(seeds):
            raise UserError(f"expected at most {MOST_SEEDS} seeds, got more in {text!r}; sample them in several runs")
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def batches(seeds: Sequence[int], size: int) -> list[list[int]]:
    """Seeds in runs of `size`, the last maybe shorter."""
    return [list(seeds[first : first + size]) for first in range(0, len(seeds), size)]


def solver_identity(solver: core.Solver) -> str:
    """Hash of all that a solver does on one grid: equal for equal settings and weights, whatever the device."""
    return hashlib.sha256(_described(solver).encode()).hexdigest()


def _described(solver: core.Solver) -> str:
    if isinstance(solver, core.Corrected):
        configuration = f"{_described(solver.solver)} + {type(solver.residual).__name__}"
        settings = getattr(solver.residual, "config", "")
    else:
        configuration, settings = type(solver).__name__, getattr(solver, "config", "")
    return f"{configuration} {settings} {fingerprint(solver)}" if isinstance(solver, nn.Module) else repr(solver)

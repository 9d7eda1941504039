"""Empirical model statistics: how a frozen model behaves along its own trajectories, for DPM-Solver-v3.

Zheng et al. 2023, arXiv 2310.13268, sections 3.1 and 3.2. Time is the half log-SNR lambda = log(alpha / sigma). With a
coefficient l the flow of y = x / alpha is

    dy/dlambda = -l y - f,    f = (sigma noise - l x) / alpha

where l = 1 leaves minus the data prediction in f, and l = 0 the noise prediction times sigma / alpha. Three numbers
per element of the state and node of lambda are chosen to make f easy to extrapolate:

    l     least squared norm of the Jacobian of sigma noise - l x:  l = E[diag(sigma d noise / d x)]
    s, b  least error of df/dlambda = s f + b along the flow: a linear regression
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.charts import NoiseChart
from core.fitting import write_atomically
from core.parametrizations import convert
from core.schedules import Schedule
from core.state import Solver, VelocityField, evaluate, trajectory

FORMAT = "spanlift-model-statistics"
VERSION = 1
NAMES = ("half_log_snr", "linear", "slope", "offset")

DIFFERENCE = 1e-3
"""Distance in lambda of the central difference along the flow: its error is 1e-6, its rounding 1e-4 in float32."""
NO_VARIANCE = 1e-10
"""A variance below this share of the second moments is rounding: nothing can be regressed on it."""


@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """Statistics at nodes of lambda = log(alpha / sigma), between them linear.

    Kept in float64 on the CPU, whatever they are given in.

    Attributes:
        half_log_snr: (N,) ascending, two or more.
        linear, slope, offset: l, s and b of (N, *space), space that of the state or of size 1 where one number serves
            all.

    Raises:
        ValueError: shapes that do not belong together, nodes that do not ascend, values that are not finite.
    """

    half_log_snr: Tensor = field(repr=False)
    linear: Tensor = field(repr=False)
    slope: Tensor = field(repr=False)
    offset: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        for name in NAMES:
            object.__setattr__(self, name, getattr(self, name).detach().to("cpu", torch.float64))
        nodes = self.half_log_snr
        ascending = nodes.ndim == 1 and len(nodes) >= 2 and bool((nodes.diff() > 0).all())
        if not ascending or not bool(torch.isfinite(nodes).all()):
            raise ValueError(
                f"expected two or more finite, ascending nodes, got {tuple(nodes.shape)}; order them from noise to data"
            )
        for name in NAMES[1:]:
            value = getattr(self, name)
            fits = value.ndim > 0 and value.shape == self.linear.shape and len(value) == len(nodes)
            if not fits or not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"expected finite {name} of shape ({len(nodes)}, *space), got {tuple(value.shape)}; estimate again"
                )

    @classmethod
    def degenerate(
        cls, schedule: Schedule, grid: Tensor, prediction: Literal["data", "noise"], dimensions: int
    ) -> ModelStatistics:
        """Statistics that make a method of data prediction, (l, s, b) = (1, 0, 0), or of noise prediction, (0, -1, 0).

        Args:
            schedule, grid: what they are for; sigma must not be 0 there.
            prediction: what f is then a multiple of.
            dimensions: of the state without its batch.
        """
        ends = half_log_snr(schedule, grid[[0, -1]])
        ones = torch.ones((2,) + (1,) * dimensions, dtype=torch.float64)
        linear, slope = (1.0, 0.0) if prediction == "data" else (0.0, -1.0)
        return cls(ends, linear * ones, slope * ones, 0 * ones)

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless they are for states of this shape, (B, *space)."""
        space = self.linear.shape[1:]
        if len(space) != x.ndim - 1 or any(own not in (1, size) for own, size in zip(space, x.shape[1:], strict=True)):
            raise ValueError(
                f"expected states (batch, {', '.join(map(str, space))}), as the statistics, got {tuple(x.shape)}; "
                "estimate them for this model"
            )

    def at(self, half_log_snr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(l, s, b), each (M, *space), at (M,) values of lambda; constant beyond the ends."""
        nodes = self.half_log_snr
        place = half_log_snr.contiguous().clamp(nodes[0], nodes[-1])
        above = torch.searchsorted(nodes, place).clamp(1, len(nodes) - 1)
        part = (place - nodes[above - 1]) / (nodes[above] - nodes[above - 1])
        part = part.view(-1, *(1,) * (self.linear.ndim - 1))
        linear, slope, offset = (
            torch.lerp(value[above - 1], value[above], part) for value in (self.linear, self.slope, self.offset)
        )
        return linear, slope, offset


def half_log_snr(schedule: Schedule, t: Tensor) -> Tensor:
    """lambda = log(alpha / sigma) at times t, in float64."""
    return schedule.log_snr(t.double()) / 2


class _Moments:
    """Sums over samples, at one node, from which l, s and b follow whatever l is: f and df/dlambda are linear in
    (x, noise, d noise / d lambda)."""

    def __init__(self) -> None:
        self.count = 0
        self.diagonal: Tensor | float = 0.0
        self.first: Tensor | float = 0.0
        self.second: Tensor | float = 0.0

    def add(self, x: Tensor, noise: Tensor, change: Tensor, diagonal: Tensor) -> None:
        fields = torch.stack([x, noise, change]).double()
        self.count += len(x)
        self.diagonal = self.diagonal + diagonal.double().sum(0)
        self.first = self.first + fields.sum(1)
        self.second = self.second + torch.stack([(row * fields).sum(1) for row in fields])

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """E[diagonal] (*space), E[fields] (3, *space), E[fields fields] (3, 3, *space)."""
        found = self.diagonal, self.first, self.second
        diagonal, first, second = (torch.as_tensor(value).cpu() / self.count for value in found)
        return diagonal, first, second


def estimate_statistics(
    field: VelocityField,
    schedule: Schedule,
    batches: Iterable[Tensor],
    grid: Tensor,
    solver: Solver,
    *,
    probes: int = 1,
    seed: int = 0,
) -> ModelStatistics:
    """The statistics of a frozen model over its own trajectories.

    The diagonal of the Jacobian is estimated without bias from random signs v as v * (J^T v) (Hutchinson 1990; Bekas et
    al. 2007): one backward pass per probe. The derivative along the flow is a central difference: two more calls per
    node.

    Args:
        field: the model.
        schedule: it was trained with.
        batches: states (B, *space) at grid[0] with the scale of the noise there; each is sampled down the grid.
        grid: (N,) descending times of the nodes, sigma > 0 and alpha > 0; many, e.g. 121 even in log-SNR.
        solver: takes the trajectories, e.g. Heun's method.
        probes: sign vectors per sample and node.
        seed: of the signs.

    Raises:
        ValueError: no samples, or a grid that reaches sigma = 0 or alpha = 0.
    """
    grid = grid.cpu()
    nodes = half_log_snr(schedule, grid)
    if not bool(torch.isfinite(nodes).all()):
        raise ValueError("expected sigma > 0 and alpha > 0 on the whole grid, got an end without; cut the grid there")
    generator = torch.Generator().manual_seed(seed)
    moments = [_Moments() for _ in nodes]
    for x_T in batches:
        with torch.no_grad():
            for state, node in zip(trajectory(field, solver, x_T, grid), moments, strict=True):
                noise = _noise(field, schedule, state.x, state.t)
                change = _change_of_noise(field, schedule, state.x, state.t, noise)
                node.add(state.x, noise, change, _diagonal(field, schedule, state.x, state.t, probes, generator))
    if moments[0].count < 2:
        raise ValueError(f"expected two samples or more, got {moments[0].count}; statistics need some hundreds")
    return _solve(schedule, grid, nodes, [node.means() for node in moments])


def _noise(field: VelocityField, schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    return convert(evaluate(field, x, t).velocity, x, schedule(t), "velocity", "noise")


def _change_of_noise(field: VelocityField, schedule: Schedule, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """d noise / d lambda along the flow. The errors of the two Euler steps have the same sign and cancel."""
    chart, ratio = NoiseChart(schedule), schedule.ratio(t)
    ahead, behind = (
        _noise(field, schedule, chart.move(x, t, at, noise), at)
        for at in (schedule.time_at(ratio * torch.exp(ratio.new_tensor(sign * DIFFERENCE))) for sign in (-1, 1))
    )
    return (ahead - behind) / (2 * DIFFERENCE)


def _diagonal(
    field: VelocityField, schedule: Schedule, x: Tensor, t: Tensor, probes: int, generator: torch.Generator
) -> Tensor:
    """Estimate of diag(sigma d noise / d x) (B, *space)."""
    sigma, total = schedule(t).sigma, torch.zeros_like(x)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        noise = _noise(field, schedule, x, t)
        for probe in range(probes):
            signs = (2 * torch.randint(2, x.shape, generator=generator) - 1).to(x)
            (back,) = torch.autograd.grad(noise, x, signs, retain_graph=probe + 1 < probes)
            total += signs * back
    return sigma * total / probes


def _solve(
    schedule: Schedule, grid: Tensor, nodes: Tensor, means: list[tuple[Tensor, Tensor, Tensor]]
) -> ModelStatistics:
    """l is the mean diagonal; s and b the regression of df/dlambda on f, both linear in (x, noise, change).

    f = (sigma noise - l x) / alpha
    df/dlambda = (sigma / alpha) (change + (l - 1) noise) - (dl/dlambda) x / alpha    (equation 26 of the paper)
    """
    column = (-1, *(1,) * (means[0][0].ndim))
    signal = schedule(grid.double())
    alpha, sigma = signal.alpha.view(column), signal.sigma.view(column)
    linear = torch.stack([diagonal for diagonal, _, _ in means])
    (rise,) = torch.gradient(linear, spacing=(nodes,), dim=0)
    zero = torch.zeros_like(linear)
    of_f = torch.stack([-linear / alpha, zero + sigma / alpha, zero])
    of_change = torch.stack([-rise / alpha, sigma / alpha * (linear - 1), zero + sigma / alpha])
    first = torch.stack([row for _, row, _ in means], dim=1)
    second = torch.stack([row for _, _, row in means], dim=2)
    centred = second - first[:, None] * first
    f, change = (of_f * first).sum(0), (of_change * first).sum(0)
    variance = torch.einsum("i...,ij...,j...->...", of_f, centred, of_f)
    covariance = torch.einsum("i...,ij...,j...->...", of_f, centred, of_change)
    size = sum(of_f[i] ** 2 * second[i, i] for i in range(3))
    known = variance > NO_VARIANCE * size
    slope = torch.where(known, covariance / torch.where(known, variance, 1), 0)
    return ModelStatistics(nodes, linear, slope, change - slope * f)


def save_statistics(path: str | Path, statistics: ModelStatistics) -> Path:
    """Write statistics as one safetensors file, whole or not at all."""
    path = Path(path)
    tensors = {name: getattr(statistics, name).detach().cpu().contiguous() for name in NAMES}
    metadata = {"format": FORMAT, "card": json.dumps({"version": VERSION})}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))
    return path


def load_statistics(path: str | Path) -> ModelStatistics:
    """Statistics that `save_statistics` wrote.

    Raises:
        ValueError: no such file, a foreign or truncated one, or another version.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected model statistics, got no file {path}; estimate them or correct the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(
            f"expected model statistics, got {path}, truncated or not safetensors ({error}); estimate them again"
        ) from error
    if metadata.get("format") != FORMAT or tensors.keys() != set(NAMES):
        raise ValueError(
            f"expected a file of format {FORMAT!r}, got {metadata.get('format')!r} in {path}; "
            "give one that save_statistics wrote"
        )
    try:
        version = json.loads(metadata["card"])["version"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a JSON card in {path}, got none that can be read; estimate them again") from error
    if version != VERSION:
        raise ValueError(f"expected version {VERSION}, got {version} in {path}; use the release that wrote it")
    return ModelStatistics(**tensors)

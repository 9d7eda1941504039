"""Our checkpoints of learned solvers: one safetensors file, its metadata a JSON card; and, from
`core.foreign`, the readers of others.

The file holds the learned parameters as tensors, and as JSON everything else it takes to sample: base solver, grid,
operator, identity of the frozen field, supervision, loss, metrics. Reading it runs no code of the file's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core.fitting import write_atomically
from core.foreign import read_foreign_pickle, read_foreign_state_dict
from core.operators.corrected import Corrected
from core.operators.residual import SpanLiftResidual
from core.operators.scalar import ScalarResidual
from core.operators.scaling import chart_of
from core.solvers.learned import LEARNED, Learned
from core.specifications import from_specification, to_specification
from core.state import Solver

__all__ = ["Card", "load", "read_foreign_pickle", "read_foreign_state_dict", "save"]

FORMAT = "spanlift-solver"
VERSION = 1
FILE_NAME = "solver.safetensors"


@dataclass(frozen=True, slots=True)
class Card:
    """What a checkpoint says of its solver.

    Attributes:
        grid: (steps + 1,) times the solver was trained on, float64, descending; the longest ones of an operator that
            serves a range of steps (its `config.counts`).
        field_identity: hash of the frozen weights it corrects.
        supervision: "teacher" or "target".
        loss: name of the endpoint loss.
        metrics: numbers measured when it was saved.
        extra: anything else that is JSON.
    """

    grid: Tensor
    field_identity: str
    supervision: str
    loss: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self.grid) - 1


def save(
    path: str | Path,
    solver: nn.Module,
    *,
    grid: Tensor,
    field_identity: str,
    supervision: str,
    loss: str,
    metrics: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a learned solver, whole or not at all.

    Args:
        path: of the file; `solver.safetensors` inside it where it is a folder or has no suffix.
        solver: a `Corrected` of a handcrafted solver and an operator of this package.
        grid, field_identity, supervision, loss, metrics, extra: see `Card`.

    Returns:
        The file written.

    Raises:
        ValueError: a solver that has no written form.
    """
    path = Path(path)
    if path.is_dir() or not path.suffix:
        path = path / FILE_NAME
    header = {
        "format": FORMAT,
        "version": VERSION,
        "solver": _describe(solver),
        "grid": grid.double().tolist(),
        "field_identity": field_identity,
        "supervision": supervision,
        "loss": loss,
        "metrics": dict(metrics or {}),
        "extra": dict(extra or {}),
    }
    metadata = {"format": FORMAT, "card": json.dumps(header)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in solver.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))
    return path


def load(path: str | Path) -> Solver:
    """The learned solver of a checkpoint, on the CPU in eval mode, ready for `integrate`; its `card` tells the rest.

    Args:
        path: of the file, or of a folder that holds `solver.safetensors`.

    Raises:
        ValueError: no such file, a foreign or truncated one, another version, or tensors that do not fit the solver.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    header, tensors = _read(path)
    try:
        card = _card(header)
        solver = _rebuild(header["solver"])
    except (TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise ValueError(f"expected a solver's card in {path}, got another ({error}); save the solver again") from error
    expected = {name: tuple(value.shape) for name, value in solver.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in tensors.items()}
    if expected != got:
        name = sorted(name for name in {*expected, *got} if expected.get(name) != got.get(name))[0]
        raise ValueError(
            f"expected {name} of shape {expected.get(name)} in {path}, got {got.get(name)}; "
            "the file is damaged, save it again"
        )
    for name, parameter in solver.named_parameters():
        parameter.data = parameter.data.to(tensors[name].dtype)  # a solver trained in float64 samples in float64
    solver.load_state_dict(tensors)
    solver.card = card
    return solver.eval().requires_grad_(False)


def _card(header: Mapping[str, Any]) -> Card:
    """The card of a header; ValueError or TypeError where a value is not what it must be."""
    grid = torch.tensor(header["grid"], dtype=torch.float64)
    if grid.ndim != 1 or len(grid) < 2 or not bool((grid[1:] < grid[:-1]).all()):
        raise ValueError(f"expected a grid of descending times, got {header['grid']}; save the solver again")
    texts = {name: header[name] for name in ("field_identity", "supervision", "loss")}
    wrong = [name for name, value in texts.items() if not isinstance(value, str)]
    wrong += [name for name in ("metrics", "extra") if not isinstance(header[name], dict)]
    if wrong:
        raise TypeError(f"{wrong[0]} is {header[wrong[0]]!r}")
    return Card(grid, **texts, metrics=header["metrics"], extra=header["extra"])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ValueError(f"expected a solver checkpoint, got no file {path}; train one or correct the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(
            f"expected a solver checkpoint, got {path}, which is truncated or not safetensors ({error}); "
            "copy or save it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"expected a file of format {FORMAT!r}, got {metadata.get('format')!r} in {path}; "
            "give a checkpoint written by core.save"
        )
    try:
        header = json.loads(metadata["card"])
        version = header["version"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a JSON card in {path}, got none that can be read; save the solver again") from error
    if version != VERSION:
        raise ValueError(
            f"expected version {VERSION} of the format, got {version} in {path}; use the release that wrote it"
        )
    lost = {"solver", "grid", "field_identity", "supervision", "loss", "metrics", "extra"} - header.keys()
    if lost:
        raise ValueError(f"expected {sorted(lost)[0]} in the card of {path}, got none; save the solver again")
    return header, tensors


def _describe(solver: Solver | nn.Module) -> dict[str, Any]:
    """A solver's written form: type and configuration; its learned numbers are tensors of the file."""
    if isinstance(solver, Learned):
        return {"type": solver.kind, "config": to_specification(solver.config)}
    if isinstance(solver, Corrected):
        residual = solver.residual
        base = _describe(solver.solver) if isinstance(solver.solver, nn.Module) else to_specification(solver.solver)
        if isinstance(residual, SpanLiftResidual | ScalarResidual):
            # null stands for the chart of the base and the schedule of the chart: tables of betas are long
            own_chart = None if residual.chart == chart_of(solver.solver) else to_specification(residual.chart)
            described = {"base": base, "config": to_specification(residual.config), "chart": own_chart}
            if isinstance(residual, ScalarResidual):
                return {"type": "scalar", **described}
            known = getattr(residual.chart, "schedule", None) == residual.schedule
            return {"type": "spanlift", **described, "schedule": None if known else to_specification(residual.schedule)}
    raise ValueError(
        f"expected a learned solver of core or a Corrected one, got {type(solver).__name__}; "
        "save the unbound solver that was trained"
    )


def _rebuild(specification: Mapping[str, Any]) -> Learned | Corrected:
    kind = specification.get("type", "")
    if kind in LEARNED:
        return LEARNED[kind](from_specification(specification.get("config")))
    if kind not in ("spanlift", "scalar"):
        known = ", ".join(("spanlift", "scalar", *LEARNED))
        raise ValueError(f"expected a solver of type {known}, got {kind!r}; use the release that wrote it")
    written = specification.get("base")
    learned = isinstance(written, Mapping) and written.get("type") in LEARNED
    base = _rebuild(written) if learned else from_specification(written)  # type: ignore[arg-type]
    config, chart = (from_specification(specification.get(name)) for name in ("config", "chart"))
    chart = chart_of(base) if chart is None else chart
    if kind == "spanlift":
        return Corrected(base, SpanLiftResidual(config, chart, from_specification(specification.get("schedule"))))
    return Corrected(base, ScalarResidual(config, chart))

"""Our checkpoints of learned solvers: one safetensors file, its metadata a JSON card; and a reader of foreign state
dicts.

The file holds the learned parameters as tensors, and as JSON everything else it takes to sample: base solver, grid,
operator, identity of the frozen field, supervision, loss, metrics. Reading it runs no code of the file's.
"""

from __future__ import annotations

import json
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core.fitting import write_atomically
from core.operators.corrected import Corrected
from core.operators.residual import SpanLiftResidual
from core.operators.scalar import ScalarResidual
from core.operators.scaling import chart_of
from core.specifications import from_specification, to_specification
from core.state import Solver

FORMAT = "spanlift-solver"
VERSION = 1
FILE_NAME = "solver.safetensors"


@dataclass(frozen=True, slots=True)
class Card:
    """What a checkpoint says of its solver.

    Attributes:
        grid: (steps + 1,) times the solver was trained on, float64, descending.
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


def _describe(solver: nn.Module) -> dict[str, Any]:
    if isinstance(solver, Corrected):
        residual = solver.residual
        base = to_specification(solver.solver)
        if isinstance(residual, SpanLiftResidual | ScalarResidual):
            # null stands for the chart of the base and the schedule of the chart: tables of betas are long
            own_chart = None if residual.chart == chart_of(solver.solver) else to_specification(residual.chart)
            described = {"base": base, "config": to_specification(residual.config), "chart": own_chart}
            if isinstance(residual, ScalarResidual):
                return {"type": "scalar", **described}
            known = getattr(residual.chart, "schedule", None) == residual.schedule
            return {"type": "spanlift", **described, "schedule": None if known else to_specification(residual.schedule)}
    raise ValueError(
        f"expected a Corrected solver with an operator of core.operators, got {type(solver).__name__}; "
        "save the unbound solver that was trained"
    )


def _rebuild(specification: Mapping[str, Any]) -> Corrected:
    kind = specification.get("type")
    if kind not in ("spanlift", "scalar"):
        raise ValueError(f"expected a solver of type spanlift or scalar, got {kind!r}; use the release that wrote it")
    base, config, chart = (from_specification(specification.get(name)) for name in ("base", "config", "chart"))
    chart = chart_of(base) if chart is None else chart
    if kind == "spanlift":
        return Corrected(base, SpanLiftResidual(config, chart, from_specification(specification.get("schedule"))))
    return Corrected(base, ScalarResidual(config, chart))


def read_foreign_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of somebody else's checkpoint, by name: safetensors, or a torch file that asks for nothing but tensors.

    No code of the file runs: a pickle that names any function or class outside torch's own list of harmless ones is
    refused, with the name. A state dict nested under "state_dict", "model" or "module" is found there.

    Raises:
        ValueError: not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected a checkpoint, got no file {path}; correct the path")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except SafetensorError as error:
            raise ValueError(
                f"expected safetensors, got {path}, truncated or foreign ({error}); get it again"
            ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of pickle protocols that the restricted reader knows in part: it refuses them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make the reader fail anywhere
        asked = _foreign_globals(path)
        if asked:
            raise ValueError(
                f"expected tensors alone, got {path}, which asks for {', '.join(asked)}; "
                "convert it where its code is at home and can be trusted"
            ) from error
        raise ValueError(f"expected a torch checkpoint, got {path}, truncated or foreign; get it again") from error
    for name in ("state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"expected a mapping of names to tensors in {path}, got {type(content).__name__} with other things; "
            "save the state_dict alone"
        )
    return dict(content)


def _foreign_globals(path: Path) -> list[str]:
    """Functions and classes that a pickle names besides torch's own, read from its opcodes; nothing is called."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
        else:
            content = path.read_bytes()
    except (OSError, zipfile.BadZipFile, StopIteration):
        return []
    found: list[str] = []
    words: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "GLOBAL":
                found.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                found.append(".".join(words[-2:]))
            elif isinstance(argument, str):
                words.append(argument)
    except ValueError:
        pass  # not a pickle to its end: what came before counts
    harmless = ("torch.", "collections.OrderedDict")
    return [name for name in dict.fromkeys(found) if not name.startswith(harmless)]

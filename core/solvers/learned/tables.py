"""Published numbers of DyWeight, read from the user's files: none are shipped here.

Three formats: one JSON file of many tables (name -> {"W", "t_scale", "num_steps", "afs", ...}), the authors' pickles of
one network each ({"predictor", "loss_fn"}), and their FLUX checkpoints ({"dyweight_weights_raw", ...}). The pickles are
read without running anything of theirs, see `core.foreign`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.foreign import read_foreign_pickle
from core.grids import build_grid
from core.schedules import RectifiedFlow, Schedule
from core.solvers.learned.dyweight import DyWeight, from_numbers


@dataclass(frozen=True, eq=False)
class Table:
    """One set of published numbers.

    Attributes:
        weights: (N, N) lower-triangular, float64.
        time_scale: (N,), or (N - 1,) where the first step is analytic.
        grid: (N + 1,) noise levels sigma they were trained on; None where the file does not tell, as it does not for
            Stable Diffusion, whose recorded range is not the one of its sampling, and FLUX, whose grid depends on the
            size of the image.
        flow: they are for rectified flow.
    """

    weights: Tensor
    time_scale: Tensor
    grid: Tensor | None
    flow: bool = False

    @property
    def steps(self) -> int:
        return len(self.weights)

    @property
    def analytic(self) -> bool:
        """The first step is to be analytic: integrate with afs=True."""
        return len(self.time_scale) < self.steps

    def solver(self, schedule: Schedule | None = None) -> DyWeight:
        """The solver with these numbers, for any grid of `steps` steps.

        Args:
            schedule: of a VP model, which has its grid in its own time; None for EDM's clock, or rectified flow.
        """
        flow = RectifiedFlow() if self.flow and schedule is None else schedule
        return from_numbers(self.weights, self.time_scale, schedule=flow)


def read_tables(path: str | Path) -> dict[str, Table]:
    """The tables of a file by name; one that holds a single table names it after the file and its folder.

    Raises:
        ValueError: no such file, or another.
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            return {name: _from_json(entry) for name, entry in content.items()}
        content = read_foreign_pickle(path)
        make = _from_flux if "dyweight_weights_raw" in content else _from_network
        return {f"{path.resolve().parent.name}/{path.stem}": make(content)}
    except (
        AttributeError,
        KeyError,
        TypeError,
        IndexError,
        OSError,
        UnicodeDecodeError,
        json.JSONDecodeError,
    ) as error:
        raise ValueError(
            f"expected tables of DyWeight in {path}, got something else ({type(error).__name__}: {error}); give the "
            "JSON file of all tables or a published checkpoint"
        ) from error


def _from_json(entry: Mapping[str, Any]) -> Table:
    weights, scale = (torch.tensor(entry[name], dtype=torch.float64) for name in ("W", "t_scale"))
    if "window" in entry:
        return Table(weights, scale, None, flow=True)
    return _checked(entry["num_steps"], entry["afs"], Table(weights, scale, _grid(entry, entry)))


def _from_network(content: Mapping[str, Any]) -> Table:
    network, loss = content["predictor"], content["loss_fn"]
    parameters = network["_parameters"]
    weights = (parameters["hybrid_weights"] * network["_buffers"]["mask"]).double()
    table = Table(weights, parameters["t_scale"].double(), _grid(network, loss))
    return _checked(network["num_steps"], network["afs"], table)


def _from_flux(content: Mapping[str, Any]) -> Table:
    weights, scale = content["dyweight_weights_raw"], content["dyweight_t_scales"]
    return Table(weights.double(), scale.double(), None, flow=True)


def _checked(points: int, afs: bool, table: Table) -> Table:
    if table.steps != points - 1 or table.analytic != bool(afs):
        raise KeyError(f"{points - 1} steps, afs = {afs}, for {table.steps} rows and {len(table.time_scale)} scales")
    return table


def _grid(network: Mapping[str, Any], training: Mapping[str, Any]) -> Tensor | None:
    """The recorded grid; the times of polynomial ones are better computed than read, being of single precision."""
    if training["schedule_type"] == "polynomial" and network.get("guidance_type") is None:
        first, last, rho = (float(training[name]) for name in ("sigma_max", "sigma_min", "schedule_rho"))
        return build_grid("karras", network["num_steps"] - 1, first, last, rho=rho)
    times = training.get("t_steps")
    return None if times is None else torch.as_tensor(times, dtype=torch.float64)

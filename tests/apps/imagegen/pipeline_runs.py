"""What a pipeline does with a scheduler, on models whose predictions are exact; and solvers to do it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import core
from apps.imagegen.scheduler import SpanLiftScheduler

STEPS = 4
TABLE = core.DiscreteVP.scaled_linear(1000, 0.00085, 0.012)
SCHEDULES: dict[str, core.Schedule] = {
    "flow": core.RectifiedFlow(),
    **dict.fromkeys(("noise", "v", "data"), core.DiscreteVP(TABLE.betas, t_min=1e-3)),
}
_FLOW, _TABLE = (
    core.build_grid("shifted", STEPS, shift=3.0),
    core.build_grid("discrete", STEPS, schedule=SCHEDULES["noise"]),
)
GRIDS = {"flow": _FLOW, **dict.fromkeys(("noise", "v", "data"), _TABLE)}
MEANS = torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
X_T = torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def mixture(kind: str) -> core.MixtureField:
    return core.MixtureField(MEANS, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.4, SCHEDULES[kind])


def model(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """What a pipeline's network says of (x, timestep): the exact prediction of a mixture."""
    field = mixture(kind)

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        t = timestep.double() / 1000 if kind == "flow" else (timestep.double() + 1) / 1000
        data, noise = field.data(x, t), field.noise(x, t)
        signal = field.schedule(t)
        outputs = {
            "flow": noise - data,
            "noise": noise,
            "data": data,
            "v": signal.alpha * noise - signal.sigma * data,
        }
        return outputs[kind]

    return predict


def sample(scheduler: SpanLiftScheduler, kind: str, x: Tensor, steps: int | None = STEPS, **asked: object) -> Tensor:
    """What a pipeline does."""
    scheduler.set_timesteps(steps, **asked)  # pyright: ignore[reportArgumentType]
    predict, x = model(kind), x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        shown = scheduler.scale_model_input(x, t)
        x = scheduler.step(predict(shown, t), t, x, return_dict=False)[0]  # pyright: ignore[reportIndexIssue]
    return x


def build_learned(
    name: str, kind: str, channels: int = 2, grid: Tensor | None = None, table: core.Schedule | None = None
) -> core.Solver:
    """A solver with its learned numbers moved away from its base; of a model with 2 channels and our table of betas, or
    another."""
    schedule = SCHEDULES[kind] if table is None else table
    chart = None if kind == "flow" else schedule
    grid = GRIDS[kind] if grid is None else grid
    steps = len(grid) - 1
    ipndm = core.build_solver("ipndm", order=2, schedule=chart)
    bases = {"bns": core.build_solver("euler", schedule=chart), "s4s-ss": core.build_solver("heun", schedule=chart)}
    torch.manual_seed(3)
    if name.startswith("spanlift"):
        base = build_learned("dyweight", kind, channels, grid, table) if name == "spanlift-dyweight" else ipndm
        operator = core.ResidualConfig(channels=channels, width=8, steps=steps, history=2)
        solver = core.build_solver("spanlift", base=base, operator=operator, schedule=schedule)
    elif name == "scalar":
        solver = core.build_solver("spanlift", base=ipndm, operator=core.ScalarConfig(steps, 2))
    elif name in ("dyweight", "ld3"):
        solver = core.build_solver(name, base=ipndm, grid=grid, schedule=schedule)
    elif name in ("amed", "epd"):
        solver = core.build_solver(name, grid=grid, schedule=chart)
    else:
        solver = core.build_solver(name, base=bases.get(name, ipndm), grid=grid)
    assert isinstance(solver, nn.Module)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in solver.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return solver.requires_grad_(False)  # pyright: ignore[reportReturnType]


def save_learned(name: str, kind: str, folder: Path, extra: Mapping[str, Any] | None = None) -> Path:
    """The file of `build_learned`; `extra` is what its card says in place of the kind."""
    solver = build_learned(name, kind)
    assert isinstance(solver, nn.Module)
    return core.save(
        folder / "solver.safetensors", solver, grid=GRIDS[kind], field_identity="", supervision="teacher", loss="mse",
        extra={"kind": kind} if extra is None else extra,
    )  # fmt: skip

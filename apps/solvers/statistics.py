"""`python -m apps.solvers.statistics`: estimate the empirical statistics of a model for DPM-Solver-v3 and save them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from apps.solvers.fields import FIELDS, read_mixture
from core.charts import NoiseChart
from core.fields import DenoiserField, FlowField, NoisePredictionField, VPredictionField
from core.grids import build_grid
from core.model_statistics import estimate_statistics, save_statistics
from core.names import nearest
from core.schedules import EDM, VP, Cosine, DiscreteVP, RectifiedFlow, Schedule
from core.solvers.heun import Heun
from core.state import VelocityField
from data_tools.cli import UserError, console, progress_bar, run

SCHEDULES: Mapping[str, Callable[[], Schedule]] = MappingProxyType(
    {
        "edm": EDM,
        "vp": VP,
        "cosine": Cosine,
        "ddpm": DiscreteVP.linear,
        "latent-diffusion": lambda: DiscreteVP.scaled_linear(first=8.5e-4, last=1.2e-2),
        "flow": RectifiedFlow,
    }
)
EARLIEST, LATEST = 1e-3, 0.999
"""Where sigma or alpha is 0 at an end of the model's clock, the range is cut here."""


@dataclass(frozen=True)
class StatisticsOptions:
    """Options of the command.

    Attributes:
        model: waves or ring (exact mixtures), a .safetensors file of means, weights and stds of one, or a .pt2 file
            written by torch.export of a network (x, t) -> prediction with a dynamic batch.
        out: file to write.
        schedule: of the model: edm, vp, cosine, ddpm, latent-diffusion (scaled linear betas) or flow.
        prediction: what a network predicts; flow networks predict the velocity whatever stands here.
        shape: of one state, comma-separated, for a network.
        samples: trajectories to average over.
        batch: trajectories at a time.
        nodes: of the statistics, even in log-SNR; trajectories take as many steps.
        t_max: noise end of the statistics; the schedule's by default.
        t_min: data end of the statistics; the schedule's by default.
        probes: random sign vectors per sample for the diagonal of the Jacobian.
        seed: of noise and signs.
        device: cpu, cuda, ...
    """

    model: str = "waves"
    out: str = "out/statistics.safetensors"
    schedule: Literal["edm", "vp", "cosine", "ddpm", "latent-diffusion", "flow"] = "edm"
    prediction: Literal["data", "noise", "v"] = "noise"
    shape: str | None = None
    samples: int = 512
    batch: int = 64
    nodes: int = 121
    t_max: float | None = None
    t_min: float | None = None
    probes: int = 1
    seed: int = 0
    device: str = "cpu"


def main(options: StatisticsOptions) -> None:
    """Estimate and save.

    Raises:
        UserError: an unknown model, a file that is none, a number that cannot be.
    """
    for name, least in (("samples", 2), ("batch", 1), ("nodes", 2), ("probes", 1)):
        if getattr(options, name) < least:
            raise UserError(f"expected --{name} of at least {least}, got {getattr(options, name)}")
    schedule = SCHEDULES[options.schedule]()
    field, shape = _model(options, schedule)
    t_max = min(schedule.t_max, LATEST) if options.schedule == "flow" else schedule.t_max
    t_max = t_max if options.t_max is None else options.t_max
    t_min = (schedule.t_min or EARLIEST) if options.t_min is None else options.t_min
    try:
        grid = build_grid("logsnr", options.nodes - 1, t_max, t_min, schedule=schedule)
        with progress_bar() as bar:
            task = bar.add_task("trajectories", total=options.samples, note="")
            batches = _noise(
                options, shape, float(schedule(grid[0]).sigma), lambda done: bar.update(task, completed=done)
            )
            solver = Heun(NoiseChart(schedule))
            found = estimate_statistics(
                field, schedule, batches, grid, solver, probes=options.probes, seed=options.seed
            )
        path = save_statistics(options.out, found)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error
    console.print(
        f"wrote {path}: l, s and b of {tuple(found.linear.shape[1:])} at {len(grid)} times from {t_max:g} to {t_min:g}"
    )


def _noise(
    options: StatisticsOptions, shape: tuple[int, ...], scale: float, report: Callable[[int], None]
) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(options.seed)
    dtype = torch.float32 if options.model.endswith(".pt2") else torch.float64
    for first in range(0, options.samples, options.batch):
        count = min(options.batch, options.samples - first)
        yield scale * torch.randn(count, *shape, generator=generator, dtype=dtype).to(options.device)
        report(first + count)


def _model(options: StatisticsOptions, schedule: Schedule) -> tuple[VelocityField, tuple[int, ...]]:
    """The model as a field, and the shape of a state."""
    if options.model.endswith(".pt2"):
        return _network(options, schedule), _shape(options)
    if options.model in FIELDS:
        field = FIELDS[options.model](schedule)
    elif options.model.endswith(".safetensors"):
        field = read_mixture(options.model, schedule)
    else:
        close = nearest(options.model, FIELDS)
        raise UserError(
            f"expected --model among {', '.join(FIELDS)}, or a .safetensors or .pt2 file, got {options.model!r}{close}"
        )
    return field, tuple(field.means.shape[1:])


def _shape(options: StatisticsOptions) -> tuple[int, ...]:
    try:
        shape = tuple(int(word) for word in (options.shape or "").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UserError(f"expected --shape of one state, like 3,32,32, for a network, got {options.shape!r}")
    return shape


def _network(options: StatisticsOptions, schedule: Schedule) -> VelocityField:
    """An exported network as a field; torch unpickles such files, so give none that is not trusted."""
    path = Path(options.model)
    if not path.is_file():
        raise UserError(f"expected an exported network, got no file {path}; correct the path")
    try:
        network = torch.export.load(path).module().to(options.device)
    except Exception as error:  # a foreign file can make the reader fail anywhere
        raise UserError(f"expected a network written by torch.export.save, got {path}: {error}") from error
    if options.schedule == "flow":
        return FlowField(network)
    if options.prediction == "data":
        if options.schedule != "edm":
            raise UserError(f"expected --schedule edm for a network that predicts data, got {options.schedule}")
        return DenoiserField(network)
    return (NoisePredictionField if options.prediction == "noise" else VPredictionField)(network, schedule)


if __name__ == "__main__":
    run(
        StatisticsOptions,
        main,
        prog="python -m apps.solvers.statistics",
        description="Estimate a model's empirical statistics, which DPM-Solver-v3 needs, and save them.",
        examples="""examples:
  python -m apps.solvers.statistics --model waves --out out/waves.safetensors
  python -m apps.solvers.statistics --model mixture.safetensors --schedule vp
  python -m apps.solvers.statistics --model denoiser.pt2 --prediction data --shape 3,32,32 --device cuda

  core.build_solver("dpm-solver-v3", statistics=core.load_statistics("out/waves.safetensors"))""",
    )

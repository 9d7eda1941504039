"""A small training whose processes can be killed: `python runs.py` reads folders and forks a run for each.

A line names a folder and the number of the call, of Python's functions and C's, at which the run is killed, or 0; its
exit status answers. One that comes to its end leaves the number of its calls in the folder.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import torch
import torch._dynamo  # torch.utils.checkpoint imports it late: not in every fork
from dying import Calls
from torch import Tensor

from core.distributed import Alone, Fabric
from core.fields import MixtureField
from core.fitting import FitConfig
from core.grids import build_grid
from core.losses import MSE
from core.operators import Corrected, ResidualConfig, spanlift
from core.schedules import EDM
from core.solvers import build_solver
from core.supervision import Example, Teacher, draw
from core.training import train_solver

SHAPE = (2, 5, 6)
ITERATIONS, BATCH = 16, 5
KEYS = [f"{index}" for index in range(7)]
GRID = build_grid("karras", 3, 20.0, 0.02, rho=7.0)
TEACHER_GRID = build_grid("karras", 12, 20.0, 0.02, rho=7.0)


def field() -> MixtureField:
    means = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return MixtureField(means, torch.ones(3), 0.4)


def noise(keys: list[str]) -> Tensor:
    draws = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(int(key))) for key in keys]
    return 20 * torch.stack(draws).double()


def student() -> Corrected:
    torch.manual_seed(0)
    solver = spanlift(build_solver("ipndm", order=2), ResidualConfig(2, width=6, steps=3), EDM()).double()
    torch.nn.init.normal_(solver.residual.head.weight, std=0.05)  # a zero head hides the gradients of what is below
    return solver


def cache(folder: Path) -> Teacher:
    return Teacher(build_solver("heun"), TEACHER_GRID, folder / "teacher", "mixture")


def run(folder: Path, fabric: Fabric | None = None, dies_at: int | None = None) -> Corrected:
    """Teacher's cache, then training; everything is in the folder. Of several processes the first fills the cache."""
    processes = fabric or Alone()
    if processes.global_rank == 0:
        cache(folder).fill(KEYS, lambda keys: (field(), noise(list(keys))), batch=2)
    processes.barrier()
    teacher = cache(folder)

    def example(iteration: int) -> Example:
        if iteration == dies_at:
            raise KeyboardInterrupt
        drawn = draw(KEYS, BATCH, iteration, seed=0)
        return Example(noise(drawn), None, teacher.endpoints(drawn))

    config = FitConfig(ITERATIONS, 5e-3, ema_decay=0.9, checkpoint_every=3, log_every=2)
    solver = student()
    train_solver(
        solver,
        GRID,
        example,
        lambda condition: field(),
        lambda end, example: MSE()(end, example.endpoint),
        config,
        folder / "run",
        fabric=fabric,
    )
    return solver


def serve() -> None:
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        folder, last = line.rsplit(maxsplit=1)
        process = os.fork()
        if process == 0:
            _run_and_exit(Path(folder), int(last) or None)
        print(os.waitpid(process, 0)[1], flush=True)


def _run_and_exit(folder: Path, last: int | None) -> None:
    try:
        calls = Calls(last)
        torch.save(run(folder).state_dict(), folder / "solver.pt")
        calls.write(folder / "calls")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    serve()

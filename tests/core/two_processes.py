"""The training of runs.py in one process, in two, and in two that die and go on: python two_processes.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from runs import run

from core import fitting

DIES_AT = 10


def train(fabric: Fabric, folder: Path, dies_at: int | None = None) -> None:
    torch.set_num_threads(1)
    if fabric.global_rank > 0:
        fitting.write_atomically = refuse
        fitting._log = refuse
    try:
        solver = run(folder, fabric, dies_at)
    except KeyboardInterrupt:
        return
    gradients = {name: parameter.grad for name, parameter in solver.named_parameters()}
    content = {"parameters": solver.state_dict(), "gradients": gradients}
    torch.save(content, folder / f"{fabric.global_rank}.pt")


def refuse(path: Path, *arguments: object) -> None:
    raise AssertionError(f"only process 0 writes, not another one {path}")


def main(folder: Path) -> None:
    for name, processes, deaths in (("one", 1, [None]), ("two", 2, [None]), ("killed", 2, [DIES_AT, None])):
        for dies_at in deaths:
            (folder / name).mkdir(parents=True, exist_ok=True)
            fabric = Fabric(accelerator="cpu", devices=processes, strategy="ddp_fork" if processes > 1 else "auto")
            fabric.launch(train, folder / name, dies_at)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

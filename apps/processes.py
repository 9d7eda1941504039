"""Several processes for one command: `--devices`, through Lightning Fabric (`pip install spanlift[distributed]`)."""

from __future__ import annotations

from datetime import timedelta
from importlib.util import find_spec

import torch

from core.distributed import Alone, Fabric
from data_tools.cli import UserError

PATIENCE = timedelta(days=1)
"""How long processes wait for one that prepares data for all; the usual ten minutes are short for that."""


def check_device(device: str) -> None:
    """Raises UserError unless this machine has the device: cpu, cuda, cuda:1, ..."""
    try:
        found = not torch.empty(0, device=device).is_meta
    except (RuntimeError, AssertionError):
        found = False
    if not found:
        raise UserError(f"expected a device of this machine, got {device}; try --device cpu")


def check_devices(device: str, devices: int) -> None:
    """Raise UserError unless this machine can run so many processes, each with a device of that kind."""
    kind, _, index = device.partition(":")
    if devices < 1:
        raise UserError(f"expected --devices of at least 1, got {devices}")
    check_device(device)
    if devices == 1:
        return
    if index:
        raise UserError(f"expected --device {kind} with --devices {devices}, got {device}; leave out the number")
    if kind == "cuda" and torch.cuda.device_count() < devices:
        raise UserError(
            f"expected at most {torch.cuda.device_count()} devices, got --devices {devices}; this machine has no more"
        )
    if find_spec("lightning_fabric") is None:
        raise UserError(f"expected lightning-fabric for --devices {devices}: pip install lightning-fabric")


def launch(device: str, devices: int) -> tuple[Fabric, str]:
    """The processes that run the rest of the command together, and the device of this one.

    One device needs no package and starts nothing. With more, Fabric starts the same command once for each of them;
    mistakes should be told before.

    Args:
        device: cpu, cuda, cuda:1, ...
        devices: how many processes, each with a device of that kind.

    Raises:
        UserError: no such device, fewer of them than asked for, or no package.
    """
    check_devices(device, devices)
    if devices == 1:
        return Alone(), device
    import lightning_fabric
    from lightning_fabric.strategies import DDPStrategy

    fabric = lightning_fabric.Fabric(accelerator=device, devices=devices, strategy=DDPStrategy(timeout=PATIENCE))
    fabric.launch()
    return fabric, str(fabric.device)

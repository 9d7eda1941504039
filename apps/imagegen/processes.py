"""Several processes for one command: `--devices`, through Lightning Fabric (`pip install spanlift[distributed]`)."""

from __future__ import annotations

import torch

from core.distributed import Alone, Fabric
from data_tools.cli import UserError


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
    kind, _, index = device.partition(":")
    if devices < 1:
        raise UserError(f"expected --devices of at least 1, got {devices}")
    try:
        found = torch.empty(0, device=device).is_meta
    except (RuntimeError, AssertionError):
        found = True
    if found:
        raise UserError(f"expected a device of this machine, got {device}; try --device cpu")
    if devices == 1:
        return Alone(), device
    if index:
        raise UserError(f"expected --device {kind} with --devices {devices}, got {device}; leave out the number")
    if kind == "cuda" and torch.cuda.device_count() < devices:
        raise UserError(
            f"expected at most {torch.cuda.device_count()} devices, got --devices {devices}; this machine has no more"
        )
    try:
        import lightning_fabric
    except ImportError:
        raise UserError(f"expected lightning-fabric for --devices {devices}: pip install lightning-fabric") from None
    fabric = lightning_fabric.Fabric(accelerator=kind, devices=devices, strategy="ddp")
    fabric.launch()
    return fabric, str(fabric.device)

"""A module whose parameters, gradients and optimiser state lie in shares, one in each process (FSDP: Zhao et al. 2023,
arXiv 2304.11277): what trains a model that one device could not hold.

The processes are those of core.distributed. A module is cut with `shard` before `core.fitting.fit`, which knows the
shares when it sees them: its checkpoints hold whole tensors, so that a run goes on cut or not, on more processes or
fewer. `gathered` gives the weights back whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def shard(module: nn.Module, units: Iterable[nn.Module]) -> None:
    """Cut the parameters of a module, in place, over the processes that torch.distributed has started.

    Args:
        module: the same in all processes; it computes by being called.
        units: parts of it that are whole in memory only while they compute; each is called once in a forward pass.

    Raises:
        ValueError: there is only one process.
    """
    from torch.distributed import get_world_size, is_initialized
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not is_initialized() or get_world_size() < 2:
        raise ValueError("expected several processes to cut a module over, got one; launch more")
    module.register_forward_hook(lambda _, inputs, answer: answer.clone())  # FSDP's hooks are lost on views
    mesh = init_device_mesh(next(module.parameters()).device.type, (get_world_size(),))
    for unit in (*units, module):
        fully_shard(unit, mesh=mesh)


def is_share(value: Any) -> bool:
    """Whether it is a tensor of which each process holds a share."""
    tensors = sys.modules.get("torch.distributed.tensor")  # takes seconds to import, and is where there are shares
    return tensors is not None and isinstance(value, tensors.DTensor)


def is_sharded(module: nn.Module) -> bool:
    """Whether the parameters of a module lie in shares."""
    return any(is_share(parameter) for parameter in module.parameters())


@torch.no_grad()
def whole(values: Any) -> Any:
    """The same nest of dictionaries and lists with every share replaced by the whole tensor, on the CPU.

    All processes must call it together.
    """
    if isinstance(values, dict):
        return {key: whole(value) for key, value in values.items()}
    if isinstance(values, list):
        return [whole(value) for value in values]
    return values.full_tensor().cpu() if is_share(values) else values


def cut_as(value: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor, cut as `like` is; the tensor itself where that is not cut.

    All processes must call it together, with the same tensor.
    """
    if not is_share(like):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def gathered(module: Module, build: Callable[[], Module]) -> Module:
    """The values of `module`, whole, in one that `build` makes like it; `module` itself where it was never cut."""
    if not is_sharded(module):
        return module
    fresh = build()
    fresh.load_state_dict(whole(module.state_dict()))
    return fresh

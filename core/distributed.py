"""One run on several processes: each takes its rows of every example, the gradients are averaged.

The processes are those of Lightning Fabric (`pip install spanlift[distributed]`), which starts them, on whatever
devices and nodes:

    fabric = lightning_fabric.Fabric(accelerator="gpu", devices=4, strategy="ddp")
    fabric.launch()
    core.train_solver(solver.to(fabric.device), ..., fabric=fabric)

A teacher's cache is filled by process 0; the others open it after a `fabric.barrier()`.

Every process draws the whole example of an iteration, a function of the iteration alone, and keeps its share: the
parameters end as those of one process with the whole batch, up to the order of additions. Process 0 alone writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from core.supervision import Example


class Fabric(Protocol):
    """What is used of a launched `lightning_fabric.Fabric`; `Alone` is the one that needs no package."""

    @property
    def global_rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def all_reduce(self, data: Any, group: Any = None, reduce_op: Any = "mean") -> Any: ...

    def broadcast(self, obj: Any, src: int = 0) -> Any: ...

    def barrier(self, name: str | None = None) -> None: ...


class Alone:
    """The only process."""

    global_rank = 0
    world_size = 1

    def all_reduce(self, data: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        return data

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    def barrier(self, name: str | None = None) -> None: ...


def share(example: Example, fabric: Fabric) -> tuple[Example, float]:
    """This process's rows of an example, and the weight of its loss: their number times processes over all rows.

    The rows that belong to one row of the endpoint (the members of an ensemble) lie side by side and stay together.
    The mean over processes of weight times loss is the loss of the whole example for losses that are means over rows.

    Raises:
        ValueError: fewer rows than processes, or states and conditions that are not so many for each endpoint.
    """
    count, rank, rows = fabric.world_size, fabric.global_rank, len(example.endpoint)
    if count == 1:
        return example, 1.0
    if rows < count:
        raise ValueError(f"expected at least one row for each of {count} processes, got {rows}; use a larger batch")
    first, last = rows * rank // count, rows * (rank + 1) // count

    def mine(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        each, rest = divmod(len(values), rows)
        if rest:
            raise ValueError(f"expected equally many rows for {rows} endpoints, got {len(values)}; check the example")
        return values[first * each : last * each]

    mine_alone = example._replace(**{name: mine(getattr(example, name)) for name in ("x_T", "condition", "endpoint")})
    return mine_alone, (last - first) * count / rows


@torch.no_grad()
def equalise(module: nn.Module, fabric: Fabric) -> None:
    """Give the trainable parameters the values they have in process 0."""
    if fabric.world_size == 1:
        return
    trainable = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    first = fabric.broadcast({name: parameter.detach().cpu() for name, parameter in trainable.items()})
    for name, parameter in trainable.items():
        parameter.copy_(first[name])


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter], fabric: Fabric) -> None:
    """Replace gradients by their means over the processes, in one message."""
    if fabric.world_size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    mean = fabric.all_reduce(flat, reduce_op="mean")
    for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def mean_of(values: dict[str, float], fabric: Fabric) -> dict[str, float]:
    """Means over the processes."""
    if fabric.world_size == 1:
        return values
    numbers = fabric.all_reduce(torch.tensor(list(values.values()), dtype=torch.float64), reduce_op="mean")
    return dict(zip(values, numbers.tolist(), strict=True))

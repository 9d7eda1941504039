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
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

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


class Portion(NamedTuple):
    """One of `count` portions of the rows of every example, number `index`."""

    index: int = 0
    count: int = 1


def portions(fabric: Fabric, passes: int = 1) -> list[Portion]:
    """What this process computes of each example, one portion after another, so that memory holds the activations of
    one (gradient accumulation)."""
    first, count = fabric.global_rank * passes, fabric.world_size * passes
    return [Portion(first + index, count) for index in range(passes)]


def rows_of(rows: int, portion: Portion) -> tuple[slice, float]:
    """The rows of a portion, and the weight of its loss: their number times portions over all rows.

    The mean over portions of weight times loss is the loss of the whole example for losses that are means over rows.

    Raises:
        ValueError: fewer rows than portions.
    """
    index, count = portion
    if rows < count:
        raise ValueError(f"expected at least one row for each of {count} processes, got {rows}; use a larger batch")
    first, last = rows * index // count, rows * (index + 1) // count
    return slice(first, last), (last - first) * count / rows


def portion_of(example: Example, portion: Portion) -> tuple[Example, float]:
    """The rows of a portion of an example, and the weight of its loss, see `rows_of`.

    The rows that belong to one row of the endpoint (the members of an ensemble) lie side by side and stay together.

    Raises:
        ValueError: fewer rows than portions, or states and conditions that are not so many for each endpoint.
    """
    rows = len(example.endpoint)
    if portion.count == 1:
        return example, 1.0
    mine, weight = rows_of(rows, portion)

    def take(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        each, rest = divmod(len(values), rows)
        if rest:
            raise ValueError(f"expected equally many rows for {rows} endpoints, got {len(values)}; check the example")
        return values[mine.start * each : mine.stop * each]

    taken = example._replace(**{name: take(getattr(example, name)) for name in ("x_T", "condition", "endpoint")})
    return taken, weight


def share(example: Example, fabric: Fabric) -> tuple[Example, float]:
    """This process's rows of an example, and the weight of its loss, see `portion_of`."""
    return portion_of(example, portions(fabric)[0])


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

"""Where endpoints come from: a teacher's many-step rollouts, kept on disk, or the data itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from core.endpoint_store import EndpointStore
from core.specifications import to_specification
from core.state import Solver, VelocityField, integrate


class Example(NamedTuple):
    """What one training iteration sees.

    Attributes:
        x_T: states at the grid's first time, (B, C, *space).
        condition: what the field, and maybe the operator, is bound to; None where there is none.
        endpoint: what the rollout should arrive at; (B, ...) in whatever space the loss compares in.
    """

    x_T: Tensor
    condition: Tensor | None
    endpoint: Tensor


class Supervision(Protocol):
    """Endpoints by key; `name` goes into the checkpoint ("teacher" or "target")."""

    @property
    def name(self) -> str: ...

    def endpoints(self, keys: Sequence[str]) -> Tensor: ...


class Target:
    """The endpoint is the data.

    Args:
        read: keys -> (len(keys), ...) tensor of data.
    """

    name = "target"

    def __init__(self, read: Callable[[Sequence[str]], Tensor]) -> None:
        self._read = read

    def endpoints(self, keys: Sequence[str]) -> Tensor:
        """Data of these keys, in their order."""
        return self._read(keys)


Start = Callable[[Sequence[str]], tuple[VelocityField, Tensor]]
"""keys -> (field bound to their conditions, x_T of their seeds)."""


class Teacher:
    """Endpoints of many-step rollouts, computed once and kept in `directory`, a Zarr store (core.endpoint_store).

    A killed run loses the batch it was computing; the next one computes what is missing.

    Args:
        solver: the teacher's solver.
        grid: its grid.
        directory: of the cache; made where it is not there.
        identity: what the rollouts depend on besides solver and grid: the hash of the frozen weights, the data.
        denoise: the endpoint is the data predicted from the last state, see `core.integrate`.

    Raises:
        ValueError: the folder holds rollouts of another teacher, or something else.
    """

    name = "teacher"

    def __init__(
        self,
        solver: Solver,
        grid: Tensor,
        directory: Path,
        identity: Mapping[str, Any] | str,
        denoise: bool = False,
    ) -> None:
        self.solver = solver
        self.denoise = denoise
        self.grid = grid
        self.directory = Path(directory)
        rollout = {"solver": to_specification(solver), "grid": grid.double().tolist(), "of": identity}
        self.identity = json.loads(json.dumps({**rollout, **({"denoise": True} if denoise else {})}))
        self._store = EndpointStore(self.directory, self.identity)

    def _rollout(self, field: VelocityField, x_T: Tensor) -> Tensor:
        return integrate(field, self.solver, x_T, self.grid, denoise=self.denoise).x

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of `keys` that are not in the cache yet, once each, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self._store]

    def fill(
        self,
        keys: Sequence[str],
        start: Start,
        *,
        batch: int = 16,
        report: Callable[[int, int], None] | None = None,
    ) -> int:
        """Compute and keep the endpoints of the keys that are missing.

        Args:
            keys: names of (condition, seed) pairs.
            start: gives field and x_T for a batch of keys.
            batch: keys a rollout.
            report: called with (endpoints done, endpoints to do) after each batch.

        Returns:
            Number of endpoints computed.
        """
        todo = self.missing(keys)
        for first in range(0, len(todo), batch):
            chunk = todo[first : first + batch]
            with torch.no_grad():
                field, x_T = start(chunk)
                endpoint = self._rollout(field, x_T).detach().cpu().contiguous()
            if len(endpoint) != len(chunk):
                raise ValueError(f"expected {len(chunk)} states, one a key, got {len(endpoint)}; check `start`")
            if first == 0:
                self._store.reserve(len(todo), endpoint[0])
            self._store.append(chunk, endpoint)
            if report is not None:
                report(first + len(chunk), len(todo))
        return len(todo)

    def endpoints(self, keys: Sequence[str]) -> Tensor:
        """Endpoints of these keys, (len(keys), C, *space), in their order.

        Raises:
            ValueError: a key was never computed, or its endpoint is damaged.
        """
        lost = self.missing(keys)
        if lost:
            raise ValueError(f"expected every key in {self.directory}, got none for {lost[0]!r}; call fill first")
        return self._store.read(keys)


def draw(keys: Sequence[str], batch: int, iteration: int, seed: int) -> list[str]:
    """Keys of one training iteration: consecutive batches of a stream of shuffles of `keys`, one shuffle an epoch.

    A function of its arguments alone, so that a resumed run draws what the killed one would have.
    """
    if not keys:
        raise ValueError("expected at least one key to draw from, got none; check the data's split")
    first, last = iteration * batch, (iteration + 1) * batch
    epochs = range(first // len(keys), (last - 1) // len(keys) + 1)
    stream = torch.cat([_shuffle(len(keys), seed, epoch) for epoch in epochs])
    offset = epochs.start * len(keys)
    return [keys[int(index)] for index in stream[first - offset : last - offset]]


def _shuffle(count: int, seed: int, epoch: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randperm(count, generator=generator)

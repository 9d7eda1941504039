"""Memory that the gradient of a rollout takes; with --benchmark-enable its time too, the bytes in --benchmark-json."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.fields import DenoiserField
from core.grids import build_grid
from core.operators import Corrected, ResidualConfig, spanlift
from core.rematerialisation import LowPrecision
from core.schedules import EDM
from core.solvers import build_solver
from core.state import integrate
from core.training import rollout


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors made inside and still alive; `peak` is the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._watch(value.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, id(storage), storage.nbytes())

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def frozen_network() -> nn.Module:
    """Wide and deep enough that its activations dwarf the operator's."""
    layers = [layer for _ in range(6) for layer in (nn.Conv2d(96, 96, 3, padding=1), nn.GELU())]
    network = nn.Sequential(nn.Conv2d(3, 96, 3, padding=1), *layers, nn.Conv2d(96, 3, 3, padding=1))
    return network.requires_grad_(False).eval()


def peak_of(steps: int, run: Callable[[Corrected, DenoiserField, Tensor, Tensor], Tensor]) -> int:
    torch.manual_seed(0)
    network = frozen_network()
    field = DenoiserField(lambda x, sigma: network(x / (1 + sigma)))
    solver = spanlift(build_solver("ipndm", order=3), ResidualConfig(3, width=16, steps=steps), EDM())
    nn.init.normal_(solver.residual.head.weight)  # a zero head would cut the graph's values, not its size
    x_T = 80 * torch.randn(2, 3, 16, 16)
    grid = build_grid("karras", steps, 80.0, 0.002, rho=7.0)
    with LiveBytes() as memory:
        run(solver, field, x_T, grid).square().mean().backward()
    assert solver.residual.gain.grad.abs().min() > 0
    return memory.peak


@pytest.mark.parametrize("steps", [3, 6, 12])
def test_peak_memory_of_a_rollout(benchmark, steps: int) -> None:
    """Rematerialised: one evaluation's activations, whatever the steps. Plain: that many times the steps."""
    one_network = 2 * 96 * 16 * 16 * 4 * 6 * 2  # batch, width, positions, bytes, layers, input of each conv and GELU
    benchmark.extra_info["plain"] = plain = peak_of(
        steps, lambda solver, field, x_T, grid: integrate(field, solver, x_T, grid).x
    )
    benchmark.extra_info["rematerialised"] = rematerialised = benchmark.pedantic(peak_of, (steps, rollout), rounds=1)
    # the first evaluation needs no gradient: its input is the noise
    assert plain > 0.9 * (steps - 1) * one_network
    states = steps * 2 * 3 * 16 * 16 * 4 * 12
    assert rematerialised < 1.7 * one_network + states


def test_memory_does_not_grow_with_the_networks_steps() -> None:
    growth = {}
    for name, run in (
        ("plain", lambda solver, field, x_T, grid: integrate(field, solver, x_T, grid).x),
        ("rematerialised", rollout),
    ):
        growth[name] = peak_of(12, run) - peak_of(3, run)
    assert growth["rematerialised"] < 0.03 * growth["plain"]


@pytest.mark.parametrize("autocast", [False, True])
def test_peak_memory_at_3_and_at_10_steps_is_within_a_tenth(benchmark, autocast: bool) -> None:
    """Of a whole iteration, the states of the rollout included; without rematerialisation it triples."""

    def run(rematerialise: bool) -> Callable[[Corrected, DenoiserField, Tensor, Tensor], Tensor]:
        return lambda solver, field, x_T, grid: rollout(
            solver, LowPrecision(field) if autocast else field, x_T, grid, rematerialise=rematerialise
        )

    peaks = {steps: peak_of(steps, run(True)) for steps in (3, 10)}
    plain = {steps: peak_of(steps, run(False)) for steps in (3, 10)}
    benchmark.extra_info.update(ratio=peaks[10] / peaks[3], ratio_of_plain=plain[10] / plain[3])
    benchmark.pedantic(peak_of, (10, run(True)), rounds=1)
    assert peaks[10] < 1.1 * peaks[3]
    assert plain[10] > 2.5 * plain[3]

"""The hook that reads a network's bottleneck: what it passes on, and modules that cannot be hooked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import core
from core.solvers.learned.bottleneck import HookedField

F64 = torch.float64
GRID = core.build_grid("karras", 3)


class Network(nn.Module):
    """A denoiser around an inner module; `use` makes of its output what is added."""

    def __init__(self, inner: nn.Module, use: Callable[[nn.Module, Tensor], Tensor | None]) -> None:
        super().__init__()
        self.inner, self.use = inner, use

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.use(self.inner, x)
        return x / (1 + sigma**2)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def once(inner: nn.Module, x: Tensor) -> Tensor:
    return inner(x)


def hooked(inner: nn.Module, use: Callable[[nn.Module, Tensor], Tensor | None] = once) -> HookedField:
    return HookedField(core.DenoiserField(Network(inner, use)), inner)


def noise() -> Tensor:
    return 80 * torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=F64)


def test_features_are_means_over_channels_and_the_hook_is_gone() -> None:
    inner = nn.Conv2d(2, 6, 1, dtype=F64).requires_grad_(False)
    field, x = hooked(inner), noise()
    velocity, features = field.with_features(x, GRID[0])
    torch.testing.assert_close(features, inner(x).mean(1).flatten(1))
    assert torch.equal(velocity, field(x, GRID[0]))
    assert not inner._forward_hooks


def test_it_samples_as_the_field_it_hooks() -> None:
    """Analytic start, denoising and all that reads the field's schedule work through it."""
    field, x = hooked(nn.Identity()), noise()
    for solver in (core.IPNDM(3), core.build_solver("dyweight", grid=GRID)):
        for afs in (False, True):
            got, plain = (core.integrate(f, solver, x, GRID, afs, denoise=True) for f in (field, field.field))
            assert torch.equal(got.x, plain.x)
            assert got.nfe == plain.nfe == 4 - afs
    assert field.schedule == core.EDM()


def test_a_field_without_schedule_stays_one() -> None:
    field = HookedField(lambda x, t: x / t, nn.Identity())
    assert not hasattr(field, "schedule")
    assert core.integrate(field, core.IPNDM(2), noise(), GRID).nfe == 3
    with pytest.raises(ValueError, match="expected a field with a schedule for denoise=True"):
        core.integrate(field, core.IPNDM(2), noise(), GRID, denoise=True)
    with pytest.raises(ValueError, match="expected a field with analytic_velocity for afs=True"):
        core.integrate(field, core.IPNDM(2), noise(), GRID, afs=True)


@pytest.mark.parametrize(
    ("inner", "use", "got"),
    [
        (nn.Identity(), lambda inner, x: None, "got no run"),
        (nn.Identity(), lambda inner, x: inner(inner(x)), r"got \(4, 2, 3, 5\), \(4, 2, 3, 5\)"),
        (nn.Identity(), lambda inner, x: inner(torch.cat([x, x])), r"got \(8, 2, 3, 5\)"),
        (nn.Flatten(), once, r"got \(4, 30\)"),
        (Pair(), lambda inner, x: inner(x)[0], "got tuple"),
    ],
)
def test_a_wrong_module_is_refused(inner: nn.Module, use: Callable[[nn.Module, Tensor], Tensor], got: str) -> None:
    with pytest.raises(ValueError, match=f"to run once on 4 samples, with an output .*, {got}; hook a module"):
        hooked(inner, use).with_features(noise(), GRID[0])
    assert not inner._forward_hooks


def test_a_network_that_fails_leaves_no_hook() -> None:
    def fail(inner: nn.Module, x: Tensor) -> Tensor:
        inner(x)
        raise RuntimeError("out of memory")

    inner = nn.Identity()
    with pytest.raises(RuntimeError, match="out of memory"):
        hooked(inner, fail).with_features(noise(), GRID[0])
    assert not inner._forward_hooks

"""Solvers by name."""

from __future__ import annotations

from typing import Any

import pytest

import core


def test_what_exists() -> None:
    single = {"euler", "ddim", "ddpm", "heun", "rk4", "dpm-solver-2"}
    multistep = {"ipndm", "adams-bashforth", "deis", "dpm-solver++", "dpm-solver-v3", "unipc"}
    learned = {"s4s-lms", "s4s-ss", "s4s-pc", "s4s-alt", "dyweight", "ld3", "bns", "dlms", "spanlift"}
    assert set(core.SOLVERS) == single | multistep | learned | {"amed", "amed-plugin", "epd", "epd-plugin"}


def test_spanlift_is_its_base_and_an_operator() -> None:
    base = core.build_solver("ipndm", order=2)
    solver = core.build_solver("spanlift", base=base, operator=core.ResidualConfig(2, width=4), schedule=core.EDM())
    assert isinstance(solver, core.Corrected)
    assert isinstance(solver.residual, core.SpanLiftResidual)
    assert solver.solver is base
    scalar = core.build_solver("spanlift", base=base, operator=core.ScalarConfig(3))
    assert isinstance(scalar, core.Corrected)
    assert isinstance(scalar.residual, core.ScalarResidual)
    with pytest.raises(ValueError, match="expected operator for 'spanlift', got none; pass its sizes"):
        core.build_solver("spanlift", base=base)


def test_names_give_solvers_in_time_or_in_the_noise_chart() -> None:
    vp = core.VP()
    assert core.build_solver("euler") == core.build_solver("ddim") == core.Euler(core.TimeChart())
    assert core.build_solver("ddim", schedule=vp) == core.Euler(core.NoiseChart(vp))
    assert core.build_solver("heun", schedule=vp) == core.Heun(core.NoiseChart(vp))
    assert core.build_solver("ipndm", order=3) == core.IPNDM(3)
    assert core.build_solver("ipndm") == core.IPNDM(4)
    assert core.build_solver("adams-bashforth", order=2, schedule=vp) == core.AdamsBashforth(2, core.NoiseChart(vp))
    assert core.build_solver("ddpm", schedule=vp, seeds=[4, 5]) == core.DDPM(vp, (4, 5))


@pytest.mark.parametrize(
    ("name", "order", "declared"),
    [("euler", 1, 1), ("heun", 2, 2), ("ipndm", 1, 1), ("ipndm", 4, 2), ("adams-bashforth", 1, 1)],
)
def test_declared_orders(name: str, order: int, declared: int) -> None:
    """Multistep methods that start with Euler are of order 2 at most, whatever their nominal order."""
    assert core.build_solver(name, order=order).order == declared


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "leapfrog"}, "expected a solver among euler, .*, got 'leapfrog'; choose one of these"),
        ({"name": "adams-bashfort"}, "got 'adams-bashfort'; did you mean 'adams-bashforth'?"),
        ({"name": "ipndm", "order": 5}, "expected an order from 1 to 4, got 5"),
        ({"name": "adams-bashforth", "order": 0}, "expected an order from 1 to 4, got 0"),
        ({"name": "heun", "order": 3}, "expected no order for 'heun', got 3; it takes schedule"),
        ({"name": "ddpm", "order": 1, "schedule": core.VP()}, "expected no order for 'ddpm', got 1; it takes schedule"),
        ({"name": "ddpm"}, "expected schedule for 'ddpm', got none; pass the schedule"),
        ({"name": "euler", "seeds": [1, 2]}, r"expected no seeds for 'euler', got \[1, 2\]; it takes schedule"),
    ],
)
def test_impossible_wishes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.build_solver(**arguments)

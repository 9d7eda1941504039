"""Every family of solvers against its rule in plain numpy, on two denoisers of images, at 1e-9.

The mixtures, noise and grids are written out by their formulas as well, so that no file of reference numbers is needed:
"img8" has data within [-1, 1], "img8L" data of three times that, where dynamic thresholding bites.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import core

F64 = torch.float64
AMED = {"r": 0.4, "scale_dir": 1.02, "scale_time": 0.95}
FACTORS = {"img8": 1.0, "img8L": 3.0}

Case = tuple[Callable[[], core.Solver], str, dict[str, Any]]
"""(our solver, name of the rule, its options)."""


def case(name: str, rule: str, options: dict[str, Any] | None = None, **rule_options: Any) -> Case:
    return (lambda: core.build_solver(name, **(options or {})), rule, rule_options)


def plugin(base: str, rule: str, options: dict[str, Any] | None = None, **rule_options: Any) -> Case:
    """AMED-Plugin over a base."""
    built = {"base": core.build_solver(base, **(options or {})), **AMED}
    return case("amed-plugin", rule, built, **_of_amed(), **rule_options)


def _of_amed() -> dict[str, Any]:
    return {"r": AMED["r"], "direction": AMED["scale_dir"], "time": AMED["scale_time"]}


ONE_CALL: dict[str, Case] = {
    "euler": case("euler", "multistep", k=1, weigh="even"),
    **{f"ipndm{k}": case("ipndm", "multistep", {"order": k}, k=k, weigh="even") for k in (1, 2, 3, 4)},
    **{f"ab{k}": case("adams-bashforth", "multistep", {"order": k}, k=k, weigh="exact") for k in (1, 2, 3, 4)},
    **{
        f"ipndmv{k}": case(
            "adams-bashforth",
            "multistep",
            {"order": k, "reference_compatible": True},
            k=k,
            weigh="misplaced_parenthesis",
        )
        for k in (2, 3)
    },
    **{
        f"deis{k}": case("deis", "multistep", {"order": k, "reference_compatible": True}, k=k, weigh="deis")
        for k in (2, 3, 4)
    },
    **{
        f"dpmpp{k}-{prediction}-{final}": case(
            "dpm-solver++",
            "dpm_pp",
            {"order": k, "prediction": prediction, "thresholding": True, "lower_order_final": final},
            k=k,
            noise=prediction == "noise",
            final=final,
        )
        for k in (1, 2, 3)
        for prediction in ("data", "noise")
        for final in (True, False)
    },
    **{
        f"unipc{k}-{variant}-{prediction}": case(
            "unipc",
            "unipc",
            {
                "order": k,
                "variant": variant,
                "prediction": prediction,
                "thresholding": True,
                "lower_order_final": True,
                "reference_compatible": True,
            },
            k=k,
            bh1=variant == "bh1",
            noise=prediction == "noise",
        )
        for k in (1, 2, 3)
        for variant in ("bh1", "bh2")
        for prediction in ("data", "noise")
    },
}
TWO_CALLS: dict[str, Case] = {
    "heun": case("heun", "heun"),
    "dpm2": case("dpm-solver-2", "dpm_solver_2", {"r": 0.5}),
    "dpm2-r0.3": case("dpm-solver-2", "dpm_solver_2", {"r": 0.3}, r=0.3),
    "amed": case("amed", "amed", AMED, **_of_amed()),
    "amed-euler": plugin("euler", "amed_plugin", k=1),
    **{f"amed-ipndm{k}": plugin("ipndm", "amed_plugin", {"order": k}, k=k) for k in (2, 3, 4)},
    "amed-dpm2": plugin("dpm-solver-2", "amed_dpm_solver_2"),
    **{
        f"amed-dpmpp{k}-{prediction}": plugin(
            "dpm-solver++",
            "amed_dpm_pp",
            {"order": k, "prediction": prediction, "thresholding": True},
            k=k,
            noise=prediction == "noise",
        )
        for k in (1, 2, 3)
        for prediction in ("data", "noise")
    },
}
GRIDS = {
    "poly7": ("karras", {"rho": 7.0}, lambda oracle, points: oracle.karras(points)),
    "logsnr": ("logsnr", {}, lambda oracle, points: oracle.logsnr(points)),
    "tu1": ("vp-uniform", {}, lambda oracle, points: oracle.vp_even(points, 1.0)),
    "tu2": ("vp-quadratic", {}, lambda oracle, points: oracle.vp_even(points, 2.0)),
}


def problem(brute_force: ModuleType, name: str) -> tuple[Any, Tensor]:
    """The oracle's mixture and unit noise (4, 3, 8, 8)."""
    k, c, i, j = np.ogrid[:4, :3, :8, :8]
    means = 0.7 * np.sin(0.35 * (k + 1) * (i + 1) + 0.9 * c) * np.cos(0.25 * (k + 1) * (j + 1) - 0.4 * c)
    model = brute_force.Model(FACTORS[name] * means, np.arange(1.0, 5.0), 0.15 + 0.05 * np.arange(4))
    return model, torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def compare(brute_force: ModuleType, made: Case, mixture: str, grid: str, steps: int, afs: bool) -> None:
    build, rule, options = made
    kind, grid_options, written = GRIDS[grid]
    times = core.build_grid(kind, steps=steps, t_max=80.0, t_min=0.002, **grid_options)
    np.testing.assert_allclose(times, written(brute_force, steps + 1), rtol=1e-9)
    model, z = problem(brute_force, mixture)
    options = {key: getattr(brute_force, value) if key == "weigh" else value for key, value in options.items()}
    expected = getattr(brute_force, rule)(model, z.numpy() * float(times[0]), times.numpy(), afs, **options)
    asked: list[float] = []

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return torch.from_numpy(model.denoise(x.numpy(), asked[-1]))

    with torch.no_grad():
        state = core.integrate(core.DenoiserField(denoiser), build(), z * times[0], times, afs=afs)
    np.testing.assert_allclose(asked, model.levels, rtol=1e-9)
    assert state.nfe == len(asked)
    np.testing.assert_allclose(state.x, expected, rtol=1e-9, atol=1e-9)
    assert steps < 4 or float(state.x.abs().max()) < 5 * FACTORS[mixture]  # images


@pytest.mark.parametrize("afs", [False, True])
@pytest.mark.parametrize("mixture", FACTORS)
@pytest.mark.parametrize("name", ONE_CALL)
def test_one_call_a_step(brute_force: ModuleType, name: str, mixture: str, afs: bool) -> None:
    for grid in ("poly7", "logsnr", "tu2"):
        for steps in (1, 2, 3, 6):
            compare(brute_force, ONE_CALL[name], mixture, grid, steps, afs)


@pytest.mark.parametrize("afs", [False, True])
@pytest.mark.parametrize("mixture", FACTORS)
@pytest.mark.parametrize("name", TWO_CALLS)
def test_two_calls_a_step(brute_force: ModuleType, name: str, mixture: str, afs: bool) -> None:
    for grid in ("poly7", "logsnr", "tu1"):
        for steps in (1, 2, 4):
            compare(brute_force, TWO_CALLS[name], mixture, grid, steps, afs)


@pytest.mark.parametrize("afs", [False, True])
@pytest.mark.parametrize("mixture", FACTORS)
@pytest.mark.parametrize("base", [None, 1, 2, 3])
def test_parallel_points(brute_force: ModuleType, base: int | None, mixture: str, afs: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    for steps, points in ((1, 2), (2, 2), (4, 3)):
        raw = torch.rand(4, steps, points, generator=generator, dtype=F64)
        w, r, direction, time = raw[0] / raw[0].sum(-1, keepdim=True), 0.1 + 0.8 * raw[1], 0.95 + raw[2] / 10, raw[3]
        tables = {"weights": w, "r": r, "scale_dir": direction, "scale_time": 0.9 + time / 5}
        written = dict(zip(("w", "r", "direction", "time"), (table.numpy() for table in tables.values()), strict=True))
        over = {} if base is None else {"base": core.build_solver("ipndm", order=base)}
        made = case("epd" if base is None else "epd-plugin", "epd", tables | over, **written, k=base or 1)
        compare(brute_force, made, mixture, "tu1", steps, afs)


@pytest.mark.parametrize("afs", [False, True])
@pytest.mark.parametrize("mixture", FACTORS)
@pytest.mark.parametrize("history", [1, 3, 6])
def test_learned_weights_and_times(brute_force: ModuleType, history: int, mixture: str, afs: bool) -> None:
    for seed, steps in enumerate((1, 2, 3, 6)):
        generator = torch.Generator().manual_seed(seed)
        start = core.build_solver("dyweight", grid=core.build_grid("karras", steps), history=history)
        band = start.band.double()  # pyright: ignore[reportAttributeAccessIssue]
        noise = torch.rand(steps, steps, generator=generator, dtype=F64) - 0.5
        w = start.weights.detach() + 0.1 * band * noise  # pyright: ignore[reportAttributeAccessIssue]
        scale = 0.9 + 0.2 * torch.rand(steps - afs, generator=generator, dtype=F64)
        if not len(scale):
            continue
        made = case("dyweight", "dyweight", {"weights": w, "time_scale": scale}, w=w.numpy(), scale=scale.numpy())
        compare(brute_force, made, mixture, "poly7", steps, afs)

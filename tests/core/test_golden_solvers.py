"""Arrays that public reference implementations produced, met in float64 at 1e-9.

The denoiser is an exact Gaussian mixture; `core.MixtureField` is one implementation of it (a velocity that divides by
nothing), the closed form written below as a denoiser the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import core

T_MAX, T_MIN = 80.0, 0.002
VP_END = 1e-3
KEY = re.compile(
    r"(?P<solver>(dyw:)?(euler|heun|ipndm[1-4])|ipndmv2|indep:ab_nonuniform[2-4])\|(?P<grid>\w+)\|afs(?P<afs>[01])"
    r"\|nfe(?P<nfe>\d+)\|(?P<mixture>r2|img8)\|(?P<dtype>f64|f32)$"
)
# the reference's own rounding, where it ran in single precision
TOLERANCE = {"f64": 1e-9, "f32": 1e-3}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        wanted = [name for name in arrays.files if not name.startswith(("unet/", "train/", "gits/"))]
        return {name: torch.from_numpy(arrays[name]) for name in wanted}


def mixture(golden: dict[str, Tensor], name: str, schedule: core.Schedule | None = None) -> core.MixtureField:
    means, weights, stds = (golden[f"gmm/{name}/{part}"] for part in ("means", "weights", "stds"))
    return core.MixtureField(means, weights, stds, schedule)


def denoiser(golden: dict[str, Tensor], name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """D(x; sigma) written out, apart from the engine."""
    means, weights, stds = (golden[f"gmm/{name}/{part}"].double() for part in ("means", "weights", "stds"))
    space = tuple(range(2, means.ndim + 1))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        variance = stds**2 + sigma**2
        off = x[:, None] - means
        logit = weights.log() - means[0].numel() / 2 * variance.log() - off.square().sum(space) / (2 * variance)
        column = (..., *(None,) * len(space))
        return (logit.softmax(1)[column] * (means + (stds**2 / variance)[column] * off)).sum(1)

    return denoise


def solver_of(name: str) -> core.Solver:
    name = name.removeprefix("dyw:")
    if name.startswith(("ipndmv", "indep:")):
        return core.build_solver("adams-bashforth", order=int(name[-1]))
    return core.build_solver("ipndm", order=int(name[-1])) if name.startswith("ipndm") else core.build_solver(name)


def grid_of(name: str, points: int) -> Tensor:
    """The references' grids; "tu" is even in the time of the VP schedule with these ends, or in its root."""
    if name in ("poly7", "logsnr"):
        return core.build_grid("karras" if name == "poly7" else name, points - 1, T_MAX, T_MIN, rho=7.0)
    first, last = np.log1p(T_MAX**2), np.log1p(T_MIN**2)
    growth = 2 * (last / VP_END - first) / (VP_END - 1)
    vp = core.VP(beta_min=first - growth / 2, beta_max=first + growth / 2)
    return vp.ratio(core.build_grid("uniform" if name == "tu1" else "quadratic", points - 1, 1.0, VP_END))


def check(
    golden: dict[str, Tensor], key: str, make_field: Callable[[dict[str, Tensor], str], core.VelocityField]
) -> None:
    found = KEY.match(key)
    assert found
    solver, afs, label = solver_of(found["solver"]), bool(int(found["afs"])), int(found["nfe"])
    evaluations = label + afs
    points = (evaluations // 2 if "heun" in key else evaluations) + 1
    grid = grid_of(found["grid"], points)
    times: list[float] = []
    field = make_field(golden, found["mixture"])

    class Spy:
        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            times.append(float(t))
            return field(x, t)

        def analytic_velocity(self, x: Tensor, t: Tensor) -> Tensor:
            return field.analytic_velocity(x, t)  # pyright: ignore

    x_T = golden[f"latents_unit/{found['mixture']}"].double() * grid[0]
    state = core.integrate(Spy(), solver, x_T, grid, afs)
    assert state.nfe == len(times) == label
    if f"times/{key}" in golden:
        torch.testing.assert_close(torch.tensor(times, dtype=torch.float64), golden[f"times/{key}"].double())
    tolerance = TOLERANCE[found["dtype"]]
    torch.testing.assert_close(state.x, golden[key].double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize(
    ("solver", "least"),
    [("euler", 24), ("heun", 24), ("ipndm1", 20), ("ipndm2", 24), ("ipndm3", 24), ("ipndm4", 24), ("ipndmv2", 24)]
    + [(f"indep:ab_nonuniform{k}", 24) for k in (2, 3, 4)],
)
def test_every_published_array_is_met(golden: dict[str, Tensor], solver: str, least: int, dtype: str) -> None:
    found = [key for key in golden if (m := KEY.match(key)) and m["solver"].endswith(solver) and m["dtype"] == dtype]
    if dtype == "f64":
        assert len(found) >= least
    for key in found:
        check(golden, key, mixture)


@pytest.mark.parametrize("solver", ["euler", "heun", "ipndm3", "indep:ab_nonuniform4"])
def test_a_denoiser_is_as_good_as_the_mixture_itself(golden: dict[str, Tensor], solver: str) -> None:
    for key in golden:
        found = KEY.match(key)
        if found and found["solver"] == solver and found["dtype"] == "f64":
            check(golden, key, lambda arrays, name: core.DenoiserField(denoiser(arrays, name)))


@pytest.mark.parametrize("name", ["r2", "img8", "img8L"])
@pytest.mark.parametrize("sigma", [80.0, 5.0, 0.5, 0.002])
def test_mixture_denoises_as_published(golden: dict[str, Tensor], name: str, sigma: float) -> None:
    key = f"denoiser_check/{name}/sigma{sigma}"
    if key not in golden:
        pytest.skip(f"no array {key}")
    t = torch.tensor(sigma, dtype=torch.float64)
    x = golden[f"latents_unit/{name}"].double() * max(sigma, 1.0)
    torch.testing.assert_close(mixture(golden, name).data(x, t), golden[key], rtol=1e-9, atol=1e-12)


def test_grids_are_the_published_ones(golden: dict[str, Tensor]) -> None:
    found = [m for key in golden if (m := re.match(r"sched/(\w+)/n(\d+)/f64$", key))]
    assert len(found) == 4 * 8
    for match in found:
        torch.testing.assert_close(grid_of(match[1], int(match[2])), golden[match[0]], rtol=1e-9, atol=0.0)


@pytest.mark.parametrize(("solver", "order"), [("ipndm", 4), ("heun", None)])
@pytest.mark.parametrize("name", ["r2", "img8"])
def test_teachers_of_35_points(golden: dict[str, Tensor], solver: str, order: int | None, name: str) -> None:
    """They end with the denoised state, which is an Euler step to zero noise."""
    grid, zero = golden["sched/poly7/n35/f64"], torch.zeros((), dtype=torch.float64)
    field = mixture(golden, name)
    x_T = golden[f"latents_unit/{name}"].double() * grid[0]
    state = core.integrate(field, core.build_solver(solver, order=order), x_T, grid)
    end = core.Euler().step(field, state, zero)
    title = f"dyw_teacher_{solver}{order or ''}_35_d2z|poly7|afs0|{name}|f64"
    torch.testing.assert_close(end.x, golden[title], rtol=1e-9, atol=1e-9)
    assert end.nfe == (69 if solver == "heun" else 35)


@pytest.mark.parametrize("steps", [3, 5, 7])
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_shifted_grid_of_rectified_flow(golden: dict[str, Tensor], steps: int, tokens: int) -> None:
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    grid = core.build_grid("shifted", steps, 1.0, 0.0, shift=float(np.exp(mu)))
    torch.testing.assert_close(grid, golden[f"flux_sched/seq{tokens}/nfe{steps}"].double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("steps", [3, 5, 7])
@pytest.mark.parametrize("name", ["r2", "img8"])
def test_euler_of_rectified_flow(golden: dict[str, Tensor], steps: int, name: str) -> None:
    field = mixture(golden, name, core.RectifiedFlow())
    grid = golden[f"flux_sched/seq1024/nfe{steps}"].double()
    state = core.integrate(field, core.build_solver("euler"), golden[f"latents_unit/{name}"].double(), grid)
    torch.testing.assert_close(state.x, golden[f"flow_euler|nfe{steps}|seq1024|{name}|f64"], rtol=1e-9, atol=1e-9)

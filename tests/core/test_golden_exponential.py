"""Arrays of public reference implementations for DPM-Solver-2, DPM-Solver++, UniPC and denoising to zero.

In float64 at 1e-9, on the published grids; rectified flow as diffusers runs it, in single precision.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import core

KEY = re.compile(
    r"(dyw:)?(?P<solver>dpm2|dpm2_r0\.3|dpmpp[123]\w*|unipc[123]\w*)\|(?P<grid>\w+)\|afs(?P<afs>[01])"
    r"\|(?P<unit>nfe|steps)(?P<count>\d+)\|(?P<mixture>r2|img8|img8L)\|(?P<dtype>f64|f32)$"
)
FLOW = re.compile(
    r"diffusers0\.42\.1\|(?P<solver>dpm|unipc)(?P<order>\d)_flow_shift3\|nfe(?P<steps>\d+)\|(?P<mixture>\w+)\|f32$"
)
# the reference's own rounding, where it ran in single precision
TOLERANCE = {"f64": 1e-9, "f32": 1e-3}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        wanted = [name for name in arrays.files if not name.startswith(("unet/", "train/", "gits/"))]
        return {name: torch.from_numpy(arrays[name]) for name in wanted}


def mixture(golden: dict[str, Tensor], name: str, schedule: core.Schedule | None = None) -> core.MixtureField:
    means, weights, stds = (golden[f"gmm/{name}/{part}"].double() for part in ("means", "weights", "stds"))
    return core.MixtureField(means, weights, stds, schedule)


def solver_of(name: str) -> core.Solver:
    if name.startswith("dpm2"):
        return core.build_solver("dpm-solver-2", r=0.3 if name.endswith("r0.3") else 0.5)
    order, prediction, final = int(name[5]), "noise" if "_eps" in name else "data", "_noLOF" not in name
    if name.startswith("dpmpp"):
        return core.build_solver(
            "dpm-solver++", order=order, prediction=prediction, thresholding=True, lower_order_final=final
        )
    return core.build_solver(
        "unipc",
        order=order,
        variant="bh1" if "bh1" in name else "bh2",
        prediction=prediction,
        thresholding=True,
        lower_order_final=final,
        reference_compatible="_short" in name,
    )


def check(golden: dict[str, Tensor], key: str, found: re.Match[str]) -> None:
    afs, count = bool(int(found["afs"])), int(found["count"])
    steps = count if found["unit"] == "steps" else (count + afs) // (2 if found["solver"].startswith("dpm2") else 1)
    grid = core.build_grid("karras" if found["grid"] == "poly7" else found["grid"], steps, 80.0, 0.002)
    field, times = mixture(golden, found["mixture"]), []

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        times.append(sigma)
        return field.data(x, sigma)

    x_T = golden[f"latents_unit/{found['mixture']}"].double() * grid[0]
    state = core.integrate(core.DenoiserField(denoiser), solver_of(found["solver"]), x_T, grid, afs=afs)
    assert state.nfe == len(times) == int(golden[f"nfe/{key}"])
    if f"times/{key}" in golden:
        torch.testing.assert_close(torch.stack(times), golden[f"times/{key}"])
    tolerance = TOLERANCE[found["dtype"]]
    torch.testing.assert_close(state.x, golden[key].double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize(
    ("solver", "least"),
    [("dpm2", 24), ("dpm2_r0.3", 12), ("dpmpp2", 40), ("dpmpp3", 40), ("unipc2_bh2", 40), ("unipc3_bh2", 40)]
    + [(f"dpmpp{k}{suffix}", 6) for k in (2, 3) for suffix in ("_eps", "_noLOF")]
    + [(f"unipc{k}_{suffix}", 6) for k in (2, 3) for suffix in ("bh1", "bh2_eps")]
    + [("unipc3", 16), ("dpmpp3_short", 2), ("unipc3_bh2_short", 2)],
)
def test_every_published_array_is_met(golden: dict[str, Tensor], solver: str, least: int, dtype: str) -> None:
    matches = {key: found for key in golden if (found := KEY.match(key))}
    mine = {key: found for key, found in matches.items() if found["solver"] == solver and found["dtype"] == dtype}
    assert dtype == "f32" or len(mine) >= least
    for key, found in mine.items():
        check(golden, key, found)


def test_a_short_run_is_not_corrected_at_its_end_by_default(golden: dict[str, Tensor]) -> None:
    """The published sampler spends a third call on two steps of order 3; ours does when asked."""
    grid = core.build_grid("karras", 2, 80.0, 0.002)
    field, x_T = mixture(golden, "r2"), golden["latents_unit/r2"].double() * grid[0]
    assert core.integrate(field, core.UniPC(3), x_T, grid).nfe == 2
    assert core.integrate(field, core.UniPC(3, reference_compatible=True), x_T, grid).nfe == 3


@pytest.mark.parametrize("name", ["r2", "img8"])
@pytest.mark.parametrize(
    ("solver", "points", "title"),
    [
        (core.IPNDM(4), 6, "ipndm4_d2z|poly7|afs0|nfe6"),
        (core.IPNDM(4), 35, "dyw_teacher_ipndm4_35_d2z|poly7|afs0"),
        (core.Heun(), 35, "dyw_teacher_heun_35_d2z|poly7|afs0"),
    ],
)
def test_denoised_endpoints(golden: dict[str, Tensor], solver: core.Solver, points: int, title: str, name: str) -> None:
    grid, key = core.build_grid("karras", points - 1, 80.0, 0.002), f"{title}|{name}|f64"
    x_T = golden[f"latents_unit/{name}"].double() * grid[0]
    state = core.integrate(mixture(golden, name), solver, x_T, grid, denoise=True)
    assert state.nfe == int(golden[f"nfe/{key}"])
    torch.testing.assert_close(state.x, golden[key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("solver", "name"), [("dpm", "dpm-solver++"), ("unipc", "unipc")])
def test_rectified_flow_as_diffusers_runs_it(golden: dict[str, Tensor], solver: str, name: str) -> None:
    """From sigma just below 1 to sigma = 0. Its DPM-Solver++ of order 3 lowers the order of the last but one step only
    below 15 steps, ours always."""
    schedule, met = core.RectifiedFlow(), 0
    for key in golden:
        found = FLOW.match(key)
        if (
            not found
            or found["solver"] != solver
            or (solver == "dpm" and found["order"] == "3" and found["steps"] == "20")
        ):
            continue
        grid = golden[f"diffusers_sched/{solver}{found['order']}_flow_shift3/n{found['steps']}/sigmas"].double()
        x_T = golden[f"latents_unit/{found['mixture']}"].double()
        made = core.build_solver(name, order=int(found["order"]), schedule=schedule)
        state = core.integrate(mixture(golden, found["mixture"], schedule), made, x_T, grid)
        assert state.nfe == int(found["steps"])
        torch.testing.assert_close(state.x, golden[key].double(), rtol=1e-5, atol=1e-5)
        met += 1
    assert met >= 14

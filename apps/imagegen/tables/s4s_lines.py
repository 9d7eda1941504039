"""S4S' tables whole: three solvers as they are and with learned coefficients, on every schedule, and S4S-Alt.

S4S: Frankel et al. 2025, arXiv 2502.17423; Tables 13 to 18 of its appendix, of which Tables 2 to 4 are excerpts. Its
schedules go by the names that they have there. Rows of learned coefficients on LD3's times are not here: our LD3 has
times of its own for the network, which S4S' multistep solver does not take over; S4S-Alt learns both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from apps.imagegen.tables.latent_lines import LATENT_SPECS, LatentSpec, s4s_teacher
from apps.imagegen.tables.lines import PLAIN, Line, Spec

SOLVERS = {"ipndm": "iPNDM", "dpm-solver++": "DPM-Solver++", "unipc": "UniPC"}
"""The handcrafted solvers, all of order 3."""
SIGMA_GRIDS = {
    "DMN": "dmn", "Time EDM": "karras", "GITS": "gits", "Time LogSNR": "logsnr", "Time Quadratic": "quadratic",
    "Time Uniform": "uniform",
}  # fmt: skip
"""Its schedules (appendix G.1), and what they are called here: grids of models in the clock sigma."""
VP_GRIDS = {**SIGMA_GRIDS, "Time Uniform": "discrete"}
"""Those of models whose network knows time by the entries of a table."""
PIXEL_TEACHER = s4s_teacher("logsnr", 20, held_out=200, pairs=700, batch=20, iterations=350)
"""Ten epochs of 700 pairs of UniPC in 20 calls on the log-SNR grid (appendix G.2)."""
COLUMNS = tuple(range(3, 11))


def s4s_lines(grids: Mapping[str, str], options: str, last: Line) -> tuple[Line, ...]:
    """All rows that this project has; none starts analytically, of which S4S says nothing.

    Args:
        grids: schedule -> grid.
        options: of the trainings of coefficients.
        last: the row of S4S-Alt.
    """
    rows = []
    for schedule, grid in grids.items():
        for solver, label in SOLVERS.items():
            rows += [
                Line(
                    label=f"{label}, {schedule}", solver=solver, order=3, grid=grid, starts=False, schedule=schedule,
                ),
                Line(
                    label=f"{label}-S4S, {schedule}", solver="s4s-lms", key=f"s4s-lms-{solver}{_suffix(grid)}",
                    base=solver, order=3, grid=grid, starts=False, options=options, schedule=schedule,
                    published_base=solver,
                ),
            ]  # fmt: skip
    rows += [_on_learned_times(solver, label, grids["Time LogSNR"], options) for solver, label in SOLVERS.items()]
    return (*rows, last)


def _suffix(grid: str) -> str:
    """Of a key; the one grid of the shorter tables of latent models goes without."""
    return "" if grid == "discrete" else f"-{grid}"


def _on_learned_times(solver: str, label: str, grid: str, options: str) -> Line:
    return Line(
        label=f"{label}, LD3", solver="ld3", key=f"ld3-{solver}-{grid}", base=solver, order=3, grid=grid, starts=False,
        options=options, schedule="LD3", published_solver=solver,
    )  # fmt: skip


def alternating(data: str, key: str, order: int = 3, setting: str | None = None) -> Line:
    """S4S-Alt from iPNDM.

    Args:
        data: part of the names of its recipes.
        key: see `Line`.
        order: evaluations that it weighs; 3 is that of the recipes.
        setting: of the published row; None where the table has one order.
    """
    return Line(
        label=f"S4S-Alt, order {order}" if setting else "S4S-Alt", solver="s4s-alt", key=key, base="ipndm",
        order=order, starts=False, recipe=f"s4s-alt-{data}", changes="" if order == 3 else f"--order {order}",
        schedule="learned", setting=setting,
    )  # fmt: skip


_NOTE = (
    "rows of DPM-Solver-v3, which takes statistics of the model, and of S4S on LD3's times are left out; S4S does not "
    "give the constants of its schedules, the grids of the same names here are ours"
)


def _pixels(title: str, data: str, model: str) -> Spec:
    lines = s4s_lines(SIGMA_GRIDS, PIXEL_TEACHER, alternating(data, PLAIN))
    return Spec(title=f"S4S by schedule: {title}", data=data, model=model, lines=lines, nfe=COLUMNS, note=_NOTE)


S4S_SPECS: Mapping[str, Spec] = MappingProxyType(
    {
        "s4s-cifar10": _pixels("CIFAR-10", "cifar10", "cifar10-32x32-uncond-vp"),
        "s4s-ffhq": _pixels("FFHQ", "ffhq", "ffhq-64x64-uncond-vp"),
        "s4s-afhqv2": _pixels("AFHQv2", "afhqv2", "afhqv2-64x64-uncond-vp"),
    }
)
"""Its tables of pixel models by name."""


def _latents(table: str, teacher_grid: str, teacher_nfe: int) -> LatentSpec:
    spec = LATENT_SPECS[table]
    options = s4s_teacher(teacher_grid, teacher_nfe, held_out=200, pairs=600, batch=20, iterations=300)
    lines = s4s_lines(VP_GRIDS, options, alternating(table, "s4s-alt"))
    return replace(spec, title=f"S4S by schedule: {spec.title}", lines=lines, nfe=COLUMNS[:6], note=_NOTE)


S4S_LATENT_SPECS: Mapping[str, LatentSpec] = MappingProxyType(
    {
        "s4s-imagenet256": _latents("imagenet256", "discrete", 10),
        "s4s-lsun-bedroom": _latents("lsun-bedroom", "discrete", 20),
        "s4s-sd14": _latents("sd14", "gits", 10),
    }
)
"""Its tables of latent models by name."""

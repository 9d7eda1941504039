"""Which rows, columns and scores the tables of latent models have, and how each row is made and found in the papers.

The columns are the papers'. Most count evaluations of the guided field, as `--nfe` of all commands does: DyWeight's of
Stable Diffusion counts network calls, of which guidance makes two an evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from apps.imagegen.tables.lines import METHODS, Line, Spec

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "teacher": "RMS distance of final latents to the teacher's",
        "fid": "Fréchet distance",
        "clip": "CLIP score",
        "image-reward": "ImageReward",
        "hps-v2.1": "HPS v2.1",
    }
)
"""What cells of these tables hold, by the name that the published numbers have; the first is never published."""
SCORERS: Mapping[str, str] = MappingProxyType({"clip": "clip", "image-reward": "image-reward", "hps-v2.1": "hpsv2"})
"""Scores of single images: published name -> name of the scorer."""


@dataclass(frozen=True)
class TeacherRecipe:
    """The many-step solver whose endpoints methods are held against: `solver`, its evaluations, its order."""

    solver: str
    nfe: int
    order: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSpec(Spec):
    """A table of a latent model.

    Attributes:
        teacher: whose endpoints final states are held against: DyWeight's and SpanLift's own where they have one for
            these data, else a run of many steps.
        metrics: of `METRICS`, those that the paper reports.
        counted: network calls that a column counts for each evaluation of the guided field.
        images: how many the published numbers are of.
        prompts: whether the model takes prompts.
        size, guidance: that the paper sampled with, where they are not the pipeline's own.
    """

    teacher: TeacherRecipe
    metrics: tuple[str, ...] = ("fid",)
    counted: int = 1
    images: int = 30_000
    prompts: bool = True
    size: int | None = None
    guidance: float | None = None

    def evaluations(self, column: int) -> int:
        """Of the guided field."""
        return column // self.counted


def _hand(label: str, solver: str, order: int = 2, grid: str | None = None, schedule: str | None = None) -> Line:
    return Line(label=label, solver=solver, order=order, starts=False, grid=grid, schedule=schedule)


def _dyweight(
    data: str, base: str = "ipndm", starts: bool = False, label: str = "DyWeight", setting: str | None = None
) -> Line:
    return Line(
        label=label, solver="dyweight", key="dyweight", base=base, order=2 if base == "ipndm" and not starts else None,
        starts=starts, recipe=f"dyweight-{data}", options="--loss mse=1" if data == "flux" else "", setting=setting,
    )  # fmt: skip


def _spanlift(data: str, starts: bool = False) -> Line:
    return Line(
        label="SpanLift", solver="spanlift", key="spanlift", base="dyweight", starts=starts, recipe=f"spanlift-{data}"
    )


def _operator(label: str, key: str, operator: str, kernel: int, setting: str) -> Line:
    return Line(
        label=label, solver="spanlift", key=key, base="dyweight", operator=operator, kernel=kernel, starts=False,
        setting=setting, recipe="spanlift-sana" if key == "spanlift" else "",
    )  # fmt: skip


SANA_OPERATORS = (
    _dyweight("sana", label="scalar (DyWeight)", setting="scalar"),
    _operator("pointwise", "spanlift-pointwise", "pointwise", 1, "pointwise"),
    _operator("spatial, 3 x 3", "spanlift", "spatial", 3, "spatial, first kernel"),
    _operator("spatial, 5 x 5", "spanlift-kernel5", "spatial", 5, "spatial, second kernel"),
    _operator("spatial, 7 x 7", "spanlift-kernel7", "spatial", 7, "spatial, third kernel"),
)

FLUX = (
    _hand("DPM-Solver++(2M)", "dpm-solver++"),
    _hand("iPNDM(2M)", "ipndm"),
    _dyweight("flux", base="euler"),
    _spanlift("flux"),
)


def _plugin(solver: str, label: str, calls: int) -> Line:
    return Line(label=label, solver=solver, key=solver, base="ipndm", calls=calls, order=2, starts=False)


UNIFORM = "Time Uniform"
"""S4S' name of steps that are even in the time of the network's table, `discrete` here."""


def s4s_teacher(grid: str, nfe: int, held_out: int, pairs: int, batch: int, iterations: int) -> str:
    """Options of S4S' trainings on latents (its appendix G.2)."""
    return (
        f"--loss lpips=1 --teacher unipc --teacher_nfe {nfe} --teacher_order 3 --teacher_grid {grid} --pairs {pairs} "
        f"--held_out {held_out} --batch {batch} --iterations {iterations}"
    )


def _s4s(data: str, grid: str, nfe: int) -> tuple[Line, ...]:
    """Rows of S4S' tables of latent models that this project has: one schedule, LD3's, and the learned one.

    Args:
        data: part of the names of recipes.
        grid, nfe: of its teacher, UniPC.
    """
    options = s4s_teacher(grid, nfe, held_out=200, pairs=600, batch=20, iterations=300)
    rows = []
    for solver, label in (("ipndm", "iPNDM"), ("dpm-solver++", "DPM-Solver++"), ("unipc", "UniPC")):
        rows += [
            _hand(f"{label}, uniform in time", solver, 3, "discrete", UNIFORM),
            Line(
                label=f"{label}-S4S, uniform in time", solver="s4s-lms", key=f"s4s-lms-{solver}", base=solver, order=3,
                starts=False, grid="discrete", options=options, schedule=UNIFORM, published_base=solver,
            ),
        ]  # fmt: skip
    rows += [
        Line(
            label=f"{label}, LD3", solver="ld3", key=f"ld3-{solver}", base=solver, order=3, starts=False,
            grid="discrete", schedule="LD3", published_solver=solver,
        )
        for solver, label in (("ipndm", "iPNDM"), ("unipc", "UniPC"))
    ]  # fmt: skip
    alt = Line(
        label="S4S-Alt", solver="s4s-alt", key="s4s-alt", base="ipndm", order=3, starts=False, grid="discrete",
        schedule="learned", recipe=f"s4s-alt-{data}",
    )  # fmt: skip
    ours = Line(label="DyWeight", solver="dyweight", key="dyweight", base="ipndm", starts=False, grid="discrete")
    return (*rows, alt, ours, _spanlift(data))


def _bedroom() -> tuple[Line, ...]:
    """The rows of the pixel models, and S4S as it is published for latent models."""
    kept = tuple(line for line in METHODS if line.key not in ("dyweight", "spanlift", "s4s-alt", "s4s-lms"))
    alt = Line(
        label="S4S-Alt", solver="s4s-alt", key="s4s-alt", base="ipndm", order=3, starts=False, grid="discrete",
        recipe="s4s-alt-lsun-bedroom",
    )  # fmt: skip
    return (*kept, alt, _dyweight("lsun-bedroom", starts=True), _spanlift("lsun-bedroom", starts=True))


_SANA = "published for SANA-0.6B at 1024 x 1024 on 25 000 prompts of MJHQ-30K"
_TWICE = "guidance is not counted twice: an evaluation of the guided field is one NFE in this table"
_OURS = "no SpanLift is published for these data: its row, and what trains it, are ours"

LATENT_SPECS: Mapping[str, LatentSpec] = MappingProxyType(
    {
        "sana": LatentSpec(
            title="SANA-0.6B, MJHQ-30K", data="sana-mjhq", model="sana-0.6b",
            lines=(_hand("iPNDM(2M)", "ipndm"), _dyweight("sana"), _spanlift("sana")),
            teacher=TeacherRecipe("ipndm", 20, 2), nfe=(3, 5, 7), metrics=("fid", "image-reward"), images=25_000,
            note=f"{_SANA}; {_TWICE}",
        ),
        "sana-operators": LatentSpec(
            title="Classes of operators, SANA-0.6B", data="sana-mjhq", model="sana-0.6b", lines=SANA_OPERATORS,
            teacher=TeacherRecipe("ipndm", 20, 2), nfe=(5,), metrics=("fid", "image-reward"), images=25_000,
            note=f"{_SANA}; the sizes of its kernels are not known to us and stand here in the order of the table",
        ),
        "flux": LatentSpec(
            title="FLUX.1-dev, MS-COCO", data="ms-coco-flux", model="flux-dev", lines=FLUX, nfe=(3, 5, 7),
            teacher=TeacherRecipe("euler", 28),
            metrics=("fid", "clip"), size=512, guidance=3.5,
            note="published for 30 000 captions of MS-COCO at 512 x 512; SpanLift's numbers are in an appendix that we "
            "do not have",
        ),
        "flux-drawbench": LatentSpec(
            title="FLUX.1-dev, DrawBench", data="drawbench-flux", model="flux-dev", lines=FLUX, nfe=(5, 7, 9),
            teacher=TeacherRecipe("euler", 28),
            metrics=("clip", "hps-v2.1", "image-reward"), images=200, size=512, guidance=3.5,
            note="DyWeight is that of MS-COCO, trained on none of these prompts; the paper gives no size of images, "
            "512 is that of its MS-COCO table",
        ),
        "sd15": LatentSpec(
            title="Stable Diffusion v1.5, MS-COCO", data="ms-coco-sd15", model="sd15",
            lines=(
                _hand("iPNDM(2M)", "ipndm"), _hand("DPM-Solver++(2M)", "dpm-solver++"), _hand("UniPC(2M)", "unipc"),
                _plugin("amed-plugin", "AMED-Plugin", 2), _plugin("epd-plugin", "EPD-Plugin", 0),
                _dyweight("sd15"), _spanlift("sd15"),
            ),
            teacher=TeacherRecipe("ipndm", 50, 2), nfe=(8, 12, 16, 20), metrics=("fid", "clip"), counted=2, size=512,
            guidance=7.5,
            note="columns count network calls as DyWeight's table does, two for each evaluation of the guided field: "
            f"column 8 is --nfe 4 of all commands; {_OURS}",
        ),
        "sd14": LatentSpec(
            title="Stable Diffusion v1.4, MS-COCO", data="ms-coco-sd14", model="sd14", lines=_s4s("sd14", "gits", 10),
            teacher=TeacherRecipe("ipndm", 50, 2), nfe=(3, 4, 5, 6, 7, 8), size=512, guidance=7.5,
            note="published by S4S for several scales of guidance, 7.5 here; rows of other schedules are left out; "
            f"{_TWICE}; no DyWeight is published either; {_OURS}",
        ),
        "lsun-bedroom": LatentSpec(
            title="LSUN-Bedroom, latent diffusion, 256 x 256", data="lsun-bedroom", model="ldm-bedroom",
            lines=_bedroom(), teacher=TeacherRecipe("ipndm", 35, 3), nfe=(3, 5, 7, 9), images=50_000, prompts=False,
            note=_OURS,
        ),
        "imagenet256": LatentSpec(
            title="ImageNet, latent diffusion, 256 x 256", data="imagenet256", model="ldm-imagenet256",
            lines=_s4s("imagenet256", "discrete", 10), teacher=TeacherRecipe("ipndm", 50, 3), nfe=(3, 4, 5, 6, 7, 8),
            images=50_000, prompts=False, guidance=2.0,
            note=f"published by S4S with a guidance of 2; {_TWICE}; no DyWeight is published either; {_OURS}",
        ),
    }
)  # fmt: skip
"""The tables of latent models by name."""

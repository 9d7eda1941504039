"""Which rows and columns the tables have, and how each row is made and found in the papers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

RECIPES = Path(__file__).parents[1] / "configs"
"""Options of published trainings, see `apps.imagegen.train_options.CONFIGS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row.

    Attributes:
        label: of the row.
        solver: as in `core.SOLVERS`.
        key: of the folder that holds its trained solvers, `KEY-nfeN`; empty for handcrafted ones.
        base: solver that a SpanLift row corrects.
        operator, kernel: of a SpanLift row.
        calls: network calls a step; 0 where they depend on parallel evaluations. Methods of two calls start
            analytically at odd numbers of calls alone.
        by_steps: the columns count the steps of methods with one call a step, and this row takes as many.
        starts: whether its first step is analytic where the calls allow.
        order, grid: that it is built with; None is what suits solver and model.
        recipe: name of the training recipe, `RECIPE-nfeCOLUMN`, where the project has one; else options are spelt out.
        options: of its training, where there is no recipe.
        changes: options that its training has in place of those of the recipe, or beside the others.
        setting, schedule, published_base: of the published row, see `apps.imagegen.published.Row`.
        published_solver: method of that row, where it is another than `solver`.
    """

    label: str
    solver: str
    key: str = ""
    base: str | None = None
    operator: str = "spatial"
    kernel: int = 3
    calls: int = 1
    by_steps: bool = False
    starts: bool = True
    order: int | None = None
    grid: str | None = None
    recipe: str = ""
    options: str = ""
    changes: str = ""
    setting: str | None = None
    schedule: str | None = None
    published_base: str | None = None
    published_solver: str | None = None

    @property
    def learned(self) -> bool:
        return bool(self.key)

    def spent(self, nfe: int) -> int:
        """Network calls in the column `nfe`: with an analytic first step there are nfe + 1 steps, of which the first
        of a two-call method costs one and the others two."""
        return self.calls * (nfe + 1) - 1 if self.by_steps else nfe

    def analytic(self, nfe: int) -> bool | None:
        """Whether the first step is analytic, as in the papers: always, but for even numbers of two-call methods and
        rows that never start so; None where the calls decide."""
        if not self.calls:
            return None
        odd = self.spent(nfe) % self.calls == 1
        return odd if self.calls > 1 else self.starts

    def train_command(self, model: str, nfe: int, folder: str, also: str = "") -> str:
        """What trains the solver of the column; `also` are further options, as the model's prompts."""
        also = f" {also}" if also else ""
        recipe = f"{self.recipe}-nfe{nfe}"
        if self.recipe and (RECIPES / f"{recipe}.yaml").is_file():
            parts = [f"python -m apps.imagegen.train --config {recipe} --model {model}{also}"]
            if self.base == BASE.solver:
                parts.append(f"--base_path {BASE.place(self.spent(nfe), folder)}")
            return " ".join([*parts, *filter(None, [self.changes]), f"--out {self.place(nfe, folder)}"])
        parts = [f"python -m apps.imagegen.train --model {model}{also} --solver {self.solver}"]
        if self.base:
            parts.append(f"--base {self.base}")
        if self.order:
            parts.append(f"--order {self.order}")
        if self.grid:
            parts.append(f"--grid {self.grid}")
        if self.base == BASE.solver:  # the one that has a row of its own, so that the rows differ by the operator alone
            parts.append(f"--base_path {BASE.place(self.spent(nfe), folder)}")
        if self.solver == "spanlift" and self.operator != "spatial":
            parts.append(f"--operator {self.operator}")
        if self.solver == "spanlift" and self.operator == "spatial" and self.kernel != 3:
            parts.append(f"--kernel {self.kernel}")
        parts.append(f"--nfe {self.spent(nfe)}")
        if self.analytic(nfe):
            parts.append("--afs true")
        parts += filter(None, [self.options, self.changes])
        return " ".join([*parts, f"--out {self.place(nfe, folder)}"])

    def place(self, nfe: int, folder: str) -> str:
        """Folder of the trained solver of the column."""
        return f"{folder}/{self.key}-nfe{self.spent(nfe)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A table.

    Attributes:
        title: of the table.
        data: published data set; None where the papers have no such table.
        model: that is taken where none is given.
        lines: rows.
        nfe: columns.
        note: what a reader must know to compare.
    """

    title: str
    data: str | None
    model: str
    lines: tuple[Line, ...]
    nfe: tuple[int, ...] = (3, 4, 5, 6)
    note: str = ""

    @property
    def base(self) -> Line:
        """The row whose trained solver SpanLift corrects, where the table has one."""
        return next((line for line in self.lines if line.key == BASE.key), BASE)

    def evaluations(self, column: int) -> int:
        """What `--nfe` of all commands is, for a column."""
        return column


def _learned(solver: str, label: str, base: str | None = None, calls: int = 1) -> Line:
    return Line(label=label, solver=solver, key=solver, base=base, calls=calls)


BASE = _learned("dyweight", "DyWeight", "ipndm")
"""The learned base of SpanLift."""

METHODS = (
    Line(label="iPNDM", solver="ipndm"),
    Line(label="DPM-Solver++", solver="dpm-solver++"),
    Line(label="UniPC", solver="unipc"),
    _learned("amed", "AMED-Solver", calls=2),
    _learned("amed-plugin", "AMED-Plugin", "ipndm", calls=2),
    _learned("epd", "EPD-Solver", calls=0),
    _learned("epd-plugin", "EPD-Plugin", "ipndm", calls=0),
    _learned("ld3", "LD3", "ipndm"),
    _learned("dlms", "DLMS", "ipndm"),
    Line(label="iPNDM-S4S", solver="s4s-lms", key="s4s-lms", base="ipndm", schedule="Time EDM", published_base="ipndm"),
    _learned("s4s-alt", "S4S-Alt", "ipndm"),
    BASE,
    _learned("spanlift", "SpanLift", "dyweight"),
)
"""Rows of the papers' tables of image generation, and iPNDM-S4S on EDM's grid from S4S."""


def _operator(label: str, key: str, operator: str, kernel: int, setting: str | None) -> Line:
    return Line(
        label=label, solver="spanlift", key=key, base="dyweight", operator=operator, kernel=kernel, setting=setting
    )


OPERATORS = (
    Line(label="scalar (DyWeight)", solver="dyweight", key="dyweight", base="ipndm", setting="scalar"),
    _operator("pointwise", "spanlift-pointwise", "pointwise", 1, "pointwise"),
    _operator("spatial, 3 x 3", "spanlift", "spatial", 3, "spatial, first kernel"),
    _operator("spatial, 5 x 5", "spanlift-kernel5", "spatial", 5, "spatial, second kernel"),
    _operator("spatial, 7 x 7", "spanlift-kernel7", "spatial", 7, "spatial, third kernel"),
)


def _pair(base: str, label: str, calls: int = 1) -> tuple[Line, Line]:
    learned = base if base == "dyweight" else ""
    start = "ipndm" if learned else None
    lift = "spanlift" if learned else f"spanlift-{base}"
    return (
        Line(label=label, solver=base, key=learned, base=start, calls=calls, by_steps=True),
        Line(
            label=f"{label} + SpanLift", solver="spanlift", key=lift, base=base, calls=calls, by_steps=True,
            published_base=base,
        ),
    )  # fmt: skip


BASES = tuple(
    line
    for pair in (
        _pair("euler", "Euler"),
        _pair("heun", "Heun", 2),
        _pair("ipndm", "iPNDM"),
        _pair("dyweight", "DyWeight"),
    )
    for line in pair
)

PLAIN = "s4s-alt-plain"
"""Key of S4S-Alt as published, without an analytic first step."""


def of_paper(lines: tuple[Line, ...], data: str) -> tuple[Line, ...]:
    """The rows with their trainings by the papers' recipes for the data, where there are any."""
    found = []
    for line in lines:
        if line.solver in ("dyweight", "spanlift"):
            line = replace(line, recipe=f"{line.key}-{data}")
        elif line.solver == "s4s-alt" and data in OF_S4S:
            line = replace(line, key=PLAIN, order=3, starts=False, recipe=f"s4s-alt-{data}")
        found.append(line)
    return tuple(found)


OF_S4S = ("cifar10", "ffhq", "afhqv2")
"""Pixel models that S4S has."""
IMAGENET64 = "imagenet-64x64-cond-adm"
_BY_STEPS = "columns are matched by steps, as in the paper: Heun's method takes 15, 19 and 23 calls at 7, 9, 11"

SPECS: Mapping[str, Spec] = MappingProxyType(
    {
        "digits": Spec(
            title="Digits, 16 x 16", data=None, model="digits", lines=METHODS
        ),
        "cifar10": Spec(
            title="CIFAR-10, 32 x 32", data="cifar10", model="cifar10-32x32-uncond-vp",
            lines=of_paper(METHODS, "cifar10"),
        ),
        "ffhq": Spec(
            title="FFHQ, 64 x 64", data="ffhq", model="ffhq-64x64-uncond-vp", lines=of_paper(METHODS, "ffhq"),
        ),
        "afhqv2": Spec(
            title="AFHQv2, 64 x 64", data="afhqv2", model="afhqv2-64x64-uncond-vp", lines=of_paper(METHODS, "afhqv2"),
        ),
        "imagenet64": Spec(
            title="ImageNet, 64 x 64", data="imagenet64", model=IMAGENET64, lines=of_paper(METHODS, "imagenet64"),
        ),
        "operators": Spec(
            title="Classes of operators", data="sana-mjhq", model="digits", lines=OPERATORS,
            nfe=(5,),
            note="published for SANA-0.6B on MJHQ-30K at 5 calls; the sizes of its kernels are not known to us and "
            "stand here in the order of the table",
        ),
        "base-solvers": Spec(
            title="Base solvers with and without SpanLift", data="imagenet64", model="digits",
            lines=BASES, nfe=(7, 9, 11),
            note=f"{_BY_STEPS}; published for ImageNet-64",
        ),
        "base-solvers-imagenet64": Spec(
            title="Base solvers with and without SpanLift, ImageNet, 64 x 64", data="imagenet64", model=IMAGENET64,
            lines=of_paper(BASES, "imagenet64"), nfe=(7, 9, 11), note=_BY_STEPS,
        ),
    }
)  # fmt: skip
"""The tables of Fréchet distances by name."""

SPAN_BASES = ("euler", "ipndm", "dyweight")
"""Bases of the table of out-of-span ratios (SpanLift, Table 6)."""
SPAN_LINES = tuple(line for line in BASES if line.solver == "spanlift" and line.base in SPAN_BASES)

"""Tables of ablations: what a method is trained on, from and with, each row a training that differs in one thing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from apps.imagegen.tables.lines import IMAGENET64, PLAIN, Line, Spec
from apps.imagegen.tables.s4s_lines import PIXEL_TEACHER, alternating

TEACHERS = (
    ("iPNDM (18)", "ipndm18", "--teacher_nfe 18"),
    ("iPNDM (35)", "", ""),
    ("iPNDM (50)", "ipndm50", "--teacher_nfe 50"),
    ("DPM-Solver-2 (35)", "dpm-solver-2", "--teacher dpm-solver-2 --teacher_nfe 71"),
    ("Heun (35)", "heun", "--teacher heun --teacher_nfe 71"),
)
"""Label, key and options: DyWeight's Table 5 counts steps, of two calls with the last two, and one for the data."""


def _dyweight(data: str, label: str, key: str = "", changes: str = "", setting: str = "", base: str = "ipndm") -> Line:
    """A row of DyWeight: its recipe for the data, with changes."""
    return Line(
        label=label, solver="dyweight", key=f"dyweight-{key}" if key else "dyweight", base=base,
        recipe=f"dyweight-{data}", changes=changes, setting=setting,
    )  # fmt: skip


def _supervision(data: str) -> tuple[Line, ...]:
    return (
        Line(label="iPNDM", solver="ipndm"),
        _dyweight(data, "DyWeight, path", "path", "--supervision path", "path supervision"),
        _dyweight(data, "DyWeight, endpoint", setting="endpoint supervision"),
    )


def _initialization(data: str) -> tuple[Line, ...]:
    weights, times = "weights initialization: ", "time schedule initialization: "
    return (
        _dyweight(data, "Adams-Bashforth, EDM times", setting=f"{weights}Adams-Bashforth"),
        _dyweight(data, "Euler, EDM times", "euler", "--base euler", f"{weights}Euler", "euler"),
        _dyweight(data, "Adams-Bashforth, uniform times", "uniform-times", "--grid uniform", f"{times}Time Uniform"),
        _dyweight(data, "Adams-Bashforth, log-SNR times", "logsnr-times", "--grid logsnr", f"{times}LogSNR"),
    )


def _pairs(data: str) -> tuple[Line, ...]:
    """More pairs at as many iterations for each: once over all of them."""
    more = [
        _dyweight(
            data, f"{k}K pairs", f"pairs{k}k", f"--pairs {k}000 --iterations {k * 1000 // 16}", f"{k}K training pairs"
        )
        for k in (20, 30)
    ]  # fmt: skip
    return (_dyweight(data, "10K pairs", setting="10K training pairs"), *more)


LOGSNR = "Time LogSNR"
SINGLE_STEP = (
    Line(
        label="DPM-Solver (2S)", solver="dpm-solver-2", calls=2, starts=False, grid="logsnr", schedule=LOGSNR,
        setting="order 2",
    ),
    Line(
        label="DPM-Solver-S4S (2S)", solver="s4s-ss", key="s4s-ss-dpm-solver-2-logsnr", base="dpm-solver-2", calls=2,
        starts=False, grid="logsnr", options=PIXEL_TEACHER, schedule=LOGSNR, published_base="dpm-solver",
        setting="order 2",
    ),
    Line(
        label="iPNDM-S4S (3M)", solver="s4s-lms", key="s4s-lms-ipndm-logsnr", base="ipndm", order=3, starts=False,
        grid="logsnr", options=PIXEL_TEACHER, schedule=LOGSNR, published_base="ipndm", setting="order 3",
    ),
)  # fmt: skip

CIFAR10, FFHQ, AFHQV2 = "cifar10-32x32-uncond-vp", "ffhq-64x64-uncond-vp", "afhqv2-64x64-uncond-vp"

ABLATIONS: Mapping[str, Spec] = MappingProxyType(
    {
        "dyweight-teachers": Spec(
            title="DyWeight by teacher, CIFAR-10", data="cifar10", model=CIFAR10, nfe=(3, 5, 7, 9),
            lines=tuple(
                _dyweight("cifar10", label, key and f"of-{key}", changes, f"teacher {label}")
                for label, key, changes in TEACHERS
            ),
            note="in parentheses the teacher's steps; 35 steps of two calls and the last one for the data are 71 calls",
        ),
        "dyweight-supervision-cifar10": Spec(
            title="DyWeight by supervision, CIFAR-10", data="cifar10", model=CIFAR10, nfe=(3, 5, 7, 9),
            lines=_supervision("cifar10"),
        ),
        "dyweight-supervision-imagenet64": Spec(
            title="DyWeight by supervision, ImageNet, 64 x 64", data="imagenet64", model=IMAGENET64, nfe=(3, 5, 7, 9),
            lines=_supervision("imagenet64"),
        ),
        "dyweight-initialization-cifar10": Spec(
            title="DyWeight by initialisation, CIFAR-10", data="cifar10", model=CIFAR10, nfe=(4, 6, 8),
            lines=_initialization("cifar10"),
            note="the paper's first rows of weights and of times are one training; uniform weights are left out",
        ),
        "dyweight-initialization-afhqv2": Spec(
            title="DyWeight by initialisation, AFHQv2", data="afhqv2", model=AFHQV2, nfe=(4, 6, 8),
            lines=_initialization("afhqv2"),
            note="the paper's first rows of weights and of times are one training; uniform weights are left out",
        ),
        "dyweight-pairs-cifar10": Spec(
            title="DyWeight by number of teacher samples, CIFAR-10", data="cifar10", model=CIFAR10, nfe=(4, 6, 8),
            lines=_pairs("cifar10"),
        ),
        "dyweight-pairs-imagenet64": Spec(
            title="DyWeight by number of teacher samples, ImageNet, 64 x 64", data="imagenet64", model=IMAGENET64,
            nfe=(4, 6, 8), lines=_pairs("imagenet64"),
        ),
        "s4s-order": Spec(
            title="S4S-Alt by order, FFHQ", data="ffhq", model=FFHQ, nfe=(4, 6, 8),
            lines=tuple(
                alternating("ffhq", PLAIN if order == 3 else f"s4s-alt-order{order}", order, f"order {order}")
                for order in (3, 4, 6)
            ),
            note="an order above the steps is that of the steps; rows of S4S on LD3's times are left out",
        ),
        "s4s-single-step": Spec(
            title="S4S of single-step solvers, FFHQ", data="ffhq", model=FFHQ, nfe=(4, 6, 8), lines=SINGLE_STEP,
            note="DPM-Solver of order 3, single step, is not among the solvers here",
        ),
    }
)  # fmt: skip
"""The tables by name: DyWeight's 5, A.2, A.3 and A.4, S4S' 5 and 8."""

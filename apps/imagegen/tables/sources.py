"""Which tables of the papers each table of `apps.imagegen.benchmark` follows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SOURCES: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "cifar10": {"spanlift": ("2(a)",), "dyweight": ("1(a)", "A.5")},
        "ffhq": {"spanlift": ("2(c)",), "dyweight": ("1(b)", "A.6")},
        "afhqv2": {"spanlift": ("2(d)",), "dyweight": ("1(c)", "A.7")},
        "imagenet64": {"spanlift": ("2(b)",), "dyweight": ("1(d)", "A.8")},
        "operators": {"spanlift": ("1",)},
        "base-solvers": {"spanlift": ("5",)},
        "base-solvers-imagenet64": {"spanlift": ("5",)},
        "out-of-span": {"spanlift": ("6",)},
        "overhead": {"spanlift": ("7",)},
        "sana": {"spanlift": ("3",)},
        "sana-operators": {"spanlift": ("1",)},
        "flux": {"dyweight": ("2",)},
        "flux-drawbench": {"dyweight": ("3",)},
        "sd15": {"dyweight": ("1(f)", "4")},
        "lsun-bedroom": {"dyweight": ("1(e)", "A.9")},
        "sd14": {"s4s": ("3", "18")},
        "imagenet256": {"s4s": ("2", "16")},
        "dyweight-teachers": {"dyweight": ("5",)},
        "dyweight-supervision-cifar10": {"dyweight": ("A.2",)},
        "dyweight-supervision-imagenet64": {"dyweight": ("A.2",)},
        "dyweight-initialization-cifar10": {"dyweight": ("A.3",)},
        "dyweight-initialization-afhqv2": {"dyweight": ("A.3",)},
        "dyweight-pairs-cifar10": {"dyweight": ("A.4",)},
        "dyweight-pairs-imagenet64": {"dyweight": ("A.4",)},
        "s4s-order": {"s4s": ("5",)},
        "s4s-single-step": {"s4s": ("8",)},
        "s4s-afhqv2": {"s4s": ("13",)},
        "s4s-cifar10": {"s4s": ("2", "3", "4", "10", "14")},
        "s4s-ffhq": {"s4s": ("10", "15")},
        "s4s-imagenet256": {"s4s": ("2", "16")},
        "s4s-lsun-bedroom": {"s4s": ("17",)},
        "s4s-sd14": {"s4s": ("3", "4", "18")},
    }
)
"""Table -> key of a paper -> numbers of its tables, of which it may have some of the rows. Others are ours."""

COLUMNS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("cifar10", "ffhq", "afhqv2", "imagenet64", "lsun-bedroom"), tuple(range(3, 10))),
        "out-of-span": (7,),
    }
)
"""Columns that the papers have together, where they are more than the table shows without --nfe."""

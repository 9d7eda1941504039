"""All tables of the command by name: of pixel models, of latent models, and those that measure no samples."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from apps.imagegen.tables.ablation_lines import ABLATIONS
from apps.imagegen.tables.latent_lines import LATENT_SPECS, LatentSpec
from apps.imagegen.tables.lines import SPECS, Spec
from apps.imagegen.tables.s4s_lines import S4S_LATENT_SPECS, S4S_SPECS

PIXEL_TABLES: Mapping[str, Spec] = MappingProxyType({**SPECS, **ABLATIONS, **S4S_SPECS})
LATENT_TABLES: Mapping[str, LatentSpec] = MappingProxyType({**LATENT_SPECS, **S4S_LATENT_SPECS})
TABLES: Mapping[str, str] = MappingProxyType(
    {
        **{name: spec.title for name, spec in (*PIXEL_TABLES.items(), *LATENT_TABLES.items())},
        "out-of-span": "Part of SpanLift's correction outside the span of the velocities",
        "overhead": "Parameters, operations and time that SpanLift adds",
    }
)
"""Name -> title."""

"""Learned solvers, one method per file: built equal to a handcrafted one, trained by `core.training`, kept by
`core.checkpoints`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from core.solvers.learned.amed import AMEDConfig, LearnedAMED, LearnedAMEDPlugin
from core.solvers.learned.base import Learned, LearnedConfig, check_grid
from core.solvers.learned.bns import NonStationary
from core.solvers.learned.dlms import DynamicConfig, DynamicMultistep
from core.solvers.learned.dyweight import DyWeight, DyWeightConfig
from core.solvers.learned.epd import EPDConfig, LearnedEPD, LearnedEPDPlugin
from core.solvers.learned.increments import StudentConfig
from core.solvers.learned.ld3 import LD3, LD3Config
from core.solvers.learned.s4s_alt import AlternatingConfig, S4SAlternating
from core.solvers.learned.s4s_lms import S4SMultistep
from core.solvers.learned.s4s_pc import S4SPredictorCorrector
from core.solvers.learned.s4s_ss import S4SSingleStep

CONFIGS: Mapping[type[Learned], type] = MappingProxyType(
    {
        DyWeight: DyWeightConfig,
        LD3: LD3Config,
        LearnedAMED: AMEDConfig,
        LearnedAMEDPlugin: AMEDConfig,
        LearnedEPD: EPDConfig,
        LearnedEPDPlugin: EPDConfig,
        S4SMultistep: StudentConfig,
        S4SSingleStep: StudentConfig,
        S4SPredictorCorrector: StudentConfig,
        S4SAlternating: AlternatingConfig,
        NonStationary: StudentConfig,
        DynamicMultistep: DynamicConfig,
    }
)
"""Each learned solver with its configuration: what a checkpoint may name."""

LEARNED: Mapping[str, type[Learned]] = MappingProxyType({solver.kind: solver for solver in CONFIGS})
"""Learned solvers by name."""

__all__ = ["CONFIGS", "LEARNED", "Learned", "LearnedConfig", "check_grid"]

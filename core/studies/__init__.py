"""Controlled studies on problems whose exact solution is known: small, on one core, each a function with seeds."""

from __future__ import annotations

from core.studies.bases import BaseRow, study_bases
from core.studies.coefficients import CoefficientRow, CoefficientStudy, study_coefficients, teacher_errors
from core.studies.coupled_drift import CoupledDrift
from core.studies.coupling import CouplingRow, CouplingStudy, SineField, study_coupling
from core.studies.decomposition import DecompositionRow, DecompositionStudy, study_decomposition
from core.studies.floors import FloorRow, floor_rows

__all__ = [
    "BaseRow",
    "CoefficientRow",
    "CoefficientStudy",
    "CoupledDrift",
    "CouplingRow",
    "CouplingStudy",
    "DecompositionRow",
    "DecompositionStudy",
    "FloorRow",
    "SineField",
    "floor_rows",
    "study_bases",
    "study_coefficients",
    "study_coupling",
    "study_decomposition",
    "teacher_errors",
]

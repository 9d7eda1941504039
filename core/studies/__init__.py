"""Controlled studies on problems whose exact solution is known: small, on one core, each a function with seeds."""

from __future__ import annotations

from core.studies.coefficients import CoefficientRow, CoefficientStudy, CoupledDrift, study_coefficients
from core.studies.coupling import CouplingRow, CouplingStudy, SineField, study_coupling

__all__ = [
    "CoefficientRow",
    "CoefficientStudy",
    "CoupledDrift",
    "CouplingRow",
    "CouplingStudy",
    "SineField",
    "study_coefficients",
    "study_coupling",
]

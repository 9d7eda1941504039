"""What a step can reach and what a correction does: parts inside and outside the span of the buffered slopes, the local
floor of scalar updates, relative magnitudes, orders of convergence (SpanLift, 3.1, 5.3).

An update is a change of x in the chart of a solver: the next state less the state carried along unchanged,
`keep` * x, which is x itself in the time chart. There a scalar update is a combination of the buffered slopes.
"""

from __future__ import annotations

from core.analysis.convergence import ErrorPoint, error_against_nfe, measured_order
from core.analysis.corrections import CorrectionSize, StepAnalysis, analyse_corrections, correction_sizes
from core.analysis.local import Flow, LocalFloor, LocalParts, Refined, local_floors, local_parts
from core.analysis.sensitivity import Sensitivity, sensitivity
from core.analysis.span import Split, project, relative_magnitude, without_chord

__all__ = [
    "CorrectionSize",
    "ErrorPoint",
    "Flow",
    "LocalFloor",
    "LocalParts",
    "Refined",
    "Sensitivity",
    "Split",
    "StepAnalysis",
    "analyse_corrections",
    "correction_sizes",
    "error_against_nfe",
    "local_floors",
    "local_parts",
    "measured_order",
    "project",
    "relative_magnitude",
    "sensitivity",
    "without_chord",
]

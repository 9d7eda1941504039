"""The engine: few-step solvers for diffusion and flow models, and the residual operators that correct them."""

from __future__ import annotations

from core.charts import Chart, DataChart, NoiseChart, TimeChart
from core.checkpoints import Card, load, save
from core.fields import (
    DenoiserField,
    FlowField,
    GuidedField,
    MixtureField,
    NoisePredictionField,
    VPredictionField,
)
from core.grids import GRIDS, build_grid
from core.losses import MAE, MSE, EnsembleMean, FairCRPS, FeatureDistance, PerMember, Pooled, WeightedSum
from core.operators import (
    Corrected,
    Residual,
    ResidualConfig,
    ScalarConfig,
    ScalarResidual,
    SpanLiftResidual,
    spanlift,
)
from core.parametrizations import TARGETS, convert
from core.schedules import EDM, VP, Cosine, DiscreteVP, RectifiedFlow, Schedule, Signal
from core.solvers import DDPM, IPNDM, SOLVERS, AdamsBashforth, Euler, Heun, build_solver
from core.state import (
    Evaluation,
    Solver,
    State,
    VelocityField,
    evaluate,
    integrate,
    nfe_of,
    observe,
    push,
    trajectory,
)
from core.supervision import Example, Supervision, Target, Teacher
from core.training import rollout, train_solver

__all__ = [
    "DDPM",
    "EDM",
    "GRIDS",
    "IPNDM",
    "MAE",
    "MSE",
    "SOLVERS",
    "TARGETS",
    "VP",
    "AdamsBashforth",
    "Card",
    "Chart",
    "Corrected",
    "Cosine",
    "DataChart",
    "DenoiserField",
    "DiscreteVP",
    "EnsembleMean",
    "Euler",
    "Evaluation",
    "Example",
    "FairCRPS",
    "FeatureDistance",
    "FlowField",
    "GuidedField",
    "Heun",
    "MixtureField",
    "NoiseChart",
    "NoisePredictionField",
    "PerMember",
    "Pooled",
    "RectifiedFlow",
    "Residual",
    "ResidualConfig",
    "ScalarConfig",
    "ScalarResidual",
    "Schedule",
    "Signal",
    "Solver",
    "SpanLiftResidual",
    "State",
    "Supervision",
    "Target",
    "Teacher",
    "TimeChart",
    "VPredictionField",
    "VelocityField",
    "WeightedSum",
    "build_grid",
    "build_solver",
    "convert",
    "evaluate",
    "integrate",
    "load",
    "nfe_of",
    "observe",
    "push",
    "rollout",
    "save",
    "spanlift",
    "train_solver",
    "trajectory",
]

"""Charts of power spectra: whether forecasts have the fine structure of the truth."""

from __future__ import annotations

import numpy as np

from apps.nowcast.reporting.axes import number
from apps.nowcast.reporting.chart import Group, Panel, Series
from apps.nowcast.reporting.lead_times import lead_told, shown
from apps.nowcast.verification.results import Evaluation
from apps.nowcast.verification.spectra import wavelengths

_POINTS = 24
"""Wavenumbers that are drawn, about evenly on the logarithmic axis."""


def spectra(evaluation: Evaluation) -> list[Group]:
    """A group of charts over the wavelength, of the first and the last lead time."""
    lengths = wavelengths(*evaluation.scope.size)
    chosen = _spaced(len(lengths))
    if not chosen.size:
        return []
    x = 1 / lengths[chosen]  # small scales to the right, as is usual
    ticks = [(1 / pixels, number(pixels)) for pixels in (2.0 ** np.arange(1, 13)).tolist()]
    panels = []
    for lead in dict.fromkeys((0, evaluation.scope.leads - 1)):
        for name, of in (("spectrum", "single members"), ("mean_spectrum", "the mean of the members")):
            lines = []
            for look, label in shown(evaluation):
                curve = evaluation.curves[label][name].by_lead
                lines.append(
                    Series(look, label, x, *(part[lead, chosen] for part in (curve.value, curve.low, curve.high)))
                )
            truth = evaluation.curves[evaluation.scored[0].method.label]["truth_spectrum"].by_lead
            lines.append(Series(-1, "truth", x, truth.value[lead, chosen]))
            title = f"Power of {of} at {lead_told(evaluation, lead)}"
            panels.append(Panel(title, "wavelength (pixels)", lines, ticks, _wavelength, log_x=True, log_y=True))
    note = (
        "Radially averaged power of [0, 1] values. A line that falls below the truth's on the right has lost its fine "
        "structure, as means of members do; one above it is noisy."
    )
    return [Group("Power spectra", note, panels)]


def _wavelength(wavenumber: float) -> str:
    return number(1 / wavenumber)


def _spaced(count: int) -> np.ndarray:
    """Indices of wavenumbers from 1, without 0, whose wavelength is infinite."""
    if count < 2:
        return np.empty(0, np.intp)
    return np.unique(np.geomspace(1, count - 1, min(_POINTS, count - 1)).round().astype(np.intp))

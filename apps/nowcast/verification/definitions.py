"""The scores, each with its formula, range, best value and reference: the page to read before quoting a number.

Common to all. a hits, b false alarms, c misses, d correct negatives; an event is value >= threshold; pixels whose truth
is missing count nowhere. Sums are taken over pixels and events first and scores are functions of the sums, never means
of scores. "All lead times" sums over lead times likewise. x_i are n members, y the truth, m the mean of the members.

Forms, which are never mixed. `member`: each member is a forecast by itself and the counts of all are summed. `mean`:
the mean of the members on the stored scale (for errors, spectra and SSIM on the [0, 1] scale) is one forecast.
`probability`: the share k / n of the members that reach a threshold. `ensemble`: of the members as a sample of a
distribution. `truth`: of what was observed alone.

CRPS, errors, spread, SSIM and spectra are of values in [0, 1] (`Quantity.encode`: linear for VIL, logarithmic for rain
rates). Intervals are the central 95 % over resamples of events, or of clusters of them, which are drawn with
replacement: percentile bootstrap (Efron and Tibshirani 1993); differences of methods are taken within each resample.

`python -m apps.nowcast.verification.definitions` prints this page with the table of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from apps.nowcast.metrics.contingency import ratio, scores
from apps.nowcast.metrics.ranks import outliers, rank_frequencies
from apps.nowcast.metrics.sums import Sums
from apps.nowcast.verification import exceedance as e
from apps.nowcast.verification.fractions import fss
from apps.nowcast.verification.spectra import log_spectral_distance

Form = Literal["member", "mean", "probability", "ensemble", "truth"]


@dataclass(frozen=True, slots=True)
class Score:
    """A score as a function of sums.

    Attributes:
        form: what the forecast is, see the page.
        dims: of the value behind the resamples, the first always `lead`; then threshold, window, part, members, rank,
            warning, rates, wavenumber.
        formula, range, best, reference: for people.
        of: sums (*resamples, lead, ...) -> (*resamples, *dims).
    """

    form: Form
    dims: tuple[str, ...]
    formula: str
    range: str
    best: str
    reference: str
    of: Callable[[Sums], np.ndarray]


BY_THRESHOLD = ("lead", "threshold")


def _contingency() -> dict[str, Score]:
    kinds = {
        "csi": ("a / (a + b + c)", "0 to 1", "1", "Schaefer 1990"),
        "hss": ("2 (a d - b c) / ((a + c) (c + d) + (a + b) (b + d))", "-1 to 1", "1", "Heidke 1926"),
        "pod": ("a / (a + c)", "0 to 1", "1", "Wilks 2011, 8.2.2"),
        "far": ("b / (a + b)", "0 to 1", "0", "Wilks 2011, 8.2.2"),
        "bias": ("(a + b) / (a + c)", "0 to infinity", "1", "Wilks 2011, 8.2.2"),
    }
    found: dict[str, Score] = {}
    forms: tuple[tuple[str, str, Form], ...] = (("", "", "member"), ("mean_", "_of_mean", "mean"))
    for prefix, suffix, form in forms:
        for pool in (1, 4, 16):
            name, pooled = f"{prefix}counts{pool}", "" if pool == 1 else str(pool)
            for kind, (formula, extent, best, reference) in kinds.items():
                if pool > 1 and kind != "csi":
                    continue
                where = "" if pool == 1 else f", of maxima over blocks of {pool} x {pool} pixels"
                found[f"{kind}{pooled}{suffix}"] = Score(
                    form, BY_THRESHOLD, formula + where, extent, best, reference if pool == 1 else "Gao et al. 2023",
                    lambda sums, name=name, kind=kind: scores(sums[name])[kind],
                )  # fmt: skip
    return found


def _fractions() -> dict[str, Score]:
    forms: tuple[tuple[str, str, Form, str], ...] = (
        ("fss", "fss", "member", "Roberts and Lean 2008"),
        ("fss_of_mean", "mean_fss", "mean", "Roberts and Lean 2008"),
        ("fss_of_probability", "probability_fss", "probability", "Schwartz et al. 2010"),
    )
    formula = "1 - sum (f - o)^2 / (sum f^2 + sum o^2), f and o fractions of a window"
    return {
        name: Score(form, (*BY_THRESHOLD, "window"), formula, "0 to 1", "1", reference, lambda s, n=array: fss(s[n]))
        for name, array, form, reference in forms
    }


def _probabilities() -> dict[str, Score]:
    kinds: tuple[tuple[str, tuple[str, ...], str, str, str, str, Callable[[np.ndarray], np.ndarray]], ...] = (
        ("brier", (), "mean (k / n - o)^2", "0 to 1", "0", "Brier 1950", e.brier),
        ("brier_fair", (), "Brier - mean k (n - k) / (n^2 (n - 1))", "below 1", "0", "Ferro 2014", e.brier_fair),
        ("brier_skill", (), "1 - Brier / (f (1 - f)), f the observed share", "up to 1", "1", "Murphy 1973",
         e.brier_skill),
        ("brier_parts", ("part",), "reliability, resolution, uncertainty; Brier is their - +", "0 to 1", "0, high, -",
         "Murphy 1973", e.brier_parts),
        ("reliability", ("members",), "observed share where k of n members reach it", "0 to 1", "k / n",
         "Wilks 2011, 8.4.4", e.observed_frequency),
        ("sharpness", ("members",), "share of pixels with k of n members", "0 to 1", "-", "Wilks 2011, 8.4.4",
         e.forecast_share),
        ("roc", ("warning", "rates"), "(b / (b + d), a / (a + c)) of warnings at k or more members", "0 to 1", "(0, 1)",
         "Mason 1982", e.roc_curve),
        ("roc_area", (), "area under roc by trapezoids", "0 to 1, 0.5 without skill", "1", "Mason 1982", e.roc_area),
    )  # fmt: skip
    return {
        name: Score(
            "probability", (*BY_THRESHOLD, *more), formula, extent, best, reference, lambda s, f=of: f(s["exceedance"])
        )
        for name, more, formula, extent, best, reference, of in kinds
    }


def _per_lead() -> dict[str, Score]:
    mean_and_error = "sqrt(spread^2 / rmse_of_mean^2)"
    rows: tuple[tuple[str, Form, str, str, str, str, Callable[[Sums], np.ndarray]], ...] = (
        ("crps", "ensemble", "mean |x_i - y| - sum_ij |x_i - x_j| / (2 n^2)", "0 to 1", "0", "Hersbach 2000",
         lambda s: ratio(s["crps"], s["pixels"])),
        ("crps_fair", "ensemble", "mean |x_i - y| - sum_ij |x_i - x_j| / (2 n (n - 1))", "below 1", "0", "Ferro 2014",
         lambda s: ratio(s["crps_fair"], s["pixels"])),
        ("mae", "member", "mean |x_i - y|", "0 to 1", "0", "Wilks 2011, 8.3.1",
         lambda s: ratio(s["absolute_error"], s["pixels"])),
        ("rmse_of_mean", "mean", "sqrt(mean (m - y)^2)", "0 to 1", "0", "Wilks 2011, 8.3.1",
         lambda s: np.sqrt(ratio(s["squared_error_of_mean"], s["pixels"]))),
        ("spread", "ensemble", "sqrt((n + 1) / n mean variance of the members)", "0 to 1", "rmse_of_mean",
         "Fortin et al. 2014", lambda s: np.sqrt(ratio(s["spread"], s["pixels"]))),
        ("spread_skill", "ensemble", mean_and_error, "0 to infinity", "1", "Fortin et al. 2014",
         lambda s: np.sqrt(ratio(s["spread"], s["squared_error_of_mean"]))),
        ("outliers", "ensemble", "(n + 1) / 2 times the share of ranks 0 and n", "0 to (n + 1) / 2", "1",
         "Hamill 2001", lambda s: _each_lead(s["ranks"], outliers)),
        ("lpips", "member", "perceptual distance of frames", "0 to infinity", "0", "Zhang et al. 2018",
         lambda s: ratio(s["lpips"], s["frames"])),
        ("ssim", "member", "structural similarity of frames, 11 x 11 Gaussian windows", "-1 to 1", "1",
         "Wang et al. 2004", lambda s: ratio(s["ssim"], s["ssim_windows"])),
        ("ssim_of_mean", "mean", "structural similarity of frames, 11 x 11 Gaussian windows", "-1 to 1", "1",
         "Wang et al. 2004", lambda s: ratio(s["mean_ssim"], s["mean_ssim_windows"])),
        ("spectral_distance", "member", "rms over k of 10 log10(spectrum / truth_spectrum), dB", "0 to infinity", "0",
         "Rabiner and Juang 1993, 4.5", lambda s: log_spectral_distance(s["spectrum"], s["truth_spectrum"])),
        ("spectral_distance_of_mean", "mean", "rms over k of 10 log10(mean_spectrum / truth_spectrum), dB",
         "0 to infinity", "0", "Rabiner and Juang 1993, 4.5",
         lambda s: log_spectral_distance(s["mean_spectrum"], s["truth_spectrum"])),
    )  # fmt: skip
    found = {name: Score(form, ("lead",), *texts, of) for name, form, *texts, of in rows}  # type: ignore[arg-type]
    found["rank_histogram"] = Score(
        "ensemble", ("lead", "rank"), "share of wet pixels with 0, 1, ..., n members below the truth; ties shared out",
        "0 to 1", "1 / (n + 1)", "Hamill 2001", lambda s: _each_lead(s["ranks"], rank_frequencies),
    )  # fmt: skip
    spectra: dict[str, Form] = {"spectrum": "member", "mean_spectrum": "mean", "truth_spectrum": "truth"}
    for name, form in spectra.items():
        found[name] = Score(
            form, ("lead", "wavenumber"), "mean |F|^2 / pixels over k = round(sqrt(ky^2 + kx^2))", "0 to infinity",
            "truth_spectrum", "Ruzanski and Chandrasekar 2011", lambda s, n=name: ratio(s[n], s["spectra"][..., None]),
        )  # fmt: skip
    return found


def _each_lead(ranks: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`of` sums over lead times; here it sums over one at a time."""
    return of(ranks[..., None, :])


SCORES: Mapping[str, Score] = _contingency() | _fractions() | _probabilities() | _per_lead()
"""All scores by name; plain names are of single members, of probabilities or of the ensemble, as their form says."""


def page() -> str:
    """The definitions as text, a block for each score."""
    lines = [
        f"{name} ({score.form}; {' x '.join(score.dims)})\n    {score.formula}\n    {score.range}; best {score.best}; "
        f"{score.reference}"
        for name, score in SCORES.items()
    ]
    return f"{(__doc__ or '').strip()}\n\n" + "\n".join(lines)


if __name__ == "__main__":
    print(page())

"""Everything that is summed of an event, see `definitions` for what is made of it.

Beside the statistics of `apps.nowcast.metrics.statistics`, which the table shows: `fss`, `mean_fss`, `probability_fss`
(lead, threshold, window, 3), see `fractions`; `exceedance` (lead, threshold, members + 1, 2), see `exceedance`;
`truth_spectrum`, `spectrum` (the mean over members), `mean_spectrum` (lead, wavenumber), see `spectra`, summed over
`spectra` (lead), the events with any truth; `ssim` over `ssim_windows`, `mean_ssim` over `mean_ssim_windows` (lead).
Spectra and SSIM are of [0, 1] values (`Quantity.encode`), pixels without truth as no rain in forecast and truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apps.nowcast.metrics.statistics import Distance, Scale, event_statistics
from apps.nowcast.verification.exceedance import exceedance_counts
from apps.nowcast.verification.fractions import WINDOWS, fraction_sums
from apps.nowcast.verification.similarity import ssim_sums
from apps.nowcast.verification.spectra import rapsd


def event_sums(
    forecast: np.ndarray,
    truth: np.ndarray,
    quantity: Scale,
    *,
    distance: Distance | None = None,
    seconds: float = float("nan"),
    windows: Sequence[int] = WINDOWS,
) -> dict[str, np.ndarray]:
    """All statistics of one event.

    Args:
        forecast: (members, leads, y, x) on the stored scale, finite.
        truth: (leads, y, x) on the stored scale, NaN where missing.
        quantity: thresholds and encoding.
        distance: perceptual distance of [0, 1] frames; without one `lpips` is NaN.
        seconds: wall-clock time that all members of this event took.
        windows: odd sides of the windows of the fractions skill score.

    Returns:
        name -> (lead, ...), int64 or float64.

    Raises:
        ValueError: shapes do not fit, the forecast is not finite, an even window.
    """
    result = event_statistics(forecast, truth, quantity, distance=distance, seconds=seconds)
    sums = fraction_sums(forecast, truth, quantity.thresholds, windows)
    result |= {"fss": sums.members, "mean_fss": sums.mean, "probability_fss": sums.probability}
    result["exceedance"] = exceedance_counts(forecast, truth, quantity.thresholds)

    members, observed = quantity.encode(forecast), quantity.encode(truth)
    of_mean = np.asarray(members.mean(axis=0))  # in [0, 1], as the error of the mean is
    seen = ~np.isnan(observed)
    any_seen = np.asarray(seen.any(axis=(-2, -1)), np.float64)
    result["spectra"] = any_seen
    for name, fields in (("truth_spectrum", observed), ("mean_spectrum", of_mean)):
        result[name] = rapsd(np.where(seen, fields, 0.0)) * any_seen[:, None]
    result["spectrum"] = rapsd(np.where(seen, members, 0.0)).mean(axis=0) * any_seen[:, None]
    result["ssim"], result["ssim_windows"] = ssim_sums(members, observed)
    result["mean_ssim"], result["mean_ssim_windows"] = ssim_sums(of_mean[None], observed)
    return result

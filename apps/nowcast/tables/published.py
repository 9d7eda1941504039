"""Published scores of nowcasts on SEVIR-LR: 7 frames of context, 6 of forecast, 10 minutes apart, 128 x 128 pixels.

What they share: VIL thresholds 16, 74, 133, 160, 181 and 219, CSI and HSS averaged over them, CSI-4 and CSI-16 of
maxima over 4 x 4 and 16 x 16 pixels, and no intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Scores = Mapping[str, float]
"""Scores by the names that `apps.nowcast.metrics.METRICS` has for them."""

TABLE_4_METRICS: Mapping[str, str] = MappingProxyType(
    {"hss": "HSS", "lpips": "LPIPS", "csi": "CSI", "csi4": "CSI-4", "csi16": "CSI-16"}
)
"""Columns of SpanLift's Table 4, as we call them and as it does."""

DDPM_1000, DDIM_100, DDIM_5 = "DDPM, 1000 steps", "DDIM, 100 steps (teacher)", "DDIM, 5 steps"
MSE_TEACHER, INCEPTION_TEACHER, INCEPTION_TARGET = (
    f"SpanLift ({told}), 5 steps" for told in ("MSE, teacher", "Inc., teacher", "Inc., target")
)


def _row(*values: float) -> Scores:
    return dict(zip(TABLE_4_METRICS, values, strict=True))


TABLE_4: Mapping[str, Scores] = MappingProxyType(
    {
        DDPM_1000: _row(0.5422, 0.3210, 0.3972, 0.4495, 0.6133),
        DDIM_100: _row(0.5373, 0.3199, 0.3822, 0.4419, 0.6034),
        DDIM_5: _row(0.5376, 0.3429, 0.3897, 0.4261, 0.5137),
        MSE_TEACHER: _row(0.5255, 0.3261, 0.3857, 0.4431, 0.5992),
        INCEPTION_TEACHER: _row(0.4660, 0.3239, 0.4050, 0.4560, 0.6079),
        INCEPTION_TARGET: _row(0.6009, 0.3065, 0.4211, 0.4797, 0.6312),
    }
)
"""SpanLift, Table 4: PreDiff's model on SEVIR-LR. Of how many members, and which network LPIPS has, is not stated."""

PREDIFF_TABLE_2: Mapping[str, Scores] = MappingProxyType(
    {
        "ConvLSTM": {"crps": 0.0332, "csi_of_mean": 0.4185, "csi4_of_mean": 0.4452, "csi16_of_mean": 0.5135},
        "Earthformer": {"crps": 0.0304, "csi_of_mean": 0.4419, "csi4_of_mean": 0.4567, "csi16_of_mean": 0.5005},
        "DGMR": {"csi_of_mean": 0.2675, "csi4_of_mean": 0.3431, "csi16_of_mean": 0.4832},
        "VideoGPT": {"csi_of_mean": 0.3653, "csi4_of_mean": 0.4349, "csi16_of_mean": 0.5798},
        "LDM": {"csi_of_mean": 0.3580, "csi4_of_mean": 0.4022, "csi16_of_mean": 0.5522},
        "PreDiff": {"crps": 0.0246, "csi_of_mean": 0.4100, "csi4_of_mean": 0.4624, "csi16_of_mean": 0.6244},
    }
)
"""PreDiff (Gao et al. 2023), Table 2, those cells that a transcription of the paper confirms. CSI is of the mean of 8
members (its appendix D.2). The CSI of the two deterministic models equals, digit for digit, what Earthformer's paper
has for 13 and 12 frames of 384 x 384 pixels, and may be of these. Its FVD is not computed here."""

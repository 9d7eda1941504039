"""Baselines that count, through pysteps: Lagrangian extrapolation, S-PROG and STEPS.

Motion is Lucas and Kanade's of the last three frames on the logarithmic scale. Extrapolation moves the last frame along
it (semi-Lagrangian, Germann and Zawadzki 2002). S-PROG (Seed 2003) lets small scales fade as they lose predictability;
STEPS (Bowler et al. 2006; Seed et al. 2013) puts noise in their place and perturbs the motion. All of it is pysteps'
own code (Pulkkinen et al. 2019) with its defaults: six cascade levels, AR(2), nonparametric noise, incremental mask,
probability matching by CDF.

The last two work on a logarithm of rain. Of rain rates it is dBR = 10 log10(R / (1 mm/h)), dry below 0.1 mm/h, put at
-15 dBR. SEVIR's VIL code is a logarithm already (above code 18, code = 83.9 + 38.9 ln(VIL / (1 kg m-2))) and taken as
it is, with codes below 16, SEVIR's lowest threshold, counted as dry but not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from apps.nowcast.baselines import Members, persistence, without_gaps
from apps.nowcast.pysteps_calls import pysteps_version, quietly, require_pysteps
from data_tools.quantities import RAINFALL_RATE, VIL, Quantity

Name = Literal["extrapolation", "sprog", "steps"]

_MOTION_FRAMES = 3
_SEVIR_KM = 384.0  # a side of SEVIR's patches, whatever number of pixels they are stored in
_LEVELS = 6


@dataclass(frozen=True)
class Logarithm:
    """A logarithmic scale for cascades: `threshold` and up is wet, `dry` stands for what is not."""

    threshold: float
    dry: float
    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(cls, quantity: Quantity) -> Logarithm:
        if quantity.name == VIL.name:
            return cls(quantity.thresholds[0], 0.0, lambda codes: codes, lambda codes: codes)
        return cls(-10.0, -15.0, _decibel, _rate)


def _decibel(rate: np.ndarray) -> np.ndarray:
    return np.where(rate >= 0.1, 10.0 * np.log10(np.maximum(rate, 0.1)), -15.0)


def _rate(decibel: np.ndarray) -> np.ndarray:
    return np.where(decibel < -10.0, 0.0, 10.0 ** (decibel / 10.0))  # a NaN stays one


def pixel_km(quantity: Quantity, width: int) -> float:
    """Kilometres of a pixel, which STEPS scales its perturbations of motion by: SEVIR's from the number of them, 1 km
    of the radar composites, whose archives have pixels of 1 km (MRMS: 0.01 degrees)."""
    return _SEVIR_KM / width if quantity.name == VIL.name else 1.0


@dataclass(frozen=True)
class PystepsForecaster:
    """A method of pysteps as a `Forecaster`; `label` is its name in the table.

    Missing pixels of the context are filled in time (`without_gaps`). A forecast is NaN where the air comes from beyond
    the frame: there what was last observed stays, and is counted. Fields on which the method fails, such as constant
    ones, get what a forecaster would send instead: extrapolation, then persistence. A dry field stays dry.

    STEPS draws all members of a window together, as pysteps does: member k depends on the first seed and on k, never on
    how many members there are, nor on the other windows. They share what is estimated from the context, and its time.
    """

    name: Name
    label: str

    def warm_up(self) -> None:
        """Load pysteps and make a first forecast: both take longer than what follows and shall not be measured.

        Raises:
            UserError: pysteps is not installed.
        """
        require_pysteps(f"--methods {self.name}")
        noise = np.random.default_rng(0).gamma(0.5, 4.0, (_MOTION_FRAMES, 64, 64))
        self(noise, 1, [0], 5.0, RAINFALL_RATE)

    @property
    def stochastic(self) -> bool:
        return self.name == "steps"

    @property
    def settings(self) -> Mapping[str, str | int | float]:
        return {"pysteps": pysteps_version(), "motion_frames": _MOTION_FRAMES}

    def __call__(
        self, context: np.ndarray, target_frames: int, seeds: Sequence[int], step_minutes: float, quantity: Quantity
    ) -> Members:
        kept = persistence(context, target_frames)  # refuses what nothing can be made of
        fields = without_gaps(context).astype(np.float64)
        count = len(seeds) if self.stochastic else 1
        with quietly():
            window = _Window(fields, target_frames, list(seeds), step_minutes, quantity)
            for name in dict.fromkeys((self.name, "extrapolation")):
                frames = _attempt(getattr(window, name))
                if frames is not None:
                    break
            else:
                name, frames = "persistence", kept[None]
        frames = np.broadcast_to(frames, (count, *kept.shape))
        unknown = ~np.isfinite(frames)
        whole = np.where(unknown, kept, frames).clip(min=0.0).astype(np.float32)
        return Members(whole, unknown.sum(axis=(0, 2, 3), dtype=np.int64), "" if name == self.name else name)


FORECASTERS: Mapping[str, PystepsForecaster] = {
    "extrapolation": PystepsForecaster("extrapolation", "extrapolation"),
    "sprog": PystepsForecaster("sprog", "S-PROG"),
    "steps": PystepsForecaster("steps", "STEPS"),
}
"""By their names on the command line."""


def _attempt(method: Callable[[], np.ndarray]) -> np.ndarray | None:
    """What a method gives; None where it raises, or gives a first frame without a number, as it does on fields whose
    scales do not vary."""
    from cv2 import error as OpenCVError  # pyright: ignore[reportMissingImports]

    try:
        frames = method()
    except (ValueError, RuntimeError, ArithmeticError, IndexError, OpenCVError):
        return None
    return frames if np.isfinite(frames[:, 0]).any(axis=(-2, -1)).all() else None


class _Window:
    """One window's forecasts (members, target frames, H, W) float64, NaN where nothing is known."""

    def __init__(
        self, fields: np.ndarray, target_frames: int, seeds: list[int], step_minutes: float, quantity: Quantity
    ) -> None:
        self.fields, self.leads, self.seeds = fields, target_frames, seeds
        self.step_minutes, self.quantity = step_minutes, quantity
        self.scale = Logarithm.of(quantity)
        self.logarithm = self.scale.forward(fields)
        self.order = min(2, len(fields) - 1)  # of the autoregression
        self.levels = min(_LEVELS, int(np.log2(min(fields.shape[1:]))))
        self._velocity: np.ndarray | None = None

    @property
    def velocity(self) -> np.ndarray:
        """(2, H, W): columns and rows a frame; no motion where there is one frame alone."""
        if self._velocity is None:
            from pysteps import motion  # pyright: ignore[reportMissingImports]

            frames = self.logarithm[-_MOTION_FRAMES:]
            still = len(frames) < 2 or np.ptp(frames) == 0.0
            self._velocity = np.zeros((2, *frames.shape[1:])) if still else motion.get_method("LK")(frames)
        assert self._velocity is not None
        return self._velocity

    def extrapolation(self) -> np.ndarray:
        from pysteps import nowcasts  # pyright: ignore[reportMissingImports]

        return np.asarray(nowcasts.get_method("extrapolation")(self.fields[-1], self.velocity, self.leads))[None]

    def sprog(self) -> np.ndarray:
        from pysteps import nowcasts  # pyright: ignore[reportMissingImports]

        frames = nowcasts.get_method("sprog")(
            self._lagged(),
            self.velocity,
            self.leads,
            precip_thr=self.scale.threshold,
            n_cascade_levels=self.levels,
            ar_order=self.order,
        )
        return self.scale.inverse(np.asarray(frames))[None]

    def steps(self) -> np.ndarray:
        from pysteps import nowcasts  # pyright: ignore[reportMissingImports]

        lagged = self._lagged()
        frames = nowcasts.get_method("steps")(
            lagged,
            self.velocity,
            self.leads,
            n_ens_members=len(self.seeds),
            n_cascade_levels=self.levels,
            precip_thr=self.scale.threshold,
            kmperpixel=pixel_km(self.quantity, self.fields.shape[-1]),
            timestep=self.step_minutes,
            ar_order=self.order,
            seed=self.seeds[0] % 2**32,
        )
        frames = np.asarray(frames)
        # pysteps takes rain for none where its noise's window is 0, that is in the corners
        if (lagged[-1] >= self.scale.threshold).any() and not (frames >= self.scale.threshold).any():
            raise ValueError("expected rain to stay, got a dry forecast of a wet frame")
        return self.scale.inverse(frames)

    def _lagged(self) -> np.ndarray:
        """The frames of the autoregression; rain that has just come up has no past to regress on."""
        frames = self.logarithm[-(self.order + 1) :]
        wet = np.asarray((frames >= self.scale.threshold).any(axis=(-2, -1)))
        if self.order < 1 or (wet[-1] and not wet.all()):
            raise ValueError(f"expected rain in two frames or more, got it in {int(wet.sum())} of {len(wet)}")
        return frames

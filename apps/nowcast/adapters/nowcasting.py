"""Our forecast as a function of an array, with the arguments of pysteps' nowcast methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apps.nowcast.adapters.units import Transform, from_rate, to_rate
from apps.nowcast.data import member_seed
from apps.nowcast.forecasting.ensemble import Ensemble
from apps.nowcast.forecasting.scene import Place, Scene
from apps.nowcast.methods import Method, load_methods, parse_methods
from apps.nowcast.nowcaster import ASSETS, Nowcaster
from data_tools.cli import UserError
from data_tools.quantities import QUANTITIES, RAINFALL_RATE

DEFAULT_SOLVER = ASSETS / "spanlift-target.safetensors"
DEFAULT_METHOD = "ddim-20"
"""For models that come without a solver."""


@dataclass(frozen=True, eq=False)
class PystepsNowcast:
    """A nowcast method of pysteps' form, see `__call__`."""

    nowcaster: Nowcaster
    method: Method

    @classmethod
    def load(cls, model: str | None = None, solver: str | None = None, device: str = "cpu") -> PystepsNowcast:
        """Raises UserError: model or solver are not what they should be, or the model is not of rain."""
        nowcaster = Nowcaster.load(model, device=device)
        if nowcaster.quantity != RAINFALL_RATE.name:
            raise UserError(
                f"expected a model of {RAINFALL_RATE.name}, as pysteps' arrays are, got {nowcaster.quantity}"
            )
        name = solver or (str(DEFAULT_SOLVER) if model is None else DEFAULT_METHOD)
        is_file = Path(name).exists() or "/" in name
        methods = load_methods([name], nowcaster, device) if is_file else parse_methods(name, nowcaster)
        if len(methods) != 1 or methods[0].solver is None:
            raise UserError(f"expected one solver, a file or NAME-STEPS, got {name!r}")
        return cls(nowcaster, methods[0])

    def __call__(
        self,
        precip: np.ndarray,
        velocity: np.ndarray | None,
        timesteps: int | Sequence[int],
        n_ens_members: int = 24,
        seed: int | None = None,
        *,
        timestep: float = 5.0,
        transform: Transform = None,
        batch: int = 16,
    ) -> np.ndarray:
        """An ensemble nowcast; domains larger than the model's patch are tiled.

        Args:
            precip: (frames, m, n), oldest first, at least as many as the model sees, NaN missing: rain rates in mm/h.
            velocity: not looked at; the model knows how rain moves.
            timesteps: how many, or which ones (from 1, rising), within what the model forecasts.
            n_ens_members: number of them.
            seed: a member depends on it and its own number; None draws another one each time, as in pysteps.
            timestep: minutes between frames.
            transform: `dB` where precip is 10 log10 of the rates; the forecast then is, too.
            batch: tiles sampled at once.

        Returns:
            (n_ens_members, timesteps, m, n) float64, NaN where no frame shows a pixel.

        Raises:
            ValueError: frames, time steps, members or the time between frames do not fit the model.
        """
        leads = self._leads(timesteps)
        scene = self._scene(precip, timestep, transform)
        if n_ens_members < 1:
            raise ValueError(f"expected n_ens_members of at least 1, got {n_ens_members}")
        seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        try:
            ensemble = Ensemble.build(self.nowcaster, self.method, scene, overlap=None, batch=batch, sample_dry=False)
        except UserError as error:
            raise ValueError(str(error)) from error
        result = np.empty((n_ens_members, len(leads), *scene.frames.shape[1:]))
        for member in range(n_ens_members):
            frames, _ = ensemble.member(member_seed(seed, "pysteps", member))
            result[member], _ = from_rate(frames[leads], "mm/h", transform, timestep)
        return result

    def _leads(self, timesteps: int | Sequence[int]) -> np.ndarray:
        most = self.nowcaster.target_frames
        wanted = range(1, timesteps + 1) if isinstance(timesteps, (int, np.integer)) else timesteps
        leads = np.asarray(list(wanted))
        whole = len(leads) > 0 and np.equal(leads, np.round(leads)).all()
        if not whole or leads.min() < 1 or leads.max() > most or (np.diff(leads) <= 0).any():
            raise ValueError(f"expected timesteps 1 to {most}, or a rising list of some of them, got {timesteps}")
        return leads.astype(int) - 1

    def _scene(self, precip: np.ndarray, timestep: float, transform: Transform) -> Scene:
        wanted = self.nowcaster.context_frames
        if np.ndim(precip) != 3 or len(precip) < wanted:
            raise ValueError(f"expected {wanted} or more frames (frames, m, n), got shape {np.shape(precip)}")
        known = self.nowcaster.time_steps
        if known and not min(known) <= timestep <= max(known):
            raise ValueError(f"expected a timestep of {min(known):g} to {max(known):g} minutes, got {timestep:g}")
        dB = {"threshold": -10.0} if transform == "dB" else {}
        rate = to_rate(precip[-wanted:], {"unit": "mm/h", "transform": transform, **dB})
        if np.isinf(rate).any() or (rate < 0).any():
            raise ValueError("expected finite rain rates of 0 or more, NaN where missing, got others; see transform")
        rows, columns = rate.shape[1:]
        place = Place(np.arange(columns) * 1000.0, np.arange(rows) * -1000.0, "m", {})
        step = round(60 * timestep)
        times = np.datetime64(0, "s") + np.arange(wanted) * np.timedelta64(step, "s")
        return Scene(rate, times, step, QUANTITIES[self.nowcaster.quantity], place, "pysteps", "rain of pysteps")

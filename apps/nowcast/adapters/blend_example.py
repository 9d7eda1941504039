"""`python -m apps.nowcast.adapters.blend_example`: our ensemble blended with a weather model's rain by pysteps.

pysteps' STEPS blending (Bowler et al. 2006; Imhoff et al. 2023) takes an external nowcast, members x (times + 1), the
observation first, and weighs it against the weather model scale by scale, more and more for the model as time goes on.
Our members carry their own spread, so pysteps adds no noise.

The weather model here is SYNTHETIC: the synthetic storm's own future, shifted and smoothed, as a model's rain is known
to be misplaced and smooth. The example shows how the pieces fit; its numbers say nothing about any real model.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.ndimage import gaussian_filter, shift

from apps.nowcast.adapters.nowcasting import PystepsNowcast
from apps.nowcast.adapters.units import LEAST_RATE, from_rate, to_rate
from apps.nowcast.baselines import without_gaps
from apps.nowcast.data import SEEDS, SPLIT_SEEDS
from apps.nowcast.plots import plot_nowcasts
from apps.nowcast.pysteps_calls import quietly, require_pysteps
from data_tools.cli import UserError, check_outputs, console, run
from data_tools.quantities import RAINFALL_RATE
from data_tools.storms import StormConfig, generate

STEP_MINUTES = 5.0
_DECIBEL = {"unit": "mm/h", "transform": "dB", "threshold": 10.0 * np.log10(LEAST_RATE)}


@dataclass(frozen=True)
class BlendOptions:
    """Options of the command.

    Attributes:
        out: picture (PNG) of the nowcast, the synthetic weather model and the blend.
        members: ensemble members.
        seed: of the storm and of the members.
        model: folder of the model; the shipped one by default.
        solver: trained solver or NAME-STEPS; the shipped one, ddim-20 with a model of one's own.
        overwrite: replace a picture that exists.
        device: cpu, cuda, ...
    """

    out: str = "out/blended.png"
    members: int = 4
    seed: int = 0
    model: str | None = None
    solver: str | None = None
    overwrite: bool = False
    device: str = "cpu"


def main(options: BlendOptions) -> None:
    """Forecast a synthetic storm, blend, draw, and tell the errors.

    Raises:
        UserError: pysteps is not installed; model, solver or output are not what they should be.
    """
    if options.members < 1 or not 0 <= options.seed < SEEDS:
        raise UserError(
            f"expected --members of 1 or more and --seed from 0 to {SEEDS - 1}, got {options.members} and "
            f"{options.seed}"
        )
    check_outputs([Path(options.out)], options.overwrite)
    require_pysteps("blending")
    nowcast = PystepsNowcast.load(options.model, options.solver, options.device)
    seen, leads = nowcast.nowcaster.context_frames, nowcast.nowcaster.target_frames
    frames = _storm(nowcast.nowcaster.frame_size, seen + leads, options.seed)
    observed, truth = frames[:seen], frames[seen:]
    console.print(f"forecasting {leads} frames, {options.members} members")
    members = nowcast(observed, None, leads, options.members, options.seed, timestep=STEP_MINUTES)
    model = weather_model(frames[seen - 1 :])
    console.print("blending with a SYNTHETIC weather model")
    blended = blend(observed, members, model, STEP_MINUTES, options.seed)
    forecasts = {"nowcast": members, "synthetic model": model[None, 1:], "blend": blended}
    drawn = {name: each[0].astype(np.float32) for name, each in forecasts.items()}
    title = "a synthetic storm, one member of each; the weather model is SYNTHETIC"
    plot_nowcasts(
        options.out, observed.astype(np.float32), truth.astype(np.float32), drawn, RAINFALL_RATE,
        step_minutes=STEP_MINUTES, title=title,
    )  # fmt: skip
    out = Console()
    out.print("RMSE of the ensemble mean, mm/h, by lead time; storm and weather model are SYNTHETIC", soft_wrap=True)
    for name, each in forecasts.items():
        errors = np.sqrt(np.square(each.mean(0) - truth).mean((1, 2)))
        out.print(f"{name:16s}" + "".join(f"{error:7.2f}" for error in errors), highlight=False)
    console.print(f"wrote {options.out}")


def _storm(size: tuple[int, int], frames: int, seed: int) -> np.ndarray:
    """(frames, H, W) mm/h, nothing missing."""
    (event,) = generate(1, SPLIT_SEEDS["test"] + seed, StormConfig(frames=frames, patch=min(size)), "test")
    return without_gaps(event.values)


def weather_model(future: np.ndarray) -> np.ndarray:
    """A synthetic weather model's rain (times, H, W) in mm/h: the true rain, displaced by 3 rows and 4 columns and
    smoothed over 1.5 pixels."""
    return np.stack([gaussian_filter(shift(frame, (3.0, -4.0), order=1), 1.5) for frame in future])


def blend(
    observed: np.ndarray,
    members: np.ndarray,
    model: np.ndarray,
    step_minutes: float,
    seed: int,
    *,
    pixel_km: float = 1.0,
    start: datetime = datetime(2000, 1, 1),
) -> np.ndarray:
    """Blend an ensemble with a weather model by pysteps, which must be installed.

    Args:
        observed: (frames, H, W) mm/h, finite, three or more; the last is when the nowcast begins.
        members: (M, T, H, W) mm/h; what is NaN counts as dry.
        model: (T + 1, H, W) mm/h of the weather model, from the time of the last observation on.
        step_minutes: between frames.
        seed: of what pysteps draws.
        pixel_km: size of a pixel.
        start: when the nowcast begins; pysteps keeps the model's skill by it.

    Returns:
        (M, T, H, W) mm/h, NaN where pysteps has none.

    Raises:
        ValueError: shapes that do not fit.
    """
    count, leads = members.shape[:2]
    if len(observed) < 3 or model.shape != (leads + 1, *members.shape[2:]) or observed.shape[1:] != members.shape[2:]:
        raise ValueError(
            f"expected observed (3 or more, H, W), members (M, T, H, W) and model (T + 1, H, W), got {observed.shape}, "
            f"{members.shape} and {model.shape}"
        )
    beginning = np.broadcast_to(observed[-1], (count, 1, *observed.shape[1:]))
    external = np.concatenate([beginning, np.nan_to_num(members, nan=0.0)], axis=1)
    radar, nowcast, forecast = (from_rate(rate, "mm/h", "dB", step_minutes)[0] for rate in (observed, external, model))
    with quietly(), tempfile.TemporaryDirectory() as skill:
        from pysteps import blending, motion  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

        lucas_kanade = motion.get_method("LK")
        moves = np.stack([lucas_kanade(forecast[max(0, k - 1) : max(0, k - 1) + 2]) for k in range(leads + 1)])
        blended = blending.get_method("steps")(
            precip=radar[-3:],
            precip_models=forecast[None],
            velocity=lucas_kanade(radar[-3:]),
            velocity_models=moves[None],
            timesteps=leads,
            timestep=step_minutes,
            issuetime=start,
            n_ens_members=count,
            precip_nowcast=nowcast,
            nowcasting_method="external_nowcast",
            noise_method=None,  # the members' own spread is the noise
            vel_pert_method=None,
            precip_thr=_DECIBEL["threshold"],
            kmperpixel=pixel_km,
            seed=seed,
            outdir_path_skill=f"{skill}/",
        )
    return to_rate(np.asarray(blended), _DECIBEL)


if __name__ == "__main__":
    run(
        BlendOptions,
        main,
        prog="python -m apps.nowcast.adapters.blend_example",
        description="Blend an ensemble nowcast of a synthetic storm with a SYNTHETIC weather model through pysteps.",
        examples="""examples:
  python -m apps.nowcast.adapters.blend_example
  python -m apps.nowcast.adapters.blend_example --members 10 --seed 3 --out out/blended.png""",
    )

"""What is sent when sampling would come too late: what was last seen goes on as it went (Lagrangian persistence, by
pysteps or by one displacement), or stays as it was (Eulerian). `production` takes the best that there is time for."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from apps.nowcast.forecasting.scene import Scene
from apps.nowcast.pysteps_calls import quietly, require_pysteps
from data_tools.cli import UserError
from data_tools.motion import displacement

_PAIRS = 3  # of successive frames, the latest, whose median displacement counts


class Extrapolation(NamedTuple):
    """Frames (T, H, W) float32 on the quantity's scale, NaN where no frame showed a pixel; how they were made."""

    frames: np.ndarray
    method: str


def motion(frames: np.ndarray) -> tuple[float, float]:
    """(rows, columns) in pixels by which frames (N, H, W), finite, go on from one to the next: the median of the last
    displacements between them. One vector stands for the whole field."""
    pairs = [displacement(frames[k - 1], frames[k]) for k in range(max(1, len(frames) - _PAIRS), len(frames))]
    rows, columns = np.median(np.array(pairs), axis=0)
    return float(rows), float(columns)


def advect(frame: np.ndarray, step: tuple[float, float], leads: int) -> np.ndarray:
    """(leads, H, W): `frame`, (H, W) and finite, moved on by 1 to `leads` times `step` pixels, between pixels by
    bilinear interpolation; no rain comes in over the border."""
    moved = [
        ndimage.shift(frame, (lead * step[0], lead * step[1]), order=1, mode="grid-constant", cval=0.0)
        for lead in range(1, leads + 1)
    ]
    return np.stack(moved).astype(np.float32)


def import_pysteps() -> None:
    """Import pysteps where it is installed, which takes seconds that a deadline does not have."""
    with suppress(UserError):
        require_pysteps("extrapolation")


def stay(scene: Scene, leads: int) -> Extrapolation:
    """The last frame as it is, at every one of `leads` times: it costs next to nothing."""
    frames = np.repeat(scene.newest()[None].astype(np.float32), leads, axis=0)
    return _masked(frames, scene, "Eulerian persistence (the last frame stays as it was)")


def move(scene: Scene, leads: int) -> Extrapolation:
    """The last frame moved on by one displacement of the whole field, found by phase correlation (`data_tools.motion`);
    a single frame stays where it is."""
    filled = scene.filled()
    if len(filled) < 2:
        return stay(scene, leads)
    rows, columns = motion(scene.quantity.encode(filled[-_PAIRS - 1 :]))
    method = f"Lagrangian persistence ({rows:.2f} rows and {columns:.2f} columns a step, by phase correlation)"
    return _masked(advect(filled[-1], (rows, columns), leads), scene, method)


def move_by_pysteps(scene: Scene, leads: int) -> Extrapolation | None:
    """The last frame moved on by pysteps: dense motion by Lucas and Kanade, backward semi-Lagrangian advection;
    None where that is not installed or cannot do it, as without rain or on tiny fields."""
    if find_spec("pysteps") is None or len(scene.frames) < 2:
        return None
    frames = _with_pysteps(scene.filled(), leads)
    if frames is None:
        return None
    return _masked(frames, scene, "Lagrangian persistence by pysteps (Lucas-Kanade motion, semi-Lagrangian advection)")


def _masked(frames: np.ndarray, scene: Scene, method: str) -> Extrapolation:
    frames[:, scene.unobserved] = np.nan
    return Extrapolation(frames, method)


def _with_pysteps(filled: np.ndarray, leads: int) -> np.ndarray | None:
    """(leads, H, W) float32, finite; None where pysteps cannot do it."""
    if not filled[-1].any() or min(filled.shape[1:]) < 32:
        return None
    try:
        with quietly():
            from pysteps import motion as motions  # pyright: ignore[reportMissingImports]
            from pysteps import nowcasts  # pyright: ignore[reportMissingImports]

            velocity = motions.get_method("LK")(np.log1p(filled[-3:].astype(np.float64)))
            frames = nowcasts.get_method("extrapolation")(filled[-1].astype(np.float64), velocity, leads)
    except Exception:  # whatever ails it, the fallback must not fail
        return None
    return np.nan_to_num(np.asarray(frames), nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)

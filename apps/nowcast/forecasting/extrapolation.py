"""Lagrangian persistence: what was last seen goes on as it went. It is sent when sampling would come too late."""

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
    rows, columns = np.median(np.array(pairs or [(0.0, 0.0)]), axis=0)
    return float(rows), float(columns)


def advect(frame: np.ndarray, step: tuple[float, float], leads: int) -> np.ndarray:
    """(leads, H, W): `frame`, (H, W) and finite, moved on by 1 to `leads` times `step` pixels, between pixels by
    bilinear interpolation; no rain comes in over the border."""
    moved = [
        ndimage.shift(frame, (lead * step[0], lead * step[1]), order=1, mode="grid-constant", cval=0.0)
        for lead in range(1, leads + 1)
    ]
    return np.stack(moved).astype(np.float32)


def warm_up() -> None:
    """Import pysteps where it is installed, which takes seconds that a deadline does not have."""
    with suppress(UserError):
        require_pysteps("extrapolation")


def extrapolate(scene: Scene, leads: int, use_pysteps: bool | None = None) -> Extrapolation:
    """The last frame moved on.

    Args:
        scene: what was observed.
        leads: number of frames, at least 1.
        use_pysteps: dense motion by Lucas and Kanade's method and backward semi-Lagrangian advection of pysteps; by
            default where it is installed, with one displacement for the whole field where it is not, or fails.
    """
    filled = scene.filled()
    frames = None
    if find_spec("pysteps") is not None if use_pysteps is None else use_pysteps:
        frames = _with_pysteps(scene, filled, leads)
        method = "Lagrangian persistence by pysteps (Lucas-Kanade motion, semi-Lagrangian advection)"
    if frames is None:
        rows, columns = motion(scene.quantity.encode(filled))
        frames = advect(filled[-1], (rows, columns), leads)
        method = f"Lagrangian persistence ({rows:.2f} rows and {columns:.2f} columns a step, by phase correlation)"
    frames[:, scene.unobserved] = np.nan
    return Extrapolation(frames, method)


def _with_pysteps(scene: Scene, filled: np.ndarray, leads: int) -> np.ndarray | None:
    """(leads, H, W) float32, finite; None where pysteps cannot do it, as without rain or on tiny fields."""
    if not filled[-1].any() or min(filled.shape[1:]) < 32:
        return None
    try:
        with quietly():
            from pysteps import motion as motions
            from pysteps import nowcasts

            velocity = motions.get_method("LK")(np.log1p(filled[-3:].astype(np.float64)))
            frames = nowcasts.get_method("extrapolation")(filled[-1].astype(np.float64), velocity, leads)
    except Exception:  # whatever ails it, the fallback must not fail
        return None
    return np.nan_to_num(np.asarray(frames), nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)

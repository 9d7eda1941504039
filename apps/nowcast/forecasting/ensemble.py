"""Sampling the frozen model over a domain of any size, tile by tile, a member at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

import core
from apps.nowcast.data import member_seed
from apps.nowcast.forecasting.scene import Scene
from apps.nowcast.forecasting.tiling import Tile, Tiling
from apps.nowcast.methods import Method
from apps.nowcast.nowcaster import Nowcaster, Observing, bound
from data_tools.cli import UserError

DRIZZLE = 0.1
"""mm/h; a tile that has seen no more than this within its borders is dry."""


def member_seeds(seed: int, scene: Scene, members: int) -> list[int]:
    """One seed a member: it depends on the run's seed, when the nowcast begins and the member, nothing else."""
    return [member_seed(seed, str(scene.init_time), member) for member in range(members)]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """A way to forecast a scene.

    The noise of a member is one field over the domain, drawn from its seed. Tiles see their part of it, so that
    neighbours agree on what they share, and their forecasts are blended on the model's scale in [0, 1].

    Attributes:
        nowcaster: the frozen model.
        method: solver and grid; a solver that draws noise of its own is refused.
        scene: what was observed.
        tiling: of the scene's domain.
        batch: tiles sampled at once.
        sample_dry: sample tiles in which no rain was seen, too, instead of forecasting none there.
    """

    nowcaster: Nowcaster
    method: Method
    scene: Scene
    tiling: Tiling
    batch: int = 16
    sample_dry: bool = False
    _latents: list[Tensor] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def build(
        cls, nowcaster: Nowcaster, method: Method, scene: Scene, *, overlap: int | None, batch: int, sample_dry: bool
    ) -> Ensemble:
        """Raises UserError: another quantity than the model's, an overlap that does not fit, an unfit method."""
        if scene.quantity.name != nowcaster.quantity:
            raise UserError(
                f"expected {nowcaster.quantity}, which the model was trained on, got {scene.quantity.name}; "
                "choose another input or another --model"
            )
        if method.grid is None or method.solver is None or method.name in {"ddpm", "aligned-ddpm"}:
            raise UserError(f"expected a solver that draws no noise, got {method.name}; see --solver")
        multiple = nowcaster.frame_size[0] // nowcaster.latent_shape[2]
        if overlap is None:
            overlap = min(nowcaster.frame_size) // 4
        try:
            tiling = Tiling(scene.frames.shape[1:], nowcaster.frame_size, overlap, multiple)  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(str(error)) from None
        return cls(nowcaster, method, scene, tiling, batch, sample_dry)

    @cached_property
    def _context(self) -> np.ndarray:
        """(context frames, padded H, padded W) float32 in [0, 1], missing pixels filled."""
        return self.tiling.pad(self.scene.quantity.encode(self.scene.filled()).astype(np.float32, copy=False))

    @cached_property
    def active(self) -> list[Tile]:
        """The tiles that are sampled: those that show a pixel and, unless dry ones are too, rain."""
        floor = 0.0 if self.sample_dry else float(self.scene.quantity.encode(np.array([DRIZZLE]))[0])
        seen = self.tiling.pad(~self.scene.unobserved)
        return [
            tile
            for tile in self.tiling
            if self.tiling.cut(seen, tile).any()
            and (self.sample_dry or bool((self.tiling.cut(self._context, tile) > floor).any()))
        ]

    def prepare(self, report: Callable[[int], None] = lambda tiles: None) -> None:
        """Encode what the tiles have seen, once for all members; `report` is told how many tiles after each batch."""
        for tiles in self._batches()[len(self._latents) :]:
            with torch.no_grad():
                self._latents.append(self.nowcaster.encode(self._cut(self._context, tiles)).cpu())
            report(len(tiles))

    def _batches(self) -> list[Sequence[Tile]]:
        return [self.active[first : first + self.batch] for first in range(0, len(self.active), self.batch)]

    def _cut(self, fields: np.ndarray, tiles: Sequence[Tile], multiple: int = 1) -> Tensor:
        stacked = np.stack([self.tiling.cut(fields, tile, multiple) for tile in tiles])
        return torch.from_numpy(stacked).to(next(self.nowcaster.parameters()).device)

    def noise(self, seed: int) -> np.ndarray:
        """(C, T, padded h, padded w): the member's noise in latents; of a domain of one patch, the model's own."""
        channels, time = self.nowcaster.latent_shape[:2]
        height, width = (size // self.tiling.multiple for size in self.tiling.padded)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((channels, time, height, width), generator=generator).numpy()

    @torch.no_grad()
    def member(
        self, seed: int, report: Callable[[int], None] = lambda tiles: None, pulse: Callable[[], None] = lambda: None
    ) -> tuple[np.ndarray, int]:
        """((T, H, W) float32 on the quantity's scale, evaluations of the network for each tile).

        Pixels that no frame shows are NaN. `report` is told how many tiles were sampled after each batch of them,
        `pulse` is called after each evaluation of the network; what they raise ends it.
        """
        height, width = self.scene.frames.shape[1:]
        encoded = np.zeros((self.nowcaster.target_frames, *self.tiling.padded), np.float32)
        noise, nfe = self.noise(seed) if self.active else np.empty(0), 0
        self.prepare()
        assert self.method.grid is not None
        for tiles, encoded_tiles in zip(self._batches(), self._latents, strict=True):
            latents = encoded_tiles.to(next(self.nowcaster.parameters()).device)
            x_T = self._cut(noise, tiles, self.tiling.multiple)
            with self._pulsing(pulse):
                state = core.integrate(self.nowcaster.field(latents), self._solver(latents), x_T, self.method.grid)
            frames = self.nowcaster.decode(state.x.float()).clamp(0.0, 1.0).cpu().numpy()
            for tile, forecast in zip(tiles, frames, strict=True):
                self.tiling.cut(encoded, tile)[...] += self.tiling.weight(tile) * forecast
            nfe = state.nfe
            report(len(tiles))
        for frame in encoded:  # one at a time and in its place: a domain may be large
            frame[:height, :width] = self.scene.quantity.decode(frame[:height, :width])
        encoded[:, :height, :width][:, self.scene.unobserved] = np.nan
        return encoded[:, :height, :width], nfe

    @contextmanager
    def _pulsing(self, pulse: Callable[[], None]) -> Iterator[None]:
        hook = self.nowcaster.network.register_forward_hook(lambda *_: pulse())
        try:
            yield
        finally:
            hook.remove()

    def _solver(self, latents: Tensor) -> core.Solver:
        assert self.method.solver is not None
        solver = self.method.solver(())
        if isinstance(solver, Observing):
            raise UserError(f"expected a solver that reads latents alone, got {self.method.name}; see --solver")
        return bound(solver, latents)

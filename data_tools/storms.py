"""`python -m data_tools.storms --events N --seed S --out STORE.zarr`: plausible synthetic rain for want of an archive.

What an event is. A Gaussian cascade (`data_tools.cascade`) is the logarithm of rain in coordinates that move with the
storm; its small scales are stronger where its large scales are high, so that cells sit in clusters. It is carried by
a mean motion with mild rotation, divergence and shear, rises and falls with the life of the storm, and is thresholded
so that the event has a drawn wet fraction. Above the threshold, rain grows exponentially with the excess and its
logarithm bends towards a ceiling. A stratiform and a convective kind of event are the ends of one drawn `convection`
in [0, 1].

Where the numbers come from. 60 windows each of three radar days, 128 km, 13 frames at 5 minutes, with at least 5 % of
rain (0.1 mm/h or more), beside 60 events of seed 0 measured alike. Wet fractions and speeds are quantiles over windows,
the rest means or medians; slope and correlations are of 10 log10 R, the latter with the motion removed.

                                   KNMI 2010-08-26   FMI 2016-09-28   FMI 2017-05-09   synthetic
    wet fraction, 5 to 95 %        .14-.91           .07-.95          .07-.23          .05-.57
    rate at 50/90/99/99.9 % (mm/h) .4/1.4/3.2/5.1    .5/1.9/4.9/10    .3/1.1/3.0/6.7   .3/1.9/8.5/17
    slope from 43 to 14 km         -2.7              -2.5             -1.2             -2.2
    slope from 16 to 4 km          -3.4              -2.7             -2.7             -2.8
    correlation, 5 min, 23/11/6 km .90/.75/.38       .93/.83/.58      .97/.93/.79      .93/.82/.59
    the same, 30 min               .09/.05/.01       .34/.13/.03      .62/.42/.15      .23/.07/.01
    speed, 10 to 90 % (m/s)        18-30             9-18             4-7              7-18

The synthetic events are meant to be heavier: none of those days had strong convection. This is plausible rain and not a
climatology: no fronts, no diurnal cycle, no terrain, no radar artefacts, one motion an event, no event wetter than
60 %, large scales less organised than in a real rain band, and frequencies of nothing in particular.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import fft, linalg, ndimage

from data_tools.cascade import Memory, Spectrum, evolve
from data_tools.cli import UserError, progress_bar, run
from data_tools.quantities import RAINFALL_RATE
from data_tools.store import Event, require_free, write_store

WET = 0.1
"""mm/h; the least rate that is rain. Drier pixels are exactly 0."""

_EPOCH = np.datetime64("2001-01-01T00:00:00", "s")
_SPEEDS = (5.0, 20.0)  # m/s
_CEILING = 75.0  # mm/h, towards which the logarithm of the rate bends


@dataclass(frozen=True, slots=True)
class StormConfig:
    """Size of events: `frames` of `patch` x `patch` pixels of 1 km, `time_step` s apart; range of wet fractions."""

    patch: int = 128
    frames: int = 13
    time_step: int = 300
    wet_fraction: tuple[float, float] = (0.05, 0.60)

    def __post_init__(self) -> None:
        if self.patch < 16 or self.frames < 1 or self.time_step < 1:
            raise ValueError(
                "expected a patch of 16 or more, one frame or more and a time step of one second or more, "
                f"got patch {self.patch}, frames {self.frames}, time step {self.time_step}: change them"
            )
        low, high = self.wet_fraction
        if not 0.0 < low <= high < 1.0:
            raise ValueError(f"expected wet fractions with 0 < low <= high < 1, got {self.wet_fraction}: change them")

    @property
    def domain(self) -> int:
        """Side of the periodic domain in pixels: no rain leaves the patch at one side and comes back at the other.

        What has travelled 512 km has forgotten where it came from, and may.
        """
        travel = min(_SPEEDS[1] * self.time_step * (self.frames - 1) / 1000.0, 512.0)
        return int(fft.next_fast_len(int(self.patch + travel + 24), real=True) or 0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is drawn for one event.

    Attributes:
        velocity: (x, y) motion of the patch's centre in m/s; y grows with the row.
        gradient: (2, 2) velocity gradient in 1/s, rows (d/dx, d/dy) of x and of y motion.
        convection: 0 stratiform to 1 convective.
        wet_fraction: share of pixels of the event with rain.
        steepness: growth of log rate with the excess of the cascade over its threshold.
        clustering: how much stronger small scales are where large ones are high.
        life: (peak, halving) the storm peaks at `peak` and sinks by one unit of the cascade `halving` before and
            after, both in lengths of the event.
        spectrum, memory: of the cascade.
    """

    velocity: tuple[float, float]
    gradient: np.ndarray
    convection: float
    wet_fraction: float
    steepness: float
    clustering: float
    life: tuple[float, float]
    spectrum: Spectrum
    memory: Memory


def _generator(seed: int, index: int) -> np.random.Generator:
    """One stream per event, so that event `index` does not depend on how many are asked for."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(index,))))


def scenario(seed: int, index: int, config: StormConfig | None = None) -> Scenario:
    """What event `index` of `seed` is: see `Scenario`."""
    return _draw(_generator(seed, index), config or StormConfig())


def _draw(generator: np.random.Generator, config: StormConfig) -> Scenario:
    uniform, normal = generator.uniform, generator.normal
    convection = float(generator.beta(0.8, 0.8))
    speed, heading = uniform(*_SPEEDS), uniform(0.0, 2.0 * np.pi)
    divergence, rotation, stretch, shear = normal(0.0, (1.5e-5, 3e-5, 1.5e-5, 1.5e-5))
    low, high = np.log(config.wet_fraction)
    # Convective events are smaller: their wet fraction leans to the low end of the range.
    wet = np.exp(low + (high - low) * generator.beta(1.8, 0.7 + 0.9 * convection))
    return Scenario(
        velocity=(float(speed * np.cos(heading)), float(speed * np.sin(heading))),
        gradient=np.array([[divergence + stretch, shear - rotation], [shear + rotation, divergence - stretch]]),
        convection=convection,
        wet_fraction=float(wet),
        steepness=float(1.55 + 0.85 * convection + normal(0.0, 0.12)),
        clustering=float(0.15 + 0.35 * convection),
        life=(float(uniform(-0.3, 1.3)), float(uniform(0.9, 2.5))),
        spectrum=Spectrum(
            outer=float(uniform(140.0, 300.0) - 90.0 * convection),
            scale_break=float(uniform(25.0, 45.0) - 12.0 * convection),
            large=float(uniform(2.2, 3.0)),
            small=float(uniform(3.0, 3.6) - 0.2 * convection),
            stretch=float(np.exp(abs(normal(0.0, 0.3)))),
            angle=float(uniform(0.0, np.pi)),
        ),
        memory=Memory(minutes=float(14.0 * np.exp(normal(0.0, 0.3))), exponent=float(uniform(0.8, 1.0))),
    )


def storm(seed: int, index: int, config: StormConfig | None = None) -> np.ndarray:
    """Event `index` of the endless sequence of `seed`: (T, H, W) float32 in mm/h, 0 or at least `WET`, without gaps."""
    config = config or StormConfig()
    generator = _generator(seed, index)
    drawn = _draw(generator, config)
    size, step = config.domain, config.time_step
    excess = np.empty((config.frames, config.patch, config.patch), np.float32)
    levels = evolve(generator, size, config.frames, step / 60.0, drawn.spectrum, drawn.memory, split_wavelength=20.0)
    for frame, (large, small) in enumerate(levels):
        small *= np.exp(drawn.clustering * np.clip(large, -2.0, 2.0))
        large += small
        seconds = (frame - (config.frames - 1) / 2.0) * step
        excess[frame] = _carried(large, drawn, seconds, config.patch)
        peak, halving = drawn.life
        excess[frame] -= ((frame / max(config.frames - 1, 1) - peak) / halving) ** 2
    sample = excess[:, ::2, ::2].ravel()
    rank = min(int((1.0 - drawn.wet_fraction) * sample.size), sample.size - 1)
    excess -= np.partition(sample, rank)[rank]
    return _rate(excess, drawn.steepness)


def _carried(field: np.ndarray, drawn: Scenario, seconds: float, patch: int) -> np.ndarray:
    """The patch at the middle of `field` after a motion of `seconds`, which may be negative.

    The flow v(p) = v0 + G p is linear, so where air has come from is affine in where it is: p0 = A p + b, from
    exp(-seconds [[G, v0], [0, 0]]).
    """
    flow = np.zeros((3, 3))
    flow[:2, :2] = drawn.gradient[::-1, ::-1]  # arrays are indexed (y, x)
    flow[:2, 2] = np.array(drawn.velocity[::-1]) / 1000.0  # km/s, 1 km a pixel
    origin = linalg.expm(-seconds * flow)
    middle, offset = (np.array(field.shape) - 1) / 2.0, (patch - 1) / 2.0
    shift: Any = origin[:2, 2] + middle - origin[:2, :2] @ np.full(2, offset)  # scipy's hints know scalars only
    return ndimage.affine_transform(
        field, origin[:2, :2], shift, output_shape=(patch, patch), order=3, mode="grid-wrap", prefilter=False
    )


def _rate(excess: np.ndarray, steepness: float) -> np.ndarray:
    """Rain rate in mm/h where `excess` > 0, else 0.

    log R = log WET + L tanh(steepness excess / L) with L = log(_CEILING / WET).
    """
    span = np.float32(np.log(_CEILING / WET))
    rate = WET * np.exp(span * np.tanh(excess * np.float32(steepness) / span))
    return np.where(excess > 0.0, rate, 0.0).astype(np.float32)


def generate(
    n: int,
    seed: int,
    config: StormConfig | None = None,
    split: str = "train",
) -> Iterator[Event]:
    """Yield events 0 to n - 1 of `seed`. Times are made up: one event a day from 2001 on."""
    config = config or StormConfig()
    offsets = np.arange(config.frames) * np.timedelta64(config.time_step, "s")
    for index in range(n):
        yield Event(
            id=f"synthetic-{seed}-{index:06d}",
            times=_EPOCH + np.timedelta64(index, "D") + offsets,
            values=storm(seed, index, config),
            split=split,
            source="synthetic",
            x0=0.0,
            y0=0.0,
        )


@dataclass(frozen=True)
class Options:
    """Options of the command.

    Args:
        events: how many events.
        seed: which endless sequence they start; 0 or more.
        out: the event store to write.
        patch: height and width in pixels of 1 km.
        frames: frames of an event.
        time_step: seconds between frames.
        split: the part of the data that the events belong to.
        overwrite: replace an event store that exists.
    """

    events: int
    out: str
    seed: int = 0
    patch: int = 128
    frames: int = 13
    time_step: int = 300
    split: Literal["train", "val", "test"] = "train"
    overwrite: bool = False


def main(options: Options) -> None:
    if options.events < 1:
        raise UserError(f"expected --events of 1 or more, got {options.events}: ask for at least one")
    if options.seed < 0:
        raise UserError(f"expected --seed of 0 or more, got {options.seed}: choose another")
    try:
        config = StormConfig(options.patch, options.frames, options.time_step)
    except ValueError as error:
        raise UserError(str(error)) from error
    require_free(options.out, options.overwrite)
    count = write_store(
        options.out,
        _shown(generate(options.events, options.seed, config, options.split), options.events),
        quantity=RAINFALL_RATE,
        time_step_seconds=config.time_step,
        crs={"grid_mapping_name": "unknown", "long_name": "a plane without a place on Earth"},
        attrs={
            "source": f"synthetic multiplicative cascades, seed {options.seed}",
            "licence": "CC0-1.0",
            "comment": "plausible, not a climatology; times and places are made up",
        },
        overwrite=options.overwrite,
    )
    print(f"{options.out}: {count} events ({count} {options.split})")


def _shown(events: Iterator[Event], total: int) -> Iterator[Event]:
    with progress_bar() as bar:
        task = bar.add_task("making storms", total=total, note="")
        for event in events:
            yield event
            bar.advance(task)


if __name__ == "__main__":
    run(
        Options,
        main,
        prog="python -m data_tools.storms",
        description="Make synthetic rain storms: advected, growing and decaying multiplicative cascades.",
        examples="example:\n  python -m data_tools.storms --events 200 --seed 1 --out out/storms.zarr",
    )

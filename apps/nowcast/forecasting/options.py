"""Options of `python -m apps.nowcast.forecast`, and what they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from apps.nowcast.nowcaster import Precision
from apps.nowcast.output.formats import check_output
from apps.processes import check_device
from data_tools.cli import UserError, check_outputs

MOST_MEMBERS = 10_000


@dataclass(frozen=True)
class ForecastOptions:
    """Options of the command.

    Attributes:
        input: folder of radar frames (KNMI, FMI, MRMS), event store, SEVIR files, or CF netCDF file or Zarr store.
        out: what to write: .nc (netCDF 4), .zarr (Zarr v3) or .tif (one GeoTIFF, a band for each member and lead time).
        members: of the ensemble.
        time: begin at the last frame that is not later, UTC, like 2017-05-09T13:00; at the last of all by default.
        event: of an event store; the first around --time, or that ends last, by default.
        probabilities: thresholds, such as 0.1 1 5, whose probabilities of exceedance are written too.
        mean: write the ensemble mean too.
        plot: draw panels beside the output (.png) and an animation (.gif).
        model: folder of the model; the shipped one by default.
        solver: trained solver (a file, or a folder that holds solver.safetensors), or NAME-STEPS such as ddim-20 with
            NAME among ddim, heun, ipndm and adams-bashforth; by default the one of target supervision that ships with
            the model, with --model ddim-20.
        nfe: steps to sample an operator with that was trained for a range of them.
        seed: of the members' noise.
        overlap: least pixels that neighbouring tiles of the model's size share; a quarter of them by default.
        sample_dry: sample tiles too in which no rain was seen; by default none is forecast in them.
        watch: folder in which frames land; a nowcast is made of each, its time put into the output's name.
        deadline: seconds, from when the frame was seen, within which the output must be there: if the ensemble is going
            to be late, Lagrangian persistence is written in its place, by pysteps or by one displacement, or Eulerian
            where there is no time for either, and the file says which.
        poll: seconds between looks at the watched folder.
        runs: end the watch after so many nowcasts; 0 goes on.
        institution: who makes the nowcast, for the attributes.
        batch: tiles sampled at once.
        overwrite: replace outputs that exist.
        device: cpu, cuda, cuda:1, ...
        precision: of the networks; the state stays in float32.
    """

    input: str = ""
    out: str = "out/nowcast.nc"
    members: int = 20
    time: str | None = None
    event: str | None = None
    probabilities: str = ""
    mean: bool = False
    plot: bool = False
    model: str | None = None
    solver: str | None = None
    nfe: int | None = None
    seed: int = 0
    overlap: int | None = None
    sample_dry: bool = False
    watch: str | None = None
    deadline: float | None = None
    poll: float = 1.0
    runs: int = 0
    institution: str = "not told"
    batch: int = 8
    overwrite: bool = False
    device: str = "cpu"
    precision: Precision = "float32"

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The thresholds of --probabilities, as given.

        Raises:
            UserError: they are no rising numbers of 0 or more.
        """
        words = self.probabilities.replace(",", " ").split()
        try:
            values = tuple(float(word) for word in words)
        except ValueError:
            values = (math.nan,)
        rising = all(one < two for one, two in pairwise(values))
        if not rising or not all(0.0 <= value < math.inf for value in values):
            raise UserError(f"expected --probabilities as rising thresholds like 0.1 1 5, got {self.probabilities!r}")
        return values


def pictures_of(out: Path) -> tuple[Path, Path]:
    """(PNG, GIF) beside an output."""
    return out.with_suffix(".png"), out.with_suffix(".gif")


def check(options: ForecastOptions) -> None:
    """Raise UserError for what is wrong without looking at any data."""
    if bool(options.input) == (options.watch is not None):
        raise UserError("expected either an input or --watch with a folder, got both or neither; see --help")
    for name in ("members", "batch"):
        if getattr(options, name) < 1:
            raise UserError(f"expected --{name} of at least 1, got {getattr(options, name)}")
    if options.members > MOST_MEMBERS:
        raise UserError(f"expected at most {MOST_MEMBERS} --members, got {options.members}")
    for name in ("seed", "runs", "overlap"):
        if (getattr(options, name) or 0) < 0:
            raise UserError(f"expected --{name} of 0 or more, got {getattr(options, name)}")
    if options.nfe is not None and options.nfe < 1:
        raise UserError(f"expected --nfe of at least 1, got {options.nfe}")
    if options.deadline is not None and not 0.0 < options.deadline < math.inf:
        raise UserError(f"expected --deadline as seconds over 0, got {options.deadline}")
    if not 0.0 < options.poll < math.inf:
        raise UserError(f"expected --poll as seconds over 0, got {options.poll}")
    if options.watch is not None:
        if options.time or options.event:
            raise UserError("expected neither --time nor --event with --watch, which takes the newest frame")
        if not Path(options.watch).is_dir():
            raise UserError(f"expected a folder to watch, got {options.watch}, which is none")
    elif options.runs:
        raise UserError("expected --watch with --runs, got none: leave --runs out")
    if options.input and Path(options.out).resolve() == Path(options.input).resolve():
        raise UserError(f"expected another place to write than the input, got --out {options.out}")
    _ = options.thresholds
    check_device(options.device)
    check_output(Path(options.out), options.overwrite or options.watch is not None)
    if options.plot and options.watch is None:
        check_outputs(pictures_of(Path(options.out)), options.overwrite)

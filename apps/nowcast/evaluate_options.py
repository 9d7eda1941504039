"""Options of `python -m apps.nowcast.evaluate`, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from apps.nowcast.aligned import PREDIFF_SCALE
from apps.nowcast.data import SYNTHETIC
from apps.nowcast.nowcaster import Precision
from apps.nowcast.step_counts import parse_counts
from apps.nowcast.verification.strata import parse_kinds
from apps.processes import check_devices
from data_tools.cli import UserError, check_folder, check_outputs

DEFAULT_JSON = "out/evaluation.json"
WITH_FROM = {"from_statistics", "cluster", "baseline", "strata", "json", "png", "report", "overwrite"}
"""Options that have a meaning where statistics are told again."""

WITH_LIST = {"list", "json", "overwrite"}
"""Options that have a meaning where tables are listed."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the command.

    Attributes:
        data: comma-separated event stores, and `storms` for synthetic storms made on the spot.
        split: part of the stores to score; training never sees test.
        windows: file of data_tools.splits; the windows that it lists for the split are scored, whatever split the
            stores have them in.
        events: at most so many windows of each source; all of a store by default, 10 of `storms` alone and 96 of
            `storms` beside stores.
        methods: comma-separated persistence, teacher, and NAME-STEPS with NAME among ddim, ddpm, heun, ipndm,
            adams-bashforth and aligned-ddpm (see --anticipated). DDPM-1000 takes long. With the extra pysteps also
            extrapolation (Lagrangian persistence), sprog and steps (an ensemble).
        solver: comma-separated trained solvers (files, or folders that hold solver.safetensors); by default the two
            that ship with the model, with --model or an empty value none.
        nfe: steps such as 2,3,5 or 2:10 to sample operators with that were trained for a range of them, which they
            must lie in; by default the ends of the range. Other solvers keep to their own number.
        anticipated: mean intensity of the coming frames that you expect, which aligned-ddpm is drawn towards: from 0 to
            1 on the encoded scale, or such as 1.5x, in means of the last observed frame. The future is never looked at.
        guide_scale: strength of that pull, in standard deviations of a step.
        alignment: file of the alignment network; alignment.safetensors of the model by default.
        model: folder of the model; the shipped one by default.
        members: ensemble members per window.
        cluster: what is resampled for the intervals: events, or all events of one source and time together, which is
            the stricter choice where many tiles come from few moments.
        seed: of the members' noise and of synthetic storms.
        batch: windows x members sampled at once.
        weights: file of AlexNet or SqueezeNet 1.1 weights for LPIPS; an LPIPS-like distance on an installed network
            else.
        statistics: store (Zarr) of statistics of every event, from which --from tells all scores again; methods are
            added to one that exists, those in it are not run again, and a run that was killed goes on.
        from_statistics: comma-separated stores of --statistics, of the same events; their methods are scored and
            nothing is forecast. Short: --from.
        baseline: method, by its label such as persistence or ddim-5, that all others are compared with, paired by
            event.
        strata: comma-separated among source, season, wetness, motion; the scores on each part of the events, in the
            JSON.
        json: where to write the numbers; an existing file needs --overwrite, but for the default one.
        png: where to draw the picture; beside the JSON by default. Where there are members to compare, their
            calibration is drawn beside it, in a file whose name ends in -calibration.
        report: where to write a report of it all, one HTML file that needs nothing else.
        list: show every table and figure that can be made, with what each takes, what of that is here, and the command;
            with --json write that instead of numbers.
        overwrite: replace outputs that exist.
        device: cpu, cuda, cuda:1, ...
        devices: so many processes share the windows, one device each.
        precision: of the networks; the state and the scores stay in float32 and float64.
    """

    data: str = SYNTHETIC
    split: Literal["train", "val", "test"] = "test"
    windows: str | None = None
    events: int | None = None
    methods: str = "persistence,ddim-100,teacher,ddim-5,ipndm-5"
    solver: str | None = None
    nfe: str | None = None
    anticipated: str | None = None
    guide_scale: float = PREDIFF_SCALE
    alignment: str | None = None
    model: str | None = None
    members: int = 2
    cluster: Literal["event", "time"] = "event"
    seed: int = 0
    batch: int = 16
    weights: str | None = None
    statistics: str | None = None
    from_statistics: str | None = None
    baseline: str | None = None
    strata: str | None = None
    json: str | None = None
    png: str | None = None
    report: str | None = None
    list: bool = False
    overwrite: bool = False
    device: str = "cpu"
    devices: int = 1
    precision: Precision = "float32"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of strata."""
        return () if self.strata is None else parse_kinds(self.strata)

    @property
    def stores(self) -> Sequence[Path]:
        """Those of --from."""
        return [Path(part.strip()) for part in (self.from_statistics or "").split(",") if part.strip()]

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """(JSON, PNG, PNG of the calibration)."""
        numbers = Path(self.json or DEFAULT_JSON)
        picture = Path(self.png) if self.png else numbers.with_suffix(".png")
        return numbers, picture, picture.with_stem(f"{picture.stem}-calibration")


def check(options: EvaluateOptions) -> None:
    """Raise UserError for what is wrong without looking at any data."""
    if options.list:
        _check_idle(options, WITH_LIST, "--list, which scores nothing")
        return
    if options.seed < 0:
        raise UserError(f"expected --seed of 0 or more, got {options.seed}")
    for name in ("events", "members", "batch"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"expected --{name} of at least 1, got {value}")
    if options.nfe is not None:
        parse_counts(options.nfe)
    if options.anticipated is not None and "aligned-ddpm" not in options.methods:
        raise UserError(
            f"expected aligned-ddpm-STEPS among --methods with --anticipated, got {options.methods}; leave one out"
        )
    if options.anticipated is None and (options.alignment is not None or options.guide_scale != PREDIFF_SCALE):
        raise UserError("expected --anticipated with --guide_scale and --alignment, got none; leave them out")
    own = options.json is None and options.png is None  # the default place is replaced by every run
    check_outputs(options.paths if options.members > 1 else options.paths[:2], options.overwrite or own)
    if options.report is not None:
        check_outputs([Path(options.report), *options.paths], overwrite=True)
        check_outputs([Path(options.report)], options.overwrite)
    check_devices(options.device, options.devices)
    _ = options.kinds
    if options.from_statistics is not None:
        if not options.stores or options.statistics is not None:
            raise UserError("expected --from STORE[,STORE] without --statistics, got another; leave one out")
        _check_idle(options, WITH_FROM, "--from, which forecasts nothing")
    elif options.statistics is not None:
        check_folder(Path(options.statistics), "--statistics")


def _check_idle(options: EvaluateOptions, meant: Set[str], why: str) -> None:
    """Refuse options that were given and mean nothing beside another."""
    given = [each.name for each in fields(options) if getattr(options, each.name) != each.default]
    if idle := [name for name in given if name not in meant]:
        raise UserError(f"expected no --{idle[0]} with {why}: leave it out")

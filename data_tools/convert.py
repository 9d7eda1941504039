"""`python -m data_tools.convert SEVIR_DIR OUT.zarr`: whole SEVIR events out of HDF5 into an event store."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from data_tools.cli import UserError, console, run
from data_tools.conversion.blocks import Repair, convert_block, repair_block
from data_tools.conversion.cluster import Outcome, outcomes, processes
from data_tools.conversion.manifest import check_block, checks_of, manifest_path, read_manifest
from data_tools.conversion.plan import Plan, alone
from data_tools.progress import moving_bar
from data_tools.sevir import Pool
from data_tools.sevir_events import SevirEvents
from data_tools.store import EventStore, require_free

Task = TypeVar("Task")

CHUNK_FRAMES = 7
"""Frames of a chunk of long events: a window of 13 out of 49 reads two or three chunks of 1 MB, not 7 MB."""

OF_WRITING = ("lr", "pool", "start", "end", "absent", "block", "chunk_frames", "overwrite")
"""Options that say what is written, and how."""


@dataclass(frozen=True)
class Options:
    """Options of the command.

    Args:
        src: SEVIR's folder with CATALOG.csv and data/vil; with --verify, the store to check.
        out: the event store to write.
        lr: write SEVIR-LR: every second frame, 3 x 3 pixels in one.
        pool: how 3 x 3 pixels become one; max is SEVIR-LR as published, mean the mean of their codes.
        start: first nominal time of events, UTC, like 2019-06-01T00:00.
        end: last nominal time of events, UTC.
        absent: what to do about files of the catalogue that are not there; skip leaves their events out.
        scheduler: address of a dask scheduler whose workers see the same folders; without it, processes here.
        workers: processes here (default: as many as cores); 0 works in this process, without dask.
        block: events of a task, and of a checksum in the manifest.
        chunk_frames: frames of a chunk of the store (default: 7 of 49, all of 25).
        overwrite: replace an event store that exists, and begin anew where a conversion of others is unfinished.
        verify: read a store against its manifest and name its damaged blocks; nothing is written.
        repair: write the damaged blocks of an existing OUT again.
    """

    src: str
    out: str | None = None
    lr: bool = False
    pool: Pool = "max"
    start: str | None = None
    end: str | None = None
    absent: Literal["refuse", "skip"] = "refuse"
    scheduler: str | None = None
    workers: int | None = None
    block: int = 32
    chunk_frames: int | None = None
    overwrite: bool = False
    verify: bool = False
    repair: bool = False


def make_plan(options: Options) -> Plan:
    """What the options ask for, with all files of the archive looked into.

    Raises:
        UserError: whatever is wrong with the archive or the options.
    """
    if options.out is None:
        raise UserError("expected the store to write after the folder of SEVIR, got none: name one like out/vil.zarr")
    for name in ("block", "chunk_frames"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"expected --{name} of 1 or more, got {value}")
    if options.workers is not None and (options.workers < 0 or options.scheduler is not None):
        raise UserError(f"expected --workers from 0, or --scheduler, got {options.workers} and {options.scheduler}")
    if options.pool != "max" and not options.lr:
        raise UserError(f"expected --lr with --pool {options.pool}, got none: whole fields are not pooled")
    events = SevirEvents.open(
        Path(options.src).absolute(),
        lr=options.lr,
        pool=options.pool,
        start=options.start,
        end=options.end,
        skip_lost=options.absent == "skip",
        remedy="--absent skip",
    )
    frames = events.shape[1]
    chunk_frames = options.chunk_frames or (CHUNK_FRAMES if frames == 49 else frames)
    return Plan(events, Path(options.out).absolute(), options.block, min(chunk_frames, frames))


def convert(options: Options) -> None:
    """Convert, or go on with what a killed run left.

    Raises:
        UserError: whatever is wrong with the archive or the options, before anything is written; or blocks that could
            not be converted, when all others have been, and are kept.
    """
    plan = make_plan(options)
    require_free(plan.out, options.overwrite)
    _tell_left_out(plan.events)
    with alone(plan.folder):
        plan.begin(options.overwrite)
        blocks = plan.unfinished()
        done = -(-len(plan.events) // plan.block) - len(blocks)
        if done:
            _tell(f"going on after {done} finished blocks in {plan.folder}")
        failures = [o for o in _do_all(options, convert_block, blocks, "converting") if o.failure]
        if failures:
            raise UserError(
                f"{failures[0].failure} ({len(failures)} of {done + len(blocks)} blocks failed; the others are kept in "
                f"{plan.folder}, and the same command goes on)"
            )
        plan.finish(options.overwrite)
    parts = ", ".join(f"{count} {split}" for split, count in sorted(Counter(plan.events.splits).items()))
    print(f"{options.out}: {len(plan.events)} events ({parts})")


def find_damage(options: Options, path: Path) -> dict[int, list[str]]:
    """What is wrong with each damaged block of the store at `path`, in words, by its number.

    Raises:
        UserError: no store there, or the manifest or the variables beside the fields are damaged.
    """
    store = EventStore.open(path.absolute())
    manifest = read_manifest(manifest_path(store.path, store.quantity), len(store))
    if manifest is None:
        _tell(f"{path} has no manifest: chunks are compared with their own checksums only")
    checks = list(checks_of(store, manifest, options.block))
    found: dict[int, list[str]] = {}
    for outcome in _do_all(options, check_block, checks, "verifying"):
        if outcome.failure:
            raise outcome.failure
        if outcome.result:
            found[outcome.number] = outcome.result
    return dict(sorted(found.items()))


def verify(options: Options) -> None:
    """Print what is wrong with the store, a line each.

    Raises:
        UserError: anything is.
    """
    if options.out is not None:
        raise UserError(f"expected the store alone with --verify, got {options.src} and {options.out}: leave one out")
    for name in OF_WRITING:
        if getattr(options, name) != getattr(Options, name):
            raise UserError(f"expected no --{name} with --verify, which reads a store as it was written: leave it out")
    damage = find_damage(options, Path(options.src))
    for lines in damage.values():
        print("\n".join(lines))
    if damage:
        raise UserError(
            f"expected whole blocks in {options.src}, got damage in {len(damage)} ({_numbers(damage)}): copy the store "
            "anew, or write them again with --repair; all others can be read"
        )
    print(f"{options.src}: all events are whole")


def repair(options: Options) -> None:
    """Write the damaged blocks of a store again, where they stand.

    Raises:
        UserError: a store of other events or options, or without manifest; the archive holds other values by now.
    """
    plan = make_plan(options)
    store = EventStore.open(plan.out)
    manifest = read_manifest(manifest_path(plan.out, store.quantity), len(store))
    if manifest is None or manifest.identity != plan.identity:
        raise UserError(f"expected a store that these options made, got {plan.out}: give those it was made with")
    damage = find_damage(options, plan.out)
    with alone(plan.folder):
        if plan.begun:
            raise UserError(f"expected no unfinished conversion, got {plan.folder}: finish it first")
        shutil.rmtree(plan.records, ignore_errors=True)  # of a repair that was killed: what it did may be damaged since
        plan.records.mkdir()
        blocks = [block._replace(store=plan.out) for block in plan.blocks() if block.number in damage]
        repairs = [Repair(block, manifest.blocks[block.number]) for block in blocks]
        for outcome in _do_all(options, repair_block, repairs, "repairing"):
            if outcome.failure:
                raise outcome.failure
    print(f"{options.out}: {len(blocks)} blocks written again ({_numbers(damage) or 'none was damaged'})")


def _do_all(options: Options, function: Callable[[Task], Any], tasks: Sequence[Task], title: str) -> list[Outcome]:
    if not tasks:
        return []
    finished: list[Outcome] = []
    begin, size = time.perf_counter(), 0
    workers = None if options.workers is None else min(options.workers, len(tasks))
    with processes(options.scheduler, workers) as client, moving_bar(title, len(tasks)) as move:
        for outcome in outcomes(client, function, tasks):
            finished.append(outcome)
            size += outcome.result if isinstance(outcome.result, int) else 0
            move(len(finished), f"{size / 1e6 / (time.perf_counter() - begin):.0f} MB/s" if size else "")
    return finished


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))


def _tell_left_out(events: SevirEvents) -> None:
    doubled, lost = events.left_out
    if doubled:
        names = ", ".join(doubled[:5]) + (", ..." if len(doubled) > 5 else "")
        _tell(f"{len(doubled)} events stand more than once in the catalogue and are left out: {names}")
    if lost:
        _tell(f"{len(lost)} files are not there and their events are left out: {', '.join(lost)}")


def _tell(text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)  # one line however narrow the terminal


def main(options: Options) -> None:
    if options.verify and options.repair:
        raise UserError("expected --verify or --repair, got both: --repair verifies first")
    (verify if options.verify else repair if options.repair else convert)(options)


if __name__ == "__main__":
    run(
        Options,
        main,
        prog="python -m data_tools.convert",
        description="Convert whole SEVIR events into an event store; killed, the same command goes on.",
        examples="examples:\n"
        "  python -m data_tools.convert sevir out/vil.zarr\n"
        "  python -m data_tools.convert sevir out/vil_lr.zarr --lr --workers 8\n"
        "  python -m data_tools.convert sevir out/vil.zarr --scheduler tcp://10.0.0.1:8786\n"
        "  python -m data_tools.convert out/vil.zarr --verify\n"
        "  python -m data_tools.convert sevir out/vil.zarr --repair",
        positional=[
            ("src", "SEVIR's folder with CATALOG.csv and data/vil; with --verify, the store to check"),
            ("out", "the event store to write"),
        ],
    )

"""Tasks on the processes of dask.distributed: here, on a cluster, or without it in this very process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from data_tools.cli import UserError
from data_tools.writing import NoSpace

Task = TypeVar("Task")

PATIENCE = 120
"""Seconds for which there may be no worker at all."""

_ANSWER = 15  # s, until a scheduler has to answer
_POLL = 0.05  # s, between looks for finished tasks
_LOST = "expected the dask scheduler to stay, got it lost: run the same command again"


class Outcome(NamedTuple):
    """A finished task: its number, and its result or what was wrong."""

    number: int
    result: Any
    failure: UserError | None


@contextmanager
def processes(scheduler: str | None, workers: int | None) -> Iterator[Any]:
    """A dask client: of the scheduler at an address, or of `workers` processes of one thread here (None: by cores).

    None for 0 workers: tasks are then done in this process.

    Raises:
        UserError: no scheduler answers at the address.
    """
    if scheduler is None and workers == 0:
        yield None
        return
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_ANSWER)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"expected a dask scheduler at {scheduler}, got none ({reason}): start one") from error
        with client:
            yield client
        return
    # lost workers are told by us, once; the scheduler's web page is for this machine, at a port that is free
    options: dict[str, Any] = {"threads_per_worker": 1, "silence_logs": logging.CRITICAL + 1}
    options["dashboard_address"] = "127.0.0.1:0"
    # a task waits for a worker, not in one: those that wait in a lost one would be blamed for its loss
    with (
        dask.config.set({"distributed.scheduler.worker-saturation": 1.0}),
        LocalCluster(n_workers=workers, **options) as cluster,
        Client(cluster) as client,
    ):
        yield client


def outcomes(client: Any, function: Callable[[Task], Any], tasks: Sequence[Task]) -> Iterator[Outcome]:
    """Do all tasks, and yield them as they finish; the failure of one does not stop the others.

    A task whose worker is lost is done again by another, until dask gives it up.

    Raises:
        NoSpace: the disk is full; tasks that have not begun are not done.
        UserError: the scheduler is lost, or its workers lack the software.
    """
    if client is None:
        for number, task in enumerate(tasks):
            try:
                yield Outcome(number, function(task), None)
            except NoSpace:
                raise
            except UserError as error:
                yield Outcome(number, None, error)
        return
    futures = {client.submit(function, task, pure=False): number for number, task in enumerate(tasks)}
    try:
        for future in _as_they_finish(client, list(futures)):
            yield _outcome(futures[future], future)
    finally:
        client.cancel(list(futures))


def _as_they_finish(client: Any, futures: list[Any]) -> Iterator[Any]:
    """Finished futures; `UserError` where there has been no worker for `PATIENCE`: dask itself waits for ever."""
    from distributed import as_completed

    finished = as_completed(futures)
    seen = asked = time.monotonic()
    while not finished.is_empty():
        batch = finished.next_batch(block=False)
        yield from batch
        now = time.monotonic()
        if batch:
            seen = asked = now
            continue
        time.sleep(_POLL)
        if now - asked > PATIENCE / 10:
            asked = now
            seen = now if _has_workers(client) else seen
        if now - seen > PATIENCE:
            raise UserError(f"expected workers, got none for {PATIENCE} s: start some and run the same command again")


def _has_workers(client: Any) -> bool:
    try:
        return bool(client.nthreads())
    except OSError as error:  # CommClosedError and time-outs are
        raise UserError(_LOST) from error


def _outcome(number: int, future: Any) -> Outcome:
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    try:
        return Outcome(number, future.result(timeout=PATIENCE), None)
    except NoSpace:
        raise
    except UserError as error:
        return Outcome(number, None, error)
    except KilledWorker as error:
        lost = f"expected a worker to finish task {number}, got {error.allowed_failures + 1} lost on it"
        return Outcome(number, None, UserError(f"{lost}, the last at {error.last_worker.address}: too little memory?"))
    except TimeoutError as error:  # the worker was lost while it held the result, and no other came
        lost = f"expected the result of task {number} within {PATIENCE} s, got none: its worker is lost"
        raise UserError(f"{lost}; run the same command again") from error
    except ImportError as error:
        raise UserError(f"expected workers with this very software, got {error} on one: install it there") from error
    except (CommClosedError, CancelledError) as error:
        raise UserError(_LOST) from error

"""Tasks on processes that are lost, fail or run out of disk."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_tools.cli import UserError
from data_tools.conversion import cluster as cluster_of_tasks
from data_tools.conversion.cluster import outcomes, processes
from data_tools.writing import NoSpace

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")


@pytest.fixture(scope="module")
def one_worker() -> Iterator[Any]:
    with processes(None, 1) as client:
        yield client


@pytest.fixture
def client(one_worker: Any) -> Any:
    """A client whose worker has started in the eyes of its nanny: one that dies before is not started again."""
    deadline = time.monotonic() + 60
    while one_worker.cluster.workers[0].status.name != "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    return one_worker


def test_a_lost_worker_costs_no_task(client: Any, tmp_path: Path) -> None:
    def square(task: int) -> int:
        mark = tmp_path / "killed"
        if task == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return task**2

    found = {outcome.number: outcome.result for outcome in outcomes(client, square, [3, 2, 5])}
    assert found == {0: 9, 1: 4, 2: 25}
    assert (tmp_path / "killed").exists()


def test_failures_stand_beside_results(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)

    def fail(task: int) -> int:
        if task == 4:
            time.sleep(1)  # until what came of the task before is told
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 1:
            raise UserError("a bad event")
        return -task

    found = sorted(outcomes(client, fail, [1, 4, 6]))
    assert [(outcome.number, outcome.result) for outcome in found] == [(0, None), (1, None), (2, -6)]
    assert str(found[0].failure) == "a bad event"
    assert "expected a worker to finish task 1, got 1 lost on it, the last at tcp://" in str(found[1].failure)


def test_a_full_disk_stops_all(client: Any) -> None:
    def fill(task: int) -> int:
        raise NoSpace("no space left")

    with pytest.raises(NoSpace, match="no space left"):
        list(outcomes(client, fill, list(range(5))))


def test_in_this_process_the_same_holds() -> None:
    done: list[int] = []

    def work(task: int) -> int:
        done.append(task)
        if task == 3:
            raise NoSpace("no space left")
        if task == 1:
            raise UserError("a bad event")
        return task

    with processes(None, 0) as nobody:
        found = outcomes(nobody, work, [0, 1, 2, 3, 4])
        assert [(number, result) for number, result, _ in (next(found), next(found), next(found))] == [
            (0, 0),
            (1, None),
            (2, 2),
        ]
        with pytest.raises(NoSpace):
            next(found)
    assert done == [0, 1, 2, 3]


def test_a_cluster_without_workers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(cluster_of_tasks, "PATIENCE", 1)
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", processes=False) as cluster,
        processes(cluster.scheduler_address, None) as client,
        pytest.raises(UserError, match="expected workers, got none for 1 s"),
    ):
        list(outcomes(client, abs, [-7]))


def test_a_scheduler_at_an_address_is_used(client: Any) -> None:
    with processes(client.scheduler.address, None) as other:
        assert [outcome.result for outcome in outcomes(other, abs, [-7])] == [7]

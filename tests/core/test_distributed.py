"""Several processes, the same gradient: shares of an example, and a training on two gloo processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from core.distributed import Alone, Portion, portions, rows_of, share
from core.supervision import Example

ROOT = Path(__file__).resolve().parents[2]


class Rank(NamedTuple):
    global_rank: int
    world_size: int

    all_reduce = broadcast = barrier = Alone.barrier


def example(rows: int, members: int = 1) -> Example:
    x_T = torch.arange(rows * members * 3.0).view(rows * members, 3)
    return Example(
        x_T, torch.arange(rows * members * 2.0).view(rows * members, 2), torch.arange(rows * 4.0).view(rows, 4)
    )


@pytest.mark.parametrize(("rows", "processes", "members"), [(5, 2, 1), (7, 3, 2), (4, 4, 3)])
def test_shares_make_up_the_example_and_its_mean(rows: int, processes: int, members: int) -> None:
    whole = example(rows, members)
    shares = [share(whole, Rank(rank, processes)) for rank in range(processes)]
    for name in Example._fields:
        assert torch.equal(torch.cat([getattr(part, name) for part, _ in shares]), getattr(whole, name))
    assert all(len(part.x_T) == members * len(part.endpoint) for part, _ in shares)
    mean = sum(weight * part.endpoint.mean() for part, weight in shares) / processes
    assert mean.item() == pytest.approx(whole.endpoint.mean().item(), rel=1e-6)


@pytest.mark.parametrize(("processes", "passes", "rows"), [(1, 1, 3), (2, 3, 7), (3, 2, 6)])
def test_passes_of_processes_make_up_all_rows(processes: int, passes: int, rows: int) -> None:
    """In their order, each row once; the mean of weight times mean is the mean."""
    all_portions = [portion for rank in range(processes) for portion in portions(Rank(rank, processes), passes)]
    assert all_portions == [Portion(index, processes * passes) for index in range(processes * passes)]
    values = torch.arange(rows).double().square()
    taken = [rows_of(rows, portion) for portion in all_portions]
    assert torch.equal(torch.cat([values[mine] for mine, _ in taken]), values)
    mean = sum(weight * values[mine].mean() for mine, weight in taken) / len(taken)
    assert mean.item() == pytest.approx(values.mean().item(), rel=1e-12)


def test_one_process_has_all() -> None:
    whole = example(3)
    assert share(whole, Alone()) == (whole, 1.0)


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="each of 3 processes, got 2"):
        share(example(2), Rank(0, 3))
    with pytest.raises(ValueError, match="equally many rows for 4 endpoints, got 6"):
        share(example(4)._replace(x_T=torch.zeros(6, 3)), Rank(0, 2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lightning_fabric", reason="needs spanlift[distributed]")
    folder = tmp_path_factory.mktemp("trained")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(ROOT / "tests/core/two_processes.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def result(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    content = torch.load(folder / name / f"{rank}.pt")
    return {f"{kind}/{name}": value for kind, values in content.items() for name, value in values.items()}


def test_two_processes_train_as_one_with_the_whole_batch(trained: Path) -> None:
    one, two = result(trained, "one"), result(trained, "two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-8, atol=1e-12)
    assert max(gradient.abs().max() for name, gradient in one.items() if name.startswith("gradients")) > 1e-4
    logs = [(trained / name / "run/log.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 9
    for line, other in zip(*logs, strict=True):
        assert json.loads(other) == pytest.approx(json.loads(line), rel=1e-8)


def test_both_processes_end_with_the_same_bits(trained: Path) -> None:
    first, second = result(trained, "two"), result(trained, "two", rank=1)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_killed_processes_end_as_two_that_were_not(trained: Path) -> None:
    expected, got = result(trained, "two"), result(trained, "killed")
    assert all(torch.equal(expected[name], got[name]) for name in expected)

"""The teacher's cache: right endpoints, survives a kill, refuses what is another teacher's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core import endpoint_store
from core.charts import NoiseChart
from core.fields import MixtureField
from core.grids import build_grid
from core.schedules import DiscreteVP
from core.solvers import Euler, build_solver
from core.state import integrate
from core.supervision import Target, Teacher, draw

GRID = build_grid("karras", 6, 5.0, 0.1, rho=7.0)
KEYS = [f"event{i}/seed{s}" for i in range(4) for s in (3, 5)]


class Starts:
    """x_T by key; counts what was asked for, and dies at the n-th call."""

    def __init__(self, dies_at: int = 1000) -> None:
        self.asked: list[str] = []
        self.calls = 0
        self.dies_at = dies_at

    def __call__(self, keys: Sequence[str]) -> tuple[MixtureField, Tensor]:
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        self.asked += keys
        return problem(), torch.cat([start(key) for key in keys])


def problem() -> MixtureField:
    return MixtureField(torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3), 0.2)


def start(key: str) -> Tensor:
    return 5 * torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(sum(key.encode())))


def teacher(folder: Path, identity: str = "weights-1", solver: str = "heun", grid: Tensor = GRID) -> Teacher:
    return Teacher(build_solver(solver), grid, folder, identity)


def test_endpoints_are_the_rollouts_of_their_keys(tmp_path: Path) -> None:
    cache = teacher(tmp_path)
    progress: list[tuple[int, int]] = []
    assert cache.fill([*KEYS, KEYS[0]], Starts(), batch=3, report=lambda *now: progress.append(now)) == 8
    assert progress == [(3, 8), (6, 8), (8, 8)]
    order = [KEYS[5], KEYS[0], KEYS[7], KEYS[5]]
    got = teacher(tmp_path).endpoints(order)
    for row, key in zip(got, order, strict=True):
        expected = integrate(problem(), build_solver("heun"), start(key), GRID).x[0]
        torch.testing.assert_close(row, expected)
    assert cache.fill(KEYS, Starts()) == 0
    assert cache.name == "teacher"


def test_a_killed_run_loses_one_batch_at_most(tmp_path: Path) -> None:
    killed = Starts(dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        teacher(tmp_path).fill(KEYS, killed, batch=2)
    (tmp_path / "endpoint/c.4.0.0.77.partial").write_bytes(b"half a chunk")
    second = Starts()
    cache = teacher(tmp_path)
    assert cache.missing(KEYS) == KEYS[4:]
    assert cache.fill(KEYS, second, batch=3) == 4
    assert Counter(killed.asked + second.asked) == Counter(KEYS)
    whole = teacher(tmp_path / "whole")
    whole.fill(KEYS, Starts(), batch=2)
    torch.testing.assert_close(cache.endpoints(KEYS), whole.endpoints(KEYS))


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    teacher(tmp_path).fill(KEYS[:2], Starts())
    for other, words in (
        (lambda: teacher(tmp_path, identity="weights-2"), "different: of"),
        (lambda: teacher(tmp_path, solver="euler"), "different: solver"),
        (lambda: teacher(tmp_path, grid=GRID[1:]), "different: grid"),
    ):
        with pytest.raises(ValueError, match=words):
            other()
    schedule = DiscreteVP.scaled_linear(30)
    Teacher(Euler(NoiseChart(schedule)), GRID, tmp_path / "vp", {"data": ["a", "b"], "hash": 1})
    Teacher(Euler(NoiseChart(schedule)), GRID, tmp_path / "vp", {"data": ["a", "b"], "hash": 1})
    with pytest.raises(ValueError, match="different: solver"):
        Teacher(Euler(NoiseChart(DiscreteVP.linear(30))), GRID, tmp_path / "vp", {"data": ["a", "b"], "hash": 1})


class Dead(OSError):
    pass


def test_a_run_killed_anywhere_between_two_writes_leaves_a_store_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies before the n-th file is put in its place, whatever it is: the store is valid and nothing in it is wrong."""
    expected = torch.cat([integrate(problem(), build_solver("heun"), start(key), GRID).x for key in KEYS])
    place, before = Path.replace, 0
    while True:
        folder, writes = tmp_path / str(before), iter(range(before))

        def dying(path: Path, target: Path, writes: Iterator[int] = writes) -> Path:
            if next(writes, None) is None:
                raise Dead
            return place(path, target)

        monkeypatch.setattr(Path, "replace", dying)
        try:
            teacher(folder).fill(KEYS[:5], Starts(), batch=2)
            break
        except Dead:
            monkeypatch.setattr(Path, "replace", place)
        again = teacher(folder)
        again.fill(KEYS, Starts(), batch=3)
        torch.testing.assert_close(teacher(folder).endpoints(KEYS), expected)
        before += 1
    assert before > 15


def test_only_what_is_asked_for_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher(tmp_path).fill(KEYS, Starts())
    whole = teacher(tmp_path).endpoints(KEYS)
    monkeypatch.setattr(endpoint_store, "KEPT_BYTES", 0)
    cache = teacher(tmp_path)
    for row in (7, 0):
        (tmp_path / f"endpoint/c.{row}.0.0").rename(tmp_path / f"endpoint/hidden{row}")
    assert torch.equal(cache.endpoints([KEYS[3], KEYS[1], KEYS[3]]), whole[[3, 1, 3]])  # the others are not read


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"meow")
    (tmp_path / "file").write_bytes(b"")
    zarr.create_group(str(tmp_path / "other"), zarr_format=3, attributes={"source": "somebody"})
    for name in ("photos", "file", "other"):
        with pytest.raises(ValueError, match=r"choose another folder or remove it$"):
            teacher(tmp_path / name)
    assert (tmp_path / "photos/cat.jpg").read_bytes() == b"meow"


@pytest.mark.parametrize("name", ["endpoint/c.1.0.0", "endpoint/zarr.json", "key/c.0", "written/c.0", "zarr.json"])
@pytest.mark.parametrize("kind", ["cut", "flipped", "lost"])
def test_damage_is_named_or_costs_a_rollout(tmp_path: Path, name: str, kind: str) -> None:
    """Never a wrong endpoint; a store without flags or arrays is as good as empty, and filled again."""
    teacher(tmp_path).fill(KEYS[:2], Starts())
    whole = teacher(tmp_path).endpoints(KEYS[:2])
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    if kind == "flipped":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    if kind == "lost":
        path.unlink()
    refused, got = "", None
    try:
        cache = teacher(tmp_path)
        cache.fill(KEYS[:2], Starts())
        got = cache.endpoints(KEYS[:2])
    except ValueError as error:
        refused = str(error)
    if got is not None:
        assert kind == "lost"
        assert torch.equal(got, whole)
    else:
        assert "remove" in refused
        assert str(tmp_path) in refused


def test_endpoints_of_another_shape_are_refused(tmp_path: Path) -> None:
    cache = teacher(tmp_path)
    cache.fill(KEYS[:2], Starts())
    with pytest.raises(ValueError, match=r"endpoints of shape \(2, 4\) and float32 .* float64"):
        cache.fill(KEYS[2:], lambda keys: (problem(), torch.cat([start(key) for key in keys]).double()))


def test_what_was_not_computed_is_not_given(tmp_path: Path) -> None:
    cache = teacher(tmp_path)
    with pytest.raises(ValueError, match="call fill first"):
        cache.endpoints(["unknown"])
    with pytest.raises(ValueError, match="one a key"):
        cache.fill(KEYS[:2], lambda keys: (problem(), start(keys[0])))
    assert teacher(tmp_path).missing(KEYS) == KEYS


def test_target_reads_the_data() -> None:
    target = Target(lambda keys: torch.tensor([float(len(key)) for key in keys]))
    assert target.name == "target"
    assert target.endpoints(["a", "bbb"]).tolist() == [1, 3]


@given(count=st.integers(1, 9), batch=st.integers(1, 20), seed=st.integers(0, 5))
def test_draw_visits_every_key_once_an_epoch(count: int, batch: int, seed: int) -> None:
    keys = [str(index) for index in range(count)]
    iterations = -(-3 * count // batch)
    stream = [key for iteration in range(iterations) for key in draw(keys, batch, iteration, seed)]
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == sorted(keys)


def test_draw_shuffles_by_seed_and_epoch() -> None:
    keys = [str(index) for index in range(30)]
    orders = {tuple(draw(keys, 30, epoch, seed)) for epoch in range(2) for seed in range(2)}
    assert len(orders) == 4
    with pytest.raises(ValueError, match="at least one key"):
        draw([], 2, 0, 0)

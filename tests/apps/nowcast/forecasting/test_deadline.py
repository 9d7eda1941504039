"""What is sent when time is short: the best kind of persistence that there is time for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from apps.nowcast.forecasting import production
from apps.nowcast.forecasting.clock import CAUTION, Costs, Deadline
from apps.nowcast.forecasting.ensemble import Ensemble
from apps.nowcast.forecasting.extrapolation import Extrapolation, stay
from apps.nowcast.forecasting.inputs import open_source, read_scene
from apps.nowcast.forecasting.production import Order, produce, warm_up
from apps.nowcast.forecasting.scene import Place, Scene
from apps.nowcast.methods import Method
from apps.nowcast.nowcaster import Nowcaster

TIMES = np.datetime64("2020-02-29T23:40:00", "s") + np.arange(9) * np.timedelta64(300, "s")
SIZE = (20, 30)


@pytest.fixture(scope="module")
def ensemble(nowcaster: Nowcaster, method: Method, rain: Callable, scene_of: Callable) -> Ensemble:
    return Ensemble.build(nowcaster, method, scene_of(rain(*SIZE)), overlap=8, batch=8, sample_dry=False)


class Clock:
    """A clock that stands still but for what is done."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def costs(**seconds: float) -> Costs:
    """Of parts of a nowcast of `SIZE`, before caution."""
    pixels = SIZE[0] * SIZE[1]
    return Costs({part.replace("_", " "): each / pixels * 1e6 for part, each in seconds.items()})


def test_expectations_follow_what_was_measured() -> None:
    made = Costs()
    assert made.expect("writing", 10**6) == 0.0
    made.learn("writing", 5 * 10**5, 1.0)
    assert made.expect("writing", 10**6) == CAUTION * 2.0
    made.learn("writing", 10**6, 1.0)
    assert made.expect("writing", 10**6) == CAUTION * 1.5
    made.learn("writing", 10**6, 4.0)
    assert made.expect("writing", 10**6) == CAUTION * 4.0


def test_a_reserve_grows_to_what_writing_takes() -> None:
    deadline = Deadline(30.0, 3.0, Clock(), costs=Costs({"writing": 2.0, "moving": 1.0}))
    deadline.keep_for_writing(10**5)
    assert deadline.reserve == 3.0
    deadline.keep_for_writing(5 * 10**6)
    assert deadline.reserve == 20.0
    assert deadline.allows("moving", 5 * 10**6)
    assert not deadline.allows("moving", 6 * 10**6)


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(0.001, "Eulerian persistence"), (5.0, "Eulerian persistence"), (7.0, "Lagrangian persistence (")],
)
def test_the_best_that_there_is_time_for(tmp_path: Path, ensemble: Ensemble, seconds: float, wanted: str) -> None:
    """Writing is set aside first: 2 s, of 4 with caution; moving takes 1 s, so 2; pysteps has no time in any."""
    clock = Clock()
    known = costs(writing=2.0, moving=1.0, moving_by_pysteps=100.0)
    hook = ensemble.nowcaster.network.register_forward_hook(lambda *_: setattr(clock, "time", clock.time + 60.0))
    try:
        nowcast = produce(tmp_path / "n.nc", ensemble, Order(2), Deadline(seconds, 0.0, clock, costs=known))
    finally:
        hook.remove()
    assert nowcast.provenance.method.startswith(wanted)
    with xr.open_dataset(tmp_path / "n.nc") as data:
        assert data.attrs["spanlift_method"] == nowcast.provenance.method
        assert nowcast.provenance.kind in data.attrs["comment"]
        assert f"was given {seconds:g} s" in data.attrs["spanlift_fallback"]


def test_time_that_is_left_buys_a_better_one(
    tmp_path: Path, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ensemble seen early to come too late leaves time for pysteps; where that has no answer, ours stands."""
    clock = Clock()
    hook = ensemble.nowcaster.network.register_forward_hook(lambda *_: setattr(clock, "time", clock.time + 1.0))
    for answers in (True, False):
        better = Extrapolation(np.zeros((6, *SIZE), np.float32), "Lagrangian persistence by pysteps (made)")
        monkeypatch.setattr(production, "move_by_pysteps", lambda *_, made=better if answers else None: made)
        clock.time, known = 0.0, costs(writing=0.1, moving=0.1, moving_by_pysteps=1.0)
        nowcast = produce(
            tmp_path / f"{answers}.nc", ensemble, Order(50), Deadline(30.0, 3.0, clock, start=0.0, costs=known)
        )
        assert ("pysteps" in nowcast.provenance.method) is answers
        assert nowcast.provenance.kind == "Lagrangian persistence"
        assert clock.time < 10.0
    hook.remove()


def test_costs_are_learnt_from_a_nowcast(tmp_path: Path, ensemble: Ensemble) -> None:
    known = Costs()
    produce(tmp_path / "n.nc", ensemble, Order(1), Deadline(1e-9, start=0.0, costs=known))
    assert set(known.rates) == {"writing"}
    produce(tmp_path / "m.nc", ensemble, Order(1), Deadline(1e9, costs=known))
    assert "moving" in known.rates


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_costs_are_measured_before_the_first_nowcast(suffix: str) -> None:
    measured = warm_up(Path(f"out/n{suffix}"), Order(3, thresholds=(1.0,), mean=True), 6)
    assert {"writing", "moving"} <= set(measured.rates)
    assert all(0.0 < rate < 1e4 for rate in measured.rates.values())


class Slow:
    """A source whose frames take a second each to read."""

    usual_step, notes, name, title = 300, (), "slow", "slow; CC0"

    def __init__(self, clock: Clock, scene: Scene) -> None:
        self.clock, self.quantity, self.times = clock, scene.quantity, scene.times
        self.scene, self.reads = scene, []

    def read(self, index: int) -> tuple[np.ndarray, Place, tuple[str, ...]]:
        self.clock.time += 1.0
        self.reads.append(index)
        return self.scene.frames[index], self.scene.place, ()


@pytest.mark.parametrize(("seconds", "frames"), [(0.5, 1), (2.5, 2), (4.5, 4), (8.0, 7), (None, 7)])
def test_reading_ends_in_time_for_the_newest_to_be_sent(
    tmp_path: Path, ensemble: Ensemble, seconds: float | None, frames: int
) -> None:
    clock = Clock()
    source = Slow(clock, ensemble.scene)
    deadline = None if seconds is None else Deadline(seconds, 0.5, clock)
    scene = read_scene(source, 7, (5.0,), deadline=deadline)
    assert source.reads == list(range(6, 6 - frames, -1))
    np.testing.assert_array_equal(scene.frames, ensemble.scene.frames[7 - frames :])
    np.testing.assert_array_equal(scene.times, ensemble.scene.times[7 - frames :])
    if deadline is None or frames == 7:
        return
    nowcast = produce(tmp_path / "n.nc", replace(ensemble, scene=scene), Order(2), deadline)
    assert nowcast.provenance.fallback.startswith(f"{frames} of 7 frames were read after {frames}.0 s")
    if frames == 1:
        np.testing.assert_allclose(nowcast.members[0], stay(scene, 6).frames, atol=0.006)


def test_a_substitute_that_was_not_read_ends_the_scene(tmp_path: Path, write_fmi: Callable, monkeypatch) -> None:
    """Where a broken frame costs another round, what was read up to the gap is used."""
    paths = write_fmi(tmp_path, TIMES, np.full((9, 6, 7), 100, np.uint8))
    paths[7].write_bytes(paths[7].read_bytes()[:40])
    paths[6].unlink()
    clock = Clock()
    source = open_source(tmp_path)
    read = type(source).read

    def slowly(self: object, index: int) -> object:
        clock.time += 1.0
        return read(source, index)

    monkeypatch.setattr(type(source), "read", slowly)
    scene = read_scene(source, 7, (5.0,), deadline=Deadline(3.5, 0.0, clock))
    assert len(scene.frames) == len(scene.times) >= 1
    assert scene.init_time == TIMES[8]
    assert all(pair[0] >= scene.times[0] for pair in scene.substituted)

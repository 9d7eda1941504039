from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from apps.nowcast.forecasting.clock import Deadline, TooLate
from apps.nowcast.forecasting.ensemble import Ensemble
from apps.nowcast.forecasting.production import Order, produce
from apps.nowcast.forecasting.watching import Landed, stamped, watch
from apps.nowcast.methods import Method
from apps.nowcast.nowcaster import Nowcaster
from data_tools.cli import UserError

TIMES = np.datetime64("2020-02-29T23:40:00", "s") + np.arange(9) * np.timedelta64(300, "s")


class Ticking:
    """A clock that goes on by a second at every look."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        self.time += 1.0
        return self.time


def test_pace_tells_whether_it_will_be_late() -> None:
    now = [0.0]
    deadline = Deadline(30.0, 3.0, now=lambda: now[0], start=0.0)
    now[0] = 5.0
    deadline.check(1.0, 2, 10)  # 2 s each: ready at 21
    deadline.check(1.0, 1, 6)  # 4 s each: ready at 25
    with pytest.raises(TooLate, match="about 29 s and was given 30 s"):
        deadline.check(1.0, 1, 7)
    now[0] = 29.0
    deadline.check(1.0, 7, 7)  # what is ready is not thrown away


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_late_ensembles_give_way_to_extrapolation(
    tmp_path: Path, nowcaster: Nowcaster, method: Method, rain: Callable, scene_of: Callable, suffix: str
) -> None:
    ensemble = Ensemble.build(nowcaster, method, scene_of(rain(40, 70)), overlap=8, batch=1, sample_dry=False)
    out = tmp_path / f"n{suffix}"
    nowcast = produce(out, ensemble, Order(4, thresholds=(1.0,), mean=True), Deadline(20.0, 1.0, Ticking()))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert "sampling would have taken about" in nowcast.provenance.fallback
    with xr.open_zarr(out, chunks=None) if suffix == ".zarr" else xr.open_dataset(out) as data:
        assert data.sizes["realization"] == 1
        assert data.attrs["comment"].startswith("FALLBACK: not the model's forecast but Lagrangian persistence")
        assert data.attrs["spanlift_fallback"] == nowcast.provenance.fallback
        assert data.attrs["spanlift_nfe"] == 0
        assert data.attrs["spanlift_solver"] == data.attrs["spanlift_model"] == "none"
        np.testing.assert_array_equal(data["rainfall_rate"].to_numpy()[0], nowcast.members[0])
        assert set(np.unique(data["rainfall_rate_probability"])) <= {0.0, 1.0}


def test_a_first_batch_that_takes_too_long_is_given_up(
    tmp_path: Path, nowcaster: Nowcaster, method: Method, rain: Callable, scene_of: Callable
) -> None:
    """Before any tile is done there is no pace to reckon with."""
    now = [0.0]
    ensemble = Ensemble.build(nowcaster, method, scene_of(rain(20, 30)), overlap=8, batch=64, sample_dry=False)
    hook = nowcaster.network.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 20.0))
    try:
        nowcast = produce(tmp_path / "n.nc", ensemble, Order(1), Deadline(22.0, 3.0, lambda: now[0], start=0.0))
    finally:
        hook.remove()
    assert nowcast.provenance.fallback == "sampling was not done after 20.0 s and was given 22 s"
    assert now[0] == 20.0  # of the two evaluations the second was not begun
    assert not nowcaster.network._forward_hooks


def test_an_ensemble_in_time_is_sent(
    tmp_path: Path, nowcaster: Nowcaster, method: Method, rain: Callable, scene_of: Callable
) -> None:
    ensemble = Ensemble.build(nowcaster, method, scene_of(rain(20, 30)), overlap=8, batch=1, sample_dry=False)
    nowcast = produce(tmp_path / "n.nc", ensemble, Order(2), Deadline(1e4, 1.0, Ticking()))
    assert not nowcast.provenance.fallback
    assert len(nowcast.members) == 2


def test_each_new_frame_is_served_once(tmp_path: Path, write_fmi: Callable) -> None:
    codes = np.zeros((9, 4, 5))
    served: list[np.datetime64] = []
    told: list[str] = []

    def serve(landed: Landed) -> None:
        if landed.time == TIMES[1]:
            raise UserError("something with this one")
        served.append(landed.time)

    def feed() -> None:
        for k in range(4):
            time.sleep(0.25)
            (tmp_path / f".{k}.tmp").write_bytes(b"hidden files are no frames")
            write_fmi(tmp_path, TIMES[k : k + 1], codes[k : k + 1])

    thread = threading.Thread(target=feed)
    thread.start()
    watch(tmp_path, serve, poll=0.02, runs=3, complain=told.append)
    thread.join()
    assert served == [TIMES[0], TIMES[2], TIMES[3]]
    assert "something with this one" in told
    assert told[0].startswith("expected radar frames of one of")
    assert len(told) == 2


def test_a_frame_whose_writer_paused_is_served_when_it_is_whole(tmp_path: Path, write_fmi: Callable) -> None:
    (path,) = write_fmi(tmp_path, TIMES[:1], np.zeros((1, 4, 5)))
    whole = path.read_bytes()
    path.write_bytes(whole[:30])
    calls: list[int] = []
    told: list[str] = []
    sleeps = 0

    def serve(landed: Landed) -> None:
        calls.append(path.stat().st_size)
        if calls[-1] < len(whole):
            raise UserError("truncated")

    def sleep(seconds: float) -> None:
        nonlocal sleeps
        sleeps += 1
        assert sleeps < 50, "the frame was never served"
        if sleeps == 8:
            path.write_bytes(whole)

    watch(tmp_path, serve, poll=0.02, runs=1, complain=told.append, sleep=sleep)
    assert calls == [30, len(whole)]  # not again and again while nothing changes
    assert told == ["truncated"]


def test_a_second_file_of_one_time_does_not_stop_the_watch(tmp_path: Path, write_fmi: Callable) -> None:
    served: list[np.datetime64] = []
    told: list[str] = []

    def serve(landed: Landed) -> None:
        served.append(landed.time)
        if len(served) == 1:  # corrected, in another folder, and then the next frame
            write_fmi(tmp_path / "corrected", TIMES[:1], np.ones((1, 4, 5)))
            write_fmi(tmp_path, TIMES[1:2], np.zeros((1, 4, 5)))

    write_fmi(tmp_path, TIMES[:1], np.zeros((1, 4, 5)))
    watch(tmp_path, serve, poll=0.02, runs=2, complain=told.append, sleep=lambda _: None)
    assert served == [TIMES[0], TIMES[1]]
    assert told == []


def test_the_time_is_in_the_name() -> None:
    assert stamped(Path("out/n.nc"), TIMES[0]) == Path("out/n-20200229T234000Z.nc")

"""The store of statistics: methods appear whole, runs go on, what does not fit is refused, memory stays flat."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from apps.nowcast.evaluate import gathered
from apps.nowcast.evaluation import Scored
from apps.nowcast.metrics import METRICS, Resamples, Statistics, estimates
from apps.nowcast.verification.curves import curves
from apps.nowcast.verification.definitions import SCORES
from apps.nowcast.verification.events import event_sums
from apps.nowcast.verification.fractions import WINDOWS
from apps.nowcast.verification.pending import Pending, slug
from apps.nowcast.verification.results import as_text, show
from apps.nowcast.verification.scope import Events, Picture, Scope
from apps.nowcast.verification.store import StatisticsStore, merged
from data_tools.cli import UserError
from data_tools.quantities import VIL

LEADS, SIZE = 2, (18, 24)
SCOPE = Scope("abc", "vil", VIL.thresholds, WINDOWS, LEADS, SIZE, "none")


def events(count: int) -> Events:
    ids = tuple(f"event-{number}" for number in range(count))
    return Events(ids, ("a",) * count, ("2020-01-01T00:00:00",) * count, np.full(count, 5.0), np.zeros(count))


def picture() -> Picture:
    return Picture("event-1", np.zeros((3, *SIZE), np.float32), np.ones((LEADS, *SIZE), np.float32))


def new_store(path: Path, count: int = 4, scope: Scope = SCOPE) -> StatisticsStore:
    return StatisticsStore.create(path, scope, events(count), picture(), {"data": "made", "split": "test", "seed": 0})


def description(label: str, members: int = 3) -> dict:
    return {"label": label, "name": label, "supervision": None, "steps": 5, "members": members}


def sums(number: int, members: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([number, members])
    truth = rng.gamma(0.5, 90.0, (LEADS, *SIZE)).clip(0, 254).astype(np.float32)
    forecast = (truth * rng.uniform(0.3, 1.7, (members, LEADS, *SIZE))).clip(0, 254).astype(np.float32)
    truth[:, :2, :3] = np.nan
    return event_sums(forecast, truth, VIL, seconds=1.0)


def fill(store: StatisticsStore, label: str, numbers, members: int = 3) -> Pending:
    pending = store.pending(description(label, members))
    for number in numbers:
        pending.put(number, sums(number, members), 5)
    pending.put_picture(np.zeros((members, LEADS, *SIZE), np.float32))
    return pending


def test_what_was_put_comes_back_and_xarray_reads_it(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr")
    fill(store, "ddim-5", (2, 0, 3, 1))
    method = store.finish(description("ddim-5"))
    memory = Statistics.stack((f"event-{number}", sums(number)) for number in range(4))
    assert method.statistics.events == memory.events
    assert method.nfe == 5
    assert method.members == 3
    for name, array in memory.arrays.items():
        np.testing.assert_array_equal(method.statistics.arrays[name][:], array, err_msg=name)
        assert method.statistics.arrays[name].dtype == array.dtype
    weights = Resamples(4, 50)
    assert estimates(method.statistics, weights, METRICS).keys() == METRICS.keys()
    defined = {name: metric for name, metric in METRICS.items() if name != "lpips"}
    assert estimates(method.statistics, weights, defined) == estimates(memory, weights, defined)
    again = StatisticsStore.open(tmp_path / "s.zarr")
    assert again.scope == SCOPE
    assert again.events.ids == memory.events
    np.testing.assert_array_equal(again.picture.truth, picture().truth)
    assert not (tmp_path / "s.zarr.pending").exists()
    data = xr.open_zarr(tmp_path / "s.zarr", group="ddim-5", consolidated=False)
    assert data.counts4.dims == ("event", "lead", "threshold", "outcome")
    assert data.fss.sel(threshold=74, window=5).shape == (4, LEADS, 3)
    np.testing.assert_array_equal(data.lead, [5.0, 10.0])


@pytest.mark.parametrize("told", [True, False, None])
def test_which_way_is_north_is_kept(tmp_path: Path, told: bool | None) -> None:
    about: dict[str, int] = dict.fromkeys(("data", "split", "seed", "anticipated", "guide_scale", "model"), 0)
    StatisticsStore.create(tmp_path / "s.zarr", SCOPE, events(3), replace(picture(), north_up=told), about)
    store = StatisticsStore.open(tmp_path / "s.zarr")
    assert store.picture.north_up is told
    fill(store, "a", range(3))
    found = gathered([store], [Scored.of(store.finish(description("a")))], 3, "event", None, ())
    assert found.north_up is (False if told is None else told)  # SEVIR's rows of VIL go north
    old = zarr.open_group(str(tmp_path / "s.zarr/picture"), mode="r+", zarr_format=3)
    del old.attrs["north_up"]  # a store of before
    assert StatisticsStore.open(tmp_path / "s.zarr").picture.north_up is None


def test_events_of_other_time_steps_share_no_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of = replace(events(3), time_step_minutes=np.array([4.0, 5.0, 4.0]))
    about: dict[str, int] = dict.fromkeys(("data", "split", "seed", "anticipated", "guide_scale", "model"), 0)
    store = StatisticsStore.create(tmp_path / "s.zarr", SCOPE, of, picture(), about)
    fill(store, "ddim-5", range(3))
    method = store.finish(description("ddim-5"))
    assert np.isnan(np.asarray(method.group["lead"])).all()
    told = gathered([store], [Scored.of(method)], 3, "event", None, ())
    assert json.loads(as_text(told))["steps_minutes"] == [4.0, 5.0]
    show(told)
    assert "pooled frame by frame, of 4 and 5 minutes by event; minutes shown are those of event-1" in (
        capsys.readouterr().out
    )


def test_a_run_that_stopped_goes_on_to_the_same_store(tmp_path: Path) -> None:
    whole, broken = new_store(tmp_path / "whole.zarr"), new_store(tmp_path / "broken.zarr")
    fill(whole, "a", range(4))
    whole.finish(description("a"))
    pending = fill(broken, "a", (0, 3))
    assert pending.done() == {0, 3}
    with pytest.raises(UserError, match="2 fewer"):
        broken.finish(description("a"))
    assert broken.methods() == []
    broken = StatisticsStore.open(tmp_path / "broken.zarr")
    fill(broken, "a", sorted(set(range(4)) - broken.pending(description("a")).done()))
    broken.finish(description("a"))
    files = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "whole.zarr", tmp_path / "broken.zarr")
    ]
    assert files[0] == files[1]


def test_a_damaged_event_is_dropped_and_computed_again(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr")
    pending = fill(store, "a", range(4))
    (pending.folder / "event-0000002.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UserError, match="event 2"):
        store.finish(description("a"))
    assert pending.done() == {0, 1, 3}
    fill(store, "a", (2,))
    assert store.finish(description("a")).statistics.events == events(4).ids


def test_a_method_of_that_label_that_is_another_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr")
    fill(store, "a", (0,))
    with pytest.raises(UserError, match=r"another members \(3 and 2\)"):
        store.pending(description("a", members=2))
    fill(store, "a", range(4))
    store.finish(description("a"))
    assert store.find(description("b")) is None
    assert store.find(description("a")) is not None
    with pytest.raises(UserError, match=r"another members \(3 and 2\)"):
        store.find(description("a", members=2))


def test_stores_of_the_same_events_are_merged_and_others_refused(tmp_path: Path) -> None:
    stores = [new_store(tmp_path / f"{name}.zarr") for name in "ab"]
    for store, label in zip(stores, ("a", "b"), strict=True):
        fill(store, label, range(4))
        store.finish(description(label))
    assert [method.label for method in merged(stores)] == ["a", "b"]
    with pytest.raises(UserError, match="got a again"):
        merged([stores[0], stores[0]])
    other = new_store(tmp_path / "c.zarr", scope=replace(SCOPE, fingerprint="xyz"))
    with pytest.raises(UserError, match=r"another fingerprint \(abc and xyz\)"):
        merged([stores[0], other])
    with pytest.raises(UserError, match="finished methods"):
        merged([other])


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not there"):
        StatisticsStore.open(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("folder", "file"):
        with pytest.raises(UserError, match="expected a store of statistics"):
            StatisticsStore.open(tmp_path / name)
    with pytest.raises(UserError, match="exists"):
        new_store(tmp_path / "folder")


def test_labels_have_folders_of_their_own() -> None:
    labels = ["ddim-5", "ddim 5", "ddim/5", "spanlift-5 (teacher)", "spanlift-5 (target)", "../x", "ä", "ö"]
    assert len({slug(label) for label in labels}) == len(labels)
    assert slug("ddim-5") == "ddim-5"
    assert not any(set(slug(label)) & set("/ ()") or slug(label).startswith(".") for label in labels)


@pytest.mark.parametrize("count", [60, 240])
def test_memory_does_not_grow_with_the_number_of_events(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finishing and scoring four times as many events takes the same memory."""
    monkeypatch.setattr("apps.nowcast.verification.arrays.EVENTS", 16)
    monkeypatch.setattr("apps.nowcast.metrics.sums._BLOCK", 16)
    store = new_store(tmp_path / "s.zarr", count)
    pending = store.pending(description("a"))
    kept = {name: sums(0)[name] for name in ("counts1", "ranks")} | {"fss": np.ones((LEADS, 6, 4, 3))}
    kept["exceedance"] = np.ones((40 * LEADS, 6, 41, 2))  # 300 KB, far more than all else
    for number in range(count):
        pending.put(number, kept, 5)
    _ = store.events
    tracemalloc.start()
    method = store.finish(description("a"))
    weights = Resamples(count, 10)
    for name in ("csi", "fss", "brier", "rank_histogram"):
        curves(method.statistics, weights, [name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rows = sum(array.nbytes for array in kept.values())
    assert peak < 5 * 16 * rows  # a few blocks of events; all of them are 60 or 240 rows


def test_every_score_of_stored_statistics_has_its_shape(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr")
    fill(store, "a", range(4))
    method = store.finish(description("a"))
    found = curves(method.statistics, Resamples(4, 30))
    sizes = {
        "lead": LEADS, "threshold": 6, "window": len(WINDOWS), "part": 3, "members": 4, "rank": 4, "warning": 5,
        "rates": 2, "wavenumber": 12,
    }  # fmt: skip
    assert found.keys() == SCORES.keys()
    for name, score in SCORES.items():
        assert found[name].by_lead.value.shape == tuple(sizes[dim] for dim in score.dims), name
        assert found[name].all_leads.value.shape == tuple(sizes[dim] for dim in score.dims[1:]), name

"""Hostile event stores: whatever they hold, they are scored or there is one line, and never a part of an output."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.nowcast.evaluate import main
from apps.nowcast.evaluate_options import EvaluateOptions
from apps.nowcast.metrics import METRICS, PerceptualDistance
from apps.nowcast.nowcaster import Nowcaster
from data_tools.cli import run
from data_tools.quantities import QUANTITIES
from data_tools.schema import NO_TIME, unpack
from data_tools.store import Event, write_store

PATCH = 32
VALUES = ("rain", "noise", "dry", "constant", "missing", "some missing", "no context", "no future", "huge", "one pixel")
CLOCKS = ("even", "doubled", "backwards", "constant", "shuffled", "far", "never", "jitter", "gap")
ATTRIBUTES = {
    "time_step_seconds": (-300, 0, 1e-9, 7.3, 1e12, float("nan"), "often", None), "quantity": ("vil", "wind", 3),
    "thresholds": ([], ["much"], [float("nan")], "all"), "schema_version": (2, None), "licence": (None, 3),
}  # fmt: skip
"""What the attributes of a store may be, beside what they should."""
VARIABLE = {"scale_factor": (1.0, 0.0, None), "units": ("K", 3, None), "_FillValue": (0, None), "add_offset": (5.0,)}
DAMAGE = ("lost chunk", "cut chunk", "other chunk", "cut time", "lost x", "cut x", "cut json", "nothing", "no events",
          "no frames", "splits", "ids", "origins", "one chunk of all")  # fmt: skip

sound = st.fixed_dictionaries({
    "height": st.just(PATCH), "width": st.just(PATCH), "frames": st.sampled_from((13, 13, 14, 27)),
    "events": st.integers(1, 3), "values": st.sampled_from(VALUES), "clock": st.just("even"),
    "quantity": st.just("rainfall_rate"), "attribute": st.none(), "variable": st.none(), "damage": st.none(),
    "seed": st.integers(0, 99),
})  # fmt: skip
wild = st.fixed_dictionaries({
    "height": st.integers(1, 50), "width": st.integers(1, 50), "frames": st.integers(1, 30),
    "clock": st.sampled_from(CLOCKS), "quantity": st.just("vil"),
    "attribute": st.sampled_from([(name, value) for name, values in ATTRIBUTES.items() for value in values]),
    "variable": st.sampled_from([(name, value) for name, values in VARIABLE.items() for value in values]),
    "damage": st.sampled_from(DAMAGE),
})  # fmt: skip
hostile = st.builds(  # a store with one or two things wrong: of more, the first is all that is seen
    lambda base, other, names: base | {name: other[name] for name in names},
    sound, wild, st.lists(
        st.sampled_from(("height", "width", "frames", "clock", "quantity", "attribute", "variable", *["damage"] * 3)),
        min_size=1, max_size=2,
    ),
)  # fmt: skip
requests = st.fixed_dictionaries({
    "members": st.integers(1, 2), "methods": st.sampled_from(("persistence", "persistence,ddim-1", "ddim-2")),
    "strata": st.sampled_from((None, "source,season,wetness,motion")), "cluster": st.sampled_from(("event", "time")),
    "report": st.booleans(), "split": st.sampled_from(("test",) * 9 + ("val",)), "kept": st.booleans(),
})  # fmt: skip


def codes_of(made: dict[str, Any], dtype: str, missing: int) -> np.ndarray:
    """Packed fields (events, frames, y, x)."""
    generator = np.random.default_rng(made["seed"])
    shape = (made["events"], made["frames"], made["height"], made["width"])
    rain = generator.gamma(0.3, 500.0, shape).clip(0, missing - 1)
    some = generator.random(shape) < 0.5
    frame = np.arange(made["frames"])[:, None, None]
    codes = {
        "rain": rain, "noise": generator.integers(0, missing + 1, shape), "dry": 0 * rain, "constant": 0 * rain + 37,
        "missing": 0 * rain + missing, "some missing": np.where(some, missing, rain),
        "no context": np.where(frame < 7, missing, rain), "no future": np.where(frame >= 7, missing, rain),
        "huge": 0 * rain + missing - 1, "one pixel": np.where(np.arange(shape[3]) + frame == 9, rain, missing),
    }[made["values"]]  # fmt: skip
    return codes.astype(dtype)


def times_of(kind: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Seconds since 1970, (events, frames)."""
    generator, count = np.random.default_rng(seed), shape[1]
    even = 1_600_000_000 + 300 * np.arange(count) + 86_400 * np.arange(shape[0])[:, None]
    last = np.arange(count) == count - 1
    return {
        "even": even, "doubled": even - 300 * last, "backwards": even[:, ::-1], "constant": 0 * even,
        "shuffled": generator.permuted(even, axis=1), "far": even + 10**18, "never": np.where(last, NO_TIME, even),
        "jitter": even + generator.integers(-100, 100, shape), "gap": even + 3600 * last,
    }[kind]  # fmt: skip


def write(path: Path, made: dict[str, Any]) -> None:
    """A store, at first as it should be."""
    quantity = QUANTITIES[made["quantity"]]
    fields = unpack(codes_of(made, quantity.storage[0], quantity.storage[2]), quantity)
    start = np.datetime64("2020-01-01T00:00:00", "s") + np.arange(made["frames"]) * np.timedelta64(300, "s")
    events = [
        Event(f"e{k}", start + np.timedelta64(k, "D"), values, "test", "made", 0.0, 0.0)
        for k, values in enumerate(fields)
    ]
    about = {"source": "made", "licence": "CC0"}
    write_store(path, events, quantity=quantity, time_step_seconds=300, crs={}, attrs=about)
    group: Any = zarr.open_group(str(path), mode="r+", zarr_format=3)
    group["time"][...] = times_of(made["clock"], (made["events"], made["frames"]), made["seed"])
    for attrs, change in ((group.attrs, made["attribute"]), (group[quantity.name].attrs, made["variable"])):
        if change is not None and change[1] is None:
            attrs.pop(change[0], None)
        elif change is not None:
            attrs[change[0]] = change[1]
    if made["damage"]:
        damage(path, group, quantity.name, made["damage"], np.random.default_rng(made["seed"]))


def damage(path: Path, group: Any, name: str, kind: str, generator: np.random.Generator) -> None:
    chunk = next(file for file in sorted((path / name).rglob("*")) if file.is_file() and file.name != "zarr.json")
    clock = next(file for file in sorted((path / "time").rglob("*")) if file.is_file() and file.name != "zarr.json")
    across = next(file for file in sorted((path / "y").rglob("*")) if file.is_file() and file.name != "zarr.json")
    whole = chunk.read_bytes()
    if kind in {"no events", "no frames"}:
        shape = list(group[name].shape)
        shape[kind == "no frames"] = 0
        group[name].resize(tuple(shape))
    elif kind in {"splits", "ids", "origins"}:
        variable, value = {"splits": ("split", 7), "ids": ("event_id", "same"), "origins": ("x_origin", np.nan)}[kind]
        group[variable][...] = np.full(group[variable].shape, value, dtype=object if kind == "ids" else None)
    elif kind == "one chunk of all":
        for file in (path / name).rglob("*"):
            if file.is_file() and file.name != "zarr.json":
                file.write_bytes(whole[::-1])
    elif kind == "nothing":
        (path / "zarr.json").unlink()
    elif kind.startswith("lost"):
        (chunk if kind == "lost chunk" else across).unlink()
    elif kind == "other chunk":
        chunk.write_bytes(generator.bytes(len(whole)))
    else:
        file = {"cut chunk": chunk, "cut time": clock, "cut x": across, "cut json": path / "zarr.json"}[kind]
        file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2])


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def check(made: dict[str, Any], request: dict[str, Any], model: Path) -> bool:
    """Run the command on a store made so; see that there are valid outputs or one line. Whether there are outputs."""
    with tempfile.TemporaryDirectory() as folder:
        store, out = Path(folder) / "in.zarr", Path(folder) / "made"
        write(store, made)
        words = [
            "--data",
            str(store),
            "--model",
            str(model),
            "--json",
            str(out / "e.json"),
            "--split",
            request["split"],
        ]
        words += [
            "--members",
            str(request["members"]),
            "--methods",
            request["methods"],
            "--cluster",
            request["cluster"],
        ]
        words += ["--strata", request["strata"]] if request["strata"] else []
        words += ["--report", str(out / "r.html")] * request["report"]
        words += ["--statistics", f"{folder}/kept/s.zarr"] * request["kept"]
        told, code = io.StringIO(), 0
        with redirect_stderr(told), redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                run(EvaluateOptions, main, prog="evaluate", description="", examples="", argv=words)
            except SystemExit as stopped:
                code = int(stopped.code or 0)
        if code:
            assert code == 2
            assert told.getvalue().startswith("evaluate: ")
            assert told.getvalue().count("\n") == 1
            assert not out.exists()
            assert not Path(folder, "kept").exists()
            return False
        left = {path.name for path in out.iterdir()} - {"r.html", "e-calibration.png"}
        assert left == {"e.json", "e.png"}
        assert (out / "r.html").exists() == request["report"]
        content = strict((out / "e.json").read_text())
        assert content["events"] >= made["events"]
        for row in content["rows"]:
            for name in METRICS:
                value, (low, high) = row[name]["value"], row[name]["ci95"]
                assert value is None or low is None or low - 1e-9 <= high + 1e-9
                if name in {"csi", "csi4", "csi16", "crps"}:
                    assert value is None or 0.0 <= value <= 1.0
        assert [path.name for path in Path(folder, "kept").glob("*")] == ["s.zarr"] * request["kept"]
    return True


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """The model and the network of the distance are loaded once, and intervals are of few resamples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("apps.nowcast.evaluate.RESAMPLES", 20)
        distance = PerceptualDistance("efficientnet")
        patch.setattr("apps.nowcast.evaluate._distance", lambda options: distance)
        patch.setattr(Nowcaster, "load", lru_cache(Nowcaster.load))
        yield


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Pictures of every kind of values are drawn by `test_sound_stores_are_scored`; they take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plot_nowcasts", "plot_calibration"):
            patch.setattr(f"apps.nowcast.verification.results.{name}", lambda path, *_, **__: path.write_bytes(b"PNG"))
        yield


@pytest.mark.parametrize(
    ("values", "members"),
    [("rain", 2), ("dry", 2), ("missing", 1), ("no future", 2), ("huge", 1)],
)
def test_sound_stores_are_scored(tiny_model: Path, values: str, members: int) -> None:
    made = {"height": PATCH, "width": PATCH, "frames": 13, "events": 2, "values": values, "clock": "even", "seed": 3}
    made |= {"quantity": "rainfall_rate", "attribute": None, "variable": None, "damage": None}
    request = {"members": members, "methods": "ddim-1", "strata": None, "cluster": "event", "split": "test"}
    assert check(made, request | {"report": values in {"missing", "rain"}, "kept": False}, tiny_model)


settled = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_of_every_kind_is_one_line(undrawn: None, tiny_model: Path, kind: str) -> None:
    made = {"height": PATCH, "width": PATCH, "frames": 13, "events": 1, "values": "rain", "clock": "even", "seed": 3}
    made |= {"quantity": "rainfall_rate", "attribute": None, "variable": None, "damage": kind}
    request = {"members": 1, "methods": "persistence", "strata": None, "cluster": "event", "split": "test"}
    scored = check(made, request | {"report": False, "kept": False}, tiny_model)
    assert scored == (kind in {"lost x", "ids"})  # whose coordinates are zarr's fill value; one id is unique


@given(st.one_of(hostile, hostile, hostile, sound), requests)
@settings(settled, max_examples=25)
def test_hostile_stores(undrawn: None, tiny_model: Path, made: dict, request_: dict) -> None:
    check(made, request_, tiny_model)


@pytest.mark.slow
@given(st.one_of(hostile, hostile, hostile, sound), requests)
@settings(settled, max_examples=500)
def test_many_hostile_stores(undrawn: None, tiny_model: Path, made: dict, request_: dict) -> None:
    check(made, request_, tiny_model)

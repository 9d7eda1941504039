"""Statistics of events in a Zarr v3 store: a group for each method, made whole or not at all, and methods can be added.

    OUT.zarr/                 attributes: what data, see `Scope`; variables (event): event_id, source, time,
                              time_step_minutes, motion (pixels a frame, the last two of the context)
    OUT.zarr/picture/         context and truth of the event that is drawn
    OUT.zarr/METHOD/          attributes: which method; variables (event, lead, ...), see `events`, and `forecast`
                              (member, lead, y, x) of the event that is drawn
    OUT.zarr.pending/METHOD/  events of a method that is not finished, a file each

A method's group appears when all its events are there. Until then each event is a file of its own, written as soon as
it is known and by whatever process knows it: a run that was killed goes on, several processes can share the events, and
the store is the same, bit for bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from apps.nowcast.metrics.sums import Statistics
from apps.nowcast.verification.arrays import put, put_statistics
from apps.nowcast.verification.pending import Pending, slug
from apps.nowcast.verification.scope import Events, Picture, Scope, differing
from data_tools.cli import UserError, check_folder

VERSION = 1


@dataclass(frozen=True)
class StoredMethod:
    """A finished method: its description (label, name, supervision, steps, members, seed, ...), the network evaluations
    of a member, its statistics, and its forecast (members, leads, H, W) of the event that is drawn."""

    description: Mapping[str, Any]
    nfe: int
    statistics: Statistics
    group: zarr.Group

    @property
    def label(self) -> str:
        return str(self.description["label"])

    @property
    def members(self) -> int:
        return self.statistics.arrays["ranks"].shape[-1] - 1

    @cached_property
    def pictured(self) -> np.ndarray:
        return np.asarray(_array(self.group, "forecast")[...])


@dataclass(frozen=True)
class StatisticsStore:
    """An open store.

    Attributes:
        path: of the store.
        scope: what its methods share.
        about: what data they were made of, for people: data, split, units, ...
    """

    path: Path
    scope: Scope
    about: Mapping[str, Any]

    @classmethod
    def create(
        cls, path: Path, scope: Scope, events: Events, picture: Picture, about: Mapping[str, Any]
    ) -> StatisticsStore:
        """Make a store without methods; it appears whole.

        Raises:
            UserError: something is in its place.
        """
        check_folder(path, "--statistics")
        if path.exists():
            raise UserError(f"expected a new store, got {path}, which exists; choose another --statistics")
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".{path.name}.new")
        shutil.rmtree(staging, ignore_errors=True)
        attributes = {"spanlift_statistics": VERSION, "scope": asdict(scope), "about": dict(about)}
        group = zarr.open_group(str(staging), mode="w", zarr_format=3, attributes=attributes)
        for name, texts in (("event_id", events.ids), ("source", events.sources), ("time", events.times)):
            put(group, name, np.array(texts, dtype=object), ("event",))
        put(group, "time_step_minutes", events.time_step_minutes.astype(np.float64), ("event",))
        put(group, "motion", events.motion.astype(np.float64), ("event",))
        drawn = group.create_group("picture", attributes={"event": picture.event, "north_up": picture.north_up})
        put(drawn, "context", picture.context, ("time", "y", "x"))
        put(drawn, "truth", picture.truth, ("lead", "y", "x"))
        staging.rename(path)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> StatisticsStore:
        """Open a store.

        Raises:
            UserError: there is none, or another kind of folder, or of another version.
        """
        if not path.exists():
            raise UserError(f"expected a store of statistics, got {path}, which is not there; see --statistics")
        try:
            attributes = dict(zarr.open_group(str(path), mode="r", zarr_format=3, use_consolidated=False).attrs)
            if attributes["spanlift_statistics"] != VERSION:
                raise UserError(f"expected statistics of version {VERSION} in {path}, got another; evaluate anew")
            kept: Any = attributes["scope"]
            about: Any = attributes["about"]
            values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in kept.items()}
            return cls(path, Scope(**values), dict(about))
        except UserError:
            raise
        except Exception as error:  # a foreign or damaged folder shows in many ways
            raise UserError(
                f"expected a store of statistics, as evaluate --statistics writes, got another thing at {path}"
            ) from error

    @cached_property
    def _group(self) -> zarr.Group:
        return zarr.open_group(str(self.path), mode="r", zarr_format=3, use_consolidated=False)

    @cached_property
    def events(self) -> Events:
        ids, sources, times = (
            tuple(str(text) for text in _read(self._group, name)) for name in ("event_id", "source", "time")
        )
        return Events(ids, sources, times, _read(self._group, "time_step_minutes"), _read(self._group, "motion"))

    @cached_property
    def picture(self) -> Picture:
        drawn = _group(self._group, "picture")
        told: Any = drawn.attrs.get("north_up")  # older stores do not tell
        return Picture(str(drawn.attrs["event"]), _read(drawn, "context"), _read(drawn, "truth"), told)

    def methods(self) -> list[StoredMethod]:
        """The finished methods, in the order in which they were."""
        names = sorted(p.parent.name for p in self.path.glob("*/zarr.json") if not p.parent.name.startswith("."))
        members = [self._group.get(name) for name in names]
        found = [self._method(each) for each in members if isinstance(each, zarr.Group) and "method" in each.attrs]
        return sorted(found, key=lambda method: (method.group.attrs["order"], method.label))  # type: ignore[arg-type,return-value]

    def _method(self, group: zarr.Group) -> StoredMethod:
        description: Any = group.attrs["method"]
        wanted: Any = group.attrs["statistics"]
        statistics = Statistics(self.events.ids, {name: _array(group, name) for name in wanted})
        return StoredMethod(description, int(group.attrs["nfe"]), statistics, group)  # type: ignore[arg-type]

    def find(self, description: Mapping[str, Any]) -> StoredMethod | None:
        """The finished method of this description; None where there is none of its label.

        Raises:
            UserError: a method of that label is described otherwise.
        """
        for method in self.methods():
            if method.label == description["label"]:
                _check_same(method.description, description, str(self.path))
                return method
        return None

    def pending(self, description: Mapping[str, Any]) -> Pending:
        """Where the events of a method are kept until all are there.

        Raises:
            UserError: events of a method of that label, described otherwise, are.
        """
        pending = Pending(self.path.with_name(f"{self.path.name}.pending") / slug(str(description["label"])))
        _check_same(pending.describe(description), description, str(pending.folder))
        return pending

    def finish(self, description: Mapping[str, Any]) -> StoredMethod:
        """Make the group of a method whose events are all there, and drop their files.

        Raises:
            UserError: some are not.
        """
        pending, name = self.pending(description), slug(str(description["label"]))
        if missing := set(range(len(self.events))) - pending.done():
            raise UserError(f"expected all events of {description['label']}, got {len(missing)} fewer; run it again")
        staging = pending.folder / "group"
        shutil.rmtree(staging, ignore_errors=True)
        attributes = {"method": dict(description), "nfe": pending.nfe(), "order": len(self.methods())}
        group = zarr.open_group(str(staging), mode="w", zarr_format=3, attributes=attributes)
        steps = np.unique(self.events.time_step_minutes)  # with several of them, leads have no minutes in common
        minutes = np.arange(1, self.scope.leads + 1) * (float(steps[0]) if len(steps) == 1 else np.nan)
        coordinates = {
            "event": np.array(self.events.ids, dtype=object),
            "lead": minutes,
            "threshold": np.array(self.scope.thresholds),
            "window": np.array(self.scope.windows),
        }
        put_statistics(group, self._rows(pending), len(self.events), coordinates)
        put(group, "forecast", pending.picture(), ("member", "lead", "y", "x"))
        staging.rename(self.path / name)
        shutil.rmtree(pending.folder)
        if not any(pending.folder.parent.iterdir()):
            pending.folder.parent.rmdir()
        return self._method(_group(self._group, name))

    def _rows(self, pending: Pending) -> Iterator[Mapping[str, np.ndarray]]:
        for number in range(len(self.events)):
            row = pending.get(number)
            if row is None:
                raise UserError(f"expected a whole file of event {number} in {pending.folder}; run it again")
            yield row


def merged(stores: Sequence[StatisticsStore]) -> list[StoredMethod]:
    """The methods of several stores of the same events.

    Raises:
        UserError: their events, or how they were scored, differ; a method occurs twice; there is none.
    """
    methods: dict[str, StoredMethod] = {}
    for store in stores:
        if difference := differing(asdict(stores[0].scope), asdict(store.scope)):
            raise UserError(
                f"expected statistics of the same events, scored alike, got another {difference} in {store.path} than "
                f"in {stores[0].path}; evaluate on the same data and options"
            )
        for method in store.methods():
            if method.label in methods:
                raise UserError(f"expected each method in one store, got {method.label} again in {store.path}")
            methods[method.label] = method
    if not methods:
        raise UserError(f"expected finished methods, got none in {', '.join(str(store.path) for store in stores)}")
    return list(methods.values())


def _check_same(kept: Mapping[str, Any], wanted: Mapping[str, Any], place: str) -> None:
    if difference := differing(kept, wanted):
        raise UserError(
            f"expected {wanted['label']} as it is in {place}, got another {difference}; choose another --statistics"
        )


def _array(group: zarr.Group, name: str) -> zarr.Array:
    found = group.get(name)
    if not isinstance(found, zarr.Array):
        raise UserError(f"damaged statistics at {group.store_path}: no variable {name}; evaluate anew")
    return found


def _group(group: zarr.Group, name: str) -> zarr.Group:
    found = group.get(name)
    if not isinstance(found, zarr.Group):
        raise UserError(f"damaged statistics at {group.store_path}: no group {name}; evaluate anew")
    return found


def _read(group: zarr.Group, name: str) -> np.ndarray:
    return np.asarray(_array(group, name)[...])

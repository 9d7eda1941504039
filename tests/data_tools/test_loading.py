"""Windows for training: the published loaders' values bit by bit, reproducible augmentation, spawned workers."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torchvision.transforms as transforms
import torchvision.transforms.functional as TF
from torch import Tensor

from data_tools.cli import UserError
from data_tools.loading import SCALES, Motion, SevirWindows, loader
from data_tools.quantities import RAINFALL_RATE, VIL
from data_tools.sevir import CRS
from data_tools.sevir_events import SevirEvents
from data_tools.split_files import Part, Window
from data_tools.store import Event, EventStore, write_store

EVENTS, FRAMES, SIDE = 5, 25, 16
IDS = ("R20", "R3", "S1", "S11", "S2")


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """(events, T, H, W) uint8, every code among them; two pixels of one event are missing."""
    codes = np.random.default_rng(3).integers(0, 255, (EVENTS, FRAMES, SIDE, SIDE)).astype(np.uint8)
    codes[2, 13, 4, 5] = codes[2, 7, 0, 15] = 255
    return codes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, codes: np.ndarray) -> EventStore:
    times = np.datetime64("2019-05-01T00:00:00") + np.arange(FRAMES) * np.timedelta64(600, "s")
    events = [
        Event(name, times, np.where(frames == 255, np.nan, frames).astype(np.float32), "train", "sevir", 0.0, 0.0)
        for name, frames in zip(IDS, codes, strict=True)
    ]
    path = tmp_path_factory.mktemp("store") / "sevirlr.zarr"
    attrs = {"source": "made", "licence": "CC0"}
    write_store(path, events, quantity=VIL, time_step_seconds=600, crs=CRS, attrs=attrs)
    return EventStore.open(path)


@pytest.fixture(scope="module")
def part() -> Part:
    order = np.random.default_rng(1).permutation(15)
    every = [Window(name, start) for name in IDS for start in (0, 6, 12)]
    return Part(FRAMES, 13, tuple(every[k] for k in order))


def published(codes: np.ndarray, window: Window, rescale: str, layout: str) -> Tensor:
    """What the published loader makes of a whole event: (1, H, W, T) to float32, scaled as a tensor, cut, turned."""
    slab = np.moveaxis(codes[IDS.index(window.event)], 0, -1)[None].astype(np.float32)
    scale, offset = {"01": (1 / 255, 0), "sevir": (1 / 47.54, -33.44)}[rescale]
    data = scale * (torch.from_numpy(slab[..., window.start : window.start + 13]) + offset)
    axes = {"THWC": (3, 1, 2, 0), "TCHW": (3, 0, 1, 2), "THW": (3, 1, 2), "HWT": (1, 2, 3)}[layout]
    if len(axes) == 4:  # the channel stands where the one event stood
        return data.permute(axes).contiguous()
    return data[0].permute([axis - 1 for axis in axes]).contiguous()


@pytest.mark.parametrize("layout", ["THWC", "TCHW", "THW", "HWT"])
@pytest.mark.parametrize("rescale", ["01", "sevir"])
def test_items_are_the_published_loaders(
    store: EventStore, codes: np.ndarray, part: Part, layout: str, rescale: str
) -> None:
    windows = SevirWindows(store, part, layout=layout, rescale=rescale, missing="code")  # type: ignore[arg-type]
    assert len(windows) == 15
    for item, window in enumerate(part.windows):
        wanted = published(codes, window, rescale, layout)
        assert torch.equal(windows[item], wanted)
        assert windows[item].is_contiguous()
        assert windows[item].dtype == torch.float32


def test_scaled_codes_come_back_and_keep_the_thresholds() -> None:
    scale, offset = SCALES["01"]
    codes = torch.arange(255, dtype=torch.float32)
    scaled = codes * scale
    assert torch.equal(scaled / scale - offset, codes)
    assert int((scaled != codes / 255).sum()) == 126  # a product is not a quotient
    for threshold in VIL.thresholds:
        assert torch.equal(scaled * 255 >= threshold, codes >= threshold)


@pytest.mark.parametrize("seed", range(6))
def test_free_turns_are_the_published_pipeline(seed: int) -> None:
    """The very draws that torchvision's modules make from a generator of the same seed."""
    frames = torch.rand(13, 20, 20)
    published = torch.nn.Sequential(
        transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip(), transforms.RandomRotation(degrees=180)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wanted = published(frames)
    motion = Motion.draw("1", torch.Generator().manual_seed(seed))
    assert torch.equal(motion.apply(frames), wanted)


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
@pytest.mark.parametrize("side", [9, 16])
def test_quarter_turns_are_the_published_ones(angle: int, side: int) -> None:
    frames = torch.rand(3, side, side)
    assert torch.equal(Motion(False, False, float(angle)).apply(frames), TF.rotate(frames, angle))
    flipped = TF.rotate(TF.vflip(TF.hflip(frames)), angle)
    assert torch.equal(Motion(True, True, float(angle)).apply(frames), flipped)


def test_quarter_turns_reach_all_sixteen_draws_evenly() -> None:
    source = torch.Generator().manual_seed(0)
    drawn = [Motion.draw("2", source) for _ in range(4000)]
    counts = {motion: drawn.count(motion) for motion in set(drawn)}
    assert len(counts) == 16
    assert {motion.angle for motion in counts} == {0.0, 90.0, 180.0, 270.0}
    assert max(abs(count - 250) for count in counts.values()) < 5 * 250**0.5


def test_free_turns_cover_the_circle() -> None:
    source = torch.Generator().manual_seed(0)
    angles = np.array([Motion.draw("1", source).angle for _ in range(2000)])
    assert np.histogram(angles, bins=8, range=(-180, 180))[0].min() > 180
    assert np.abs(angles).max() <= 180


@pytest.mark.parametrize("augment", ["1", "2"])
def test_augmentation_depends_on_seed_pass_and_item_alone(store: EventStore, part: Part, augment: str) -> None:
    def make(seed: int = 4) -> SevirWindows:
        return SevirWindows(store, part, augment=augment, missing="code", seed=seed)  # type: ignore[arg-type]

    windows = make()
    first = [windows[item] for item in range(len(part))]
    torch.manual_seed(99)
    assert all(torch.equal(windows[item], first[item]) for item in reversed(range(len(part))))
    assert [windows.motion(item) for item in range(15)] != [make(5).motion(item) for item in range(15)]
    windows.set_epoch(1)
    assert [windows.motion(item) for item in range(15)] != [make().motion(item) for item in range(15)]
    windows.set_epoch(0)
    assert [windows.motion(item) for item in range(15)] == [make().motion(item) for item in range(15)]
    assert len({make().motion(item) for item in range(15)}) > 5


def test_augmentation_moves_all_frames_alike(store: EventStore, codes: np.ndarray, part: Part) -> None:
    windows = SevirWindows(store, part, layout="THW", augment="2", missing="code")
    for item, window in enumerate(part.windows):
        motion = windows.motion(item)
        assert motion is not None
        plain = published(codes, window, "01", "THW")
        assert torch.equal(windows[item], torch.stack([motion.apply(frame[None])[0] for frame in plain]))


def test_missing_pixels_are_marked(store: EventStore, codes: np.ndarray) -> None:
    part = Part(FRAMES, 13, (Window("S1", 6), Window("S1", 0), Window("S2", 0)))
    holes = torch.zeros(13, SIDE, SIDE, dtype=torch.bool)
    holes[7, 4, 5] = holes[1, 0, 15] = True
    as_nan = SevirWindows(store, part, layout="THW")
    assert torch.equal(as_nan[0].isnan(), holes)
    assert not as_nan[2].isnan().any()
    values, seen = SevirWindows(store, part, layout="THW", missing="mask")[0]
    assert torch.equal(seen, ~holes)
    assert torch.equal(values, as_nan[0].nan_to_num(0.0))
    as_code = SevirWindows(store, part, layout="THW", missing="code")[0]
    assert torch.equal(as_code[holes], torch.full((2,), 255.0) * (1 / 255))
    assert torch.equal(as_code[~holes], as_nan[0][~holes])


@pytest.mark.parametrize("augment", ["1", "2"])
def test_the_mask_moves_with_the_pixels(store: EventStore, augment: str) -> None:
    part = Part(FRAMES, 13, (Window("S1", 6),) * 8)
    pairs = SevirWindows(store, part, layout="HWT", augment=augment, missing="mask")  # type: ignore[arg-type]
    holes = SevirWindows(store, part, layout="HWT", augment=augment)  # type: ignore[arg-type]
    for item in range(8):
        values, seen = pairs[item]
        assert values.shape == seen.shape == (SIDE, SIDE, 13)
        assert torch.equal(seen, ~holes[item].isnan())
        assert torch.equal(values, holes[item].nan_to_num(0.0))
    assert int((~pairs[0][1]).sum()) <= 2 + 2 * (augment == "1")


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(store: EventStore, part: Part, workers: int) -> None:
    """Spawned workers give what the process itself would, hear of a new pass, and live on."""
    windows = SevirWindows(store, part, augment="2", missing="mask", seed=2)
    alone = SevirWindows(store, part, augment="2", missing="mask", seed=2)
    batches = loader(windows, 4, workers=workers)
    for epoch in (0, 3):
        windows.set_epoch(epoch)
        alone.set_epoch(epoch)
        values, seen = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        assert values.shape == (15, 13, SIDE, SIDE, 1)
        for item in range(15):
            assert torch.equal(values[item], alone[item][0])
            assert torch.equal(seen[item], alone[item][1])


def test_shuffled_passes_follow_from_the_seed(store: EventStore, part: Part) -> None:
    windows = SevirWindows(store, part)

    def passes(seed: int) -> list[Tensor]:
        batches = loader(windows, 5, shuffle=True, seed=seed)
        return [torch.cat(list(batches)) for _ in range(2)]

    one, other = passes(0), passes(1)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, passes(0), strict=True))
    assert not torch.equal(one[0].nan_to_num(), one[1].nan_to_num())
    assert not torch.equal(one[0].nan_to_num(), other[0].nan_to_num())


def test_a_last_batch_that_is_not_full_can_be_left_out(store: EventStore, part: Part) -> None:
    windows = SevirWindows(store, part)
    assert [len(batch) for batch in loader(windows, 4)] == [4, 4, 4, 3]
    assert [len(batch) for batch in loader(windows, 4, drop_last=True)] == [4, 4, 4]


def test_datasets_can_be_pickled(store: EventStore, part: Part) -> None:
    windows = SevirWindows(store, part, augment="1", missing="code", seed=8)
    windows.set_epoch(2)
    again = pickle.loads(pickle.dumps(windows))
    assert torch.equal(again[3], windows[3])


def test_sevirs_own_files_give_the_same(tmp_path: Path, store: EventStore, codes: np.ndarray, part: Part) -> None:
    """Without conversion: out of HDF5 whose axes are (N, H, W, T), also after a trip through a pickle."""
    (tmp_path / "data/vil/2019").mkdir(parents=True)
    with h5py.File(tmp_path / "data/vil/2019/FILE.h5", "w") as file:
        file["vil"] = np.moveaxis(codes, 1, -1)
        file["id"] = np.array(IDS, dtype="S")
    rows = "".join(f"{name},vil/2019/FILE.h5,{k},vil,2019-05-01 00:00:00,0,30,-90\n" for k, name in enumerate(IDS))
    header = "id,file_name,file_index,img_type,time_utc,pct_missing,llcrnrlat,llcrnrlon\n"
    (tmp_path / "CATALOG.csv").write_text(header + rows)
    options = {"augment": "2", "missing": "code", "seed": 3}
    ours = SevirWindows(store, part, **options)
    theirs = pickle.loads(pickle.dumps(SevirWindows(SevirEvents.open(tmp_path), part, **options)))
    assert all(torch.equal(theirs[item], ours[item]) for item in range(len(part)))


def test_ranks_share_the_events(store: EventStore, part: Part) -> None:
    shares = [SevirWindows(store, part.shard(rank, 2, "uneven")) for rank in range(2)]
    assert [len(share) for share in shares] == [6, 9]
    assert not set(shares[0].part.events) & set(shares[1].part.events)


def test_positions_count_from_the_end_too(store: EventStore, part: Part) -> None:
    windows = SevirWindows(store, part, missing="code")
    assert torch.equal(windows[-1], windows[14])  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        windows[15]


def test_what_does_not_fit_is_refused(store: EventStore, part: Part, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of 49 frames"):
        SevirWindows(store, Part(49, 25, (Window("S1", 0),)))
    lacking = Part(FRAMES, 13, (Window("S1", 0), Window("S77", 0), Window("S78", 6)))
    with pytest.raises(UserError, match="no S77 and 1 more windows of 3"):
        SevirWindows(store, lacking)
    assert len(SevirWindows(store, lacking.within(store.ids))) == 1
    for option in ({"layout": "NTHWC"}, {"rescale": "02"}, {"augment": "3"}, {"missing": "zero"}):
        with pytest.raises(ValueError, match="expected one of"):
            SevirWindows(store, part, **option)  # type: ignore[arg-type]
    rain = Event("S1", store.times(0), np.zeros((FRAMES, 4, 4), np.float32), "train", "knmi", 0.0, 0.0)
    attrs = {"source": "made", "licence": "CC0"}
    write_store(tmp_path / "r.zarr", [rain], quantity=RAINFALL_RATE, time_step_seconds=600, crs=CRS, attrs=attrs)
    with pytest.raises(UserError, match="VIL"):
        SevirWindows(EventStore.open(tmp_path / "r.zarr"), part)

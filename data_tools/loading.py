"""Windows of SEVIR for training in PyTorch: a map-style dataset over a store or over SEVIR's own HDF5 files.

`SevirWindows` gives, value by value, what PreDiff's loader gives for the same window: the same order (that of the
`Part` of a named split), the product with float32(1 / 255), the same layouts and augmentations. It differs where that
loader has traps: augmentation depends on (seed, epoch, item) alone instead of the workers' random state, files are
opened in the process that reads them, sharding holds for items read by number, and missing pixels are marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_tools.cli import UserError
from data_tools.quantities import VIL
from data_tools.split_files import Part
from data_tools.table import EventTable

Layout = Literal["THWC", "TCHW", "THW", "HWT"]
Rescale = Literal["01", "sevir"]
Augment = Literal["0", "1", "2"]
Missing = Literal["nan", "mask", "code"]

SCALES: dict[str, tuple[float, float]] = {"01": (1 / 255, 0.0), "sevir": (1 / 47.54, -33.44)}
"""(scale, offset): a value is scale * (code + offset), in float32."""


@dataclass(frozen=True, slots=True)
class Motion:
    """A drawn augmentation: mirrored left-right, then top-bottom, then turned counter-clockwise by `angle` degrees."""

    horizontal: bool
    vertical: bool
    angle: float

    @classmethod
    def draw(cls, augment: Augment, source: torch.Generator) -> Motion:
        """`1`: mirrored each way in half of the cases and turned by -180 to 180 degrees (PreDiff's autoencoder);
        `2`: the same with quarter turns (its diffusion)."""
        horizontal, vertical = (bool(torch.rand(1, generator=source) < 0.5) for _ in range(2))
        if augment == "2":
            return cls(horizontal, vertical, 90.0 * int(torch.randint(4, (), generator=source)))
        return cls(horizontal, vertical, float(torch.empty(1).uniform_(-180.0, 180.0, generator=source)))

    def apply(self, frames: Tensor) -> Tensor:
        """Move all (T, H, W) frames alike; turns take the nearest pixel, and 0 where there is none."""
        if self.horizontal:
            frames = frames.flip(-1)
        if self.vertical:
            frames = frames.flip(-2)
        if self.angle % 90.0 == 0.0 and frames.shape[-1] == frames.shape[-2]:
            return frames.rot90(int(self.angle // 90.0), (-2, -1))
        from torchvision.transforms.functional import rotate  # as long to import as all the rest, for this line alone

        return rotate(frames, self.angle, fill=[0.0])


class SevirWindows(Dataset):
    """The windows of a part of a split, one an item.

    An item is a float32 tensor in `layout` (C = 1), e.g. (13, 128, 128, 1) of SEVIR-LR. With `missing="mask"` it is a
    pair: the values, 0 in missing pixels, and a bool tensor of the same shape, True where a pixel was seen; pixels
    that a turn brings in from outside are 0 and seen, as published.

    Args:
        source: `EventStore` or `SevirEvents` of VIL, whole events.
        part: which windows, of events of which length.
        layout: order of the axes.
        rescale: `01` is code / 255 in [0, 1]; `sevir` is (code - 33.44) / 47.54, the challenge's.
        augment: `0` none, `1` mirrored and turned freely, `2` mirrored and turned by quarters; see `Motion`.
        missing: what code 255 becomes: `nan`, 0 and a `mask`, or the scaled `code` as in the published loaders.
        seed: of the augmentation.

    Raises:
        UserError: another quantity, events of another length, or events that `source` does not have (see
            `Part.within`).
        ValueError: an unknown option.
    """

    def __init__(
        self,
        source: EventTable,
        part: Part,
        *,
        layout: Layout = "THWC",
        rescale: Rescale = "01",
        augment: Augment = "0",
        missing: Missing = "nan",
        seed: int = 0,
    ) -> None:
        for value, kind in ((layout, Layout), (rescale, Rescale), (augment, Augment), (missing, Missing)):
            if value not in get_args(kind):
                raise ValueError(f"expected one of {', '.join(get_args(kind))}, got {value!r}")
        if source.quantity != VIL:
            raise UserError(f"expected VIL of SEVIR, got {source.quantity.name} in {source.path}: choose another store")
        if source.shape[1] != part.raw_frames:
            raise UserError(
                f"expected events of {part.raw_frames} frames as the split has them, got {source.shape[1]} in "
                f"{source.path}: convert SEVIR with or without --lr, or make the split with --frames {source.shape[1]}"
            )
        places = {name: index for index, name in enumerate(source.ids)}
        absent = [window.event for window in part.windows if window.event not in places]
        if absent:
            raise UserError(
                f"expected the events of the split in {source.path}, got no {absent[0]} and {len(absent) - 1} more "
                f"windows of {len(part)}: convert the whole archive, or choose what is there with Part.within"
            )
        self.source, self.part = source, part
        self.layout: Layout = layout
        self.rescale: Rescale = rescale
        self.augment: Augment = augment
        self.missing: Missing = missing
        self.seed = seed
        self._places = torch.tensor([(places[name], start) for name, start in part.windows], dtype=torch.int64)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # running workers see it change

    def __len__(self) -> int:
        return len(self.part)

    def set_epoch(self, epoch: int) -> None:
        """Draw the augmentations of another pass; call it between passes, workers that live on hear of it."""
        self._epoch.fill_(epoch)

    def motion(self, item: int) -> Motion | None:
        """The augmentation of `item` in this pass: it depends on (seed, epoch, item) alone."""
        if self.augment == "0":
            return None
        key = np.random.SeedSequence((self.seed, int(self._epoch), item)).generate_state(1, np.uint64)
        return Motion.draw(self.augment, torch.Generator().manual_seed(int(key[0]) >> 1))

    def __getitem__(self, item: int) -> Tensor | tuple[Tensor, Tensor]:
        item = range(len(self))[item]
        index, start = self._places[item].tolist()
        codes = self.source.read_codes(index, slice(start, start + self.part.frames))
        frames = torch.from_numpy(self._scaled(codes))
        motion = self.motion(item)
        if motion is not None:
            frames = motion.apply(frames)
        if self.missing != "mask":
            return _laid_out(frames, self.layout)
        seen = ~frames.isnan()
        return _laid_out(frames.nan_to_num(0.0), self.layout), _laid_out(seen, self.layout)

    def _scaled(self, codes: np.ndarray) -> np.ndarray:
        """scale * (code + offset) in float32, NaN where missing, unless the code shall stay."""
        scale, offset = (np.float32(number) for number in SCALES[self.rescale])
        values = np.empty(codes.shape, np.float32)
        for moment, frame in enumerate(values):  # one by one: a frame stays in the processor's cache from line to line
            frame[...] = codes[moment]
            if offset:
                frame += offset
            frame *= scale
        lost = VIL.storage[2]
        if self.missing != "code" and codes.max() == lost:  # the greatest code: that there is none is soon seen
            values[codes == lost] = np.nan
        return values


def _laid_out(frames: Tensor, layout: Layout) -> Tensor:
    """(T, H, W) in `layout`, contiguous."""
    match layout:
        case "THW":
            return frames.contiguous()
        case "THWC":
            return frames.unsqueeze(-1).contiguous()
        case "TCHW":
            return frames.unsqueeze(-3).contiguous()
        case "HWT":
            return frames.permute(1, 2, 0).contiguous()


def loader(
    dataset: SevirWindows,
    batch: int,
    *,
    shuffle: bool = False,
    workers: int = 0,
    seed: int = 0,
    drop_last: bool = False,
) -> DataLoader:
    """A DataLoader of `dataset` whose workers are spawned: what a fork copies of Zarr's threads can hang.

    With `shuffle` the order of every pass follows from `seed`. With `drop_last` a last batch that is not full is left
    out. Workers live on from pass to pass.
    """
    return DataLoader(
        dataset,
        batch_size=batch,
        shuffle=shuffle,
        num_workers=workers,
        drop_last=drop_last,
        generator=torch.Generator().manual_seed(seed),
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
    )

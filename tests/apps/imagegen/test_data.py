"""Images from every kind of source, and what is said of those that cannot be used."""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from apps.imagegen.data import Images, load_images
from data_tools.cli import UserError


def colours(count: int, side: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def folder_of(path: Path, pixels: np.ndarray) -> Path:
    for row, image in enumerate(pixels):
        file = path / f"{row // 2:06d}" / f"{row:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file)
    return path


def test_digits_are_enlarged_and_split_by_content() -> None:
    train, test = load_images("digits"), load_images("digits", "test")
    assert train.pixels.dtype == np.uint8
    assert (train.channels, train.resolution) == (1, 16)
    assert train.labels is not None
    assert test.labels is not None
    assert len(train) + len(test) == 1797
    assert 0.1 < len(test) / 1797 < 0.24
    assert set(train.labels) == set(test.labels) == set(range(10))
    known = {image.tobytes() for image in train.pixels}
    assert not known & {image.tobytes() for image in test.pixels}
    assert train.fingerprint == load_images("digits").fingerprint != test.fingerprint


def test_digits_of_another_size_are_the_same_digits() -> None:
    small, large = load_images("digits", "test", 8), load_images("digits", "test", 32)
    assert small.pixels.max() == 255
    assert large.pixels.shape[1:] == (1, 32, 32)
    blocks = large.pixels.reshape(len(large), 1, 8, 4, 8, 4).mean((3, 5))
    assert np.abs(blocks - small.pixels).mean() < 12  # grey levels: enlarging keeps the means of pixels, nearly
    with pytest.raises(UserError, match="8 to 256"):
        load_images("digits", "test", 7)


def test_scaled_images_fill_the_range_of_networks() -> None:
    images = Images(np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1), np.array([2, 0, 1]), "three")
    assert images.scaled([2, 0]).flatten().tolist() == [1.0, -1.0]
    assert images.scaled(slice(1, 2)).item() == pytest.approx(51 / 127.5 - 1)
    assert images.scaled(np.array([0])).dtype == torch.float32
    assert images.one_hot([0, 2], 4).tolist() == [[0, 0, 1, 0], [0, 1, 0, 0]]


def test_fingerprints_tell_images_labels_and_shapes_apart() -> None:
    pixels = colours(4, 2, 3).transpose(0, 3, 1, 2)
    changed = pixels.copy()
    changed[3, 2, 1, 1] ^= 1
    sets = [
        Images(pixels, None, "a"),
        Images(changed, None, "a"),
        Images(pixels, np.zeros(4, np.int64), "a"),
        Images(pixels.reshape(12, 1, 2, 2), None, "a"),
    ]
    assert len({images.fingerprint for images in sets}) == 4
    assert Images(pixels.copy(), None, "b").fingerprint == sets[0].fingerprint
    strided = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert Images(strided, None, "a").fingerprint == sets[0].fingerprint


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path, channels: int) -> None:
    pixels = colours(5, 6, channels)
    images = load_images(str(folder_of(tmp_path / "x", pixels)))
    assert np.array_equal(images.pixels, pixels.transpose(0, 3, 1, 2))
    assert images.labels is None
    assert load_images(str(tmp_path / "x"), resolution=6).fingerprint == images.fingerprint


def test_jpeg_and_palette_images_are_read(tmp_path: Path) -> None:
    grey = np.full((8, 8, 3), 90, np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.JPG", format="JPEG")
    Image.fromarray(grey).quantize(4).save(tmp_path / "b.png", transparency=b"\x00\xff")
    images = load_images(str(tmp_path))
    assert images.pixels.shape == (2, 3, 8, 8)
    assert np.abs(images.pixels.astype(int) - 90).max() <= 2


def test_labels_of_a_folder(tmp_path: Path) -> None:
    folder_of(tmp_path, colours(3, 4, 1))
    names = ["000000/000000.png", "000000/000001.png", "000001/000002.png"]
    listed = [[name, label] for name, label in zip(names, (4, 0, 2), strict=True)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": listed[::-1]}))
    labels = load_images(str(tmp_path)).labels
    assert labels is not None
    assert labels.tolist() == [4, 0, 2]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": None}))
    assert load_images(str(tmp_path)).labels is None
    for content in ('{"labels": [["000000/000000.png", 1]]}', "[]", '{"labels": 3}', "{", '{"labels": [[[], 1]]}'):
        (tmp_path / "dataset.json").write_text(content)
        with pytest.raises(UserError, match=r"dataset\.json"):
            load_images(str(tmp_path))
    for label in (-1, 2.0, True, "1"):
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": [[name, label] for name in names]}))
        with pytest.raises(UserError, match="expected a class from 0"):
            load_images(str(tmp_path))


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_archives_are_read_and_joined(tmp_path: Path, channels: int | None) -> None:
    first, second = colours(3, 5, channels or 1, 1), colours(2, 5, channels or 1, 2)
    for name, pixels, labels in (("a", first, [7, 0, 1]), ("b", second, [2, 2])):
        stored = pixels[..., 0] if channels is None else pixels
        np.savez_compressed(tmp_path / f"{name}.npz", images=stored, labels=np.array(labels, np.uint8))
    images = load_images(f"{tmp_path / 'a.npz'}, {tmp_path / 'b.npz'}")
    assert np.array_equal(images.pixels, np.concatenate([first, second]).transpose(0, 3, 1, 2))
    assert images.labels is not None
    assert images.labels.tolist() == [7, 0, 1, 2, 2]


def test_a_path_with_a_comma_is_one_source(tmp_path: Path) -> None:
    assert len(load_images(str(folder_of(tmp_path / "x,y", colours(2, 4, 3))))) == 2


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [4097, 10_000, 60_000])
def test_images_that_unpack_to_too_much_are_refused(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(side, side))
    with pytest.raises(UserError, match="at most 4096 pixels"):
        load_images(str(tmp_path))


def test_unusable_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got none"):
        load_images(str(tmp_path))
    folder_of(tmp_path, colours(2, 4, 1))
    Image.fromarray(colours(1, 5, 1)[0, ..., 0]).save(tmp_path / "z.png")
    with pytest.raises(UserError, match="4 x 4 as the first, got 5 x 5"):
        load_images(str(tmp_path))
    Image.fromarray(colours(1, 4, 3)[0]).save(tmp_path / "z.png")
    with pytest.raises(UserError, match=r"grey as .* got RGB"):
        load_images(str(tmp_path))
    Image.fromarray(colours(1, 4, 4)[0]).save(tmp_path / "z.png")
    with pytest.raises(UserError, match="mode RGBA"):
        load_images(str(tmp_path))
    (tmp_path / "z.png").write_text("not an image")
    with pytest.raises(UserError, match="another or a damaged file"):
        load_images(str(tmp_path))


def test_images_must_be_square(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((3, 5), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="square images, got 5 x 3"):
        load_images(str(tmp_path))
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 3, 5), np.uint8))
    with pytest.raises(UserError, match=r"got \(2, 3, 5, 1\)"):
        load_images(str(tmp_path / "a.npz"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["png", "jpg", "npz", "stored.npz"]))
def test_damaged_files_give_one_line(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    pixels = colours(2, 16, 3)
    if kind == "npz":
        np.savez_compressed(path, images=pixels, labels=np.arange(2))
    elif kind == "stored.npz":
        np.savez(path, images=pixels, labels=np.arange(2))
    else:
        Image.fromarray(pixels[0]).save(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    source = str(path) if "npz" in kind else str(tmp_path)
    with contextlib.suppress(UserError):  # nothing else may be raised, and no file be left open
        assert load_images(source).pixels.dtype == np.uint8
    path.unlink()


def test_unusable_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    good = colours(3, 4, 3)

    def refused(message: str, **arrays: np.ndarray) -> None:
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
        with pytest.raises(UserError, match=message):
            load_images(str(path))

    refused("expected an array `images`.*got pixels", pixels=good)
    refused("float32", images=good.astype(np.float32))
    refused("uint8, square, grey or RGB", images=colours(3, 4, 2))
    refused("uint8, square, grey or RGB", images=good[:0])
    refused(r"`labels` of \(3,\)", images=good, labels=np.arange(4))
    refused(r"`labels` of \(3,\)", images=good, labels=np.array([0.0, 1.0, 2.0]))
    refused(r"`labels` of \(3,\)", images=good, labels=np.array([0, -1, 2]))
    np.savez(path, images=np.array([print] * 3, object))
    with pytest.raises(UserError, match="damaged"):
        load_images(str(path))
    np.save(tmp_path / "b.npy", good)
    (tmp_path / "b.npy").rename(path)
    with pytest.raises(UserError, match="one array without a name"):
        load_images(str(path))


def test_sources_that_do_not_go_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=colours(2, 4, 3), labels=np.arange(2))
    np.savez(tmp_path / "b.npz", images=colours(2, 4, 3))
    np.savez(tmp_path / "c.npz", images=colours(2, 4, 1))
    with pytest.raises(UserError, match="labels in all sources or in none"):
        load_images(f"{tmp_path}/a.npz,{tmp_path}/b.npz")
    with pytest.raises(UserError, match=r"4 x 4 RGB in .* and 4 x 4 grey"):
        load_images(f"{tmp_path}/b.npz,{tmp_path}/c.npz")
    for source in (f"{tmp_path}/d.npz", f"{tmp_path}/a.npz,", "", "digit"):
        with pytest.raises(UserError, match="expected `digits`, a folder of images or an"):
            load_images(source)


def test_images_that_do_not_fit_a_model(tmp_path: Path) -> None:
    images = Images(colours(3, 4, 3).transpose(0, 3, 1, 2), np.array([0, 5, 1]), "mine")
    images.check(4, 3)
    images.check(4, 3, label_dim=6)
    for arguments, message in (
        ((8, 3, 0), "expected images of 8 x 8 pixels, got 4 x 4 in mine"),
        ((4, 1, 0), "expected grey images, got RGB"),
        ((4, 3, 5), "labels from 0 to 4, got 5"),
    ):
        with pytest.raises(UserError, match=message):
            images.check(*arguments)
    with pytest.raises(UserError, match="for a conditional model, got none"):
        Images(images.pixels, None, "mine").check(4, 3, 6)
    np.savez(tmp_path / "a.npz", images=colours(3, 4, 3))
    with pytest.raises(UserError, match="16 x 16"):
        load_images(str(tmp_path / "a.npz"), resolution=16)


def test_real_photographs(shared: Path) -> None:
    archive = shared / "images/cifar10_test.npz"
    if not archive.is_file():
        pytest.skip("no CIFAR-10 in the folder of real data")
    images = load_images(str(archive), resolution=32)
    assert images.pixels.shape == (5000, 3, 32, 32)
    assert images.labels is not None
    assert set(images.labels) == set(range(10))
    # Photographs are brighter above than below, and neighbouring pixels are alike; mixed-up axes would show here.
    values = images.pixels.astype(np.float32)
    assert np.abs(np.diff(values, axis=3)).mean() < 20 < np.abs(values - values[::-1]).mean()

"""Text embeddings on disk: whole or not there, of one encoder, checked when read."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apps.imagegen.models.latent import text_cache as module
from apps.imagegen.models.latent.text_cache import TextCache
from data_tools.cli import UserError

IDENTITY = {"encoder": "abc", "tokens": 3}
TEXTS = [f"text {index}" for index in range(7)] + [""]


def forks(test: Callable[[Path], None]) -> Callable[[Path], None]:
    """For tests that fork; newer Pythons warn of it where threads run, and the child here uses none."""
    without = "fork" not in multiprocessing.get_all_start_methods()
    test = pytest.mark.skipif(without, reason="no fork on this system")(test)
    return pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")(test)


def encode(texts: Sequence[str]) -> dict[str, Tensor]:
    """(B, 3, 5) bfloat16, (B, 3) bool and (B, 2) float32, of each text alone."""
    generators = [torch.Generator().manual_seed(sum(map(ord, text))) for text in texts]
    embeds = torch.stack([torch.randn(3, 5, generator=generator) for generator in generators])
    pooled = torch.tensor([[len(text), sum(map(ord, text))] for text in texts], dtype=torch.float32)
    return {"embeds": embeds.bfloat16(), "mask": embeds[:, :, 0] > 0, "pooled": pooled}


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_what_is_read_is_what_was_encoded(tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "made" / "text", IDENTITY)
    assert cache.missing([*TEXTS, TEXTS[0]]) == TEXTS
    reports: list[tuple[int, int]] = []
    sizes: list[int] = []

    def counted(texts: Sequence[str]) -> dict[str, Tensor]:
        sizes.append(len(texts))
        return encode(texts)

    assert cache.fill([*TEXTS, *TEXTS], counted, batch=3, report=lambda *done: reports.append(done)) == 8
    assert sizes == [3, 3, 2]
    assert reports == [(3, 8), (6, 8), (8, 8)]
    assert cache.missing(TEXTS) == []
    assert cache.fill(TEXTS, counted) == 0
    asked = [TEXTS[4], "", TEXTS[4]]
    found, expected = TextCache(tmp_path / "made" / "text", IDENTITY).read(asked), encode(asked)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_gradients_and_shared_memory_are_not_kept(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, IDENTITY)
    weight = torch.nn.Parameter(torch.randn(4, 6))

    def shared(texts: Sequence[str]) -> dict[str, Tensor]:
        value = weight[:2].expand(len(texts), 2, 6)
        return {"a": value, "b": value[:, :, ::2]}

    cache.fill(["x", "y", "z"], shared)
    found = cache.read(["z", "x"])
    assert torch.equal(found["a"], weight.detach()[:2].expand(2, 2, 6))
    assert torch.equal(found["b"], weight.detach()[:2, ::2].expand(2, 2, 3))
    assert not found["a"].requires_grad


def test_another_encoder_has_another_place(tmp_path: Path) -> None:
    first, second = TextCache(tmp_path, IDENTITY), TextCache(tmp_path, {**IDENTITY, "tokens": 4})
    first.fill(TEXTS, encode)
    assert second.missing(TEXTS) == TEXTS
    assert first.fingerprint != second.fingerprint
    same = TextCache(tmp_path, dict(reversed(IDENTITY.items())))
    assert same.fingerprint == first.fingerprint
    assert same.missing(TEXTS) == []


def test_a_file_of_another_encoder_is_not_taken(tmp_path: Path) -> None:
    first, second = TextCache(tmp_path, IDENTITY), TextCache(tmp_path, {"encoder": "other"})
    first.fill(["one"], encode)
    second.fill(["one", "two"], encode)
    stolen = next(path for path in _files(second.folder) if path.name == _files(first.folder)[0].name)
    stolen.write_bytes(_files(first.folder)[0].read_bytes())
    assert second.missing(["one", "two"]) == ["one"]
    with pytest.raises(UserError, match="damaged"):
        second.read(["one"])
    (first.folder / "identity.json").write_text("{}")
    with pytest.raises(UserError, match="--text_cache"):
        TextCache(tmp_path, IDENTITY)


def test_a_file_cut_short_is_computed_again(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, IDENTITY)
    cache.fill(TEXTS, encode)
    for path, content in zip(_files(cache.folder), (b"", b"\xff" * 40, None, b"\0" * 9), strict=False):
        path.write_bytes(path.read_bytes()[:-5] if content is None else content)
    assert len(cache.missing(TEXTS)) == 4
    assert cache.fill(TEXTS, encode) == 4
    assert torch.equal(cache.read(TEXTS)["embeds"], encode(TEXTS)["embeds"])


@pytest.mark.parametrize("place", [-1, -40])
def test_a_flipped_bit_is_named(tmp_path: Path, place: int) -> None:
    cache = TextCache(tmp_path, IDENTITY)
    cache.fill(["one"], encode)
    path = _files(cache.folder)[0]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path.name}.* damaged file; remove it"):
        cache.read(["one"])
    path.unlink()
    with pytest.raises(UserError, match=r"'one'.* got no file"):
        cache.read(["one"])


def _fill(folder: str, count: int) -> None:
    torch.set_num_threads(1)
    TextCache(folder, IDENTITY).fill([str(index) for index in range(count)], encode, batch=2)


def _started(folder: Path, count: int) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=_fill, args=(str(folder), count))
    process.start()
    return process


@forks
def test_a_kill_leaves_whole_files(tmp_path: Path) -> None:
    process, cache = _started(tmp_path, 100_000), TextCache(tmp_path, IDENTITY)
    end = time.monotonic() + 60
    while len(_files(cache.folder)) < 6 and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    texts = [str(index) for index in range(100_000)]
    missing = set(cache.missing(texts))
    done = [text for text in texts if text not in missing]
    assert len(done) >= 6
    assert done == texts[: len(done)]
    assert torch.equal(cache.read(done)["embeds"], encode(done)["embeds"])
    assert cache.fill(texts[: len(done) + 3], encode) == 3


@forks
def test_two_processes_at_once(tmp_path: Path) -> None:
    for process in [_started(tmp_path, 40) for _ in range(2)]:
        process.join(60)
        assert process.exitcode == 0
    texts = [str(index) for index in range(40)]
    cache = TextCache(tmp_path, IDENTITY)
    assert cache.missing(texts) == []
    assert torch.equal(cache.read(texts)["pooled"], encode(texts)["pooled"])
    assert [path for path in cache.folder.rglob("*") if path.name.endswith(".part")] == []


@pytest.mark.parametrize(
    "wrong", [{}, {"embeds": torch.zeros(3, 2)}, {"embeds": torch.zeros(2, 2), "mask": torch.tensor(1.0)}]
)
def test_an_encoder_that_gives_something_else(tmp_path: Path, wrong: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="2 rows"):
        TextCache(tmp_path, IDENTITY).fill(["a", "b"], lambda texts: wrong)
    assert _files(tmp_path) == []


def test_embeddings_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--precision"):
        TextCache(tmp_path, IDENTITY).fill(["a"], lambda texts: {"embeds": torch.full((1, 2), torch.inf).half()})


def test_shapes_that_differ(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, IDENTITY)
    cache.fill(["a", "bb"], lambda texts: {"embeds": torch.zeros(1, len(texts[0]))}, batch=1)
    with pytest.raises(UserError, match="one shape"):
        cache.read(["a", "bb"])
    with pytest.raises(ValueError, match="at least one"):
        cache.read([])


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 100

    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(UserError, match="--text_cache"):
        TextCache(tmp_path, IDENTITY).fill(TEXTS, encode)
    assert _files(tmp_path) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--text_cache"):
        TextCache(tmp_path / "file" / "text", IDENTITY)

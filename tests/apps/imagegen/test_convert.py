"""NVIDIA's pickles become files of ours with the same denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from apps.imagegen.convert import Options, main, read_checkpoint
from apps.imagegen.models import load_model
from apps.imagegen.models.configurations import ARCHITECTURES
from data_tools.cli import UserError


@pytest.fixture(scope="module")
def song(nvidia: ModuleType) -> bytes:
    """A file that is as it should be."""
    return nvidia.pickled()


@pytest.fixture
def source(song: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "edm-mine.pkl"
    path.write_bytes(song)
    return path


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", ["SONG", "ADM"])
def test_the_same_denoiser_comes_out(tmp_path: Path, nvidia: ModuleType, kind: str, protocol: int) -> None:
    kwargs = getattr(nvidia, kind)
    network = nvidia.network_of(kwargs)
    source, out = tmp_path / "edm-mine.pkl", tmp_path / "deep/mine.safetensors"
    source.write_bytes(nvidia.pickled(kwargs, protocol=protocol))
    main(Options(str(source), str(out)))
    nvidia.untouched()
    model = load_model(out)
    assert (model.name, model.sigma_min, model.sigma_max, model.sigma_data) == ("mine", 0.002, 80.0, 0.5)
    assert model.card["converted_from"] == "edm-mine.pkl"
    assert len(model.card["sha256"]) == 64
    assert "licence" not in model.card
    expected = network.state_dict()
    got = model.network.state_dict()
    assert list(got) == list(expected)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    x, sigma, labels = model.start([0, 1]), torch.tensor([30.0, 0.2]), model.labels([0, 1])
    with torch.no_grad():
        assert torch.equal(model.network(x, sigma, labels), network(x, sigma, labels, force_fp32=True))


def test_a_published_name_is_known(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card says whose the weights are where name and sizes are those of a published checkpoint."""
    source = source.rename(tmp_path / "edm-known.pkl")
    architecture, _ = read_checkpoint(source, "")
    assert (architecture.dataset, architecture.file) == ("unknown", None)
    known = {**ARCHITECTURES, "known": replace(architecture, dataset="Some", file="edm-known.pkl")}
    monkeypatch.setattr("apps.imagegen.convert.ARCHITECTURES", known)
    main(Options(str(source), str(tmp_path / "out.safetensors"), name="renamed"))
    model = load_model(tmp_path / "out.safetensors")
    assert model.name == "renamed"
    assert "CC BY-NC-SA" in model.card["licence"]


def test_arguments_by_position(tmp_path: Path, nvidia: ModuleType) -> None:
    def by_position(content: dict[str, Any]) -> None:
        state = content["ema"].state
        by_name = dict(state["_init_kwargs"])
        state["_init_args"] = tuple(by_name.pop(name) for name in ("img_resolution", "img_channels", "label_dim"))
        state["_init_kwargs"] = by_name

    (tmp_path / "a.pkl").write_bytes(nvidia.pickled(change=by_position))
    architecture, tensors = read_checkpoint(tmp_path / "a.pkl", "")
    assert (architecture.resolution, architecture.channels, architecture.label_dim) == (8, 2, 3)
    assert tensors.keys() == nvidia.network_of(nvidia.SONG).state_dict().keys()


def test_outputs_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"theirs")
    for src, out, message in (
        (source, taken, r"taken\.safetensors, which exists; choose another or pass --overwrite"),
        (source, tmp_path / "mine.pt", r"ends in \.safetensors"),
        (source, tmp_path / "folder.safetensors", "got the folder"),
        (source, source / "mine.safetensors", "got the file"),
        (tmp_path / "none.pkl", tmp_path / "new.safetensors", r"got no file .*none\.pkl"),
        (taken, tmp_path / "new.safetensors", "which asks for|truncated or foreign"),
    ):
        with pytest.raises(UserError, match=message):
            main(Options(str(src), str(out)))
    assert taken.read_bytes() == b"theirs"
    main(Options(str(source), str(taken), overwrite=True))
    assert load_model(taken).resolution == 8
    names = ["edm-mine.pkl", "folder.safetensors", "taken.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_as_a_user(source: Path, tmp_path: Path, run_cli: Callable[..., Any], run_here: Callable[..., Any]) -> None:
    out = tmp_path / "mine.safetensors"
    done = run_cli("apps.imagegen.convert", str(source), str(out), "--name", "other")
    assert done.returncode == 0, done.stderr
    assert "other, a SongUNet of" in done.stdout
    assert "8 x 8 pixels, 2 channels, 3 classes" in done.stdout
    before = out.read_bytes()
    refused = run_here("apps.imagegen.convert", str(source), str(out))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "which exists; choose another or pass --overwrite" in refused.stderr
    assert refused.stdout == ""
    assert out.read_bytes() == before

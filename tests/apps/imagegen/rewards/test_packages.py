"""ImageReward and HPS v2.1: what reaches their packages, and what is said where these are missing or do not work.

Small packages stand where the real ones would, with their names, signatures and shapes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apps.imagegen.rewards import HPS, ImageReward, hps, image_reward, load_scorers
from apps.imagegen.rewards.hps import HPS_VARIABLE, load_hps
from apps.imagegen.rewards.image_reward import REWARD_VARIABLE, load_image_reward
from data_tools.cli import UserError

PROMPTS = ["a red cat", "dog", "", "a b c d"]

IMAGE_REWARD = """
import json, pathlib, warnings
import numpy as np, torch

class Tokens:
    def __init__(self, ids):
        self.input_ids, self.attention_mask = ids, (ids > 0).long()
    def to(self, device):
        return self

class Blip:
    def tokenizer(self, texts, padding, truncation, max_length, return_tensors):
        assert isinstance(texts, list) and padding == "max_length" and truncation and return_tensors == "pt"
        rows = [[len(word) for word in text.split()][:max_length] for text in texts]
        return Tokens(torch.tensor([row + [0] * (max_length - len(row)) for row in rows]))

class Model(torch.nn.Module):
    def __init__(self, weight, device):
        super().__init__()
        self.weight, self.device, self.blip = torch.nn.Parameter(weight), device, Blip()
    def preprocess(self, picture):
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255
    def score_gard(self, ids, mask, image):
        assert ids.shape == mask.shape == (len(image), 35)
        return self.weight * image.mean((1, 2, 3))[:, None] + mask.sum(1, keepdim=True)

def load(name="ImageReward-v1.0", device="cpu", download_root=None, med_config=None):
    print("load checkpoint from", name)
    warnings.warn("old")
    assert json.loads(pathlib.Path(med_config).read_text()) == {"vocab_size": 3}
    return Model(torch.load(name, weights_only=True)["weight"], device).train()
"""

OPEN_CLIP = """
import numpy as np, torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3, 2))
    def forward(self, image, text):
        seen = torch.nn.functional.normalize(image.mean((2, 3)) @ self.weight, dim=-1)
        return {"image_features": seen, "text_features": torch.nn.functional.normalize(text.float(), dim=-1)}

def create_model_and_transforms(model_name, pretrained=None, precision="fp32", device="cpu", light_augmentation=False,
                                output_dict=None):
    assert (model_name, pretrained, precision, light_augmentation, output_dict) == ("ViT-H-14", None, "amp", True, True)
    shown = lambda picture: torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    return Model().to(device), None, shown

def get_tokenizer(model_name):
    return lambda texts: torch.tensor([[len(text), text.count("a") + 1] for text in texts])
"""


Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install("hpsv2.src.open_clip", source)` makes a package importable for a test."""
    roots: list[str] = []

    def put(name: str, source: str) -> None:
        folder = tmp_path / "packages"
        for part in name.split("."):
            folder /= part
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").touch()
        (folder / "__init__.py").write_text(source)
        roots.append(name.partition(".")[0])
        monkeypatch.syspath_prepend(str(tmp_path / "packages"))

    yield put
    for module in [name for name in sys.modules if name.partition(".")[0] in roots]:
        del sys.modules[module]


@pytest.fixture
def reward_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.save({"weight": torch.tensor([2.5])}, tmp_path / "ImageReward.pt")
    (tmp_path / "med_config.json").write_text('{"vocab_size": 3}')
    monkeypatch.setenv(REWARD_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def hps_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "hps.pt"
    torch.save({"state_dict": {"weight": torch.tensor([[1.0, 0.2], [0.3, -2.0], [-0.5, 0.4]])}}, path)
    monkeypatch.setenv(HPS_VARIABLE, str(path))
    return path


def _levels(images: Tensor) -> Tensor:
    return images.double().mean((2, 3)) / 255


def test_image_reward(install: Install, reward_files: Path, images: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    install("ImageReward", IMAGE_REWARD)
    score = load_image_reward()
    assert isinstance(score, ImageReward)
    assert score.name == "ImageReward"
    found = score(images, PROMPTS)
    expected = 2.5 * _levels(images).mean(1) + torch.tensor([3, 1, 0, 4])
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, atol=1e-5)
    assert not score._model.training
    assert capfd.readouterr().out == ""
    assert float(score(images[:1], ["word " * 50])) == pytest.approx(float(expected[0]) - 3 + 35, abs=1e-5)
    with pytest.raises(ValueError, match="a prompt for each"):
        score(images, PROMPTS[1:])


def test_hps(install: Install, hps_file: Path, images: Tensor) -> None:
    install("hpsv2.src.open_clip", OPEN_CLIP)
    score = load_hps()
    assert isinstance(score, HPS)
    assert score.name == "HPS v2.1"
    weight = torch.load(hps_file, weights_only=True)["state_dict"]["weight"].double()
    texts = torch.tensor([[len(text), text.count("a") + 1] for text in PROMPTS]).double()
    expected = torch.nn.functional.cosine_similarity(_levels(images) @ weight, texts)
    found = score(images, PROMPTS)
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("name", "package"), [("image-reward", "ImageReward"), ("hpsv2", "hpsv2")])
def test_a_package_that_is_missing_or_does_not_import(
    name: str, package: str, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"image-reward": image_reward, "hpsv2": hps}[name]
    with monkeypatch.context() as patch:
        patch.setattr(module, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=f"expected the package {name} for the score, got none; .*pip install"):
            load_scorers(name)
    for source in ("raise FileNotFoundError('bpe.txt.gz')", "from json import nothing_of_the_kind", "1 / 0"):
        install(package, source)
        with pytest.raises(UserError, match=f"expected the package {name} to import, got .*pip install") as caught:
            load_scorers(name)
        assert len(str(caught.value).splitlines()) == 1
        for loaded in [key for key in sys.modules if key.partition(".")[0] == package]:
            del sys.modules[loaded]


@pytest.mark.parametrize("lacking", ["ImageReward.pt", "med_config.json"])
def test_image_reward_without_its_files(
    install: Install, reward_files: Path, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("ImageReward", IMAGE_REWARD)
    (reward_files / lacking).unlink()
    with pytest.raises(UserError, match=f"expected {lacking} of ImageReward.*{REWARD_VARIABLE}"):
        load_image_reward()
    monkeypatch.delenv(REWARD_VARIABLE)
    monkeypatch.setattr(image_reward, "PACKAGE_CACHE", reward_files / "nothing")
    monkeypatch.setattr(image_reward, "cached_file", lambda repository, name: None)
    with pytest.raises(UserError, match="hf download"):
        load_image_reward()
    (reward_files / lacking).write_bytes(b"no weights")
    monkeypatch.setattr(image_reward, "cached_file", lambda repository, name: reward_files / name)
    with pytest.raises(UserError, match="ImageReward's weights"):
        load_image_reward()


def test_hps_without_its_weights(install: Install, hps_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("hpsv2.src.open_clip", OPEN_CLIP)
    for content, said in (
        ({"weight": torch.zeros(3, 2)}, "got another file"),
        ({"state_dict": {"weight": torch.zeros(3, 4)}}, "got others"),
        ({"state_dict": {"bias": torch.zeros(3)}}, "got others"),
    ):
        torch.save(content, hps_file)
        with pytest.raises(UserError, match=f"expected the weights of HPS v2.1 in .*{said}") as caught:
            load_hps()
        assert len(str(caught.value).splitlines()) == 1
    hps_file.write_bytes(b"no weights")
    with pytest.raises(UserError, match="torch file of plain tensors"):
        load_hps()
    hps_file.unlink()
    with pytest.raises(UserError, match=f"no file at .*{HPS_VARIABLE}"):
        load_hps()
    monkeypatch.delenv(HPS_VARIABLE)
    monkeypatch.setattr(hps, "cached_file", lambda repository, name: None)
    with pytest.raises(UserError, match="hf download xswu/HPSv2"):
        load_hps()

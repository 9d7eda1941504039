"""CLIP score, with a tiny random CLIP, against numpy."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from apps.imagegen.rewards import load_scorers
from apps.imagegen.rewards.clip import CLIP_VARIABLE, ClipScore, load_clip
from data_tools.cli import UserError

transformers = pytest.importorskip("transformers")

LAYERS, HEADS, PATCH, LENGTH = 2, 2, 8, 12
LETTERS = "abcdefghijklmnopqrstuvwxyz,"
PIECES = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
PROMPTS = ["a red cat", "DOG", "a, b", "a prompt of many more letters than fit"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of a few thousand weights, in transformers' layout."""
    torch.manual_seed(0)
    common = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": len(PIECES), "hidden_size": 16, "intermediate_size": 24, "bos_token_id": 0, "eos_token_id": 1,
            "pad_token_id": 1, "max_position_embeddings": LENGTH, **common,
        },
        vision_config={"hidden_size": 20, "intermediate_size": 28, "image_size": 32, "patch_size": PATCH, **common},
        projection_dim=10,
    )  # fmt: skip
    model = transformers.CLIPModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokenizer = transformers.CLIPTokenizer(vocab={piece: index for index, piece in enumerate(PIECES)}, merges=[])
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    pictures = transformers.CLIPImageProcessor(**sizes, image_mean=MEAN, image_std=STD)
    path = tmp_path_factory.mktemp("clips") / "tiny-clip"
    model.save_pretrained(path)
    transformers.CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(path)
    return path


@pytest.fixture
def score(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ClipScore:
    monkeypatch.setenv(CLIP_VARIABLE, str(folder))
    return load_clip()


def _tokens(prompt: str) -> list[int]:
    """Letter by letter, as no merges are known; cut to the length, its last place for the end."""
    words = prompt.lower().replace(",", " ,").split()
    pieces = [letter + "</w>" * (place == len(word) - 1) for word in words for place, letter in enumerate(word)]
    return [0, *[PIECES.index(piece) for piece in pieces][: LENGTH - 2], 1]


def test_it_is_a_hundred_times_the_cosine(score: ClipScore, folder: Path, oracle: ModuleType, images: Tensor) -> None:
    state = transformers.CLIPModel.from_pretrained(folder).state_dict()
    weights = {name: value.double().numpy() for name, value in state.items()}
    expected = []
    for pixels, prompt in zip(images.double().numpy(), PROMPTS, strict=True):
        normalised = (pixels / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
        image = oracle.embed_image(normalised, weights, PATCH, LAYERS, HEADS)
        text = oracle.embed_text(_tokens(prompt), weights, LAYERS, HEADS)
        expected.append(100 * image @ text / np.linalg.norm(image) / np.linalg.norm(text))
    found = score(images, PROMPTS)
    assert found.dtype == torch.float64
    assert found.numpy() == pytest.approx(expected, abs=1e-3)
    assert np.ptp(expected) > 1
    assert score.name == "CLIP score (tiny-clip, 100 x cosine)"


def test_a_score_does_not_depend_on_its_batch(score: ClipScore, images: Tensor) -> None:
    alone = torch.cat([score(images[i : i + 1], PROMPTS[i : i + 1]) for i in range(4)])
    assert torch.allclose(alone, score(images, PROMPTS), atol=1e-3)
    assert torch.allclose(alone.flip(0), score(images.flip(0), PROMPTS[::-1]), atol=1e-3)


def test_larger_images_are_resized_and_their_centre_seen(score: ClipScore, images: Tensor) -> None:
    large = F.interpolate(images.float(), (128, 128), mode="bicubic").clip(0, 255).round()
    wide = F.pad(large, (32, 32, 0, 0), mode="replicate")
    expected = score(images, PROMPTS)
    for shown in (large, wide):
        assert torch.allclose(score(shown.to(torch.uint8), PROMPTS), expected, atol=0.1)
    for other in (images.flip(1), images.flip(2)):
        assert (score(other, PROMPTS) - expected).abs().max() > 1


def test_arguments_are_checked(score: ClipScore, images: Tensor) -> None:
    for wrong in (images.float(), images[0], images[:, :1]):
        with pytest.raises(ValueError, match="uint8 images"):
            score(wrong, PROMPTS)
    with pytest.raises(ValueError, match="a prompt for each of 4 images, got 3"):
        score(images, PROMPTS[:3])


def test_a_line_of_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLIP_VARIABLE, str(folder))
    assert [*load_scorers(" clip ,")] == ["clip"]
    assert load_scorers("") == {}
    for wrong in ("beauty", "clip,clip"):
        with pytest.raises(UserError, match="--scores of clip, image-reward, hpsv2, each once"):
            load_scorers(wrong)


def test_without_weights_or_tokenizer_there_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CLIP_VARIABLE, "nobody/no-such-clip")
    with pytest.raises(UserError, match=r"nobody/no-such-clip.*leave out --scores clip"):
        load_clip()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    monkeypatch.setenv(CLIP_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=r"tokenizer and preprocessor_config.json") as caught:
        load_clip()
    assert len(str(caught.value).splitlines()) == 1

"""The evaluation of a latent model by prompts, as a user runs it on a tiny SANA."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import core
from apps.imagegen.evaluate import EvaluateOptions, main
from apps.imagegen.methods import MethodOptions
from apps.imagegen.models import load_model
from apps.imagegen.models.latent.prompts import load_prompts
from apps.imagegen.models.latent.text import Prompting
from apps.imagegen.models.latent.tiny import tiny_pipeline
from data_tools.cli import UserError

SIDE = 32


@pytest.fixture(scope="module")
def sana(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "sana"
    tiny_pipeline("sana").save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight prompts as MJHQ-30K has them: two to train on, six for evaluation."""
    path = tmp_path_factory.mktemp("prompts") / "meta_data.json"
    colours = ("red", "green", "blue", "black")
    texts = [f"a {colour} {shape}" for colour in colours for shape in ("circle", "square")]
    path.write_text(json.dumps({f"id{i}": {"category": "shapes", "prompt": text} for i, text in enumerate(texts)}))
    return path


@pytest.fixture(scope="module")
def reference(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of each prompt, by its id."""
    folder = tmp_path_factory.mktemp("mjhq")
    generator = np.random.default_rng(0)
    (folder / "shapes").mkdir()
    for index in range(8):
        pixels = generator.integers(0, 256, (40, 36, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "shapes" / f"id{index}.png")
    return folder


@pytest.fixture
def line(sana: Path, prompts: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def words(*further: str) -> list[str]:
        own = {"model": sana, "prompts": prompts, "train_prompts": 2, "json": tmp_path / "e.json"}
        own |= {"teacher_cache": tmp_path / "teachers", "text_cache": tmp_path / "text"}
        own |= {"samples": 8, "blocks": 1, "nfe": 2}
        return [part for name, value in own.items() for part in (f"--{name}", str(value))] + list(further)

    return words


def test_a_model_without_a_reference_is_held_against_its_teacher(
    run_cli, run_here, line, sana, prompts, tmp_path
) -> None:
    done = run_cli("apps.imagegen.evaluate", *line("--solver", "euler,ipndm", "--batch", "3"))
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["reference"] is None
    assert [(row["method"], row["teacher"], row["nfe"], row["network_calls"]) for row in content["rows"]] == [
        ("euler", False, 2, 4), ("ipndm", False, 2, 4), ("ipndm", True, 20, 40)
    ]  # fmt: skip
    assert content["prompts"]["sampled"] == 6
    assert content["interval_of_scores"] == "student-t over 6 prompts"
    split = load_prompts(prompts, 2)
    assert [one["prompt"] for one in content["pictured"]] == [split.evaluation[seed % 6] for seed in range(8)]
    error = content["rows"][0]["scores"]["endpoint error"]
    assert 0 < error["ci95"][0] < error["value"] < error["ci95"][1]
    model = load_model(str(sana), prompting=Prompting(str(prompts), 2, text_cache=str(tmp_path / "text")))
    assert content["model"]["identity"] == model.identity
    for text in ("endpoint error", "no Fréchet distance", "calls", "ipndm 2 minus euler 2"):
        assert text in done.stdout
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.width > 3 * 320  # teacher, euler, ipndm
        assert picture.height > 8 * 320
    again = run_here("apps.imagegen.evaluate", *line("--solver", "euler,ipndm", "--batch", "8", "--overwrite"))
    assert again.returncode == 0, again.stderr
    repeated = json.loads((tmp_path / "e.json").read_text())
    for before, after in zip(content["rows"], repeated["rows"], strict=True):
        value = after["scores"]["endpoint error"]["value"]
        assert value == pytest.approx(before["scores"]["endpoint error"]["value"], abs=1e-5)


def test_images_of_the_prompts_for_evaluation_are_the_reference(run_here, line, reference, tmp_path) -> None:
    words = line(
        "--reference", str(reference), "--features", "efficientnet", "--save_reference", str(tmp_path / "s.npz")
    )
    done = run_here("apps.imagegen.evaluate", *words)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["distance"] == "FD-EfficientNet"
    assert content["reference"]["images"] == 6
    assert content["reference"]["name"].endswith("(6 images of 6 prompts)")
    assert content["teacher"] is None
    (row,) = content["rows"]
    assert row["scores"] == {}
    assert row["fd"]["value"] > 0
    assert 0 <= row["precision"] <= 1
    assert "FD-EfficientNet" in done.stdout


class Redness:
    """A scorer in place of those whose weights have to be downloaded."""

    name = "mean of the red channel"

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts)
        return images[:, 0].double().mean((1, 2))


class Channels:
    """Features that cost nothing: the mean of each channel."""

    name, distance, dim = "channels", "FD-channels", 3

    def __call__(self, images: Tensor) -> Tensor:
        return images.double().mean((2, 3))


def test_teacher_base_and_trained_solvers_stand_side_by_side(
    put_solver, run_here, line, sana, prompts, reference, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("apps.imagegen.rewards.SCORERS", {"clip": lambda device: Redness()})
    monkeypatch.setattr("apps.imagegen.features.build_features", lambda name, channels, device: Channels())
    prompting = Prompting(str(prompts), 2, text_cache=str(tmp_path / "text"))
    model = load_model(str(sana), prompting=prompting)
    for name in ("dyweight", "spanlift"):
        put_solver(model, tmp_path / name, MethodOptions(name, 2))
    other = load_prompts(prompts, 4).fingerprint
    written = core.load(tmp_path / "dyweight")
    card = written.card  # pyright: ignore[reportAttributeAccessIssue]
    core.save(
        tmp_path / "dyweight", written,  # pyright: ignore[reportArgumentType]
        grid=card.grid, field_identity=model.identity, supervision="teacher", loss="mse",
        extra={**card.extra, "prompts": other},
    )  # fmt: skip
    solvers = f"ipndm,{tmp_path / 'dyweight'},{tmp_path / 'spanlift'}"
    words = ("--solver", solvers, "--scores", "clip", "--teacher_nfe", "5", "--reference", str(reference))
    words += ("--samples", "4", "--blocks", "2")
    done = run_here("apps.imagegen.evaluate", *line(*words))
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "e.json").read_text())
    assert [(row["method"], row["trained"], row["nfe"]) for row in content["rows"]] == [
        ("ipndm", False, 2), ("dyweight", True, 2), ("spanlift", True, 2), ("ipndm", False, 5)
    ]  # fmt: skip
    assert content["scorers"] == {"clip": Redness.name}
    for row in content["rows"]:
        assert list(row["scores"]) == ["endpoint error", "clip"]
        assert row["fd"]["value"] > 0
    for comparison in content["comparisons"]:
        assert comparison["reference"] == "ipndm 2"
        assert {"fd", "scores"} <= comparison.keys()
        low, high = comparison["scores"]["clip"]["ci95"]
        assert low <= comparison["scores"]["clip"]["value"] <= high
    assert "dyweight 2 minus ipndm 2, clip:" in done.stdout
    assert f"clip: {Redness.name}" in done.stdout
    assert "…" not in done.stdout
    said = " ".join(done.stdout.split())
    assert "Student's t over blocks of the same prompts, so of noise alone" in said  # 8 images of 6 prompts
    assert "dyweight 2 was trained with other prompts or another split" in said
    assert "spanlift 2 was trained with" not in said
    assert [row["prompts_of_training"] for row in content["rows"]] == [None, other, None, None]


def options(model: Path, file: Path, folder: Path, /, **changes: object) -> EvaluateOptions:
    base = {"model": str(model), "prompts": str(file), "json": str(folder / "e.json"), "samples": 4, "blocks": 1}
    base |= {"text_cache": str(folder / "text"), "teacher_cache": str(folder / "teachers"), "nfe": "2"}
    return EvaluateOptions(**{**base, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": None}, "expected --prompts for the model"),
        ({"prompts": "absent.txt"}, "absent.txt"),
        ({"train_prompts": 8}, "--train_prompts from 0 to 7"),
        ({"scores": "clip", "prompts": None}, "expected --prompts beside --scores clip"),
        ({"scores": "beauty"}, "expected --scores of clip, image-reward, hpsv2"),
        ({"teacher": "ddpm", "teacher_nfe": 4}, "expected a teacher among"),
        ({"teacher_nfe": -1}, "--teacher_nfe"),
        ({"reference": "nowhere"}, "nowhere"),
        ({"reference": "digits", "teacher": "euler"}, "expected --teacher_nfe with --teacher"),
        ({"save_reference": "s.npz"}, "expected --reference beside --save_reference"),
        ({"solver": "deis"}, "pure noise"),
        ({"model": "digits"}, "expected no --prompts for digits"),
        ({"features": "digits", "reference": "digits"}, "expected grey images"),
        ({"size": 31}, "size"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(sana, prompts, tmp_path, changes, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        main(options(sana, prompts, tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_teachers_folder_may_not_be_a_file(sana, prompts, tmp_path) -> None:
    (tmp_path / "teachers").write_text("")
    with pytest.raises(UserError, match="expected --teacher_cache to be a folder"):
        main(options(sana, prompts, tmp_path))

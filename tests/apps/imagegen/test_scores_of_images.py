"""What is known of each image by itself: distances from a teacher, rewards by prompt, their means and intervals."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

import core
from apps.imagegen.evaluation import Evaluator, Reference
from apps.imagegen.methods import MethodOptions
from apps.imagegen.metrics import Gaussian
from apps.imagegen.models import ImageModel
from apps.imagegen.models.files import load_image_model
from apps.imagegen.models.latent.prompts import Prompts
from apps.imagegen.report import as_json, pairs, show, write
from apps.imagegen.sampling import build_sampler, to_uint8
from apps.imagegen.scored import ERROR, FEW, MANY, Scored, over_images
from apps.imagegen.teachers import Endpoints, build_teacher, root_mean_square
from core.fields import DenoiserField
from core.intervals import bootstrap_mean, student_mean
from data_tools.cli import UserError

TEXTS = ("a heron", "two boats", "rain")


class Guided(ImageModel):
    """A model of pixels that has three prompts, and counts two network calls an evaluation."""

    @property
    def prompts(self) -> Prompts:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Prompts((), TEXTS, "three.txt", "abc")

    def texts(self, seeds: Sequence[int]) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(TEXTS[seed % 3] for seed in seeds)

    def field(self, labels: Tensor | None = None) -> DenoiserField:
        return DenoiserField(super().field(labels).denoiser, 2)


class Brightness:
    """A scorer that a test can repeat: the mean of the pixels, plus ten for each letter of the prompt."""

    name = "brightness of images"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        self.seen += prompts
        return images.float().mean((1, 2, 3)).double() + 10 * torch.tensor([len(prompt) for prompt in prompts])


@pytest.fixture(scope="module")
def grey(small_models: dict[str, Path]) -> ImageModel:
    return load_image_model(small_models["grey"])


@pytest.fixture(scope="module")
def guided(grey: ImageModel) -> Guided:
    return Guided(**{field.name: getattr(grey, field.name) for field in fields(grey)})


def endpoints(model: ImageModel, folder: Path, nfe: int = 9) -> Endpoints:
    return Endpoints(model, build_teacher(model, "ipndm", nfe, 2), folder)


def scored_values(name: str, values: Tensor, groups: Tensor | None = None, sampler=None) -> Scored:
    return Scored(sampler, 3, [], torch.empty(0), values={name: values}, groups=groups)  # pyright: ignore


@pytest.mark.parametrize(("count", "interval"), [(2, student_mean), (FEW - 1, student_mean), (FEW, bootstrap_mean)])
def test_intervals_are_students_of_few_and_resampled_of_more(count: int, interval) -> None:
    values = torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).exp()
    assert over_images(values) == interval(values)


def test_resampling_and_students_interval_meet_where_one_takes_over() -> None:
    values = torch.randn(MANY + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).exp()
    student, resampled = over_images(values), bootstrap_mean(values)
    assert student == student_mean(values)
    width = student.high - student.low
    assert abs(student.low - resampled.low) < 0.05 * width
    assert abs(student.high - resampled.high) < 0.05 * width


def test_images_of_one_prompt_are_averaged_first() -> None:
    values = torch.tensor([1.0, 5.0, 2.0, 9.0, 1.0], dtype=torch.float64)
    groups = torch.tensor([4, 0, 4, 7, 4])
    assert over_images(values, groups) == student_mean(torch.tensor([5.0, 4 / 3, 9.0], dtype=torch.float64))
    alone = over_images(values, torch.zeros(5, dtype=torch.int64))
    assert alone.mean == pytest.approx(3.6)
    assert math.isnan(alone.low)


def test_distances_from_the_teacher_are_those_of_the_last_states(grey, tmp_path: Path) -> None:
    teacher = endpoints(grey, tmp_path)
    evaluator = Evaluator(grey, None, None, samples=5, blocks=2, seed=3, batch=4, teacher=teacher)
    teacher.fill(evaluator.seeds, 3)
    sampler = build_sampler(grey, MethodOptions("ipndm", 3))
    found = evaluator.score(sampler)
    assert list(found.values) == [ERROR]
    seeds = range(3, 13)
    grid = grey.grid("karras", 8)
    run = core.integrate(
        grey.field(), core.build_solver("ipndm", order=2), grey.start(seeds, t=float(grid[0])), grid, denoise=True
    )
    state, _ = sampler.endpoint(grey, seeds)
    expected = ((state - run.x).double() ** 2).mean((1, 2, 3)).sqrt()
    assert (run.nfe, teacher.calls) == (9, 9)
    assert torch.allclose(found.values[ERROR], expected, rtol=1e-4)
    assert found.mean(ERROR).mean == pytest.approx(float(expected.mean()), rel=1e-4)
    assert (found.blocks[0].fd, found.blocks[0].neighbours, len(found.fd)) == (None, None, 0)
    perfect = evaluator.score(teacher)
    assert torch.equal(perfect.values[ERROR], torch.zeros(10, dtype=torch.float64))
    assert perfect.teacher
    images = to_uint8(run.x).int()
    assert (perfect.pictured.int() - images[:5]).abs().max() <= 1


def test_root_mean_square_by_hand() -> None:
    x, y = torch.zeros(2, 1, 2, 3), torch.zeros(2, 1, 2, 3)
    x[1, 0, 1] = torch.tensor([3.0, 0.0, -3.0])
    assert root_mean_square(x, y).tolist() == [0.0, pytest.approx(math.sqrt(3.0))]


def test_endpoints_are_computed_once_whatever_the_run(grey, tmp_path: Path) -> None:
    first, told = endpoints(grey, tmp_path), []
    first.fill([5, 6, 7], 2, told.append)
    assert told == [2, 1]
    again = endpoints(grey, tmp_path)  # a run that was stopped goes on
    assert again.directory == first.directory
    assert again.missing([7, 8, 5]) == 1
    assert torch.equal(again([7, 5]), first([5, 6, 7])[[2, 0]])
    again.fill([8, 7], 2)
    alone = endpoints(grey, tmp_path / "elsewhere")
    alone.fill([8], 1)
    assert torch.allclose(again([8]), alone([8]), atol=1e-5)
    assert endpoints(grey, tmp_path, nfe=7).directory != first.directory
    with pytest.raises(ValueError, match="call fill first"):
        again([9])


def test_a_teacher_is_deterministic_and_handcrafted(grey) -> None:
    assert build_teacher(grey, None, None, None).label == "ipndm 35"
    assert build_teacher(grey, "heun", 5, None).denoise
    for name in ("ddpm", "spanlift", "ipndn"):
        with pytest.raises(UserError, match="expected a teacher among"):
            build_teacher(grey, name, 5, None)
    with pytest.raises(UserError, match="expected --nfe 3, 5, 7"):
        build_teacher(grey, "heun", 4, None)
    with pytest.raises(UserError, match="at least 1"):
        build_teacher(grey, "ipndm", -1, None)


def test_rewards_see_each_image_with_its_prompt(guided: Guided) -> None:
    scorer = Brightness()
    evaluator = Evaluator(guided, None, None, 5, 2, seed=1, batch=3, scorers={"bright": scorer})
    sampler = build_sampler(guided, MethodOptions("euler", 2))
    found = evaluator.score(sampler)
    assert scorer.seen == [TEXTS[seed % 3] for seed in range(1, 11)]
    images, _ = sampler.sample(guided, range(1, 11))
    letters = torch.tensor([len(text) for text in scorer.seen])
    expected = to_uint8(images).double().mean((1, 2, 3)) + 10 * letters
    assert torch.allclose(found.values["bright"], expected, atol=0.5)
    values = found.values["bright"]
    by_prompt = torch.stack([values[[seed % 3 == place for seed in range(1, 11)]].mean() for place in range(3)])
    assert found.mean("bright") == pytest.approx(student_mean(by_prompt))
    assert (found.nfe, found.evaluations, found.guidance) == (4, 2, 2)


class Remembering:
    """Features that hold no image, and count those that somebody else still holds."""

    name, distance, dim = "remembering", "FD", 2

    def __init__(self) -> None:
        self.shown: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.shown.append(weakref.ref(images))
        self.most = max(self.most, sum(held() is not None for held in self.shown))
        return images.double().flatten(1)[:, :2]


def test_images_are_not_kept(grey) -> None:
    features = Remembering()
    reference = Reference("none", Gaussian(torch.zeros(2), torch.eye(2)))
    evaluator = Evaluator(grey, features, reference, 24, 1, batch=2, pictured=2)
    scored = evaluator.score(build_sampler(grey, MethodOptions("euler", 1)))
    assert len(features.shown) == 12
    assert features.most <= 3  # what is pictured, this batch and the last
    assert len(scored.pictured) == 2


def test_what_is_written_says_all(guided: Guided, tmp_path: Path, capsys) -> None:
    teacher = endpoints(guided, tmp_path / "teachers")
    evaluator = Evaluator(
        guided, None, None, 4, 1, seed=2, batch=4, pictured=3, scorers={"bright": Brightness()}, teacher=teacher
    )
    teacher.fill(evaluator.seeds, 4)
    methods = [build_sampler(guided, MethodOptions(name, 3)) for name in ("euler", "ipndm")]
    scored = [evaluator.score(one) for one in (*methods, teacher)]
    assert [(one.label, first.label) for one, first in pairs(scored)] == [("ipndm 3", "euler 3")]
    content = as_json(evaluator, scored)
    assert content["reference"] is None
    assert content["distance"] is None
    assert content["interval_of_scores"] == "student-t over 3 prompts"
    assert content["prompts"] == {"name": "three.txt", "fingerprint": "abc", "evaluation": 3, "sampled": 3}
    assert content["pictured"] == [{"seed": seed, "prompt": TEXTS[seed % 3]} for seed in (2, 3, 4)]
    assert (content["teacher"]["name"], content["teacher"]["nfe"], content["teacher"]["network_calls"]) == (
        "ipndm", 9, 18
    )  # fmt: skip
    assert [(row["method"], row["teacher"], row["nfe"], row["network_calls"]) for row in content["rows"]] == [
        ("euler", False, 3, 6), ("ipndm", False, 3, 6), ("ipndm", True, 9, 18)
    ]  # fmt: skip
    row, (comparison,) = content["rows"][1], content["comparisons"]
    assert row["fd"] is None
    assert list(row["scores"]) == [ERROR, "bright"]
    for name in (ERROR, "bright"):
        difference = over_images(scored[1].values[name] - scored[0].values[name], scored[0].groups)
        assert comparison["scores"][name] == {"value": difference.mean, "ci95": [difference.low, difference.high]}
    assert content["rows"][2]["scores"][ERROR]["value"] == 0
    assert content["rows"][2]["seconds"] is None
    show(evaluator, scored)
    said = capsys.readouterr().out
    for text in ("calls", "endpoint error", "bright", "teacher ipndm", "ipndm 3 minus euler 3, bright: "):
        assert text in said
    for text in ("no Fréchet distance", "2 network calls of an evaluation", "3 of the 3 for evaluation in three.txt"):
        assert text in " ".join(said.split())
    write(evaluator, scored, tmp_path / "e.json", tmp_path / "e.png")
    assert (tmp_path / "e.png").stat().st_size > 5000

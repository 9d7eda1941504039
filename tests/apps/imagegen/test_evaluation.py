"""Scores of samplers: what is asked is what is scored, on the same seeds, against what is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import core
from apps.imagegen.data import Images, load_images
from apps.imagegen.evaluate import EvaluateOptions, main
from apps.imagegen.evaluation import (
    Evaluator,
    Reference,
    check_seeds,
    load_reference,
    over_blocks,
    own_reference,
    reference_of_images,
)
from apps.imagegen.features import DIGIT_WEIGHTS, Features, build_features
from apps.imagegen.methods import MethodOptions
from apps.imagegen.metrics import Moments, frechet_distance, precision_recall
from apps.imagegen.models import ImageModel, load_model
from apps.imagegen.models.files import load_image_model
from apps.imagegen.report import compare
from apps.imagegen.sampling import build_sampler, shipped_samplers, to_uint8
from core.intervals import student_mean
from data_tools.cli import UserError, joined


@pytest.fixture(scope="module")
def grey(small_models: dict[str, Path]) -> ImageModel:
    return load_image_model(small_models["grey"])


@pytest.fixture(scope="module")
def features() -> Features:
    return build_features("digits", 1)


@pytest.fixture(scope="module")
def digits() -> Images:
    """A few digits, as large as the small model's images."""
    images = load_images("digits", "test", 8)
    return Images(images.pixels[:150], None, "digits")


@pytest.fixture(scope="module")
def archive(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "digits.npz"
    np.savez(path, images=digits.pixels[:, 0])
    return path


@pytest.fixture(scope="module")
def reference(digits: Images, features: Features) -> Reference:
    return reference_of_images(digits, features)


def test_scores_are_those_of_the_images_of_the_seeds(grey, features, digits, reference) -> None:
    evaluator = Evaluator(grey, features, reference, samples=30, blocks=3, seed=11, batch=7, pictured=9)
    sampler, seen = build_sampler(grey, MethodOptions("ipndm", 2)), []
    scored = evaluator.score(sampler, seen.append)
    assert sum(seen) == 90
    assert scored.nfe == 2
    real = features(torch.from_numpy(digits.pixels))
    for index, block in enumerate(scored.blocks):
        images, _ = sampler.sample(grey, range(11 + 30 * index, 41 + 30 * index))
        fake = features(to_uint8(images))
        assert block.fd == pytest.approx(frechet_distance(Moments.of(fake), Moments.of(real)), rel=1e-3)
        assert block.neighbours == pytest.approx(precision_recall(real, fake), abs=0.05)
        if index == 0:
            assert (scored.pictured.int() - to_uint8(images)[:9].int()).abs().max() <= 1
    assert scored.seconds > 0
    assert torch.equal(scored.fd, torch.tensor([block.fd for block in scored.blocks], dtype=torch.float64))


def test_images_of_the_reference_are_at_no_distance(digits, features, reference) -> None:
    again = reference_of_images(replace(digits, pixels=digits.pixels[::-1].copy()), features)
    assert frechet_distance(again.moments, reference.moments) < 1e-5
    assert reference.images == 150
    assert reference.features is not None
    assert tuple(reference.features.shape) == (150, features.dim)


def test_statistics_serve_as_a_reference_without_images(grey, features, reference, tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    np.savez(path, mu=reference.moments.mean.numpy(), sigma=reference.moments.covariance.numpy())
    found = load_reference(str(path), grey, features)
    assert found.images is None
    sampler = build_sampler(grey, MethodOptions("euler", 1))
    scores = [
        Evaluator(grey, features, one, samples=12, blocks=1).score(sampler).blocks[0] for one in (found, reference)
    ]
    assert scores[0].fd == pytest.approx(scores[1].fd, rel=1e-9)
    assert scores[0].neighbours is None
    assert scores[1].neighbours is not None


def test_differences_are_paired_within_a_number_of_calls(grey, features, reference) -> None:
    evaluator = Evaluator(grey, features, reference, samples=20, blocks=3, batch=20)
    specs = [MethodOptions("ipndm", 2), MethodOptions("heun", 2), MethodOptions("euler", 3)]
    scored = [evaluator.score(build_sampler(grey, spec)) for spec in specs]
    ((one, first, difference),) = compare(scored)
    assert (one.sampler.label, first.sampler.label) == ("heun 2", "ipndm 2")
    assert difference == student_mean(scored[1].fd - scored[0].fd)
    assert math.isnan(over_blocks(scored[0].fd[:1]).low)


def test_without_options_the_shipped_digits_are_scored(tmp_path: Path, capsys) -> None:
    main(EvaluateOptions(samples=40, blocks=2, json=str(tmp_path / "e.json")))
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["model"]["name"] == "digits"
    assert content["reference"]["name"] == "digits (train)"
    assert (content["rows"][0]["method"], content["rows"][0]["nfe"]) == ("ipndm", 3)
    assert all(row["nfe"] == 3 for row in content["rows"])
    assert "FD-digits to digits (train)" in capsys.readouterr().out


def test_trained_solvers_that_ship_are_found_by_their_model(grey, small_models, tmp_path, monkeypatch) -> None:
    grid, base = grey.grid("karras", 3), core.build_solver("ipndm", order=3)
    solver = core.build_solver("dyweight", base=base, grid=grid, history=3)
    assert isinstance(solver, torch.nn.Module)
    extra = {"sampling": {"afs": True, "denoise": False, "nfe": 2}}
    about = {"grid": grid, "supervision": "teacher", "loss": "mse", "extra": extra}
    core.save(tmp_path / "ours.safetensors", solver, field_identity=grey.identity, **about)
    core.save(tmp_path / "anothers.safetensors", solver, field_identity="another", **about)
    for path in (small_models["grey"], DIGIT_WEIGHTS):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("apps.imagegen.sampling.ASSETS", tmp_path)
    (sampler,) = shipped_samplers(grey)
    assert (sampler.name, sampler.nfe, sampler.afs, sampler.trained) == ("ours", 2, True, True)
    images, nfe = sampler.sample(grey, [3, 4])
    expected, _ = build_sampler(grey, MethodOptions("ipndm", 2, afs=True)).sample(grey, [3, 4])
    assert nfe == 2
    assert torch.equal(images, expected)  # untrained it is its base


def test_a_model_is_held_against_the_digits_unasked_only_if_it_learned_from_them(grey) -> None:
    assert own_reference(load_model("digits")) == "digits"
    for card in (
        {},
        {"data": "digits (train)"},
        {"data": {"name": "letters.npz"}},
        {"data": {"name": "digits (test)"}},
    ):
        assert own_reference(replace(grey, name="digits", card=card)) is None


def test_seeds_that_solvers_are_trained_on_score_none() -> None:
    check_seeds(0, 1 << 31)
    with pytest.raises(UserError, match="2147483648, where"):
        check_seeds(1, 1 << 31)


def test_values_that_stand_apart_are_joined() -> None:
    line = ["--nfe", "3", "4", "5", "--solver", "a", "b", "--json", "x", "y", "--nfe=6"]
    expected = ["--nfe", "3,4,5", "--solver", "a,b", "--json", "x", "y", "--nfe=6"]
    assert joined("nfe", "solver", argv=line) == expected
    assert joined("nfe", argv=["--nfe", "3,4", "--nfe"]) == ["--nfe", "3,4", "--nfe"]


def options_for(small_models, archive: Path, out: Path, **changes: object) -> EvaluateOptions:
    base = {"model": str(small_models["grey"]), "reference": str(archive), "json": str(out / "e.json")}
    return EvaluateOptions(**{**base, "samples": 12, "blocks": 2, "batch": 8, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 3}, "--samples"),
        ({"blocks": 0}, "--blocks"),
        ({"seed": -1}, "--seed"),
        ({"seed": (1 << 31) - 23}, "trained on"),
        ({"device": "meta"}, "device"),
        ({"reference": ",".join(f"part{i}.npz" for i in range(99))}, "part0.npz .nothing there"),
        ({"nfe": "3,x"}, "--nfe"),
        ({"nfe": "0"}, "--nfe"),
        ({"nfe": "3", "solver": "heun", "afs": False}, "--nfe"),
        ({"solver": "ipndm,,"}, None),
        ({"solver": ","}, "none"),
        ({"solver": "ipndn"}, "ipndm"),
        ({"reference": None}, "--reference"),
        ({"reference": "absent.npz"}, "absent.npz"),
        ({"reference": "digits", "save_reference": "x.txt"}, ".npz"),
        ({"features": "inception", "device": "nowhere"}, "device"),
        ({"json": "e.txt"}, ".json"),
    ],
)
def test_mistakes_leave_nothing_behind(small_models, archive, tmp_path, capsys, changes, message) -> None:
    if message is None:
        main(options_for(small_models, archive, tmp_path, **changes))
        assert "ipndm" in capsys.readouterr().out
        return
    with pytest.raises(UserError, match=message):
        main(options_for(small_models, archive, tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []


def test_images_unlike_the_models_and_colours_are_refused(small_models, archive, tmp_path) -> None:
    with pytest.raises(UserError, match="RGB images, got grey"):
        main(options_for(small_models, archive, tmp_path, model=str(small_models["colour"])))
    with pytest.raises(UserError, match="grey images for the features of digits"):
        main(options_for(small_models, archive, tmp_path, model=str(small_models["colour"]), features="digits"))
    assert list(tmp_path.iterdir()) == []


def test_the_command_as_a_user_runs_it(
    run_cli, run_here, small_models, archive: Path, features, tmp_path: Path
) -> None:
    numbers, statistics = tmp_path / "e.json", tmp_path / "s.npz"
    arguments = ["--model", str(small_models["grey"]), "--samples", "12", "--blocks", "3", "--json", str(numbers)]
    arguments += ["--reference", str(archive), "--save_reference", str(statistics), "--nfe", "2", "3"]
    done = run_cli("apps.imagegen.evaluate", *arguments, "--solver", "ipndm", "heun")
    assert done.returncode == 0, done.stderr
    content = json.loads(numbers.read_text())
    assert [(row["method"], row["nfe"]) for row in content["rows"]] == [
        ("ipndm", 2), ("heun", 2), ("ipndm", 3), ("heun", 3)
    ]  # fmt: skip
    for row in content["rows"]:
        assert row["features"] == features.name
        assert (row["samples"], row["blocks"], row["seed"]) == (12, 3, 0)
        low, high = row["fd"]["ci95"]
        assert low <= row["fd"]["value"] <= high
        assert row["fd"]["value"] == pytest.approx(np.mean(row["fd_blocks"]))
        assert 0 <= row["precision"] <= 1
        assert 0 <= row["recall"] <= 1
        assert row["seconds"] > 0
    assert content["distance"] == "FD-digits"
    assert content["interval"] == "student-t over blocks"
    assert [one["method"] for one in content["comparisons"]] == ["heun 2", "heun 3"]
    for text in ("FD-digits", "precision", "heun 3 minus ipndm 3", "Student's t over blocks"):
        assert text in done.stdout
    assert numbers.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    with np.load(statistics) as saved:
        assert str(saved["features"]) == features.name
        assert saved["sigma"].shape == (64, 64)
    before = numbers.read_bytes()
    refused = run_here("apps.imagegen.evaluate", *arguments)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "--overwrite" in refused.stderr
    assert numbers.read_bytes() == before

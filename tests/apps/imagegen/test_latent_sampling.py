"""Images of latent models by the command: decoded, of the prompts that their seeds say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import core
from apps.imagegen.methods import MethodOptions
from apps.imagegen.models import FrozenModel
from apps.imagegen.prompt_options import PromptOptions, prompts_of, written
from apps.imagegen.sample import MANIFEST, SampleOptions, image_path, main
from apps.imagegen.sampling import build_sampler, endpoint_batch, sample_batch, to_uint8
from data_tools.cli import UserError, build_parser


@pytest.fixture(scope="module")
def sana(latent_options: Callable[[str], dict]) -> FrozenModel:
    options = latent_options("sana")
    model = options.pop("model")
    return PromptOptions(**options).load(model)


@pytest.fixture
def options(latent_options: Callable[[str], dict], tmp_path: Path) -> Callable[..., SampleOptions]:
    def build(kind: str = "sana", **changes: object) -> SampleOptions:
        small = {"seeds": "0-3", "batch": 2, "out": str(tmp_path / "images")}
        return SampleOptions(**{**latent_options(kind), **small, **changes})

    return build


def test_a_batch_is_decoded_and_counts_both_evaluations_of_guidance(sana: FrozenModel) -> None:
    seeds, grid = [4, 6], sana.grid("shifted", 3)
    solver = core.build_solver("ipndm", order=2)
    x, calls = endpoint_batch(sana, solver, grid, seeds)
    assert (x.shape, calls) == ((2, 4, 8, 8), 6)
    with torch.no_grad():
        expected = core.integrate(sana.field(sana.labels(seeds)), solver, sana.noise(seeds), grid).x
        images = sana.decode(expected)
    assert torch.equal(x, expected)
    got, calls = sample_batch(sana, solver, grid, seeds)
    assert calls == 6
    assert got.shape == (2, 3, 32, 32)
    assert torch.equal(got, images)


def test_an_image_depends_on_its_seed_and_prompt_alone(sana: FrozenModel) -> None:
    sampler = build_sampler(sana, MethodOptions("ipndm", 3))
    together, _ = sampler.endpoint(sana, [5, 2, 7])
    alone = torch.cat([sampler.endpoint(sana, [seed])[0] for seed in (5, 2, 7)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_an_analytic_start_and_a_start_lower_down(sana: FrozenModel) -> None:
    grid = core.build_grid("uniform", 3, 0.8, 0.0)
    x, calls = endpoint_batch(sana, core.Euler(), grid, [3], afs=True)
    assert calls == 4
    field = sana.field(sana.labels([3]))
    with torch.no_grad():
        expected = core.integrate(field, core.Euler(), 0.8 * sana.noise([3]), grid, afs=True).x
    assert torch.equal(x, expected)


def test_a_folder_holds_images_and_says_their_prompts(options: Callable[..., SampleOptions], sana: FrozenModel) -> None:
    run = options()
    main(run)
    out = Path(run.out)
    expected, _ = build_sampler(sana, run.method()).sample(sana, [0, 1])
    for image, seed in zip(to_uint8(expected).numpy(), (0, 1), strict=True):
        assert np.array_equal(np.asarray(Image.open(image_path(out, seed))), image.transpose(1, 2, 0))
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["prompts"] == prompts_of(sana, range(4))
    assert manifest["conditions"] == sana.conditions
    assert len(set(manifest["prompts"].values())) == 4
    kept = image_path(out, 2).read_bytes()
    main(options(seeds="3-5"))  # the same run goes on, with the prompts of both
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["prompts"] == prompts_of(sana, range(6))
    assert image_path(out, 2).read_bytes() == kept
    with pytest.raises(UserError, match="other model"):
        main(options(guidance=2.0))
    with pytest.raises(UserError, match="other conditions"):
        main(options(train_prompts=6))


@pytest.mark.parametrize("kind", ["flux", "sd", "ldm", "ldm-class"])
def test_every_family_is_sampled(options: Callable[..., SampleOptions], kind: str) -> None:
    run = options(kind, seeds="0-1", **({"class_index": 1} if kind == "ldm-class" else {}))
    main(run)
    assert np.asarray(Image.open(image_path(Path(run.out), 1))).shape == (16, 16, 3)
    assert ("prompts" in json.loads((Path(run.out) / MANIFEST).read_text())) == (kind in ("flux", "sd"))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("sana", {"prompts": None, "train_prompts": None}, "expected --prompts for the model"),
        ("sana", {"class_index": 0}, "no class"),
        ("ldm-class", {"class_index": 7}, "0 to 2"),
        ("sana", {"size": 33}, "33"),
        ("sana", {"denoise": True, "nfe": 4}, "no --denoise"),
        ("sana", {"model": "digits", "train_prompts": None}, "expected no --prompts for digits"),
        (
            "sana",
            {"model": "digits", "prompts": None, "train_prompts": None, "guidance": 2.0},
            "expected no --guidance",
        ),
        ("sana", {"model": "nowhere/at-all/here"}, "nowhere"),
        ("sana", {"precision": "float16"}, "cuda"),
    ],
)
def test_mistakes_leave_nothing_behind(
    options: Callable[..., SampleOptions], tmp_path: Path, kind: str, changes: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        main(options(kind, **changes))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_commands_options_are_told_and_left_out_where_they_are_not_given() -> None:
    parser = build_parser(SampleOptions, prog="x", description="x", examples="x")
    told = parser.format_help()
    for name in ("prompts", "train_prompts", "guidance", "size", "text_cache"):
        assert f"--{name}" in told
    assert "classifier-free guidance" in " ".join(told.split())
    assert not {"prompts", "guidance", "text_cache"} & written(SampleOptions()).keys()
    assert written(SampleOptions(guidance=2.0))["guidance"] == 2.0


def test_the_command_as_a_user_runs_it(options: Callable[..., SampleOptions], run_cli, run_here) -> None:
    given = options(seeds="0-1", nfe=2)
    names = ("model", "prompts", "train_prompts", "text_cache", "seeds", "nfe", "out")
    words = [word for name in names for word in (f"--{name}", str(getattr(given, name)))]
    done = run_cli("apps.imagegen.sample", *words)
    assert done.returncode == 0, done.stderr
    assert np.asarray(Image.open(image_path(Path(given.out), 1))).shape == (32, 32, 3)
    refused = run_here("apps.imagegen.sample", *words[:2], "--out", given.out + "-other")
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].count("--prompts") == 1

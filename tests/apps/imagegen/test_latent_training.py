"""Training of solvers of latent models: prompts and noise held out, killed runs, memory, mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest
import torch
from safetensors.torch import load_file

import core
from apps.imagegen import train
from apps.imagegen.methods import MethodOptions
from apps.imagegen.models import FrozenModel
from apps.imagegen.models.latent.model import LatentModel
from apps.imagegen.solvers import build_method
from apps.imagegen.stages.pairs import FIRST_SEED, HELD_OUT, Pairs
from apps.imagegen.train_options import TrainOptions
from core.losses import MSE, Decoded
from core.rematerialisation import Rematerialised
from data_tools.cli import UserError

ROOT = Path(__file__).resolve().parents[3]
Options = Callable[..., TrainOptions]


@pytest.fixture
def quick(latent_options: Callable[[str], dict], tmp_path: Path) -> Options:
    """Options of a training of a second or two."""

    def options(kind: str, out: str = "out", **changes: object) -> TrainOptions:
        small = TrainOptions(
            **latent_options(kind), out=str(tmp_path / out), iterations=2, base_iterations=2, batch=3, pairs=6,
            held_out=2, teacher_nfe=6, width=4, loss="mse=1",
        )  # fmt: skip
        return replace(small, **changes)  # pyright: ignore[reportArgumentType]

    return options


def load(options: TrainOptions) -> FrozenModel:
    return options.load(options.model)


@pytest.mark.parametrize("kind", ["sana", "flux"])
def test_held_out_endpoints_of_held_out_prompts_come_nearer_to_the_teacher(quick: Options, kind: str) -> None:
    """SpanLift over DyWeight below DyWeight, with as many iterations, below their base."""
    sizes = {"batch": 4, "pairs": 24, "held_out": 8, "teacher_nfe": None}
    options = quick(
        kind, iterations=30, base_iterations=15, width=16, learning_rate=4e-3, base_learning_rate=1e-2, **sizes
    )
    train.main(options)
    alone = quick(kind, "alone", solver="dyweight", iterations=45, learning_rate=1e-2, **sizes)
    Path(alone.out).mkdir()
    (Path(alone.out) / "pairs").symlink_to(Path(options.out) / "pairs")
    train.main(alone)
    base, dyweight, spanlift = (
        core.load(path).card  # pyright: ignore
        for path in (Path(options.out) / "base", Path(alone.out), Path(options.out))
    )
    assert spanlift.metrics["mse_untrained"] == pytest.approx(base.metrics["mse"])
    assert spanlift.metrics["mse"] < 0.9 * dyweight.metrics["mse"] < 0.9 * base.metrics["mse_untrained"]
    model = load(options)
    seeds = [FIRST_SEED, FIRST_SEED + HELD_OUT]
    trained, held_out = model.texts(seeds) or ("", "")
    assert model.prompts is not None  # pyright: ignore
    assert trained in model.prompts.train  # pyright: ignore
    assert held_out in model.prompts.evaluation  # pyright: ignore


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("sana", "spanlift"), ("sana", "s4s-alt"), ("sana", "bns"), ("sana", "dlms"), ("sana", "ld3"), ("sana", "amed"),
        ("sana", "epd"), ("ldm", "dyweight"), ("ldm", "s4s-ss"), ("ldm", "s4s-pc"), ("ldm", "s4s-lms"),
        ("ldm-class", "ld3"), ("sd", "spanlift"), ("ldm", "amed-plugin"), ("ldm", "epd-plugin"),
    ],
)  # fmt: skip
def test_learned_solvers_are_trained_by_the_same_command(quick: Options, kind: str, name: str) -> None:
    options = quick(kind, solver=name, nfe=5, iterations=16 if name == "s4s-alt" else 2)
    train.main(options)
    model = load(options)
    method = build_method(model, MethodOptions(options.out))
    seeds = [1, 2]
    field = model.field(model.labels(seeds))
    state = core.integrate(field, method.solver, model.start(seeds), method.grid, method.afs)
    doubled = kind in ("sana", "sd", "ldm-class")
    assert state.nfe == (10 if doubled else 5)
    card = core.load(options.out).card  # pyright: ignore
    assert card.field_identity == model.identity
    assert card.extra["sampling"] == {"afs": method.afs, "denoise": False, "nfe": 5}
    assert card.extra.get("network_calls") == (10 if doubled else None)
    assert card.extra.get("conditions", "") == model.conditions
    assert not {"prompts", "text_cache", "model"} & card.extra["command"].keys()
    untrained = build_method(model, MethodOptions(name, 5, width=4, base="ipndm" if name == "spanlift" else None))
    before = core.integrate(field, untrained.solver, model.start(seeds), untrained.grid, untrained.afs)
    assert not torch.equal(state.x, before.x)


def test_paths_supervise_too_and_targets_do_not(quick: Options) -> None:
    train.main(quick("ldm", solver="dyweight", supervision="path"))
    with pytest.raises(UserError, match="a model of pixels for --supervision target"):
        train.main(quick("ldm", "other", solver="dyweight", supervision="target"))


def test_pairs_are_the_teachers_endpoints_and_know_their_conditions(
    quick: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = quick("sana", solver="dyweight")
    model = load(options)
    resolved = options.resolved(model)
    spec = resolved.method(model)
    student = build_method(model, spec)
    pairs = Pairs(model, resolved.of_pairs(), student, spec, tmp_path / "pairs")
    pairs.fill(4)
    keys = [*pairs.keys[:2], *pairs.held_out]
    example = pairs.example(keys)
    assert example.condition is not None
    assert (example.condition.dtype, example.condition.shape) == (torch.int64, (4, 1))
    seeds = [int(key) for key in keys]
    grid = model.grid("shifted", 6)  # without a further evaluation: there is no noise in its last state
    field = model.field(model.labels(seeds))
    expected = core.integrate(field, core.build_solver("ipndm", order=2), model.start(seeds), grid).x
    torch.testing.assert_close(example.endpoint, expected, rtol=1e-4, atol=1e-4)
    assert pairs.fill(4) is None
    others = tmp_path / "others.txt"
    others.write_text("one\ntwo\nthree\nfour\n")
    changed = replace(options, prompts=str(others), train_prompts=2)
    with pytest.raises(UserError, match="another's"):
        Pairs(load(changed), resolved.of_pairs(), student, spec, tmp_path / "pairs")
    capsys.readouterr()


def test_a_run_does_not_go_on_with_other_prompts(quick: Options, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even where the pairs of the first are gone, as their refusal advises."""
    options = quick("sana", solver="dyweight")
    train.main(options)
    model = load(options)
    assert model.prompts is not None
    assert core.load(options.out).card.extra["prompts"] == model.prompts.fingerprint  # pyright: ignore
    rmtree(Path(options.out) / "pairs")
    with pytest.raises(UserError, match="to belong to this run, got another configuration"):
        train.main(replace(options, train_prompts=5))
    capsys.readouterr()


def test_memory_of_a_gradient_does_not_grow_with_the_steps(quick: Options) -> None:
    """What autograd keeps, in bytes: rematerialised a few states a step, else all activations of the network."""
    model = load(quick("sana"))
    seeds = [FIRST_SEED, FIRST_SEED + 1]
    field, x_T = model.field(model.labels(seeds)), model.start(seeds)
    calls = 0

    def counted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return field(x, t)

    def kept(steps: int, rematerialise: bool) -> int:
        method = build_method(model, MethodOptions("spanlift", steps, base="dyweight", width=4))
        size = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            end = core.rollout(method.solver, counted, x_T, method.grid, rematerialise=rematerialise)  # pyright: ignore
            Decoded(MSE(), model.decode, rematerialise)(end, torch.zeros_like(end))
        return size

    state = x_T.numel() * x_T.element_size()
    assert (kept(6, True) - kept(2, True)) / 4 < 20 * state
    assert (kept(6, False) - kept(2, False)) / 4 > 200 * state
    assert calls == 16
    assert Rematerialised(field).evaluations_per_call == 2


def test_a_network_in_low_precision_is_trained_for(quick: Options) -> None:
    options = quick("sana", precision="bfloat16", solver="dyweight", loss="mse=1,features=0.1", batch=1, held_out=1)
    train.main(options)
    assert all(value.isfinite().all() for value in load_file(Path(options.out) / "solver.safetensors").values())
    model = options.load(options.model, "cpu", "bfloat16")
    assert isinstance(model, LatentModel)
    assert next(model.network.parameters()).dtype == torch.bfloat16


def command(options: TrainOptions) -> list[str]:
    names = (
        "model",
        "prompts",
        "train_prompts",
        "text_cache",
        "out",
        "solver",
        "iterations",
        "base_iterations",
        "batch",
    )
    names += ("pairs", "held_out", "teacher_nfe", "width", "loss", "devices")
    words = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
    return [sys.executable, "-m", "apps.imagegen.train", *words]


@pytest.mark.slow  # diffusers is imported by three processes
def test_a_killed_run_ends_as_one_that_was_not(quick: Options, tmp_path: Path) -> None:
    """kill -9 while it fills the cache, or trains; another run goes on to the same numbers and the same card."""
    options = quick(
        "sana", "whole", iterations=25, base_iterations=10, pairs=24, loss="mse=1", text_cache=str(tmp_path / "t")
    )
    train.main(options)
    killed = replace(options, out=str(tmp_path / "killed"), text_cache=str(tmp_path / "text"))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for place in ("killed/pairs/written/c", "killed/run/checkpoint.pt"):
        dying = [sys.executable, "tests/dying.py", place, "1", *command(killed)[2:]]
        done = subprocess.run(dying, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed" / "solver.safetensors").exists()
    train.main(killed)
    for name in ("solver.safetensors", "base/solver.safetensors"):  # whose header has its parts in any order
        first, second = (load_file(tmp_path / run / name) for run in ("whole", "killed"))
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []
        cards = [core.load(tmp_path / run / name).card for run in ("whole", "killed")]  # pyright: ignore
        assert str(cards[0]) == str(cards[1])
    logs = [(tmp_path / run / "run/log.jsonl").read_text() for run in ("whole", "killed")]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_two_processes_share_the_batches(quick: Options) -> None:
    one, two = quick("sana", "one", batch=4), quick("sana", "two", batch=4, devices=2)
    train.main(one)
    done = subprocess.run(command(two), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    first, second = (load_file(Path(options.out) / "solver.safetensors") for options in (one, two))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("sana", {"prompts": None, "train_prompts": None}, "expected --prompts for the model"),
        ("sana", {"prompts": None}, "expected --prompts beside --train_prompts"),
        ("ldm", {"prompts": "SANA"}, "prompts"),
        ("sana", {"prompts": "nowhere.txt"}, "nowhere.txt"),
        ("sana", {"size": 33}, "33"),
        ("sana", {"train_prompts": 0}, "prompts to train on"),
        ("sana", {"model": "digits"}, "expected no --prompts for digits"),
        ("sana", {"solver": "dyweight", "teacher": "deis"}, "starts from pure noise"),
        ("sana", {"solver": "dyweight", "grid": "karras"}, "a grid among shifted"),
        ("sana", {"loss": "mse=1,fid=1"}, "'fid'"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    quick: Options, latent_options: Callable[[str], dict], kind: str, changed: dict, message: str
) -> None:
    if changed.get("prompts") == "SANA":
        changed = {"prompts": latent_options("sana")["prompts"]}
    with pytest.raises(UserError, match=message) as caught:
        train.main(quick(kind, **changed))
    assert "\n" not in str(caught.value)
    assert not (Path(quick(kind).out) / "run").exists()


def test_the_command_as_a_user_runs_it(
    quick: Options, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    options = quick("flux", solver="dyweight", loss=None, iterations=1, batch=1, held_out=1)
    words = command(options)[3:]
    words = [word for word, before in zip(words, ["", *words], strict=False) if "--loss" not in (word, before)]
    done = run_cli("apps.imagegen.train", *words)
    assert done.returncode == 0, done.stderr
    assert "EfficientNet-lite0 stands in for DINOv2" in done.stderr
    assert "dyweight, 3 NFE: loss" in done.stderr
    card = core.load(options.out).card  # pyright: ignore
    assert card.loss == "1 mse + 0.1 decoded(features(EfficientNet-lite0,plain))"
    assert json.dumps(card.extra["command"])

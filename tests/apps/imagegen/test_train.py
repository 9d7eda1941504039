"""Training of solvers by the command: every learned one, every supervision, killed runs, mistakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import core
from apps.imagegen import train
from apps.imagegen.data import Images, load_images
from apps.imagegen.methods import LEARNED_NAMES, MethodOptions
from apps.imagegen.models import Architecture, ImageModel, load_model, save_model
from apps.imagegen.models.edm import SongConfig
from apps.imagegen.solvers import build_method
from apps.imagegen.stages.pairs import FIRST_SEED, PairOptions, Pairs
from apps.imagegen.train_options import TrainOptions
from data_tools.cli import UserError

ROOT = Path(__file__).resolve().parents[3]


def write_model(path: Path, label_dim: int = 0) -> str:
    size = SongConfig(
        img_resolution=8, in_channels=1, out_channels=1, label_dim=label_dim, model_channels=8, channel_mult=(1,),
        num_blocks=1, attn_resolutions=(), dropout=0.0,
    )  # fmt: skip
    architecture = Architecture(name="tiny", dataset="none", network=size)
    torch.manual_seed(0)
    network = architecture.build("cpu")
    for parameter in network.parameters():
        parameter.data *= 2.0  # EDM starts its output near 0, where every solver is exact
    return str(save_model(path / f"tiny{label_dim}.safetensors", network, architecture, {}))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(model_file: str) -> ImageModel:
    return load_model(model_file)


def quick(model_file: str, out: Path, **options: object) -> TrainOptions:
    small = TrainOptions(
        model=model_file, out=str(out), iterations=2, base_iterations=2, batch=2, pairs=4, held_out=2, teacher_nfe=5,
        width=8, loss="mse=1",
    )  # fmt: skip
    return replace(small, **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", LEARNED_NAMES)
def test_every_learned_solver_is_trained_by_the_same_command(
    model: ImageModel, model_file: str, tmp_path: Path, name: str
) -> None:
    nfe = 5 if name.startswith("epd") else 3
    iterations = 16 if name == "s4s-alt" else 2
    train.main(quick(model_file, tmp_path, solver=name, nfe=nfe, iterations=iterations))
    method = build_method(model, MethodOptions(str(tmp_path)))
    start = model.start([1, 2])
    state = core.integrate(model.field(), method.solver, start, method.grid, method.afs)
    assert state.nfe == nfe
    card = core.load(tmp_path).card  # pyright: ignore
    assert card.field_identity == model.identity
    assert card.extra["sampling"] == {"afs": method.afs, "denoise": False, "nfe": nfe}
    assert card.extra["command"]["solver"] == name
    assert card.loss == "1 mse"
    assert card.metrics["mse"] == pytest.approx(card.metrics["loss"])
    untrained = build_method(model, MethodOptions(name, nfe, width=8, base="ipndm" if name == "spanlift" else None))
    base = core.integrate(model.field(), untrained.solver, start, untrained.grid, untrained.afs)
    assert not torch.equal(state.x, base.x)


@pytest.mark.parametrize("name", ["amed", "amed-plugin", "dyweight"])
def test_paths_supervise_too(model: ImageModel, model_file: str, tmp_path: Path, name: str) -> None:
    options = quick(model_file, tmp_path, solver=name, nfe=5, supervision="path")
    train.main(options)
    assert core.load(tmp_path).card.supervision == "teacher-path"  # pyright: ignore


def test_training_brings_held_out_endpoints_nearer_to_the_teacher(
    model_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = quick(
        model_file, tmp_path, solver="spanlift", nfe=3, afs=True, iterations=40, base_iterations=40, batch=4, pairs=32,
        held_out=16, learning_rate=5e-3,
    )  # fmt: skip
    train.main(options)
    base = core.load(tmp_path / "base").card  # pyright: ignore
    card = core.load(tmp_path).card  # pyright: ignore
    assert base.metrics["mse"] < 0.7 * base.metrics["mse_untrained"]
    assert card.metrics["mse_untrained"] == pytest.approx(base.metrics["mse"])
    assert card.metrics["mse"] < 0.9 * card.metrics["mse_untrained"]
    assert f"{card.metrics['mse']:.5g}" in capsys.readouterr().err
    assert card.supervision == "teacher"


def test_a_base_that_was_trained_before_is_taken(model_file: str, tmp_path: Path) -> None:
    train.main(quick(model_file, tmp_path / "first", solver="dyweight"))
    train.main(quick(model_file, tmp_path / "second", base_path=str(tmp_path / "first"), iterations=2))
    assert not (tmp_path / "second" / "base").exists()
    own, base = (load_file(tmp_path / name / "solver.safetensors") for name in ("second", "first"))
    assert all(torch.equal(own[f"solver.{name}"], value) for name, value in base.items())


def test_conditional_models_are_trained_on_their_classes(tmp_path: Path) -> None:
    file = write_model(tmp_path, label_dim=4)
    train.main(quick(file, tmp_path / "out", solver="s4s-lms"))
    assert build_method(load_model(file), MethodOptions(str(tmp_path / "out"))).afs is False


def pairs_of(
    model: ImageModel, folder: Path, supervision: str, images: Images | None = None, nfe: int = 81, **changed: object
) -> Pairs:
    options = PairOptions(supervision, "heun", nfe, 4, None, 7.0, 4, 2, 0)  # pyright: ignore[reportArgumentType]
    spec = MethodOptions("dyweight", 3)
    return Pairs(model, replace(options, **changed), build_method(model, spec), spec, folder, images)  # pyright: ignore


def test_targets_are_where_the_flow_takes_their_noise(model: ImageModel, tmp_path: Path) -> None:
    images = load_images("digits", resolution=8)
    pairs = pairs_of(model, tmp_path, "target", images)
    pairs.fill(3)
    keys = [*pairs.keys, *pairs.held_out]
    assert len(set(keys)) == 6
    example = pairs.example(keys)
    assert torch.equal(example.endpoint, images.scaled([int(key) for key in keys]))
    assert 60 < example.x_T.std() < 160
    grid = model.grid("karras", 40)
    end = core.integrate(model.field(), core.build_solver("heun"), example.x_T, grid).x
    assert (end - example.endpoint).abs().max() < 0.05


def test_teachers_take_training_noise_apart_from_that_of_images(model: ImageModel, tmp_path: Path) -> None:
    pairs, other = pairs_of(model, tmp_path / "a", "teacher"), pairs_of(model, tmp_path / "b", "teacher", seed=1)
    assert min(map(int, pairs.keys)) == FIRST_SEED
    assert len({*pairs.keys, *pairs.held_out, *other.keys, *other.held_out}) == 12
    pairs.fill(4)
    example = pairs.example(pairs.keys[1:3])
    assert torch.equal(example.x_T, model.start([FIRST_SEED + 1, FIRST_SEED + 2]))
    exact = core.integrate(
        model.field(), core.build_solver("heun"), example.x_T, model.grid("karras", 40), denoise=True
    )
    assert exact.nfe == 81
    assert torch.allclose(example.endpoint, exact.x, atol=1e-5)
    with pytest.raises(UserError, match="another's"):
        pairs_of(model, tmp_path / "a", "teacher", nfe=21)


def test_target_supervision_needs_images_that_fit(model_file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="8 x 8"):
        train.main(quick(model_file, tmp_path / "a", solver="dyweight", supervision="target"))
    with pytest.raises(UserError, match="nothing there"):
        train.main(quick(model_file, tmp_path / "b", solver="dyweight", supervision="target", data="none.npz"))


def test_a_killed_run_ends_as_one_that_was_not(model_file: str, tmp_path: Path) -> None:
    """kill -9 while it fills the cache, trains the base, or trains the operator."""
    options = quick(model_file, tmp_path / "whole", iterations=40, base_iterations=10, batch=3, pairs=24, teacher_nfe=9)
    train.main(options)
    command = ["apps.imagegen.train", "--model", model_file, "--out", str(tmp_path / "killed")]
    for name in ("iterations", "base_iterations", "batch", "pairs", "held_out", "teacher_nfe", "width", "loss"):
        command += [f"--{name}", str(getattr(options, name))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for place, count in (("pairs/written/c", 3), ("base/run/checkpoint.pt", 1), ("killed/run/checkpoint.pt", 1)):
        dying = [sys.executable, "tests/dying.py", place, str(count), *command]
        killed = subprocess.run(dying, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "solver.safetensors").exists()
    train.main(replace(options, out=str(tmp_path / "killed")))
    for name in ("solver.safetensors", "base/solver.safetensors"):
        first, second = (load_file(tmp_path / run / name) for run in ("whole", "killed"))
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []
    logs = [(tmp_path / run / "run/log.jsonl").read_text() for run in ("whole", "killed")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"solver": "ipndm"}, "expected a learned solver among"),
        ({"solver": "dyweigt"}, "'dyweigt'.*dyweight"),
        ({"nfe": 0}, "--nfe of at least 1"),
        ({"solver": "amed", "nfe": 4, "afs": True}, "--nfe"),
        ({"batch": 0}, "--batch"),
        ({"learning_rate": -1.0}, "--learning_rate above 0"),
        ({"seed": 5000}, "--seed"),
        ({"loss": "inception=1,x=2"}, "'x'"),
        ({"loss": "mse=0"}, "weights above 0"),
        ({"loss": "lpips=1"}, "32 pixels"),
        ({"teacher": "dyweight"}, "a teacher among"),
        ({"teacher_nfe": 1}, "--teacher_nfe"),
        ({"grid": "shifted"}, "a grid among"),
        ({"base_path": "nowhere"}, "no file"),
        ({"solver": "s4s-lms", "batch": 6}, "at least 6 pairs"),
        ({"solver": "s4s-alt", "supervision": "path"}, "relaxed"),
        ({"model": "nothing"}, "'nothing'"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    model_file: str, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train.main(quick(model_file, tmp_path / "out", **changed))
    assert not (tmp_path / "out" / "solver.safetensors").exists()
    assert not (tmp_path / "out" / "base").exists()
    with pytest.raises(UserError, match="a folder"):
        train.main(quick(model_file, Path(model_file)))


def test_a_folder_of_another_run_is_refused(model_file: str, tmp_path: Path) -> None:
    train.main(quick(model_file, tmp_path, solver="dyweight"))
    with pytest.raises(UserError, match="another configuration"):
        train.main(quick(model_file, tmp_path, solver="dyweight", iterations=4))
    train.main(quick(model_file, tmp_path, solver="dyweight"))


def test_the_command_tells_a_mistake_in_one_line(
    run_here: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    result = run_here("apps.imagegen.train", "--solver", "ipndm", "--out", str(tmp_path / "out"))
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()

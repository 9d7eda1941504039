"""Configurations and files: other schedulers' words, trained solvers, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import core
from apps.imagegen.scheduler import SpanLiftScheduler
from apps.imagegen.scheduling.options import betas_of

diffusers = pytest.importorskip("diffusers")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}, {"kind": "flow", "shift": 1.0}),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 6.0}, {"kind": "flow", "shift": 6.0}),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "max_shift": 2.0},
         {"kind": "flow", "use_dynamic_shifting": True, "max_shift": 2.0}),
        ("FlowMatchHeunDiscreteScheduler", {"shift": 2.0}, {"kind": "flow", "shift": 2.0}),
        ("DPMSolverMultistepScheduler",
         {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"},
         {"kind": "flow", "shift": 3.0}),
        ("DDIMScheduler", {}, {"kind": "noise", "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}),
        ("PNDMScheduler", {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
         {"kind": "noise", "beta_schedule": "scaled_linear"}),
        ("EulerDiscreteScheduler", {"prediction_type": "v_prediction"}, {"kind": "v"}),
        ("DDIMScheduler", {"prediction_type": "sample"}, {"kind": "data"}),
        ("DDPMScheduler", {"trained_betas": [0.1, 0.2, 0.3]}, {"kind": "noise", "trained_betas": [0.1, 0.2, 0.3]}),
    ],
)  # fmt: skip
def test_words_of_other_schedulers(name: str, options: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    theirs = getattr(diffusers, name)(**options)
    own = SpanLiftScheduler.from_config(theirs.config, solver="euler")
    assert {key: own.config[key] for key in expected} == expected
    again = SpanLiftScheduler.from_config(own.config, solver="ipndm")
    assert {key: again.config[key] for key in expected} == expected
    assert again.config["solver"] == "ipndm"
    back = getattr(diffusers, name).from_config(own.config)
    assert {key: back.config[key] for key in options} == dict(options)


@pytest.mark.parametrize("spacing", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_betas_are_those_of_diffusers(spacing: str) -> None:
    theirs = diffusers.DDIMScheduler(beta_start=0.001, beta_end=0.015, beta_schedule=spacing, num_train_timesteps=50)
    own = SpanLiftScheduler.from_config(theirs.config, solver="euler")
    torch.testing.assert_close(torch.tensor(betas_of(own.config)), theirs.betas, rtol=1e-6, atol=1e-9)
    own.set_timesteps(7)
    assert float(own.timesteps[0]) == 49


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "epndm"}, "got no file epndm"),
        ({"solver": "spanlift"}, "which is to be trained"),
        ({"solver": core.build_solver("euler")}, "pass core's solvers by name"),
        ({"kind": "noisy"}, "expected kind among.*did you mean"),
        ({"grid": "karass"}, "expected grid among.*did you mean"),
        ({"grid": "gits"}, "needs no network"),
        ({"grid": "logsnr"}, "finite log-SNR"),
        ({"shift": 0.0}, "expected shift > 0"),
        ({"shift": "three"}, "expected shift > 0"),
        ({"packed": (4,)}, "expected packed"),
        ({"packed": (4, 0)}, "expected packed"),
        ({"order": 7}, "order from 1 to"),
        ({"solver": "euler", "order": 2}, "expected no order"),
        ({"solver": "ipndm", "prediction": "data"}, "expected no prediction"),
        ({"kind": "noise", "beta_schedule": "sigmoid"}, "expected beta_schedule among"),
        ({"kind": "noise", "trained_betas": [0.1, 1.0]}, "zero terminal SNR"),
        ({"time_shift_type": "cubic", "use_dynamic_shifting": True}, "time_shift_type"),
    ],
)
def test_bad_options_are_one_line(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:  # noqa: PT012 (either may refuse)
        scheduler = SpanLiftScheduler(**options)
        scheduler.set_timesteps(4, mu=1.0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrong", ["invert_sigmas", "rescale_betas_zero_snr"])
def test_models_that_no_solver_runs_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"got {wrong}=True"):
        SpanLiftScheduler.from_config({wrong: True})
    with pytest.raises(ValueError, match="expected prediction_type among"):
        SpanLiftScheduler.from_config({"prediction_type": "noise"})


def test_a_trained_solver_brings_its_grid(tmp_path: Path, runs: ModuleType) -> None:
    path = runs.save_learned("spanlift", "flow", tmp_path)
    scheduler = SpanLiftScheduler.from_solver(tmp_path)  # the folder will do
    assert (scheduler.config["kind"], scheduler.config["shift"]) == ("flow", 3.0)
    scheduler.set_timesteps(runs.STEPS)
    torch.testing.assert_close(scheduler.sigmas.double(), runs.GRIDS["flow"], rtol=0, atol=1e-6)
    even = torch.linspace(1, 1 / runs.STEPS, runs.STEPS).tolist()
    scheduler.set_timesteps(sigmas=even, mu=0.3)  # as FLUX pipelines ask, unasked
    torch.testing.assert_close(scheduler.sigmas.double(), runs.GRIDS["flow"], rtol=0, atol=1e-6)
    scheduler.set_timesteps(timesteps=(1000 * runs.GRIDS["flow"][:-1]).tolist())
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"num_inference_steps": 20}, r"num_inference_steps=4.*got 20.*--nfe 20"),
        ({"sigmas": [1.0, 0.9, 0.5, 0.2]}, "grid of the solver's training"),
        ({"timesteps": [1000.0, 900.0, 500.0, 200.0]}, "grid of the solver's training"),
    )
    for asked, message in wrong:
        with pytest.raises(ValueError, match=message) as refused:
            scheduler.set_timesteps(**asked)
        assert "\n" not in str(refused.value)
    sized = SpanLiftScheduler(solver=str(path), use_dynamic_shifting=True)
    sized.set_timesteps(sigmas=even, mu=float(torch.tensor(3.0).log()))
    with pytest.raises(ValueError, match="image size of the training"):
        sized.set_timesteps(sigmas=even, mu=0.3)
    scheduler.set_timesteps(runs.STEPS)
    scheduler.set_begin_index(1)
    with pytest.raises(ValueError, match="begins with step 2"):
        scheduler.step(runs.X_T, scheduler.timesteps[1], runs.X_T)


def test_an_operator_of_many_step_counts_takes_all_of_them(tmp_path: Path, runs: ModuleType) -> None:
    operator = core.ResidualConfig(channels=2, width=8, counts=(2, 5))
    solver = core.build_solver(
        "spanlift", base=core.build_solver("ipndm", order=2), operator=operator, schedule=core.RectifiedFlow()
    )
    assert isinstance(solver, torch.nn.Module)
    torch.nn.init.normal_(solver.residual.head.weight, std=0.05)  # pyright: ignore
    grid = core.build_grid("shifted", 5, shift=2.0)
    core.save(tmp_path, solver, grid=grid, field_identity="", supervision="teacher", loss="mse")
    scheduler = SpanLiftScheduler.from_solver(tmp_path)
    for steps in (2, 3, 5):
        got = runs.sample(scheduler, "flow", runs.X_T, steps)
        times = core.build_grid("shifted", steps, shift=2.0)
        torch.testing.assert_close(
            got, core.integrate(runs.mixture("flow"), solver, runs.X_T, times).x, atol=2e-6, rtol=0
        )
    with pytest.raises(ValueError, match="expected 2 to 5 steps"):
        runs.sample(scheduler, "flow", runs.X_T, 6)


@pytest.mark.parametrize("kind", ["flow", "v"])
def test_a_round_trip_through_a_folder(kind: str, tmp_path: Path, runs: ModuleType) -> None:
    (tmp_path / "trained").mkdir()
    scheduler = SpanLiftScheduler.from_solver(runs.save_learned("spanlift-dyweight", kind, tmp_path / "trained"))
    expected = runs.sample(scheduler, kind, runs.X_T)
    scheduler.save_pretrained(tmp_path / "saved")
    assert scheduler.config["solver"] == str(tmp_path / "trained" / "solver.safetensors")
    written = json.loads((tmp_path / "saved" / "scheduler_config.json").read_text())
    assert (written["solver"], written["kind"]) == ("solver.safetensors", kind)
    (tmp_path / "trained" / "solver.safetensors").unlink()
    (tmp_path / "saved").rename(tmp_path / "scheduler")
    for again in (
        SpanLiftScheduler.from_pretrained(tmp_path / "scheduler"),
        SpanLiftScheduler.from_pretrained(tmp_path, subfolder="scheduler"),
    ):
        assert torch.equal(runs.sample(again, kind, runs.X_T), expected)
        assert again._method.trained.card.extra == {"kind": kind}
    handcrafted = SpanLiftScheduler(solver="unipc", order=2, shift=2.5, packed=(2, 3))
    handcrafted.save_pretrained(tmp_path / "unipc")
    again = SpanLiftScheduler.from_pretrained(tmp_path / "unipc")
    assert (again.config["solver"], again.config["shift"], list(again.config["packed"])) == ("unipc", 2.5, [2, 3])


def test_files_that_no_pipeline_runs(tmp_path: Path, runs: ModuleType) -> None:
    def refused(message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message) as error:
            SpanLiftScheduler.from_solver(tmp_path / "solver.safetensors", **options)
        assert "\n" not in str(error.value)

    refused("got no file")
    (tmp_path / "solver.safetensors").write_bytes(b"not a solver")
    refused("truncated or not safetensors")
    runs.save_learned("dyweight", "flow", tmp_path, {"sampling": {"afs": True}})
    refused("trained with an analytic first step")
    runs.save_learned("dyweight", "flow", tmp_path, {"sampling": {"denoise": True}})
    refused("trained with a last denoising")
    runs.save_learned("dyweight", "noise", tmp_path, {})
    refused("does not say what that predicts")
    assert SpanLiftScheduler.from_solver(tmp_path, kind="v").config["kind"] == "v"
    runs.save_learned("dyweight", "flow", tmp_path)
    refused("expected kind='flow'", kind="noise")
    edm = core.build_solver("dyweight", base=core.build_solver("ipndm", order=2), grid=core.build_grid("karras", 3))
    core.save(tmp_path, edm, grid=core.build_grid("karras", 3), field_identity="", supervision="teacher", loss="mse")  # pyright: ignore
    refused("schedule EDM")
    with pytest.raises(ValueError, match="expected no order beside the trained solver"):
        SpanLiftScheduler(solver=str(tmp_path), order=2)


def test_a_pipeline_of_another_model_is_refused(tmp_path: Path, runs: ModuleType) -> None:
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    ddim = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    def pipeline(channels: int, scheduler: Any) -> Any:
        return SimpleNamespace(
            transformer=SimpleNamespace(config=SimpleNamespace(in_channels=channels)), scheduler=scheduler
        )

    path = runs.save_learned("spanlift", "flow", tmp_path)
    assert SpanLiftScheduler.from_solver(path, pipeline(2, flow)).config["kind"] == "flow"
    packed = SpanLiftScheduler.from_solver(path, pipeline(8, flow), packed=(2, 3))
    again = SpanLiftScheduler.from_solver(path, pipeline(2, packed))  # a pipeline that has our scheduler already
    assert again.config["packed"] is None
    for other, message in (
        (pipeline(8, flow), "packed=.rows, columns."),
        (pipeline(32, flow), "model with 32 latent channels.*trained on 2"),
        (pipeline(2, ddim), "expected kind='flow'"),
        (SimpleNamespace(scheduler=flow), "a transformer or a unet"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            SpanLiftScheduler.from_solver(path, other)
        assert "\n" not in str(error.value)
    path = runs.save_learned("spanlift", "noise", tmp_path, {})
    assert SpanLiftScheduler.from_solver(path, pipeline(2, ddim)).config["kind"] == "noise"
    with pytest.raises(ValueError, match="got 'flow'"):
        SpanLiftScheduler.from_solver(path, pipeline(2, flow))
    with pytest.raises(ValueError, match="this pipeline's betas"):
        SpanLiftScheduler.from_solver(path, pipeline(2, diffusers.DDIMScheduler()))


def test_latents_of_another_model_are_refused(tmp_path: Path, runs: ModuleType) -> None:
    scheduler = SpanLiftScheduler.from_solver(runs.save_learned("spanlift", "flow", tmp_path))
    for shape in ((2, 5, 4, 6), (2, 2, 3, 4, 6)):
        scheduler.set_timesteps(runs.STEPS)
        x = torch.zeros(shape)
        with pytest.raises(ValueError, match="latents of 2 channels in 2 dimensions") as error:
            scheduler.step(x, scheduler.timesteps[0], x)
        assert "\n" not in str(error.value)


def test_without_diffusers_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.configuration_utils", None)
    monkeypatch.delitem(sys.modules, "apps.imagegen.scheduler")
    with pytest.raises(ImportError, match=r"got none; pip install 'spanlift\[imagegen\]'") as error:
        import_module("apps.imagegen.scheduler")
    assert "\n" not in str(error.value)

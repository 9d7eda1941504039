"""Our solvers in whole diffusers pipelines: what comes out is what our own loop gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import core
from apps.imagegen.models.latent.flux import packed, unpacked
from apps.imagegen.models.latent.loading import latent_model
from apps.imagegen.models.latent.model import LatentModel
from apps.imagegen.models.latent.prompting import Prompting
from apps.imagegen.models.latent.tiny import tiny_pipeline
from apps.imagegen.scheduler import SpanLiftScheduler

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

STEPS, PROMPT = 3, "a red circle"
GUIDANCE = {"sana": 4.5, "flux": 3.5, "sd": 7.5}
PACKED = (4, 4)
SOLVERS = (
    "euler", "ipndm", "adams-bashforth", "deis", "dpm-solver++", "unipc", "dyweight", "ld3", "s4s-lms", "spanlift",
    "spanlift-dyweight",
)  # fmt: skip
TOLERANCE = 1e-5


@dataclass
class Case:
    """A tiny pipeline, the same network as a model of ours, and the noise to begin with."""

    kind: str
    pipe: Any
    model: LatentModel
    field: core.VelocityField
    x_T: Tensor

    def run(self, **options: Any) -> Tensor:
        """Latents (1, C, H, W) of the pipeline with the scheduler that it has."""
        sized = {"height": self.model.image_resolution, "width": self.model.image_resolution}
        if self.kind == "sana":
            sized["use_resolution_binning"] = False
        x_T = packed(self.x_T) if self.kind == "flux" else self.x_T
        given = {"num_inference_steps": STEPS, "latents": x_T.clone(), "output_type": "latent", **sized, **options}
        found = self.pipe(PROMPT, guidance_scale=GUIDANCE[self.kind], **given).images
        return unpacked(found, *self.model.shape[1:]) if self.kind == "flux" else found


@pytest.fixture(scope="module", params=["sana", "flux", "sd"])
def case(request: pytest.FixtureRequest) -> Case:
    kind = request.param
    pipe = tiny_pipeline(kind)
    model = latent_model(pipe, prompting=Prompting(guidance=GUIDANCE[kind]))
    family = model.family
    with torch.no_grad():
        condition = family.encode(pipe, [PROMPT], torch.device("cpu"), False)
        negative = family.encode(pipe, [""], torch.device("cpu"), True) if family.doubles else None
    return Case(kind, pipe, model, model.bind(condition, negative), model.noise([7]))


@pytest.fixture
def own_scheduler(case: Case) -> Iterator[Any]:
    """The pipeline's own scheduler, which it has again after the test."""
    own = case.pipe.scheduler
    yield own
    case.pipe.scheduler = own


def same(got: Tensor, expected: Tensor) -> None:
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(got, expected, rtol=TOLERANCE, atol=TOLERANCE * float(expected.abs().max()))


@pytest.mark.parametrize("name", SOLVERS)
def test_the_pipeline_ends_where_our_loop_does(
    name: str, case: Case, own_scheduler: Any, tmp_path: Path, runs: ModuleType
) -> None:
    model = case.model
    grid = model.grid(model.default_grid(name), STEPS)
    if name in core.SOLVERS and "base" not in core.SOLVERS[name].takes:
        if name == "deis" and case.kind != "sd":
            pytest.skip("a step of DEIS cannot start where there is no data, at sigma = 1 of a flow")
        scheduler = SpanLiftScheduler.from_config(own_scheduler.config, solver=name)
        schedule = model.schedule if name in ("deis", "dpm-solver++", "unipc") else model.chart
        solver = core.build_solver(name, order=None if name == "euler" else 3, schedule=schedule)
    else:
        torch.manual_seed(0)
        kind = "noise" if case.kind == "sd" else "flow"
        solver = runs.build_learned(name, kind, model.channels, grid, model.chart)
        path = core.save(tmp_path, solver, grid=grid, field_identity="", supervision="teacher", loss="mse")
        scheduler = SpanLiftScheduler.from_solver(path, case.pipe, packed=PACKED if case.kind == "flux" else None)
    case.pipe.scheduler = scheduler
    with torch.no_grad():
        expected = core.integrate(case.field, solver, case.x_T, grid)
    same(case.run(), expected.x)
    assert expected.nfe == STEPS * (2 if case.model.family.doubles else 1)


def test_the_solver_matters(case: Case, own_scheduler: Any) -> None:
    """Else all of the above would say little."""
    ends = []
    for solver in ("euler", "ipndm"):
        case.pipe.scheduler = SpanLiftScheduler.from_config(own_scheduler.config, solver=solver)
        ends.append(case.run())
    assert float((ends[0] - ends[1]).abs().max()) > 100 * TOLERANCE


def test_euler_on_sane_sigmas_is_diffusers_own(case: Case, own_scheduler: Any) -> None:
    if case.kind == "sd":
        pytest.skip("diffusers' own grid of a table is another: it does not start at the last entry")
    even = torch.linspace(1, 1 / STEPS, STEPS).tolist()
    theirs = case.run(sigmas=even)
    case.pipe.scheduler = SpanLiftScheduler.from_config(own_scheduler.config, solver="euler")
    same(case.run(sigmas=even), theirs)
    same(case.run(), theirs)


def test_a_callback_sees_the_latents_and_its_changes_count(case: Case, own_scheduler: Any) -> None:
    case.pipe.scheduler = SpanLiftScheduler.from_config(own_scheduler.config, solver="ipndm", order=2)
    plain, seen = case.run(), []

    def look(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tensors["latents"])
        return tensors

    def halve(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": tensors["latents"] / 2} if step == 0 else tensors

    assert torch.equal(case.run(callback_on_step_end=look), plain)
    assert len(seen) == STEPS
    assert not torch.equal(case.run(callback_on_step_end=halve), plain)


def test_a_pipeline_is_saved_and_loaded_with_its_solver(
    case: Case, own_scheduler: Any, tmp_path: Path, runs: ModuleType
) -> None:
    if case.kind == "flux":
        pytest.skip("the same code, and the slowest of the three to load")
    model = case.model
    grid = model.grid(model.default_grid("spanlift"), STEPS)
    kind = "noise" if case.kind == "sd" else "flow"
    solver = runs.build_learned("spanlift", kind, model.channels, grid, model.chart)
    path = core.save(tmp_path / "solver", solver, grid=grid, field_identity="", supervision="teacher", loss="mse")
    case.pipe.scheduler = SpanLiftScheduler.from_solver(path, pipeline=case.pipe)
    expected = case.run()
    case.pipe.save_pretrained(tmp_path / "pipe")
    path.unlink()
    again = type(case.pipe).from_pretrained(tmp_path / "pipe", use_safetensors=True)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, SpanLiftScheduler)
    loaded = Case(case.kind, again, model, case.field, case.x_T)
    assert torch.equal(loaded.run(), expected)


def test_the_wrong_number_of_steps_is_one_line(
    case: Case, own_scheduler: Any, tmp_path: Path, runs: ModuleType
) -> None:
    kind = "noise" if case.kind == "sd" else "flow"
    grid = case.model.grid(case.model.default_grid("dyweight"), STEPS)
    solver = runs.build_learned("dyweight", kind, case.model.channels, grid, case.model.chart)
    path = core.save(tmp_path, solver, grid=grid, field_identity="", supervision="teacher", loss="mse")
    case.pipe.scheduler = SpanLiftScheduler.from_solver(path, pipeline=case.pipe)
    with pytest.raises(ValueError, match=r"num_inference_steps=3.*got 20") as refused:
        case.run(num_inference_steps=20)
    assert "\n" not in str(refused.value)


def test_a_picture_is_the_start_of_another(case: Case, own_scheduler: Any) -> None:
    """Image to image: the pipeline leaves out the first steps and adds the noise of the step it begins with."""
    if case.kind != "sd":
        pytest.skip("one such pipeline will do")
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe = StableDiffusionImg2ImgPipeline(**case.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    steps, first = 5, 2
    scheduler = SpanLiftScheduler.from_config(own_scheduler.config, solver="ipndm", order=2)
    pipe.scheduler = scheduler
    begun: list[Tensor] = []
    scale_model_input = scheduler.scale_model_input

    def spy(sample: Tensor, timestep: Tensor) -> Tensor:
        begun.append(sample[:1].clone())
        return scale_model_input(sample, timestep)

    scheduler.scale_model_input = spy  # pyright: ignore[reportAttributeAccessIssue]
    image = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    found: Any = pipe(
        PROMPT, image=image, strength=(steps - first) / steps, num_inference_steps=steps, output_type="latent",
        guidance_scale=GUIDANCE["sd"], generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert len(begun) == steps - first
    solver = core.build_solver("ipndm", order=2, schedule=case.model.chart)
    grid = case.model.grid("discrete", steps)[first:]
    with torch.no_grad():
        same(found.images, core.integrate(case.field, solver, begun[0], grid).x)


def test_three_lines_of_a_user(case: Case, own_scheduler: Any, tmp_path: Path, runs: ModuleType) -> None:
    if case.kind != "sana":
        pytest.skip("the lines are of SANA")
    case.pipe.scheduler = own_scheduler
    case.pipe.save_pretrained(tmp_path / "tiny-sana")
    grid = case.model.grid("shifted", 5)
    solver = runs.build_learned("spanlift", "flow", case.model.channels, grid)
    core.save(tmp_path / "solver", solver, grid=grid, field_identity="", supervision="teacher", loss="mse")
    names: dict[str, Any] = {}
    lines = """
from diffusers import SanaPipeline
from apps.imagegen.scheduler import SpanLiftScheduler
pipe = SanaPipeline.from_pretrained("FOLDER/tiny-sana")
pipe.scheduler = SpanLiftScheduler.from_solver("FOLDER/solver", pipeline=pipe)
image = pipe("a red circle", num_inference_steps=5, height=32, width=32, use_resolution_binning=False).images[0]
"""
    exec(lines.replace("FOLDER", str(tmp_path)), names)
    assert names["image"].size == (32, 32)
    handcrafted = 'pipe.scheduler = SpanLiftScheduler.from_config(pipe.scheduler.config, solver="ipndm", order=2)'
    exec(lines.replace(lines.splitlines()[4], handcrafted).replace("FOLDER", str(tmp_path)), names)
    assert names["pipe"].scheduler.config["shift"] == 3.0

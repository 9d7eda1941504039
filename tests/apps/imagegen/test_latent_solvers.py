"""Solvers of latent models by name: rectified flow ends at both its ends, tables of betas at theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

import core
from apps.imagegen.methods import BASES, Budget, MethodOptions, budget, grid_name
from apps.imagegen.models import FrozenModel, load_model
from apps.imagegen.models.latent.text import Text
from apps.imagegen.prompt_options import PromptOptions
from apps.imagegen.solvers import build_method
from apps.imagegen.train_options import default_teacher
from core.charts import NoiseChart
from core.solvers.learned.dyweight import DyWeight
from core.state import nfe_of
from data_tools.cli import UserError

Models = Callable[[str], FrozenModel]
SEEDS = (1 << 31, 5, 6)
NAMES = [name for name in core.SOLVERS if name != "dpm-solver-v3"]
REFUSED = {("sana", "deis")}
"""There is no noise chart where alpha = 0."""


@pytest.fixture(scope="module")
def models(latent_options: Callable[[str], dict]) -> Models:
    @cache
    def load(kind: str) -> FrozenModel:
        options = latent_options(kind)
        model = options.pop("model")
        found = PromptOptions(**options).load(model)
        found.prepare(SEEDS)
        return found

    return load


def run(model: FrozenModel, spec: MethodOptions) -> tuple[torch.Tensor, int]:
    method = build_method(model, spec)
    field = model.field(model.labels(SEEDS))
    with torch.no_grad():
        state = core.integrate(field, method.solver, model.start(SEEDS), method.grid, method.afs, method.denoise)
    return state.x, state.nfe // nfe_of(field)


@pytest.mark.parametrize("kind", ["sana", "sd"])
@pytest.mark.parametrize("name", NAMES)
def test_every_solver_makes_as_many_guided_evaluations_as_it_was_asked_for(
    models: Models, kind: str, name: str
) -> None:
    model = models(kind)
    if (kind, name) in REFUSED:
        with pytest.raises(UserError, match=r"starts from pure noise.*ipndm"):
            build_method(model, MethodOptions(name, 5))
        return
    for nfe in (5, 6, 8):
        try:
            spent = budget(MethodOptions(name, nfe), clean=kind == "sana")
        except UserError:
            with pytest.raises(UserError, match="--nfe"):
                build_method(model, MethodOptions(name, nfe))
            continue
        x, calls = run(model, MethodOptions(name, nfe, width=4))
        assert calls == nfe, (spent, nfe)
        assert bool(x.isfinite().all())


@pytest.mark.parametrize("kind", ["sana", "sd", "ldm-class"])
@pytest.mark.parametrize("name", sorted(name for name in BASES if "plugin" not in name))
def test_an_untrained_solver_is_its_base(models: Models, kind: str, name: str) -> None:
    model = models(kind)
    spec = MethodOptions(name, 5, base="unipc" if name == "spanlift" else None, width=4)
    own, base = run(model, spec), run(model, MethodOptions(spec.base_name or "", 5))
    assert torch.equal(own[0], base[0])
    assert own[1] == base[1]


def test_calls_on_a_grid_that_ends_without_noise() -> None:
    """The last step of two-stage methods is one call."""
    assert budget(MethodOptions("heun", 5), clean=True) == Budget(3, False)
    assert budget(MethodOptions("heun", 4), clean=True) == Budget(3, True)
    assert budget(MethodOptions("rk4", 9), clean=True) == Budget(3, False)
    assert budget(MethodOptions("ipndm", 4), clean=True) == Budget(4, False)
    assert budget(MethodOptions("epd", 4), clean=True) == Budget(2, False, 2)
    with pytest.raises(UserError, match=r"--nfe 1, 3, 5, \.\.\. for heun"):
        budget(MethodOptions("heun", 4, afs=False), clean=True)


@pytest.mark.parametrize(
    ("kind", "solver", "name", "ends"),
    [
        ("sana", "ipndm", "shifted", (1.0, 0.0)),
        ("sana", "unipc", "shifted", (1.0, 0.0)),
        ("flux", "spanlift", "shifted", (1.0, 0.0)),
        ("sd", "ipndm", "discrete", (1.0, 1e-3)),
        ("sd", "unipc", "logsnr", (1.0, 1e-3)),
        ("ldm", "dyweight", "discrete", (1.0, 1e-3)),
    ],
)
def test_grids_are_the_models_own(models: Models, kind: str, solver: str, name: str, ends: tuple[float, float]) -> None:
    model = models(kind)
    assert grid_name(MethodOptions(solver), model) == name
    grid = build_method(model, MethodOptions(solver, 4, width=4)).grid
    assert (float(grid[0]), float(grid[-1])) == ends
    assert torch.equal(grid, model.grid(name, 4))


def test_the_shift_of_sana_is_three(models: Models) -> None:
    u = torch.linspace(1, 0, 6, dtype=torch.float64)
    torch.testing.assert_close(build_method(models("sana"), MethodOptions("euler", 5)).grid, 3 * u / (1 + 2 * u))


def test_searched_grids_are_of_the_model(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.imagegen.solvers.SEARCH_SAMPLES", 3)
    for kind, name in (("sana", "gits"), ("ldm", "gits"), ("ldm", "dmn")):
        grid = build_method(models(kind), MethodOptions("ipndm", 2, grid=name)).grid
        assert len(grid) == 3
        assert bool((grid.diff() < 0).all())


def test_searched_grids_see_no_prompt_for_evaluation(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.imagegen.solvers.SEARCH_SAMPLES", 14)  # more than there are to train on
    read, seen = Text.read, set()

    def watched(text: Text, rows: Sequence[int], device: torch.device) -> object:
        seen.update(rows)
        return read(text, rows, device)

    monkeypatch.setattr(Text, "read", watched)
    build_method(models("sana"), MethodOptions("ipndm", 2, grid="gits"))
    assert seen == set(range(12))


def test_calls_that_are_possible_are_told_once_each() -> None:
    with pytest.raises(UserError, match=r"expected --nfe 1, 2, 3, \.\.\. for ipndm"):
        budget(MethodOptions("ipndm", 0))


def test_dyweight_of_flows_has_bounded_time_scales(models: Models) -> None:
    flow, diffusion = (build_method(models(kind), MethodOptions("dyweight", 3)).solver for kind in ("flux", "sd"))
    assert isinstance(flow, DyWeight)
    assert isinstance(diffusion, DyWeight)
    assert flow.config.bounds == (0.5, 1.5)
    assert flow.config.schedule == core.RectifiedFlow()
    assert diffusion.config.bounds is None
    assert isinstance(diffusion.chart, NoiseChart)
    assert diffusion.chart.schedule == models("sd").schedule


def test_operators_know_the_models_schedule(models: Models) -> None:
    for kind in ("sana", "sd"):
        model = models(kind)
        residual = build_method(model, MethodOptions("spanlift", 3, base="ipndm", width=4)).solver.residual  # pyright: ignore
        assert residual.schedule == model.schedule
        assert (residual.config.channels, residual.config.data_std) == (model.channels, 1.0)


def test_teachers_are_the_published_ones(models: Models) -> None:
    assert default_teacher(models("sana")) == ("ipndm", 20, 2)
    assert default_teacher(models("flux")) == ("euler", 28, 1)
    for model in (models("sd"), models("ldm"), load_model("digits")):
        assert default_teacher(model) == ("ipndm", 35, 4)


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("sana", MethodOptions("ipndm", grid="karras"), "expected a grid among shifted"),
        ("sd", MethodOptions("ipndm", grid="shifted"), "expected a grid among uniform"),
        ("sana", MethodOptions("ipndm", 4, denoise=True), "no --denoise for"),
        ("flux", MethodOptions("dyweight", 4, base="deis"), "expected .*deis"),
        ("flux", MethodOptions("spanlift", 4, base="deis"), "expected .*deis"),
        ("sana", MethodOptions("s4s-lms", 4, base="deis"), "expected .*deis"),
    ],
)
def test_mistakes_are_told_in_one_line(models: Models, kind: str, spec: MethodOptions, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_method(models(kind), spec)
    assert "\n" not in str(caught.value)


def test_a_solver_of_other_guidance_is_refused(
    models: Models, latent_options: Callable[[str], dict], put_solver: Callable[..., Path], tmp_path: Path
) -> None:
    path = put_solver(models("sana"), tmp_path, MethodOptions("dyweight", 3))
    assert run(models("sana"), MethodOptions(str(path)))[1] == 3
    options = latent_options("sana")
    model = options.pop("model")
    other = PromptOptions(**options, guidance=2.0).load(model)
    with pytest.raises(UserError, match="expected a solver trained for the model"):
        build_method(other, MethodOptions(str(path)))

"""Solvers of image models by name and from files: calls, grids, checks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import core
from apps.imagegen.methods import BASES, LEARNED_NAMES, Budget, budget, calls_of, grid_name
from apps.imagegen.models import Architecture, ImageModel, image_model
from apps.imagegen.models.edm import SongConfig
from apps.imagegen.solvers import MethodOptions, build_method, sampling_card, seeded
from data_tools.cli import UserError

SEEDS = range(3)


def tiny(label_dim: int = 0, seed: int = 0) -> ImageModel:
    size = SongConfig(
        img_resolution=8, in_channels=2, out_channels=2, label_dim=label_dim, model_channels=8, channel_mult=(1,),
        num_blocks=1, attn_resolutions=(), dropout=0.0,
    )  # fmt: skip
    architecture = Architecture(name="tiny", dataset="none", network=size)
    torch.manual_seed(seed)
    return image_model(architecture.build("cpu"), architecture, {})


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return tiny()


IMPOSSIBLE = {("rk4", 5)}
"""Four calls a step, three where the first one is analytic."""
NAMES = [name for name in core.SOLVERS if name != "dpm-solver-v3"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nfe", [3, 5, 8])
def test_every_solver_makes_as_many_calls_as_it_was_asked_for(model: ImageModel, name: str, nfe: int) -> None:
    spec = MethodOptions(name, nfe, width=8)
    if (name, nfe) in IMPOSSIBLE:
        with pytest.raises(UserError, match="--nfe"):
            build_method(model, spec)
        return
    method = build_method(model, spec)
    state = core.integrate(model.field(), method.solver, model.start(SEEDS), method.grid, method.afs, method.denoise)
    assert state.nfe == nfe
    assert method.grid[0] == model.sigma_max
    assert method.grid[-1] == model.sigma_min


@pytest.mark.parametrize("name", sorted(BASES))
def test_an_untrained_solver_is_its_base(model: ImageModel, name: str) -> None:
    if "plugin" in name:
        pytest.skip("starts as a method with an intermediate evaluation")
    spec = MethodOptions(name, 4, base="ipndm" if name == "spanlift" else None, width=8)
    own = build_method(model, spec)
    base = build_method(model, MethodOptions(spec.base_name or "", 4))
    assert torch.equal(own.grid, base.grid)
    x_T = model.start(SEEDS)
    ends = [core.integrate(model.field(), method.solver, x_T, method.grid).x for method in (own, base)]
    assert torch.equal(*ends)


def test_calls_are_spent_as_counted() -> None:
    assert budget(MethodOptions("ipndm", 5)) == Budget(5, False)
    assert budget(MethodOptions("ipndm", 5, afs=True)) == Budget(6, True)
    assert budget(MethodOptions("ipndm", 35, denoise=True)) == Budget(34, False)
    assert budget(MethodOptions("heun", 4)) == Budget(2, False)
    assert budget(MethodOptions("heun", 5)) == Budget(3, True)
    assert budget(MethodOptions("spanlift", 5, base="heun")) == Budget(3, True)
    assert budget(MethodOptions("spanlift", 4, base="s4s-ss")) == Budget(2, False)
    assert budget(MethodOptions("epd", 5)) == Budget(2, True, 2)
    assert calls_of(MethodOptions("spanlift", base="rk4")) == 4
    for spec in (MethodOptions("heun", 4, afs=True), MethodOptions("rk4", 5), MethodOptions("euler", 0)):
        with pytest.raises(UserError, match="expected --nfe"):
            budget(spec)


def test_grids_suit_the_method_unless_asked_for() -> None:
    assert grid_name(MethodOptions("ipndm")) == "karras"
    assert grid_name(MethodOptions("unipc")) == "logsnr"
    assert grid_name(MethodOptions("spanlift", base="s4s-pc")) == "logsnr"
    assert grid_name(MethodOptions("spanlift")) == "karras"
    assert grid_name(MethodOptions("unipc", grid="karras")) == "karras"


@pytest.mark.parametrize("name", ["gits", "dmn", "ays"])
def test_searched_grids_are_of_the_model(model: ImageModel, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.imagegen.solvers.SEARCH_SAMPLES", 4)
    monkeypatch.setattr("apps.imagegen.solvers.AYS_SAMPLES", 2)
    method = build_method(model, MethodOptions("ipndm", 2, grid=name))
    assert len(method.grid) == 3
    assert bool((method.grid.diff() < 0).all())


def test_operators_have_their_class(model: ImageModel) -> None:
    def operator(kind: str, kernel: int = 3) -> torch.nn.Module:
        spec = MethodOptions("spanlift", 3, operator=kind, kernel=kernel, width=8)  # pyright: ignore[reportArgumentType]
        return build_method(model, spec).solver.residual  # pyright: ignore

    assert operator("spatial", 5).config == core.ResidualConfig(2, width=8, kernel=5, steps=3, data_std=0.5)
    assert operator("pointwise").config.kernel == 1
    assert operator("scalar").config == core.ScalarConfig(3, 3)


def saved(model: ImageModel, folder: Path, spec: MethodOptions) -> Path:
    method = build_method(model, spec)
    for parameter in method.solver.parameters():  # pyright: ignore
        parameter.data += 0.01
    return core.save(
        folder / spec.solver, method.solver, grid=method.grid, field_identity=model.identity,  # pyright: ignore
        supervision="teacher", loss="mse", extra={"sampling": sampling_card(method, spec.nfe or 3)},
    )  # fmt: skip


def test_a_trained_solver_brings_its_grid_and_its_start(model: ImageModel, tmp_path: Path) -> None:
    path = saved(model, tmp_path, MethodOptions("dyweight", 3, afs=True))
    method = build_method(model, MethodOptions(str(path)))
    assert method.afs
    assert len(method.grid) == 5
    assert core.integrate(model.field(), method.solver, model.start(SEEDS), method.grid, method.afs).nfe == 3
    assert torch.equal(build_method(model, MethodOptions(str(path.parent), nfe=3)).grid, method.grid)
    on_top = MethodOptions("spanlift", 3, afs=True, base_path=str(path), width=8)
    corrected = build_method(model, on_top)
    ends = [core.integrate(model.field(), m.solver, model.start(SEEDS), m.grid, m.afs).x for m in (method, corrected)]
    assert torch.equal(*ends)
    trainable = [name for name, p in corrected.solver.named_parameters() if p.requires_grad]  # pyright: ignore
    assert trainable
    assert all(name.startswith("residual") for name in trainable)
    for wrong in (replace(on_top, nfe=4), replace(on_top, afs=False), replace(on_top, grid="uniform")):
        with pytest.raises(UserError, match="base trained for"):
            build_method(model, wrong)


def test_a_trained_solver_that_does_not_fit_is_refused(model: ImageModel, tmp_path: Path) -> None:
    path = str(saved(model, tmp_path, MethodOptions("dyweight", 3)))
    with pytest.raises(UserError, match=r"expected --nfe 3.* got 5"):
        build_method(model, MethodOptions(path, nfe=5))
    with pytest.raises(UserError, match="expected --afs False"):
        build_method(model, MethodOptions(path, afs=True))
    with pytest.raises(UserError, match="no --grid"):
        build_method(model, MethodOptions(path, grid="karras"))
    with pytest.raises(UserError, match="trained for the model tiny"):
        build_method(tiny(seed=1), MethodOptions(path))
    with pytest.raises(UserError, match="no file"):
        build_method(model, MethodOptions(str(tmp_path / "nothing.safetensors")))
    Path(path).write_bytes(Path(path).read_bytes()[:-7])
    with pytest.raises(UserError, match="truncated"):
        build_method(model, MethodOptions(path))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (MethodOptions("ipdm"), "'ipdm'.*ipndm"),
        (MethodOptions("ipndm", grid="shifted"), "a grid among"),
        (MethodOptions("ipndm", base="euler"), "no --base"),
        (MethodOptions("dyweight", base="unipc"), "Adams"),
        (MethodOptions("dyweight", base="dyweight"), "expected a base"),
        (MethodOptions("spanlift", base="spanlift"), "expected a base"),
        (MethodOptions("heun", order=2), "no --order"),
        (MethodOptions("euler", base_path="x.safetensors"), "--base_path"),
        (MethodOptions("dpm-solver-v3"), "--statistics"),
        (MethodOptions("dpm-solver-v3", statistics="none.safetensors"), "no file"),
        (MethodOptions("ipndm", order=9), "order"),
        (MethodOptions("spanlift", kernel=2), "odd kernel"),
    ],
)
def test_mistakes_are_told_in_one_line(model: ImageModel, spec: MethodOptions, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_method(model, spec)
    assert "\n" not in str(caught.value)


def test_every_learned_solver_has_a_base_or_starts_as_dpm_solver_2() -> None:
    assert {*LEARNED_NAMES} == {*BASES, "amed", "epd"}


def test_stochastic_solvers_draw_by_the_seeds_of_the_images(model: ImageModel) -> None:
    method = build_method(model, MethodOptions("ddpm", 3))

    def end(seeds: list[int]) -> torch.Tensor:
        return core.integrate(model.field(), seeded(method.solver, seeds), model.start(seeds), method.grid).x

    assert torch.allclose(end([7, 4])[1], end([4])[0], atol=1e-5)
    assert seeded(core.Euler(), [1]) == core.Euler()


def test_a_grid_is_searched_once_for_all_solvers_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """And again for other steps, another start, or other weights."""
    monkeypatch.setattr("apps.imagegen.solvers.SEARCH_SAMPLES", 2)
    model, calls = tiny(seed=5), []
    model.network.register_forward_hook(lambda *_: calls.append(1))

    def searched(solver: str, nfe: int, afs: bool = False) -> torch.Tensor:
        calls.clear()
        return build_method(model, MethodOptions(solver, nfe, 3, afs=afs, grid="gits")).grid

    first = searched("ipndm", 4)
    assert len(calls) == 60  # the teacher's
    kept = first.clone()
    first.zero_()  # a grid that is given away is the caller's
    for solver in ("unipc", "dpm-solver++", "s4s-lms"):
        assert torch.equal(searched(solver, 4), kept)
        assert not calls
    assert len(searched("ipndm", 3)) == 4
    assert calls
    searched("ipndm", 3, afs=True)
    assert calls
    other = tiny(seed=6)
    build_method(other, MethodOptions("ipndm", 4, 3, afs=False, grid="gits"))
    assert other.identity != model.identity
    assert torch.equal(searched("ipndm", 4), kept)

"""Trained operators as methods: of one number of steps and of a range, with and without the context."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import core
from apps.nowcast.methods import load_methods, parse_methods
from apps.nowcast.nowcaster import Nowcaster, bound
from apps.nowcast.stages.solver import SolverStage, build_corrected
from core.fitting import FitConfig
from core.operators import ResidualConfig, ScalarResidual
from core.operators.scaling import chart_of
from data_tools.cli import UserError

STAGE = SolverStage(
    supervision="target",
    fitting=FitConfig(iterations=1, learning_rate=1e-3),
    batch=1,
    members=2,
    seed=0,
    steps=3,
    base="ipndm",
    width=8,
    kernel=3,
    loss=None,
    teacher="ddim",
    teacher_steps=3,
    pairs=1,
    variants=1,
)
RANGE = replace(STAGE, counts=(2, 6))


def saved(path: Path, stage: SolverStage, nowcaster: Nowcaster) -> str:
    core.save(
        path,
        build_corrected(stage, nowcaster),
        grid=stage.grid(nowcaster),
        field_identity=nowcaster.identity,
        supervision=stage.supervision,
        loss="none",
    )
    return str(path)


def shaken(solver: core.Corrected) -> core.Corrected:
    """The solver with other numbers: what starts at zero does something."""
    with torch.no_grad():
        for index, parameter in enumerate(solver.parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return solver


def config_of(solver: core.Corrected) -> ResidualConfig:
    config = getattr(solver.residual, "config", None)
    assert isinstance(config, ResidualConfig)
    return config


def test_a_range_is_sampled_at_its_ends_or_where_it_is_asked(nowcaster: Nowcaster, tmp_path: Path) -> None:
    path = saved(tmp_path / "range.safetensors", RANGE, nowcaster)
    ends = load_methods([path], nowcaster, "cpu")
    assert [(method.label, method.name, method.steps) for method in ends] == [
        ("spanlift-2 of 2:6 (target)", "SpanLift of 2:6", 2),
        ("spanlift-6 of 2:6 (target)", "SpanLift of 2:6", 6),
    ]
    asked = load_methods([path], nowcaster, "cpu", (3, 5))
    assert [method.steps for method in asked] == [3, 5]
    for method in asked:
        assert method.grid is not None
        assert torch.equal(method.grid, nowcaster.grid(method.steps or 0))


def test_others_keep_their_own_count_and_get_labels_of_their_own(nowcaster: Nowcaster, tmp_path: Path) -> None:
    paths = [
        saved(tmp_path / "single/solver.safetensors", STAGE, nowcaster),
        saved(tmp_path / "range/solver.safetensors", RANGE, nowcaster),
        saved(tmp_path / "again/solver.safetensors", STAGE, nowcaster),
        saved(tmp_path / "wider.safetensors", RANGE, nowcaster),
        saved(tmp_path / "alone.safetensors", replace(STAGE, steps=2), nowcaster),
    ]
    methods = load_methods(paths, nowcaster, "cpu", (4,))
    assert [(method.label, method.steps) for method in methods] == [
        ("spanlift-3 (single)", 3),
        ("spanlift-4 of 2:6 (range)", 4),
        ("spanlift-3 (again)", 3),
        ("spanlift-4 of 2:6 (wider)", 4),
        ("spanlift-2 (target)", 2),
    ]
    assert len({(method.name, method.steps) for method in methods}) == 5


@pytest.mark.parametrize(("counts", "message"), [((1, 3), "within 2 to 6.*got 1"), ((3, 7), "within 2 to 6.*got 7")])
def test_a_count_out_of_range_is_refused(
    nowcaster: Nowcaster, tmp_path: Path, counts: tuple[int, ...], message: str
) -> None:
    path = saved(tmp_path / "range.safetensors", RANGE, nowcaster)
    with pytest.raises(UserError, match=message):
        load_methods([path], nowcaster, "cpu", counts)
    (method,) = load_methods([path], nowcaster, "cpu", (4,))
    assert method.solver is not None
    with pytest.raises(ValueError, match="2 to 6 steps"):
        nowcaster.forecast(torch.rand(1, 7, 32, 32), method.solver([1]), nowcaster.grid(7), [1])


def test_counts_without_an_operator_of_a_range_are_refused(nowcaster: Nowcaster, tmp_path: Path) -> None:
    path = saved(tmp_path / "single.safetensors", STAGE, nowcaster)
    with pytest.raises(UserError, match="operator of a range"):
        load_methods([path], nowcaster, "cpu", (3,))
    assert load_methods([], nowcaster, "cpu") == []


def test_another_solver_of_core_has_no_range(nowcaster: Nowcaster, tmp_path: Path) -> None:
    base = core.build_solver("ddim", schedule=nowcaster.schedule)
    solver = core.Corrected(base, ScalarResidual(core.ScalarConfig(4), chart_of(base)))
    path = core.save(
        tmp_path / "scalar.safetensors",
        solver,
        grid=nowcaster.grid(4),
        field_identity=nowcaster.identity,
        supervision="teacher",
        loss="none",
    )
    (method,) = load_methods([str(path)], nowcaster, "cpu")
    assert (method.label, method.steps) == ("spanlift-4 (teacher)", 4)


@pytest.mark.parametrize("condition", ["on", "off"])
def test_the_untrained_operator_is_its_base_and_reads_the_context_only_where_it_shall(
    nowcaster: Nowcaster, condition: str
) -> None:
    stage = replace(RANGE, condition=condition)
    solver = build_corrected(stage, nowcaster)
    assert (config_of(solver).condition_channels > 0) == (condition == "on")
    context = torch.rand(2, 7, 32, 32, generator=torch.Generator().manual_seed(5))
    (base,) = parse_methods("ipndm-4", nowcaster)
    assert base.solver is not None
    expected = nowcaster.forecast(context, base.solver([]), nowcaster.grid(4), [1, 2, 3, 4])
    assert torch.equal(nowcaster.forecast(context, solver, nowcaster.grid(4), [1, 2, 3, 4]).frames, expected.frames)

    def end(seed: int) -> Tensor:
        """One field, the operator bound to different contexts."""
        latents = nowcaster.encode(context)
        other = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
        return core.integrate(nowcaster.field(latents), bound(shaken_solver, other), nowcaster.noise([1, 2]), grid).x

    shaken_solver, grid = shaken(solver), nowcaster.grid(4)
    with torch.no_grad():
        assert torch.equal(end(1), end(2)) == (condition == "off")

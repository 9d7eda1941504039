"""Tables that DyWeight starts from: the handcrafted solver to the last bit, or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import core
from core.solvers.learned.dyweight import DyWeight, DyWeightConfig
from core.solvers.learned.start_tables import LinearMultistep, table_of

F64 = torch.float64
MEANS = torch.tensor([[[0.9, -0.4, 0.2], [0.1, 0.7, -0.8]], [[-0.6, 0.5, 0.3], [-0.9, 0.2, 0.4]]], dtype=F64)
SCHEDULES = {"edm": core.EDM(), "vp": core.VP()}
GRIDS = {"edm": core.build_grid("karras", 5, 80.0, 0.002), "vp": core.build_grid("quadratic", 5, 1.0, 1e-3)}


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("afs", [False, True])
@pytest.mark.parametrize("clock", GRIDS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_it_may_start_as_deis(order: int, clock: str, afs: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    schedule, grid = SCHEDULES[clock], GRIDS[clock]
    base = core.build_solver("deis", order=order, schedule=schedule)
    student = core.build_solver("dyweight", base=base, grid=grid, history=4)
    assert isinstance(student, DyWeight)
    path = core.save(tmp_path, student, grid=grid, field_identity="", supervision="teacher", loss="MSE")
    field = core.MixtureField(MEANS, [0.3, 0.7], [0.2, 0.35], schedule)
    noise = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(4), dtype=F64)
    x_T = (noise * schedule(grid[0]).sigma).to(dtype)
    expected, *got = (core.integrate(field, solver, x_T, grid, afs) for solver in (base, student, core.load(path)))
    for state in got:
        assert torch.equal(state.x, expected.x)
        assert state.nfe == expected.nfe == 5 - afs


def test_the_table_of_deis_is_that_of_its_published_weights() -> None:
    """The facts sheet's example of the reference code, whose sum over points is off by 1e-4: C_j / (t_3 - t_2)."""
    grid = core.build_grid("vp-quadratic", 5, 80.0, 0.002)
    row = table_of(core.DEIS(3), grid, 5)[2]
    published = torch.tensor([-0.162341, 0.691381, -1.53301], dtype=F64) / (grid[3] - grid[2])
    torch.testing.assert_close(row[:3], published, rtol=1e-3, atol=0)
    assert row[3:].abs().max() == 0
    even = table_of(core.IPNDM(3), grid, 5)[2]
    assert float((row - even).abs().max()) > 0.1  # weights of the grid, not of an even one


@pytest.mark.parametrize(
    "base", [core.DEIS(3, reference_compatible=True), core.AdamsBashforth(4, reference_compatible=True)], ids=str
)
def test_a_base_that_would_shift_time_is_refused(base: LinearMultistep) -> None:
    """Untrained numbers would not be the base: DyWeight moves its times where weights do not sum to 1."""
    with pytest.raises(ValueError, match=r"weights sum to 1.*off by .*without reference_compatible"):
        core.build_solver("dyweight", base=base, grid=GRIDS["edm"], history=4)


@pytest.mark.parametrize("base", [core.DEIS(2), core.AdamsBashforth(2)], ids=str)
def test_weights_of_a_grid_need_one(base: LinearMultistep) -> None:
    with pytest.raises(ValueError, match="expected a grid for weights that depend on it"):
        DyWeightConfig(base=base, steps=4)

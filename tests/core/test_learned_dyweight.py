"""DyWeight: published numbers to rounding, published training to rounding, and its base solver before training."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import core
from core.solvers.learned.dyweight import DyWeight, DyWeightConfig, from_numbers
from core.solvers.learned.tables import read_tables
from core.training import run_to_end_afs

F64 = torch.float64
SHOWN = re.compile(r"dyweight\|(?P<name>\w+)\|poly7\|afs1\|(?P<mixture>\w+)\|f64$")
START = re.compile(r"dyweight_init\|(?P<name>ns\d+K\w+)\|poly7\|afs(?P<afs>[01])\|(?P<mixture>\w+)\|f64$")
ALL_STATES = re.compile(r"dyweight_inters\|(?P<name>\w+)\|poly7\|afs1\|(?P<mixture>\w+)\|f64$")


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    wanted = ("dyweight", "gmm/", "latents", "flux", "train/")
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith(wanted)}


def published(golden: dict[str, Tensor], name: str, schedule: core.Schedule | None = None) -> core.MixtureField:
    means, weights, stds = (golden[f"gmm/{name}/{part}"] for part in ("means", "weights", "stds"))
    return core.MixtureField(means, weights, stds, schedule)


def poly7(points: int) -> Tensor:
    return core.build_grid("karras", steps=points - 1, t_max=80.0, t_min=0.002, rho=7.0)


def noise(golden: dict[str, Tensor], name: str, grid: Tensor) -> Tensor:
    return golden[f"latents_unit/{name}"].double() * grid[0]


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def table(golden: dict[str, Tensor], name: str) -> core.Solver:
    weights, scale = golden[f"dyweight_params/{name}/W"], golden[f"dyweight_params/{name}/t_scale"]
    return core.build_solver("dyweight", weights=weights, time_scale=scale)


def test_published_tables_sample_as_published(golden: dict[str, Tensor]) -> None:
    found = [match for key in golden if (match := SHOWN.match(key))]
    assert len(found) >= 8
    for match in found:
        solver = table(golden, match["name"])
        grid = poly7(int(golden[f"dyweight_params/{match['name']}/num_steps"]))
        field = published(golden, match["mixture"])
        state = core.integrate(field, solver, noise(golden, match["mixture"], grid), grid, afs=True)
        close(state.x, golden[match[0]])
        assert state.nfe == len(grid) - 2
        assert not state.x.requires_grad


def test_every_state_is_the_published_one(golden: dict[str, Tensor]) -> None:
    found = [match for key in golden if (match := ALL_STATES.match(key))]
    assert len(found) >= 12
    for match in found:
        states = golden[match[0]]
        grid, field = poly7(len(states)), published(golden, match["mixture"])
        run = core.trajectory(
            field, table(golden, match["name"]), noise(golden, match["mixture"], grid), grid, afs=True
        )
        close(torch.stack([state.x for state in run]), states)


def test_initial_tables_are_the_published_ones(golden: dict[str, Tensor]) -> None:
    found = [match for key in golden if (match := START.match(key))]
    assert len(found) >= 10
    for match in found:
        weights = golden[f"dyweight_init/{match['name']}afs{match['afs']}/W"]
        grid, history = poly7(len(weights) + 1), match["name"].split("K")[1]
        own = core.build_solver("dyweight", grid=grid, history=len(weights) if history == "None" else int(history))
        assert isinstance(own, DyWeight)
        close(own.weights.detach(), weights, 1e-15)
        solver = core.build_solver("dyweight", weights=weights, time_scale=torch.ones(len(weights)))
        x_T = noise(golden, match["mixture"], grid)
        state = core.integrate(published(golden, match["mixture"]), solver, x_T, grid, afs=match["afs"] == "1")
        close(state.x, golden[match[0]])


@pytest.mark.parametrize("said", [True, False], ids=["schedule given", "schedule of the field"])
@pytest.mark.parametrize("steps", [3, 5, 7])
def test_flux_tables_sample_as_published(golden: dict[str, Tensor], steps: int, said: bool) -> None:
    weights, scale = golden[f"flux_params/nfe{steps}/W"], golden[f"flux_params/nfe{steps}/t_scale"]
    schedule = core.RectifiedFlow() if said else None
    solver = core.build_solver("dyweight", weights=weights, time_scale=scale, schedule=schedule)
    grid = golden[f"flux_sched/seq1024/nfe{steps}"].double()
    for name in ("r2", "img8"):
        field = published(golden, name, core.RectifiedFlow())
        state = core.integrate(field, solver, golden[f"latents_unit/{name}"].double(), grid)
        close(state.x, golden[f"dyweight_flux|nfe{steps}|seq1024|{name}|f64"])


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("start", ["ipndm", "euler"])
def test_flux_starts(golden: dict[str, Tensor], start: str, window: int) -> None:
    base = core.Euler() if start == "euler" else core.IPNDM(window)
    for steps in (3, 5):
        grid = core.build_grid("shifted", steps, 1.0, 0.0)
        solver = DyWeight(DyWeightConfig(grid, base, window, schedule=core.RectifiedFlow(), bounds=(0.5, 1.5)))
        close(solver.weights.detach(), golden[f"flux_init/K{steps}/{start}/win{window}"], 1e-15)
        assert torch.equal(solver.scales, torch.ones(steps, dtype=F64))


@pytest.mark.parametrize("points", [5, 7])
@pytest.mark.parametrize("name", ["r2", "img8"])
def test_training_is_the_published_one(golden: dict[str, Tensor], name: str, points: int) -> None:
    """First loss and gradients, then the first of the 200 published Adam steps."""
    folder, grid, updates = f"train/{name}/ns{points}", poly7(points), 25
    solver = core.build_solver("dyweight", grid=grid, history=3, reference_compatible=True)
    assert isinstance(solver, DyWeight)
    field, x_T, teacher = published(golden, name), noise(golden, name, grid), golden[f"train/{name}/teacher"]
    optimizer = torch.optim.Adam(solver.parameters(), lr=1e-2)
    losses = []
    for update in range(updates):
        end = core.rollout(solver, field, x_T, grid, afs=True) if update == 0 else None
        end = core.integrate(field, solver, x_T, grid, afs=True).x if end is None else end
        loss = (end - teacher).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if update == 0:
            close(end.detach(), golden[f"{folder}/student0"])
            close(loss.detach(), golden[f"{folder}/loss0"], 1e-12)
            assert solver.weights.grad is not None
            assert solver.time_scale.grad is not None
            close(solver.weights.grad, golden[f"{folder}/gradW0"], 1e-10)
            close(solver.time_scale.grad[1:], golden[f"{folder}/gradS0"], 1e-10)
            assert solver.time_scale.grad[0] == 0
        torch.nn.utils.clip_grad_norm_(solver.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    torch.testing.assert_close(torch.tensor(losses, dtype=F64), golden[f"{folder}/losses"][:updates], rtol=1e-6, atol=0)


@pytest.mark.slow
def test_two_hundred_updates_end_where_published(golden: dict[str, Tensor]) -> None:
    for name in ("r2", "img8"):
        for points in (5, 7):
            folder, grid = f"train/{name}/ns{points}", poly7(points)
            solver = core.build_solver("dyweight", grid=grid, history=3, reference_compatible=True)
            assert isinstance(solver, DyWeight)
            field, x_T = published(golden, name), noise(golden, name, grid)
            optimizer = torch.optim.Adam(solver.parameters(), lr=1e-2)
            for expected in golden[f"{folder}/losses"]:
                end = core.integrate(field, solver, x_T, grid, afs=True).x
                loss = (end - golden[f"train/{name}/teacher"]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(solver.parameters(), 1.0)
                optimizer.step()
                close(loss.detach(), expected)
            close(solver.weights.detach(), golden[f"{folder}/W200"], 1e-8)
            close(solver.time_scale.detach()[1:], golden[f"{folder}/S200"], 1e-8)


MEANS = torch.tensor([[[0.9, -0.4, 0.2], [0.1, 0.7, -0.8]], [[-0.6, 0.5, 0.3], [-0.9, 0.2, 0.4]]], dtype=F64)
GRIDS = {
    "edm": core.build_grid("karras", 5, 80.0, 0.002),
    "vp": core.build_grid("quadratic", 5, 1.0, 1e-3),
    "flow": core.build_grid("shifted", 5, 1.0, 0.0),
}
SCHEDULES = {"edm": core.EDM(), "vp": core.VP(), "flow": core.RectifiedFlow()}


def problem(clock: str, dtype: torch.dtype = F64) -> tuple[core.MixtureField, Tensor]:
    field = core.MixtureField(MEANS, [0.3, 0.7], [0.2, 0.35], SCHEDULES[clock])
    z = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(4), dtype=F64)
    return field, (z * SCHEDULES[clock](GRIDS[clock][0]).sigma).to(dtype)


def chart(clock: str) -> core.Chart:
    return core.NoiseChart(core.VP()) if clock == "vp" else core.TimeChart()


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("afs", [False, True])
@pytest.mark.parametrize("clock", GRIDS)
@pytest.mark.parametrize(
    ("solver", "history"),
    [
        (core.AdamsBashforth(3), 3),
        (core.AdamsBashforth(4), 5),
        (core.IPNDM(3), 3),
        (core.IPNDM(2), 4),
        (core.Euler(), 2),
    ],
    ids=str,
)
def test_untrained_it_is_its_base_to_the_last_bit(
    solver: core.IPNDM, history: int, clock: str, afs: bool, dtype: torch.dtype
) -> None:
    base, grid = replace(solver, chart=chart(clock)), GRIDS[clock]
    student = core.build_solver("dyweight", base=base, grid=grid, history=history)
    field, x_T = problem(clock, dtype)
    expected, got = (core.integrate(field, either, x_T, grid, afs) for either in (base, student))
    assert torch.equal(got.x, expected.x)
    assert got.nfe == expected.nfe == 5 - afs
    assert got.x.dtype == dtype


def test_bounded_scales_start_at_the_base_too() -> None:
    field, x_T = problem("flow")
    config = DyWeightConfig(GRIDS["flow"], core.Euler(), 2, schedule=core.RectifiedFlow(), bounds=(0.5, 1.5))
    end = core.integrate(field, DyWeight(config), x_T, GRIDS["flow"]).x
    assert torch.equal(end, core.integrate(field, core.Euler(), x_T, GRIDS["flow"]).x)


def test_the_noise_chart_of_vp_is_edm_rescaled() -> None:
    """The same numbers on a VP model and on its variance-exploding twin give the same data."""
    vp, grid = core.VP(), GRIDS["vp"]
    generator = torch.Generator().manual_seed(2)
    weights = (torch.eye(5, dtype=F64) * 1.4 + torch.eye(5, dtype=F64).roll(1, 0).tril() * -0.45).tril()
    weights[1:] += 0.05 * torch.rand(4, 5, generator=generator, dtype=F64) * (weights[1:] != 0)
    weights[0, 0] = 0.97
    scale = 1 + 0.1 * torch.rand(5, generator=generator, dtype=F64)
    twin, x_T = problem("edm")
    ends = {}
    for clock, schedule, nodes in (("vp", vp, grid), ("edm", None, vp.ratio(grid))):
        field, alpha = problem(clock)[0], vp(grid) if clock == "vp" else twin.schedule(nodes)
        solver = core.build_solver("dyweight", weights=weights, time_scale=scale, schedule=schedule)
        start = x_T / 80 * (vp(grid[0]).sigma if clock == "vp" else nodes[0])
        ends[clock] = core.integrate(field, solver, start, nodes).x / alpha.alpha[-1]
    close(ends["vp"], ends["edm"], 1e-11)


@pytest.mark.parametrize("start", ["uniform", "perturbed"])
def test_other_starts(start: str) -> None:
    solver = DyWeight(DyWeightConfig(GRIDS["edm"], history=3, start=start, seed=5))  # type: ignore[arg-type]
    band = solver.weights.detach() != 0
    age = torch.arange(5)[:, None] - torch.arange(5)
    assert torch.equal(band, (age >= 0) & (age < 3))
    standard = DyWeight(DyWeightConfig(GRIDS["edm"], history=3))
    if start == "uniform":
        close(solver.weights.detach().sum(1), torch.ones(5, dtype=F64), 1e-15)
        close(solver.weights.detach()[3, 1:4], torch.full((3,), 1 / 3, dtype=F64), 1e-15)
        assert torch.equal(solver.time_scale, standard.time_scale)
    else:
        for noisy, exact in ((solver.weights, standard.weights), (solver.time_scale, standard.time_scale)):
            change = (noisy - exact).detach().abs()
            assert 0.02 < float(change.max()) <= 0.05
        again = DyWeight(DyWeightConfig(GRIDS["edm"], history=3, start="perturbed", seed=5))
        assert torch.equal(again.weights, solver.weights)


def test_training_lowers_the_held_out_error_and_survives_saving(tmp_path: Path) -> None:
    field, _ = problem("edm")
    grid, fine = GRIDS["edm"], core.build_grid("karras", 40, 80.0, 0.002)

    def example(iteration: int) -> core.Example:
        z = torch.randn(16, 2, 3, generator=torch.Generator().manual_seed(iteration), dtype=F64)
        return core.Example(80 * z, None, core.integrate(field, core.Heun(), 80 * z, fine).x)

    solver = core.build_solver("dyweight", grid=grid, history=3)
    assert isinstance(solver, DyWeight)
    examples = [example(seed) for seed in range(4)]
    core.train_solver(
        solver,
        grid,
        lambda iteration: examples[iteration % 4],
        lambda condition: field,
        lambda end, example: core.MSE()(end, example.endpoint),
        core.fitting.FitConfig(60, 1e-2),
        tmp_path / "run",
        run=run_to_end_afs,
    )
    held_out = example(100)
    errors = [
        float(
            (core.integrate(field, either, held_out.x_T, grid, afs=True).x - held_out.endpoint).square().mean().detach()
        )
        for either in (core.IPNDM(3), solver)
    ]
    assert errors[1] < 0.5 * errors[0]
    path = core.save(tmp_path, solver, grid=grid, field_identity="", supervision="teacher", loss="MSE")
    loaded = core.load(path)
    for afs in (False, True):
        ends = [core.integrate(field, either, held_out.x_T, grid, afs).x for either in (solver, loaded)]
        assert torch.equal(ends[0].detach(), ends[1])
    with pytest.raises(ValueError, match="trained for"):
        core.integrate(field, loaded, held_out.x_T, core.build_grid("logsnr", 5, 80.0, 0.002))


def test_a_table_survives_saving(tmp_path: Path) -> None:
    field, x_T = problem("edm")
    weights = torch.tensor([[1.1, 0, 0], [-0.6, 1.7, 0], [0, -0.5, 1.45]], dtype=F64)
    solver = core.build_solver("dyweight", weights=weights, time_scale=torch.tensor([0.9, 1.02]))
    grid = core.build_grid("karras", 3, 80.0, 0.002)
    path = core.save(tmp_path, solver, grid=grid, field_identity="", supervision="teacher", loss="?")  # type: ignore
    ends = [core.integrate(field, either, x_T, grid, afs=True) for either in (solver, core.load(path))]
    assert torch.equal(ends[0].x.detach(), ends[1].x)
    assert ends[0].nfe == 2


def test_the_published_divisor_can_be_left_out() -> None:
    field, x_T = problem("edm")
    weights = core.build_solver("dyweight", grid=GRIDS["edm"], history=3).weights.detach()  # type: ignore
    base = core.integrate(field, core.IPNDM(3), x_T, GRIDS["edm"]).x
    with_it, without = (
        core.integrate(
            field, core.build_solver("dyweight", weights=weights, reference_compatible=choice), x_T, GRIDS["edm"]
        ).x
        for choice in (None, False)
    )
    assert torch.equal(without, base)
    assert 0 < float((with_it - base).detach().abs().max()) < 1e-6


def test_operators_work_over_it() -> None:
    _, x_T = problem("edm")
    student = core.build_solver("dyweight", grid=GRIDS["edm"], history=2, base=core.IPNDM(2))
    corrected = core.spanlift(student, core.ResidualConfig(2, width=8, steps=5, data_std=0.5), core.EDM())
    image = x_T[..., None]
    square = core.MixtureField(MEANS[..., None], [0.3, 0.7], [0.2, 0.35])
    ends = [core.integrate(square, either, image, GRIDS["edm"], afs=True) for either in (student, corrected)]
    assert torch.equal(ends[0].x, ends[1].x)
    assert ends[1].nfe == 4


def test_published_json_is_read(shared: Path, golden: dict[str, Tensor]) -> None:
    tables = read_tables(shared / "golden" / "dyweight_published_coeffs.json")
    assert len(tables) == 43
    cifar = tables["00000-cifar-nfe3"]
    assert cifar.analytic
    assert cifar.grid is not None
    close(cifar.grid, poly7(5), 1e-15)
    field = published(golden, "r2")
    state = core.integrate(field, cifar.solver(), noise(golden, "r2", cifar.grid), cifar.grid, afs=True)
    close(state.x, golden["dyweight|cifar3|poly7|afs1|r2|f64"])
    flux = tables["flux-dyweight_nfe3"].solver()
    grid = golden["flux_sched/seq1024/nfe3"].double()
    latents = golden["latents_unit/r2"].double()
    state = core.integrate(published(golden, "r2", core.RectifiedFlow()), flux, latents, grid)
    close(state.x, golden["dyweight_flux|nfe3|seq1024|r2|f64"], 1e-7)
    for entry in tables.values():
        assert entry.solver().config.count == entry.steps
        assert entry.grid is None or (len(entry.grid) == entry.steps + 1 and bool((entry.grid.diff() < 0).all()))


def test_files_that_hold_no_tables(tmp_path: Path) -> None:
    for name, text in (("a.json", "{"), ("b.json", '{"x": {"W": [[1]]}}'), ("c.json", "[1]"), ("d.pkl", "no")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=r"expected tables of DyWeight|truncated or foreign"):
            read_tables(tmp_path / name)


def test_bad_numbers_are_refused() -> None:
    field, x_T = problem("edm")
    good = torch.eye(5, dtype=F64)
    with pytest.raises(ValueError, match="lower-triangular"):
        from_numbers(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"lower-triangular weights \(steps, steps\), got \(2, 3\)"):
        from_numbers(torch.ones(2, 3))
    with pytest.raises(ValueError, match="time scale for each of 5"):
        from_numbers(good, torch.ones(3))
    with pytest.raises(ValueError, match="finite"):
        from_numbers(good, torch.full((5,), float("nan")))
    with pytest.raises(ValueError, match="weights beside time_scale"):
        core.build_solver("dyweight", time_scale=torch.ones(3))
    with pytest.raises(ValueError, match="expected a grid"):
        core.build_solver("dyweight", history=3)
    with pytest.raises(ValueError, match="history >= 3"):
        core.build_solver("dyweight", base=core.IPNDM(3), grid=GRIDS["edm"], history=2)
    with pytest.raises(ValueError, match="base among"):
        core.build_solver("dyweight", base=core.Heun(), grid=GRIDS["edm"])
    with pytest.raises(ValueError, match="time or the noise chart"):
        core.build_solver("dyweight", base=core.IPNDM(2, core.DataChart(core.EDM())), grid=GRIDS["edm"])
    with pytest.raises(ValueError, match="a grid of 5 steps"):
        core.integrate(field, from_numbers(good), x_T, core.build_grid("karras", 4, 80.0, 0.002))
    with pytest.raises(ValueError, match="a grid of 5 steps"):
        from_numbers(good, grid=core.build_grid("karras", 4, 80.0, 0.002))
    with pytest.raises(ValueError, match="pass afs=True"):
        core.integrate(field, from_numbers(good, torch.ones(4)), x_T, GRIDS["edm"])
    with pytest.raises(ValueError, match="planned"):
        from_numbers(good).step(field, core.State(x_T, GRIDS["edm"][0], 0, (), 0), GRIDS["edm"][1])
    with pytest.raises(ValueError, match="'base', 'uniform'"):
        DyWeightConfig(GRIDS["edm"], start="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bounds"):
        DyWeightConfig(GRIDS["edm"], bounds=(1.0, 2.0))
    shifted = from_numbers(3 * good, schedule=core.VP())
    with pytest.raises(ValueError, match="shifted times above 0"):
        core.integrate(problem("vp")[0], shifted, x_T, GRIDS["vp"])

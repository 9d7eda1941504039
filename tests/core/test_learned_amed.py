"""AMED: published numbers to rounding, the base before training, what a predictor changes a sample, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import core
from core.fitting import FitConfig
from core.solvers.learned.amed import AMED, AMEDConfig, LearnedAMED, LearnedAMEDPlugin
from core.solvers.learned.bottleneck import HookedField, Predictor
from core.supervision import Example
from core.training import Rematerialised, run_to_end, run_to_end_afs

F64 = torch.float64
NUMBERS: dict[str, Any] = {"r": 0.4, "scale_dir": 1.02, "scale_time": 0.95}
DPMPP = {"order": 3, "thresholding": True}
PUBLISHED: dict[str, tuple[str, tuple[str, dict[str, Any]] | None]] = {
    "amed": ("vp-uniform", None),
    "amed_euler": ("karras", ("euler", {})),
    "amed_ipndm4": ("karras", ("ipndm", {"order": 4})),
    "amed_dpm2": ("karras", ("dpm-solver-2", {})),
    "amed_dpmpp3": ("logsnr", ("dpm-solver++", DPMPP)),
    "amed_dpmpp2eps": ("logsnr", ("dpm-solver++", {"order": 2, "prediction": "noise"})),
}
MEANS = torch.randn(4, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(3))
FIELDS = {
    "edm": (core.MixtureField(MEANS, [0.4, 0.3, 0.2, 0.1], [0.3, 0.25, 0.4, 0.2]), None),
    "vp": (core.MixtureField(MEANS, [0.4, 0.3, 0.2, 0.1], [0.3, 0.25, 0.4, 0.2], core.VP()), core.VP()),
}


def grid_of(clock: str, steps: int = 3) -> Tensor:
    return core.build_grid("logsnr" if clock == "vp" else "karras", steps, schedule=FIELDS[clock][1] or core.EDM())


def noise(batch: int, seed: int = 0, scale: float = 80.0) -> Tensor:
    return scale * torch.randn(batch, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_arrays(shared: Path, name: str) -> None:
    kind, base = PUBLISHED[name]
    with np.load(shared / "golden" / "golden_solvers.npz") as arrays:
        keys = [key for key in arrays.files if key.startswith(f"{name}|") and key.endswith("|f64")]
        assert len(keys) >= 4
        for key in keys:
            _, _, afs, nfe, mixture, _ = key.split("|")
            label, start = int(nfe[3:]), afs == "afs1"
            means, shares, stds = (torch.from_numpy(arrays[f"gmm/{mixture}/{p}"]) for p in ("means", "weights", "stds"))
            field = core.MixtureField(means, shares, stds)
            grid = core.build_grid(kind, (label + start) // 2, 80.0, 0.002, rho=7.0)
            if base is None:
                solver = core.build_solver("amed", **NUMBERS)
            else:
                solver = core.build_solver("amed-plugin", base=core.build_solver(base[0], **base[1]), **NUMBERS)
            x_T = torch.from_numpy(arrays[f"latents_unit/{mixture}"]).double() * grid[0]
            spy = Spy(field)
            state = core.integrate(spy, solver, x_T, grid, start)
            assert state.nfe == len(spy.times) == label
            expected, times = torch.from_numpy(arrays[key]), torch.from_numpy(arrays[f"times/{key}"])
            torch.testing.assert_close(torch.tensor(spy.times, dtype=F64), times, rtol=1e-9, atol=0.0)
            torch.testing.assert_close(state.x, expected, rtol=1e-9, atol=1e-9)


class Spy:
    """A field that remembers when it was asked; two network calls a call."""

    def __init__(self, field: core.MixtureField, calls: int = 1) -> None:
        self.field, self.times, self.evaluations_per_call = field, [], calls

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(float(t))
        return self.field(x, t)

    def analytic_velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.field.analytic_velocity(x, t)


@pytest.mark.parametrize("afs", [False, True])
@pytest.mark.parametrize("clock", FIELDS)
def test_untrained_solver_is_dpm_solver_2(clock: str, afs: bool) -> None:
    (field, schedule), grid = FIELDS[clock], grid_of(clock)
    base = core.build_solver("dpm-solver-2", schedule=schedule)
    expected = core.integrate(field, base, noise(5, scale=1.0) * field.schedule(grid[0]).sigma, grid, afs)
    named = core.build_solver("amed-plugin", base=base, grid=grid)
    for solver in (core.build_solver("amed", grid=grid, schedule=schedule), named):
        got = core.integrate(field, solver, noise(5, scale=1.0) * field.schedule(grid[0]).sigma, grid, afs)
        assert torch.equal(got.x, expected.x)
        assert got.nfe == expected.nfe == 6 - afs
    assert core.build_solver("amed", grid=grid, base=base).config.schedule == base.schedule  # pyright: ignore


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("euler", {}),
        ("ipndm", {"order": 3}),
        ("adams-bashforth", {"order": 3}),
        ("dpm-solver++", {"order": 3}),
        ("dpm-solver++", {"order": 2, "prediction": "noise"}),
    ],
)
@pytest.mark.parametrize("clock", FIELDS)
def test_untrained_plugin_is_its_base_on_the_refined_grid(clock: str, name: str, options: dict[str, Any]) -> None:
    (field, schedule), grid = FIELDS[clock], grid_of(clock)
    base = core.build_solver(name, schedule=schedule, **options)
    x_T = noise(5, scale=1.0) * field.schedule(grid[0]).sigma
    finer = AMED(base=base).refined(grid)
    assert len(finer) == 7
    assert torch.equal(finer[::2], grid)
    ratio = field.schedule.ratio(finer).log()
    torch.testing.assert_close(ratio[1::2], (ratio[:-2:2] + ratio[2::2]) / 2)
    for afs in (False, True):
        with torch.no_grad():  # DPM-Solver++ works with floats where it may
            expected = core.integrate(field, base, x_T, finer, afs)
            got = core.integrate(field, core.build_solver("amed-plugin", grid=grid, base=base), x_T, grid, afs)
        assert torch.equal(got.x, expected.x)
        assert got.nfe == expected.nfe == 6 - afs


def test_scaled_time_is_the_same_in_both_clocks() -> None:
    """A VP model is its variance-exploding rescaling: AMED moves both alike, with any numbers."""
    (edm, _), (vp, schedule) = FIELDS["edm"], FIELDS["vp"]
    assert schedule is not None
    grid = core.build_grid("logsnr", 3, schedule=schedule)
    ratios = schedule.ratio(grid)
    x = noise(5, scale=float(ratios[0]))
    for base in (None, "euler", "ipndm", "dpm-solver-2"):
        ends = []
        for field, clock, x_T, nodes in ((edm, None, x, ratios), (vp, schedule, schedule(grid[0]).alpha * x, grid)):
            solver = AMED(0.3, 1.1, 0.8, base and core.build_solver(base, schedule=clock), None if base else clock)
            ends.append(core.integrate(field, solver, x_T, nodes).x)
        torch.testing.assert_close(schedule(grid[-1]).alpha * ends[0], ends[1], rtol=1e-8, atol=1e-8)


def test_a_step_to_no_noise_is_the_base_alone() -> None:
    field, _ = FIELDS["edm"]
    grid = torch.tensor([10.0, 1.0, 0.0], dtype=F64)
    for name in ("euler", "ipndm"):
        base = core.build_solver(name)
        solver = core.build_solver("amed-plugin", base=base, **NUMBERS)
        state = core.integrate(field, solver, noise(4, scale=10.0), grid)
        assert state.nfe == 3
        assert bool(torch.isfinite(state.x).all())
    ends = [core.integrate(field, core.build_solver(n), noise(4, scale=10.0), grid) for n in ("amed", "dpm-solver-2")]
    assert torch.equal(ends[0].x, ends[1].x)
    assert ends[0].nfe == ends[1].nfe == 3


def test_guidance_counts_and_single_precision_stays() -> None:
    field, _ = FIELDS["edm"]
    spy = Spy(field, calls=2)
    for name, base in (("amed", None), ("amed-plugin", core.build_solver("ipndm", order=2))):
        state = core.integrate(spy, core.build_solver(name, base=base, **NUMBERS), noise(4).float(), grid_of("edm"))
        assert state.nfe == 12
        assert state.x.dtype == torch.float32
        state = core.integrate(
            field, core.build_solver(name, base=base, grid=grid_of("edm")), noise(4).float(), grid_of("edm")
        )
        assert state.x.dtype == torch.float32
        assert state.x.requires_grad


class Seen(nn.Module):
    """A denoiser with a bottleneck: an exact mixture beside a module whose output (B, 3, 4) gives 4 features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.middle = nn.Linear(3, 4, dtype=F64)
        self.requires_grad_(False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.middle(x[:, [0, 1, 0]].double() / (1 + sigma))
        field, sigma = FIELDS["edm"][0], sigma.broadcast_to(len(x), 1, 1)[:, 0, 0]
        return torch.cat([field.data(row[None], t) for row, t in zip(x, sigma, strict=True)])


def hooked() -> HookedField:
    network = Seen()
    return HookedField(core.DenoiserField(network), network.middle)


def predicting(kind: type[LearnedAMED], base: core.Solver | None, steps: int = 2) -> LearnedAMED:
    torch.manual_seed(0)
    return kind(AMEDConfig(grid_of("edm", steps), base, bound_time=0.2, bound_dir=0.1, features=4))


@pytest.mark.parametrize("name", [None, "euler", "ipndm", "adams-bashforth", "dpm-solver-2"])
def test_a_predictor_gives_each_sample_its_own_numbers(name: str | None) -> None:
    base = None if name is None else core.build_solver(name)
    solver = predicting(LearnedAMED if name is None else LearnedAMEDPlugin, base)
    field, grid, x_T = hooked(), grid_of("edm", 2), noise(4)
    constant = core.integrate(field, AMED(base=base), x_T, grid)
    state = core.integrate(field, solver, x_T, grid)
    assert torch.equal(state.x, constant.x)
    assert state.nfe == constant.nfe == 4
    assert solver.predictor is not None
    with torch.no_grad():
        solver.predictor.heads.weight.normal_()
    moved = core.integrate(field, solver, x_T, grid)
    alone = torch.cat([core.integrate(field, solver, row[None], grid).x for row in x_T])
    torch.testing.assert_close(moved.x, alone, rtol=1e-9, atol=1e-9)
    assert float((moved.x - state.x).detach().abs().min()) > 1e-6
    assert core.integrate(field, solver, x_T, grid, afs=True).nfe == 3
    assert core.integrate(field, solver, x_T.float(), grid).x.dtype == torch.float32
    moved.x.sum().backward()
    plain = [parameter.grad.clone() for parameter in solver.parameters() if parameter.grad is not None]
    assert len(plain) == 8
    assert all(bool(gradient.abs().sum() > 0) for gradient in plain)
    solver.zero_grad()
    core.integrate(Rematerialised(field), solver, x_T, grid).x.sum().backward()
    for parameter, expected in zip(solver.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_the_published_predictor_has_nine_thousand_parameters() -> None:
    assert sum(parameter.numel() for parameter in Predictor(64).parameters()) == 8971


def teacher_ends(seed: int, batch: int, grid: Tensor) -> Example:
    x_T, field = noise(batch, seed), FIELDS["edm"][0]
    fine = core.build_grid("karras", 24 * (len(grid) - 1), 80.0, 0.002, rho=7.0)
    return Example(x_T, None, core.integrate(field, core.build_solver("heun"), x_T, fine).x)


@pytest.mark.parametrize(
    ("name", "steps", "afs"),
    [("amed", 2, True), ("amed", 2, False), ("amed", 3, True), ("ipndm", 2, True), ("dpm-solver++", 3, True)],
)
def test_training_improves_on_the_base_with_held_out_noise(name: str, steps: int, afs: bool, tmp_path: Path) -> None:
    grid, field = grid_of("edm", steps), FIELDS["edm"][0]
    base = None if name == "amed" else core.build_solver(name, order=3)
    solver = core.build_solver("amed" if base is None else "amed-plugin", grid=grid, base=base)
    train, held_out = teacher_ends(1, 64, grid), teacher_ends(10**6, 256, grid)

    def error() -> float:
        with torch.no_grad():
            return float(core.MSE()(core.integrate(field, solver, held_out.x_T, grid, afs).x, held_out.endpoint))

    def loss(end: Tensor, example: Example) -> Tensor:
        return core.MSE()(end, example.endpoint)

    before = error()
    run = run_to_end_afs if afs else run_to_end
    assert isinstance(solver, LearnedAMED)
    core.train_solver(solver, grid, lambda _: train, lambda _: field, loss, FitConfig(25, 0.15), tmp_path, run=run)
    assert error() < 0.9 * before


def test_saved_and_loaded(tmp_path: Path) -> None:
    grid, field, x_T = grid_of("edm"), hooked(), noise(4)
    base = core.build_solver("dpm-solver++", order=2, thresholding=True)
    plain = core.build_solver("amed", grid=grid, r=torch.tensor([0.3, 0.5, 0.6]), scale_time=0.9)
    for solver in (plain, core.build_solver("amed-plugin", base=base, grid=grid), predicting(LearnedAMED, None, 3)):
        assert isinstance(solver, LearnedAMED)
        with torch.no_grad():
            for parameter in solver.parameters():
                parameter.add_(0.3)
        core.save(tmp_path / "s.safetensors", solver, grid=grid, field_identity="f", supervision="teacher", loss="mse")
        loaded = core.load(tmp_path / "s.safetensors")
        with torch.no_grad():
            assert torch.equal(core.integrate(field, loaded, x_T, grid).x, core.integrate(field, solver, x_T, grid).x)
    with pytest.raises(ValueError, match="expected a grid of 3 steps for this 'amed'"):
        core.integrate(field, loaded, x_T, grid_of("edm", 4))


class Simple:
    """A field of straight formulas that takes one time a sample and shows the state as its features."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return x.sin() * (1 + t)

    def with_features(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self(x, t), x.flatten(1)


@pytest.mark.parametrize("name", [None, "ipndm", "adams-bashforth"])
def test_a_predictor_works_in_the_clock_of_the_model(name: str | None) -> None:
    schedule = core.VP()
    grid, x_T = core.build_grid("logsnr", 2, schedule=schedule), noise(4, scale=1.0)
    base = None if name is None else core.build_solver(name, schedule=schedule)
    kind, own = (LearnedAMED, schedule) if base is None else (LearnedAMEDPlugin, None)
    solver = kind(AMEDConfig(grid, base, own, bound_time=0.2, bound_dir=0.1, features=6))
    assert solver.predictor is not None
    untrained = core.integrate(Simple(), solver, x_T, grid).x
    with torch.no_grad():
        solver.predictor.heads.weight.normal_(generator=torch.Generator().manual_seed(0))
    together = core.integrate(Simple(), solver, x_T, grid).x
    alone = torch.cat([core.integrate(Simple(), solver, row[None], grid).x for row in x_T])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    assert float((together - untrained).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("learned", [False, True])
def test_an_operator_takes_it_for_its_base(learned: bool, tmp_path: Path) -> None:
    grid, x_T, field = grid_of("edm", 2), noise(4)[..., None], core.MixtureField(MEANS[..., None], torch.ones(4), 0.3)
    for name, base in (("amed", None), ("amed-plugin", core.build_solver("dpm-solver++", order=2))):
        solver = core.build_solver(name, base=base, r=0.4, grid=grid if learned else None)
        lifted = core.spanlift(solver, core.ResidualConfig(2, width=4, steps=2), core.EDM())
        core.save(tmp_path / "s.safetensors", lifted, grid=grid, field_identity="f", supervision="teacher", loss="mse")
        with torch.no_grad():
            expected = core.integrate(field, solver, x_T, grid)
            for other in (lifted, core.load(tmp_path / "s.safetensors")):
                state = core.integrate(field, other, x_T, grid)
                assert torch.equal(state.x, expected.x)
                assert state.nfe == 4


def test_numbers_to_start_from_are_kept() -> None:
    r = torch.tensor([0.3, 0.5, 0.6], dtype=F64)
    grid, x_T, field = grid_of("edm"), noise(4), FIELDS["edm"][0]
    learned = core.build_solver("amed", grid=grid, r=r, scale_dir=1.02, scale_time=0.95)
    known = core.build_solver("amed", r=r, scale_dir=1.02, scale_time=0.95)
    ends = [core.integrate(field, solver, x_T, grid).x for solver in (learned, known)]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 1.0}, r"expected r strictly between 0 and 1, got 1.0"),
        ({"base": core.IPNDM(2)}, "expected a base among DPMSolver2, got IPNDM"),
        ({"base": core.build_solver("dpm-solver-2", r=0.3)}, "expected DPM-Solver-2 with r = 1/2"),
        ({"grid": grid_of("edm"), "r": torch.tensor([0.5, 0.5])}, r"expected r as one number or of shape \(3,\)"),
        ({"name": "amed-plugin"}, "expected base for 'amed-plugin', got none"),
        ({"name": "amed-plugin", "base": core.Heun()}, "expected a base among Euler, IPNDM, .*, got Heun"),
    ],
)
def test_impossible_wishes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.build_solver(**{"name": "amed", **options})


def test_what_does_not_fit_is_refused() -> None:
    grid, field, x_T = grid_of("edm"), FIELDS["edm"][0], noise(2)
    with pytest.raises(ValueError, match=r"of shape \(3,\), steps first, got \(2,\)"):
        core.integrate(field, AMED(scale_dir=torch.ones(2)), x_T, grid)
    with pytest.raises(ValueError, match="expected a field with features for a predictor, got MixtureField"):
        core.integrate(field, predicting(LearnedAMED, None, 3), x_T, grid)
    solver = predicting(LearnedAMEDPlugin, core.build_solver("dpm-solver++", order=2), 3)
    with pytest.raises(ValueError, match="expected a base that needs no grid beside a predictor"):
        core.integrate(hooked(), solver, x_T, grid)
    with pytest.raises(ValueError, match="expected no base for 'amed' and one for 'amed-plugin'"):
        LearnedAMED(AMEDConfig(grid, core.IPNDM(2)))
    with pytest.raises(ValueError, match="expected no schedule beside a base"):
        AMED(base=core.IPNDM(2), schedule=core.VP())
    with pytest.raises(ValueError, match="expected 5 features, got"):
        core.integrate(hooked(), LearnedAMED(AMEDConfig(grid, features=5)), x_T, grid)
    with pytest.raises(ValueError, match="expected Identity to run once on 2 samples"):
        HookedField(field, nn.Identity()).with_features(x_T, grid[0])

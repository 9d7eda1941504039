"""What sampling costs beside the network: our loop against that of diffusers and of k-diffusion, for the same method.

The network costs nothing (it answers with stored tensors), the state is 16 x 3 x 64 x 64, the run has 10 steps. Both
loops alternate in one process on one thread and must arrive at the same endpoint; what is compared is the median of the
ratios of neighbouring runs. Ours includes the plan of the grid and the watch for NaN; of theirs only the steps count,
not the setting up. With --benchmark-enable our time is in the table, both and their ratio in --benchmark-json.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import cache
from statistics import median
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import core

STEPS, SHAPE = 10, (16, 3, 64, 64)
SLACK = 1.1
"""Timer noise between two runs that are equally fast."""


class Loops(NamedTuple):
    """Two ways to one endpoint; `prepare` makes a run of theirs, whose setting up does not count."""

    network: Network
    ours: Callable[[], Tensor]
    prepare: Callable[[], Callable[[], Tensor]]


class Network:
    """Answers each call with the next of a few stored tensors: as of a real network, they lie in different places."""

    def __init__(self) -> None:
        self.answers = [drawn(seed) for seed in range(1, 5)]
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        answer = self.answers[self.calls % len(self.answers)]
        self.calls += 1
        return answer


@pytest.fixture(autouse=True)
def _steady() -> Iterator[None]:
    """One thread, no gradients, and a heap that keeps its pages: what malloc gives back it must ask for again."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _keep_pages(1 << 30)
    with torch.no_grad():
        yield
    _keep_pages(1 << 17)
    torch.set_num_threads(threads)


def _keep_pages(threshold: int) -> None:
    """Set glibc's thresholds of trimming (-1) and of mapping (-3); other C libraries have none."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(-1, threshold)
        library.mallopt(-3, threshold)


def drawn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


KARRAS = core.build_grid("karras", STEPS - 1, 80.0, 0.002, rho=7.0)


@cache
def k_diffusion_sampling() -> Any:
    """`k_diffusion.sampling` without the rest of that package, which asks for numpy 1 and for training frameworks."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("k-diffusion is not installed")
    package = types.ModuleType("k_diffusion")
    package.__path__, package.__spec__ = list(found.submodule_search_locations), found
    sys.modules.setdefault("k_diffusion", package)
    return pytest.importorskip("k_diffusion.sampling", reason="k-diffusion's samplers do not import")


def against_k_diffusion(sampler: str, solver: core.Solver) -> Loops:
    """Both get a denoiser in EDM's coordinates, on the same grid, which ends at sigma = 0."""
    sample = getattr(k_diffusion_sampling(), sampler)
    x_T, grid = 80 * drawn(0), torch.cat([KARRAS, KARRAS.new_zeros(1)])
    denoiser = Network()
    field = core.DenoiserField(denoiser)
    return Loops(
        denoiser,
        lambda: core.integrate(field, solver, x_T, grid).x,
        lambda: lambda: sample(denoiser, x_T, grid.float(), disable=True),
    )


def against_diffusers(scheduler: Any, solver: Callable[[core.Schedule], core.Solver]) -> Loops:
    """Both get a noise prediction of Stable Diffusion's model; grid and scale are those of the scheduler."""
    scheduler.set_timesteps(STEPS)
    in_sigma = hasattr(scheduler, "scale_model_input") and scheduler.init_noise_sigma != 1
    schedule: core.Schedule
    network = Network()
    if in_sigma:  # Euler and Heun keep x / alpha
        schedule, grid = core.EDM(), scheduler.sigmas.double().unique().flip(0)
        field: core.VelocityField = network  # its noise is dx/dt
    else:
        schedule = core.DiscreteVP(tuple(scheduler.betas.double().tolist()))
        nodes = (scheduler.timesteps.double() + 1) / len(scheduler.betas)
        grid = torch.cat([nodes, nodes.new_zeros(1)])
        field = core.NoisePredictionField(network, schedule)
    x_T = drawn(0) * float(scheduler.init_noise_sigma)
    built = solver(schedule)

    def prepare() -> Callable[[], Tensor]:
        scheduler.set_timesteps(STEPS)
        scheduler.is_scale_input_called = True
        return lambda: _loop(scheduler, network, x_T)

    return Loops(network, lambda: core.integrate(field, built, x_T, grid).x, prepare)


def _loop(scheduler: Any, network: Network, x: Tensor) -> Tensor:
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, return_dict=False)[0]
    return x


def diffusers_loops(name: str, solver: Callable[[core.Schedule], core.Solver], **options: Any) -> Callable[[], Loops]:
    def build() -> Loops:
        diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
        model = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        return against_diffusers(getattr(diffusers, name)(**model, **options), solver)

    return build


def dpm_solver_pp(schedule: core.Schedule, lower_order_final: bool = True) -> core.Solver:
    options = {"order": 2, "thresholding": False, "lower_order_final": lower_order_final}
    return core.build_solver("dpm-solver++", schedule=schedule, **options)


METHODS: dict[str, Callable[[], Loops]] = {
    "k-diffusion euler": lambda: against_k_diffusion("sample_euler", core.build_solver("euler")),
    "k-diffusion heun": lambda: against_k_diffusion("sample_heun", core.build_solver("heun")),
    "k-diffusion dpmpp_2m": lambda: against_k_diffusion("sample_dpmpp_2m", dpm_solver_pp(core.EDM(), False)),
    "diffusers Euler": diffusers_loops("EulerDiscreteScheduler", lambda _: core.build_solver("euler")),
    "diffusers Heun": diffusers_loops("HeunDiscreteScheduler", lambda _: core.build_solver("heun")),
    "diffusers DDIM": diffusers_loops(
        "DDIMScheduler", lambda schedule: core.build_solver("ddim", schedule=schedule), clip_sample=False
    ),
    "diffusers DPMSolverMultistep": diffusers_loops("DPMSolverMultistepScheduler", dpm_solver_pp, solver_order=2),
    "diffusers UniPCMultistep": diffusers_loops(
        "UniPCMultistepScheduler",
        lambda schedule: core.build_solver("unipc", order=2, schedule=schedule, thresholding=False),
        solver_order=2,
    ),
}


def in_turns(loops: Loops, rounds: int) -> tuple[float, float, float]:
    """Median processor seconds of our runs and of theirs, and of the ratio of neighbouring runs, which take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        both = [(loops.ours, times[0]), (loops.prepare(), times[1])]
        for run, taken in both if turn % 2 else both[::-1]:
            loops.network.calls = 0
            start = time.thread_time()
            run()
            taken.append(time.thread_time() - start)
    return median(times[0]), median(times[1]), median(ours / theirs for ours, theirs in zip(*times, strict=True))


def compare(loops: Loops, benchmark) -> None:
    """Time both, and hold ours to theirs; where benchmarks are disabled nothing is held to a clock."""
    benchmark(loops.ours)
    if benchmark.disabled:
        return
    ours, theirs, ratio = in_turns(loops, rounds=200)
    benchmark.extra_info.update(ours=ours, theirs=theirs, ratio=ratio)
    assert ratio < SLACK


@pytest.fixture
def loops(request: pytest.FixtureRequest) -> Loops:
    return METHODS[request.param]()


@pytest.mark.parametrize("loops", METHODS, indirect=True)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers beside numpy 2
def test_our_loop_is_no_slower(loops: Loops, benchmark) -> None:
    theirs = loops.prepare()()
    loops.network.calls = 0
    torch.testing.assert_close(loops.ours(), theirs, rtol=2e-3, atol=2e-3 * float(theirs.abs().max()))
    compare(loops, benchmark)


@pytest.mark.parametrize("trained", [False, True])
def test_learned_weights_cost_nothing_over_fixed_ones(trained: bool, benchmark) -> None:
    """DyWeight against iPNDM of as many evaluations, which it is before training."""
    denoiser, x_T = Network(), 80 * drawn(0)
    field, base = core.DenoiserField(denoiser), core.IPNDM(3)
    learned = core.build_solver("dyweight", base=base, grid=KARRAS)
    if trained:
        weights, scale = (parameter.detach().clone() for parameter in learned.parameters())  # pyright: ignore
        weights, scale = 0.97 * weights, torch.linspace(0.9, 1.02, STEPS - 1, dtype=torch.float64)
        learned = core.build_solver("dyweight", weights=weights, time_scale=scale)

    def run(solver: core.Solver) -> Callable[[], Tensor]:
        return lambda: core.integrate(field, solver, x_T, KARRAS).x

    loops = Loops(denoiser, run(learned), lambda: run(base))
    theirs = loops.prepare()()
    denoiser.calls = 0
    assert torch.equal(loops.ours(), theirs) is not trained
    compare(loops, benchmark)

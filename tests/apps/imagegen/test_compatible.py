"""diffusers' grids with their quirks, against its own schedulers and against numbers they once gave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import core
from apps.imagegen.compatible import Shift, dpm_solver, dynamic_shift, flow_match_euler, unipc
from apps.imagegen.scheduler import SpanLiftScheduler

diffusers = pytest.importorskip("diffusers")
from diffusers import (  # noqa: E402
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
X_T = torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(0))


def live(name: str, shift: float = 3.0, order: int = 2) -> Any:
    """diffusers' scheduler of a name of `COMPATIBLE`."""
    if name == "flow-match-euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    kind = DPMSolverMultistepScheduler if name == "dpm-solver++" else UniPCMultistepScheduler
    return kind(solver_order=order, flow_shift=shift, **FLOW)  # pyright: ignore[reportArgumentType]


def ours(name: str, shift: float = 3.0, order: int = 2) -> SpanLiftScheduler:
    solver = "euler" if name == "flow-match-euler" else name
    return SpanLiftScheduler(solver=solver, order=None if solver == "euler" else order, shift=shift, compatible=name)


def bent(x: Tensor, sigma: Tensor) -> Tensor:
    """Any field will do, as long as it is not linear."""
    return torch.sin(1.7 * x) + x * sigma


def run(scheduler: Any, steps: int, **asked: Any) -> Tensor:
    """The endpoint of a run; the model sees the timesteps, as it does in a pipeline."""
    scheduler.set_timesteps(steps, **asked)
    x = X_T
    for t in scheduler.timesteps:
        x = scheduler.step(bent(x, t.float() / 1000), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["flow-match-euler", "dpm-solver++", "unipc"])
def test_grids_and_timesteps_are_those_of_diffusers(name: str, shift: float, steps: int) -> None:
    theirs, own = live(name, shift), ours(name, shift)
    theirs.set_timesteps(steps)
    own.set_timesteps(steps)
    if name == "flow-match-euler":
        torch.testing.assert_close(own.timesteps, theirs.timesteps, rtol=1e-6, atol=0)
    else:
        assert own.timesteps.dtype == theirs.timesteps.dtype == torch.int64
        assert torch.equal(own.timesteps, theirs.timesteps)
    torch.testing.assert_close(own.sigmas, theirs.sigmas, rtol=3e-7, atol=0)


@pytest.mark.parametrize(
    ("name", "order"), [("dpm-solver++", 2), ("dpm-solver++", 3), ("unipc", 2), ("unipc", 3), ("flow-match-euler", 1)]
)
@pytest.mark.parametrize("steps", [3, 5, 16])
def test_runs_end_where_those_of_diffusers_do(name: str, order: int, steps: int) -> None:
    theirs, own = run(live(name, order=order), steps), run(ours(name, order=order), steps)
    torch.testing.assert_close(own, theirs, rtol=0, atol=3e-5)
    sane = SpanLiftScheduler(solver="euler" if order == 1 else name, order=None if order == 1 else order, shift=3.0)
    assert float((run(sane, steps) - theirs).abs().max()) > 1e-4  # the quirks are worth something


def test_the_documented_quirks(shared: Path) -> None:
    """Facts, not code: five steps, shift 3."""
    sigmas, timesteps = flow_match_euler(5, Shift(3.0), 1000)
    torch.testing.assert_close(
        sigmas, torch.tensor([1, 0.90036, 0.75112, 0.50299, 0.00893, 0]).double(), rtol=0, atol=1e-5
    )
    sigmas, timesteps = dpm_solver(5, Shift(3.0), 1000)
    torch.testing.assert_close(
        sigmas, torch.tensor([0.99967, 0.92272, 0.81781, 0.6663, 0.42827, 0]).double(), rtol=0, atol=1e-5
    )
    assert timesteps.tolist() == [999, 922, 817, 666, 428]
    sigmas, timesteps = unipc(5, Shift(3.0), 1000)
    torch.testing.assert_close(
        sigmas, torch.tensor([0.999999, 0.92317, 0.81843, 0.66722, 0.42979, 0]).double(), rtol=0, atol=1e-5
    )
    golden = np.load(shared / "golden" / "golden_solvers.npz", allow_pickle=False)
    for name, grid in (("fme_default", flow_match_euler), ("dpm2_flow", dpm_solver), ("unipc2_flow", unipc)):
        for steps in (3, 5, 8, 20):
            key = f"diffusers_sched/{name}_shift3/n{steps}"
            own = grid(steps, Shift(3.0), 1000)
            np.testing.assert_allclose(own.sigmas, golden[f"{key}/sigmas"], rtol=3e-7)
            np.testing.assert_allclose(own.timesteps, golden[f"{key}/timesteps"], rtol=3e-7)


def test_explicit_sigmas_and_dynamic_shift() -> None:
    even = np.linspace(1, 1 / 6, 6)
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    own = SpanLiftScheduler.from_config(dynamic.config, solver="euler", compatible="flow-match-euler")
    for asked in ({"sigmas": even.tolist()}, {"num_inference_steps": 6}):
        dynamic.set_timesteps(**asked, mu=0.8)  # pyright: ignore[reportArgumentType]
        own.set_timesteps(**asked, mu=0.8)
        torch.testing.assert_close(own.sigmas, dynamic.sigmas, rtol=1e-6, atol=0)
    sane = SpanLiftScheduler.from_config(dynamic.config, solver="euler")
    dynamic.set_timesteps(sigmas=even.tolist(), mu=0.8)
    for asked in ({"sigmas": even.tolist()}, {"num_inference_steps": 6}):  # the sane grid is the one of even sigmas
        sane.set_timesteps(**asked, mu=0.8)
        torch.testing.assert_close(sane.sigmas, dynamic.sigmas, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(sane.timesteps, dynamic.timesteps, rtol=1e-6, atol=1e-4)
    assert dynamic_shift(0.8, "linear") == 0.8
    with pytest.raises(ValueError, match="time_shift_type"):
        dynamic_shift(0.8, "cubic")
    with pytest.raises(ValueError, match="expected mu"):
        sane.set_timesteps(6)


def test_terminal_shift_is_that_of_diffusers() -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=2.0, shift_terminal=0.1)
    own = SpanLiftScheduler.from_config(theirs.config, solver="euler")
    even = np.linspace(1, 1 / 5, 5).tolist()
    theirs.set_timesteps(sigmas=even)
    own.set_timesteps(sigmas=even)
    torch.testing.assert_close(own.sigmas, theirs.sigmas, rtol=1e-6, atol=1e-7)
    own.set_timesteps(5)
    torch.testing.assert_close(own.sigmas, theirs.sigmas, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "asked", "message"),
    [
        ({"compatible": "heun"}, {}, "expected compatible among"),
        ({"compatible": "unipc", "kind": "noise"}, {}, "expected a flow"),
        ({"compatible": "unipc", "grid": "uniform"}, {}, "expected a flow and no grid"),
        ({"compatible": "dpm-solver++"}, {"sigmas": [1.0, 0.5]}, "expected no sigmas"),
        ({"compatible": "unipc"}, {"timesteps": [999.0, 500.0]}, "expected no timesteps"),
    ],
)
def test_bad_options_are_one_line(options: Mapping[str, Any], asked: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:  # noqa: PT012 (either may refuse)
        scheduler = SpanLiftScheduler(**options)
        scheduler.set_timesteps(**asked)
    assert "\n" not in str(refused.value)


MIXTURES = ("r2", "img8")
GOLDEN = {  # name: how our scheduler is built, what it is asked
    "fme_default_shift3": ({"solver": "euler", "compatible": "flow-match-euler"}, False),
    "fme_explicit_sigmas_shift3": ({"solver": "euler"}, False),
    "fme_dyn_mu1.0": ({"solver": "euler", "use_dynamic_shifting": True}, True),
    "dpm2_flow_shift3": ({"solver": "dpm-solver++", "order": 2, "compatible": "dpm-solver++"}, False),
    "dpm3_flow_shift3": ({"solver": "dpm-solver++", "order": 3, "compatible": "dpm-solver++"}, False),
    "unipc2_flow_shift3": ({"solver": "unipc", "order": 2, "compatible": "unipc"}, False),
    "unipc3_flow_shift3": ({"solver": "unipc", "order": 3, "compatible": "unipc"}, False),
}


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_endpoints(name: str, mixture: str, shared: Path) -> None:
    """Ours in float64, theirs in float32; the explicit and the dynamic grid are the sane ones, which we have anyway."""
    golden = np.load(shared / "golden" / "golden_solvers.npz", allow_pickle=False)
    options, dynamic = GOLDEN[name]
    means, stds, weights = (
        torch.from_numpy(golden[f"gmm/{mixture}/{part}"]).double() for part in ("means", "stds", "weights")
    )
    field = core.MixtureField(means, weights, stds, core.RectifiedFlow())
    scheduler = SpanLiftScheduler(**options)  # pyright: ignore[reportArgumentType]
    x_T = torch.from_numpy(golden[f"latents_unit/{mixture}"]).double()
    found = 0
    for steps in (3, 5, 8, 20):
        key = f"diffusers0.42.1|{name}|nfe{steps}|{mixture}|f32"
        if key not in golden.files:
            continue
        found += 1
        scheduler.set_timesteps(steps, mu=1.0 if dynamic else None)
        x = x_T
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.double(), strict=False):
            x = scheduler.step(field(x, sigma), t, x, return_dict=False)[0]  # pyright: ignore[reportIndexIssue]
        np.testing.assert_allclose(x, golden[key], rtol=0, atol=2e-4, err_msg=key)
    assert found

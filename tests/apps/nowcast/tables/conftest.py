"""Methods scored on a handful of random events, whose scores can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from apps.nowcast.evaluation import Scored
from apps.nowcast.methods import Method
from apps.nowcast.metrics import Statistics
from apps.nowcast.verification.events import event_sums
from data_tools.quantities import VIL

EVENTS, MEMBERS, LEADS, HEIGHT, WIDTH = 6, 3, 2, 18, 20


def scored(
    label: str, name: str, supervision: str | None, steps: int | None, error: float, smoothing: float = 0.0
) -> Scored:
    """A method whose members are the truth times noise of strength `error`, mixed with its mean by `smoothing`."""
    rows = []
    for number in range(EVENTS):
        rng = np.random.default_rng(number)
        truth = rng.gamma(0.6 + 0.1 * number, 80.0, (LEADS, HEIGHT, WIDTH)).clip(0, 254).astype(np.float32)
        noise = rng.uniform(1 - error, 1 + error, (MEMBERS, LEADS, HEIGHT, WIDTH))
        members = (1 - smoothing) * truth * noise + smoothing * truth.mean()
        rows.append((f"event {number}", event_sums(members.clip(0, 254).astype(np.float32), truth, VIL)))
    return Scored(Method(label, name, supervision, steps), steps or 0, Statistics.stack(rows), np.empty(0))


@pytest.fixture(scope="session")
def methods() -> list[Scored]:
    """DDIM at two numbers of steps, the fewer the smoother, a better SpanLift, and what needs no network."""
    return [
        scored("ddim-5", "ddim", None, 5, 0.5, 0.3),
        scored("persistence", "persistence", None, None, 0.9),
        scored("ddim-2", "ddim", None, 2, 0.5, 0.6),
        scored("spanlift-5 (target)", "SpanLift", "target", 5, 0.1),
    ]

"""Numbers of sampling steps as text: `2:10` for a range to train on, `2,3,5:7` for those to sample with.

Every base of the nowcast evaluates the network once a step, so that these are also counts of network evaluations.
"""

from __future__ import annotations

from core.supervision import draw
from data_tools.cli import UserError

StepRange = tuple[int, int]
"""Smallest and largest number of steps."""

MOST = 1000
"""Steps of the diffusion that the networks are trained for; more would land between them."""


def parse_range(text: str) -> StepRange:
    """`2:10` -> (2, 10).

    Raises:
        UserError: something else, or a range of fewer than two numbers.
    """
    low, _, high = text.partition(":")
    if not (low.strip().isdecimal() and high.strip().isdecimal() and 1 <= int(low) < int(high) <= MOST):
        bounds = f"1 <= FIRST < LAST <= {MOST}"
        raise UserError(f"expected --nfe FIRST:LAST with {bounds}, e.g. 2:10, got {text!r}; see also --steps")
    return int(low), int(high)


def parse_counts(text: str) -> tuple[int, ...]:
    """`2,3,5:7` -> (2, 3, 5, 6, 7): ascending, each once.

    Raises:
        UserError: something else.
    """
    counts: set[int] = set()
    for part in text.split(","):
        ends = [end.strip() for end in part.split(":")]
        if len(ends) > 2 or not all(map(str.isdecimal, ends)) or not 1 <= int(ends[0]) <= int(ends[-1]) <= MOST:
            raise UserError(f"expected --nfe as numbers of steps from 1 to {MOST}, e.g. 2,3,5 or 2:10, got {text!r}")
        counts.update(range(int(ends[0]), int(ends[-1]) + 1))
    return tuple(sorted(counts))


def draw_count(steps: StepRange, iteration: int, seed: int) -> int:
    """The number of steps of a training iteration: one shuffle of the range after another, so that all come equally
    often."""
    low, high = steps
    (count,) = draw([str(count) for count in range(low, high + 1)], 1, iteration, seed)
    return int(count)

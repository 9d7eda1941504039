"""Path supervision: the student is compared with its teacher at every node of its grid, not at the end alone.

The published training of AMED (arXiv 2312.00094) and EPD (arXiv 2507.14797), and what DyWeight compares itself with
(arXiv 2603.11607, appendix C). Use a `PathTeacher` in the place of a `Teacher`, a `RunAlongPath` as the
`run` of `core.train_solver`, and a `PathLoss` in its loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from core.losses import Distance
from core.rematerialisation import Rematerialised, bound_to, rematerialised
from core.state import Evaluation, Solver, State, VelocityField, plan, trajectory
from core.supervision import Example, Teacher

NODE_TOLERANCE = 1e-9
"""Relative: how far rounding may put a teacher's node from the student's."""
Continuation = Literal["teacher", "detached", "joint"]


def refined(grid: Tensor, inserted: int, rho: float = 7.0) -> Tensor:
    """A grid with `inserted` more times in each interval, even in t^(1 / rho); its nodes stay to the last bit.

    With rho as that of a Karras grid in EDM's clock it is the Karras grid of so many more steps, as AMED's teachers
    have it; 1 is even in time.

    Args:
        grid: (steps + 1,) descending, not negative.

    Returns:
        (steps * (inserted + 1) + 1,), float64.

    Raises:
        ValueError: inserted < 0 or rho <= 0.
    """
    if inserted < 0 or rho <= 0:
        raise ValueError(f"expected inserted >= 0 and rho > 0, got {inserted} and {rho}; AMED inserts 1 or 2")
    share = torch.arange(1, inserted + 1, dtype=torch.float64, device=grid.device) / (inserted + 1)
    times = [grid[:1].double()]
    for t, t_next in itertools.pairwise(grid.double()):
        ends = t ** (1 / rho), t_next ** (1 / rho)
        times += [torch.lerp(*ends, share) ** rho, t_next[None]]
    return torch.cat(times)


class PathTeacher(Teacher):
    """States of many-step rollouts at the nodes of a student's grid, computed once and kept like a `Teacher`'s
    endpoints: `endpoints(keys)` are (len(keys), steps, C, *space), all nodes but the first, which is x_T.

    Args:
        solver: the teacher's solver.
        grid: its grid, with every node of the student's among its own, see `refined`.
        nodes: the student's grid (steps + 1,).
        directory, identity: see `Teacher`.

    Raises:
        ValueError: a node that the teacher does not visit, or see `Teacher`.
    """

    name = "teacher-path"

    def __init__(
        self, solver: Solver, grid: Tensor, nodes: Tensor, directory: Path, identity: Mapping[str, Any] | str
    ) -> None:
        nodes, times = nodes.detach().double(), grid.detach().double()
        off, self._visits = (times[:, None] - nodes).abs().min(0)
        lost = (off > NODE_TOLERANCE * nodes.abs()) | (self._visits.diff(prepend=self._visits[:1] - 1) <= 0)
        if self._visits[0] != 0 or bool(lost.any()):
            raise ValueError(
                f"expected a teacher that starts at {float(nodes[0]):g} and visits the nodes {nodes.tolist()}, got the "
                f"grid {times.tolist()}; make it with core.path_supervision.refined"
            )
        super().__init__(solver, grid, directory, {"of": identity, "nodes": nodes.tolist()})

    def _rollout(self, field: VelocityField, x_T: Tensor) -> Tensor:
        wanted = set(self._visits[1:].tolist())
        states = trajectory(field, self.solver, x_T, self.grid)
        return torch.stack([state.x for step, state in enumerate(states) if step in wanted], dim=1)


@dataclass(frozen=True, slots=True)
class RunAlongPath:
    """Runs a student over its grid: (solver, field, example, grid) -> its states (B, steps, C, *space) at all nodes but
    the first. `example.endpoint` holds the teacher's at the same nodes, see `PathTeacher`.

    Attributes:
        continuation: from where the student takes its next step:
            "teacher"   from the teacher's state, so that each step is one problem (AMED's, for single-step students);
            "detached"  from its own state and history, without gradients to earlier steps (AMED's, for multistep ones);
            "joint"     from its own, with them (EPD's, DyWeight's).
        afs: analytic first step.
        rematerialise: see `core.rollout`.

    Raises:
        ValueError: an unknown continuation.
    """

    continuation: Continuation = "joint"
    afs: bool = False
    rematerialise: bool = True

    def __post_init__(self) -> None:
        if self.continuation not in get_args(Continuation):
            known = ", ".join(get_args(Continuation))
            raise ValueError(f"expected a continuation among {known}, got {self.continuation!r}; 'joint' is usual")

    def __call__(self, solver: Solver, field: VelocityField, example: Example, grid: Tensor) -> Tensor:
        """See the class; raises ValueError for references of another shape, or a history with "teacher"."""
        _check_reference(example, grid)
        student = (rematerialised if self.rematerialise else bound_to)(solver, example.condition)
        field = Rematerialised(field) if self.rematerialise else field
        if self.continuation == "teacher" and student.memory > 1:
            raise ValueError(
                f"expected a single-step student to go on from the teacher's states, got one that remembers "
                f"{student.memory} evaluations; use 'detached' or 'joint'"
            )
        state = next(trajectory(field, student, example.x_T, grid, self.afs))
        student = plan(student, grid)
        states = []
        for step, t_next in enumerate(grid.double().unbind()[1:]):
            state = student.step(field, state, t_next)
            states.append(state.x)
            if self.continuation == "teacher":
                state = replace(state, x=example.endpoint[:, step].to(state.x), buffer=())
            elif self.continuation == "detached":
                state = detached(state)
        return torch.stack(states, dim=1)


def detached(state: State) -> State:
    """The same state without a past in the graph; tensors that are one stay one."""
    seen: dict[int, Tensor] = {}

    def cut(tensor: Tensor) -> Tensor:
        return seen.setdefault(id(tensor), tensor.detach())

    buffer = tuple(Evaluation(*(cut(value) for value in evaluation)) for evaluation in state.buffer)
    return replace(state, x=cut(state.x), t=cut(state.t), buffer=buffer)


def _check_reference(example: Example, grid: Tensor) -> None:
    batch, *space = example.x_T.shape
    expected = (batch, len(grid) - 1, *space)
    if example.endpoint.shape != expected:
        raise ValueError(
            f"expected the teacher's states as {expected}, one for each node but the first, got "
            f"{tuple(example.endpoint.shape)}; use a PathTeacher with these nodes"
        )


@dataclass(frozen=True, slots=True)
class PathLoss:
    """Weighted sum of a distance over the nodes of two paths (B, steps, ...); it is a `Distance` itself.

    Attributes:
        distance: at each node.
        last: at the last one, e.g. of features; None is `distance`.
        weights: one a node, () for ones; (0, ..., 0, 1) compares the endpoints alone.

    Raises:
        ValueError: weights that are all 0.
    """

    distance: Distance
    last: Distance | None = None
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.weights and not any(self.weights):
            raise ValueError(f"expected a weight that is not 0, got {self.weights}; leave them out for ones")

    @property
    def name(self) -> str:
        parts = [self.distance.name] if self.last is None else [self.distance.name, self.last.name]
        return f"path({', '.join(parts)}{f', weights={list(self.weights)}' if self.weights else ''})"

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        """(B, steps, ...) twice -> (); raises ValueError for other shapes or numbers of nodes."""
        if prediction.shape != reference.shape:
            raise ValueError(
                f"expected two paths of one shape, got {tuple(prediction.shape)} and {tuple(reference.shape)}; "
                "compare the run of a RunAlongPath with the states of a PathTeacher"
            )
        steps = prediction.shape[1]
        weights = self.weights or (1.0,) * steps
        if len(weights) != steps:
            raise ValueError(f"expected {steps} weights, one a node, got {len(weights)}; leave them out for ones")
        distances = [self.distance] * (steps - 1) + [self.last or self.distance]
        terms = [
            weight * distance(prediction[:, node], reference[:, node])
            for node, (weight, distance) in enumerate(zip(weights, distances, strict=True))
            if weight
        ]
        return torch.stack(terms).sum()

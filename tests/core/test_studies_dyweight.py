"""The numerical study of DyWeight (its section 3.2): the teacher, and what is kept between steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from core.studies import CoefficientStudy, CoupledDrift, study_coefficients, teacher_errors

F64 = torch.float64
STUDY = CoefficientStudy(problems=3, dimension=7, starts=2, held_out=4, iterations=20)


def test_a_teacher_of_many_steps_is_as_good_as_the_truth(tmp_path: Path) -> None:
    """Observation 4: against the best of few steps, on the same problems and starts."""
    easy, hard = teacher_errors(STUDY, (5, 12))
    assert easy.mean < hard.mean < 1e-3
    row = study_coefficients(STUDY, [(12, 8)], tmp_path, orders=(4,))[0]
    assert hard.high < 0.02 * row.optimised.low
    coarse = teacher_errors(STUDY, (12,), steps=25)[0]
    assert 2.5**4 < coarse.mean / hard.mean < 6**4  # order 4, with four times the steps


def test_the_teacher_is_ab4_from_exact_states_on_the_same_problems(tmp_path: Path) -> None:
    """With the steps of a student it is the standard method of that study."""
    row = study_coefficients(replace(STUDY, iterations=1), [(6, 9)], tmp_path, orders=(4,))[0]
    assert teacher_errors(STUDY, (6,), steps=9)[0] == row.standard


def test_the_drift_is_the_same_where_a_time_is_asked_for_again() -> None:
    field = CoupledDrift(2, 5, 3, torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=F64)
    t = torch.tensor(0.3, dtype=F64)
    first, other = field(x, t), field(x, 0.5 * t)
    assert torch.equal(field(x, t), first)
    assert not torch.equal(other, first)
    rate = torch.stack([k * field.coefficients[..., k] * 0.7 ** (k - 1) for k in (1, 2, 3)]).sum(0)
    truth = torch.stack([field.coefficients[..., k] * 0.7**k for k in (0, 1, 2, 3)]).sum(0)
    expected = -(rate[:, None] + torch.einsum("pij,psj->psi", field.coupling, x - truth[:, None]))
    torch.testing.assert_close(first, expected)
    learned = t.clone().requires_grad_()  # a time that is learned keeps its gradient
    with torch.no_grad():
        rise = (field(x, t + 1e-6) - field(x, t - 1e-6)).sum() / 2e-6
    torch.testing.assert_close(torch.autograd.grad(field(x, learned).sum(), learned)[0], rise)

"""Every option of every solver by name: what it cannot be is refused in one line that says what it can be."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import core
from core.solvers.options import KINDS, SolverOptions

F64 = torch.float64
NAN = float("nan")
GRID = core.build_grid("karras", 4, 80.0, 0.002)
NEEDED: dict[str, Any] = {
    "schedule": core.VP(),
    "base": core.IPNDM(2),
    "grid": GRID,
    "statistics": core.ModelStatistics.degenerate(core.EDM(), GRID, "data", 2),
    "operator": core.ScalarConfig(4),
}
EPD = {"weights": torch.tensor([0.4, 0.6], dtype=F64), "r": 0.5}
OWN: dict[str, dict[str, Any]] = {
    "s4s-ss": {"base": core.Heun()},
    "epd": EPD,
    "epd-plugin": EPD,
    "dyweight": {"grid": GRID},
}
NO_NUMBER: list[Any] = ["half", NAN, float("inf"), True, [0.5], torch.tensor([0.5, NAN]), 1j, object()]
NO_COUNT: list[Any] = ["3", 2.0, True, 0, -1, NAN, [3], torch.tensor(3)]
NO_TABLE: list[Any] = [[[1.0]], "w", torch.tensor([[NAN]]), torch.zeros(0, 0), torch.tensor(1.0), np.eye(2)]
NO_TRUTH: list[Any] = ["yes", 1, 0.0]
WRONG: dict[str, list[Any]] = {
    "order": [*NO_COUNT, 99],
    "schedule": ["vp", core.VP, 3, GRID, [core.VP()]],
    "seeds": ["ab", 3, [1.5], [], ["a"], [True]],
    "r": [*NO_NUMBER, 0.0, -1, 1.5],
    "prediction": ["x", "Data", 1, True],
    "variant": ["bh3", 2],
    "thresholding": NO_TRUTH,
    "lower_order_final": NO_TRUTH,
    "reference_compatible": NO_TRUTH,
    "base": ["ipndm", core.IPNDM, 3, GRID],
    "grid": [
        [80.0, 1.0],
        "karras",
        GRID.numpy(),
        GRID.flip(0),
        GRID[:1],
        GRID[None],
        torch.tensor([1.0, NAN]),
        torch.tensor([1.0, -1.0]),
        torch.tensor([1.0, 1.0]),
    ],
    "history": NO_COUNT,
    "points": NO_COUNT,
    "weights": NO_TABLE,
    "time_scale": NO_TABLE,
    "scale_dir": NO_NUMBER,
    "scale_time": [*NO_NUMBER, 0.0, -1.0],
    "statistics": ["s.safetensors", 3, core.ModelStatistics],
    "operator": ["spatial", 3, core.ResidualConfig],
}


def build(name: str, **options: Any) -> core.Solver:
    whole = {option: NEEDED[option] for option in core.SOLVERS[name].needs} | OWN.get(name, {}) | options
    return core.build_solver(name, **whole)


def test_the_options_are_those_of_the_signature() -> None:
    named = [p.name for p in inspect.signature(core.build_solver).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert named == list(KINDS) == list(SolverOptions.__dataclass_fields__)
    assert set(WRONG) == set(KINDS)
    assert all(set(entry.needs) <= set(entry.takes) <= set(KINDS) for entry in core.SOLVERS.values())


@pytest.mark.parametrize("name", core.SOLVERS)
def test_what_is_needed_is_enough(name: str) -> None:
    assert hasattr(build(name), "step")


@pytest.mark.parametrize("name", core.SOLVERS)
def test_every_wrong_value_is_refused_in_one_line(name: str) -> None:
    for option in core.SOLVERS[name].takes:
        for value in WRONG[option]:
            with pytest.raises(ValueError, match=r"^expected ") as refused:
                build(name, **{option: value})
            line = str(refused.value)
            assert option in line.replace("evaluations to weigh", "order")
            assert "\n" not in line
            assert len(line) < 300
            assert ", got " in line


@pytest.mark.parametrize("name", core.SOLVERS)
def test_options_of_other_solvers_are_refused_with_the_own_ones(name: str) -> None:
    takes = core.SOLVERS[name].takes
    for option in KINDS:
        if option not in takes and not (option == "order" and core.SOLVERS[name].order == 2):
            value = NEEDED.get(option, 2)
            with pytest.raises(
                ValueError, match=f"expected no {option} for '{re.escape(name)}', got .*; it"
            ) as refused:
                build(name, **{option: value})
            assert str(refused.value).endswith(", ".join(takes))


@pytest.mark.parametrize("name", core.SOLVERS)
def test_a_misspelt_option_is_refused_with_the_nearest(name: str) -> None:
    option = max(core.SOLVERS[name].takes, key=len)
    with pytest.raises(TypeError, match="expected an option among") as refused:
        build(name, **{f"{option}s": 1})
    for known in core.SOLVERS[name].takes:
        assert known in str(refused.value)
    assert f"did you mean {option!r}" in str(refused.value)


@pytest.mark.parametrize("name", core.SOLVERS)
def test_a_misspelt_solver_is_refused_with_the_nearest(name: str) -> None:
    wrong = name[:1] + name[1:].replace("-", "_") + "_"
    with pytest.raises(ValueError, match="expected a solver among") as refused:
        core.build_solver(wrong)
    if len(name) > 3:
        assert "did you mean" in str(refused.value)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 6),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.floats(), max_size=3),
    st.lists(st.floats(0, 2, width=32), min_size=1, max_size=9).map(torch.tensor),
    st.lists(st.integers(-2, 9), min_size=2, max_size=4).map(torch.tensor),
    st.sampled_from([core.VP(), core.IPNDM(3), GRID, GRID.float(), torch.eye(4), torch.ones(4, 4).tril(), object()]),
)


def refusal(name: str, options: dict[str, Any]) -> str | None:
    """What is said of the options, None where there is a solver."""
    try:
        solver = build(name, **options)
    except ValueError as error:
        return str(error)
    assert callable(solver.step)
    assert solver.memory >= 1
    return None


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(sorted(core.SOLVERS)), data=st.data())
def test_whatever_is_passed_there_is_a_solver_or_a_clear_refusal(name: str, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(sorted(KINDS)), max_size=3, unique=True))
    said = refusal(name, {option: data.draw(JUNK) for option in chosen})
    assert said is None or (said.startswith("expected ") and "\n" not in said)


def test_numbers_of_numpy_are_numbers() -> None:
    solver = core.build_solver("ipndm", order=np.int64(3))  # pyright: ignore[reportArgumentType]
    assert type(solver.memory) is int
    place = np.float32(0.5)
    assert core.build_solver("dpm-solver-2", r=place) == core.build_solver("dpm-solver-2")  # pyright: ignore

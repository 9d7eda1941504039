"""What a cell of a table is made of: found, lacking with the command that makes it, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from apps.imagegen.methods import MethodOptions
from apps.imagegen.models import ImageModel
from apps.imagegen.tables.ingredients import Impossible, Missing, Ready, Refused, find, folder_of
from apps.imagegen.tables.lines import BASES, METHODS, OPERATORS

Put = Callable[..., Path]


def test_ingredients(tiny: ImageModel, put_solver: Put, tmp_path: Path) -> None:
    folder = str(tmp_path)
    handcrafted = find(tiny, "tiny", METHODS[0], 4, folder)
    assert isinstance(handcrafted, Ready)
    assert (len(handcrafted.sampler.grid), handcrafted.sampler.afs) == (6, True)
    dyweight = next(line for line in METHODS if line.solver == "dyweight")
    lacking = find(tiny, "tiny", dyweight, 4, folder)
    assert isinstance(lacking, Missing)
    assert lacking.command.endswith(f"--solver dyweight --base ipndm --nfe 4 --afs true --out {folder}/dyweight-nfe4")
    put_solver(tiny, tmp_path / "dyweight-nfe4", MethodOptions("dyweight", 4, afs=True))
    found = find(tiny, "tiny", dyweight, 4, folder)
    assert isinstance(found, Ready)
    assert found.source == f"{folder}/dyweight-nfe4/solver.safetensors"
    assert found.sampler.sample(tiny, [0])[1] == 4
    spanlift = next(line for line in METHODS if line.solver == "spanlift")
    alone, after = (find(tiny, "tiny", spanlift, nfe, folder) for nfe in (4, 5))
    assert isinstance(alone, Missing)
    assert isinstance(after, Missing)  # its base is not there either
    assert alone.command.split(" && ") == [spanlift.train_command("tiny", 4, folder)]
    both = [dyweight.train_command("tiny", 5, folder), spanlift.train_command("tiny", 5, folder)]
    assert after.command.split(" && ") == both
    epd = next(line for line in METHODS if line.solver == "epd")
    assert isinstance(find(tiny, "tiny", epd, 1, folder), Impossible)


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        (MethodOptions("ld3", 3, afs=True), {}, "expected the solver of 'DyWeight' (dyweight)"),
        (MethodOptions("dyweight", 3, afs=False), {}, "expected --afs true"),
        (MethodOptions("dyweight", 4, afs=True), {}, "expected --nfe 4"),
        (MethodOptions("dyweight", 3, afs=True), {"identity": "0" * 64}, "trained for the model tiny"),
        (MethodOptions("dyweight", 3, afs=True), {"sampling": [1]}, "expected sampling with afs"),
    ],
)
def test_a_solver_of_another_cell_is_refused(
    spec: MethodOptions, changes: dict, message: str, tiny: ImageModel, put_solver: Put, tmp_path: Path
) -> None:
    put_solver(tiny, tmp_path / "dyweight-nfe3", spec, **changes)
    line = next(line for line in METHODS if line.solver == "dyweight")
    found = find(tiny, "tiny", line, 3, str(tmp_path))
    assert isinstance(found, Refused)
    assert message in found.reason
    assert "\n" not in found.reason


def test_operators_and_bases_are_told_apart(tiny: ImageModel, put_solver: Put, tmp_path: Path) -> None:
    wide = MethodOptions("spanlift", 3, afs=True, base="ipndm", kernel=5, width=4)
    put_solver(tiny, tmp_path / "spanlift-ipndm-nfe3", wide)
    line = next(line for line in BASES if line.key == "spanlift-ipndm")
    found = find(tiny, "tiny", line, 3, str(tmp_path))
    assert isinstance(found, Refused)
    assert "(spanlift, kernel 3, over ipndm)" in found.reason
    assert "got spanlift, kernel 5, over ipndm" in found.reason
    point = MethodOptions("spanlift", 3, afs=True, base="dyweight", operator="pointwise", width=4)
    put_solver(tiny, tmp_path / "spanlift-pointwise-nfe3", point)
    pointwise = next(line for line in OPERATORS if line.key == "spanlift-pointwise")
    assert isinstance(find(tiny, "tiny", pointwise, 3, str(tmp_path)), Ready)


def test_solvers_of_models_that_share_a_name_do_not_meet(tiny: ImageModel) -> None:
    places = {folder_of(model) for model in (tiny, replace(tiny, identity="f" * 64), replace(tiny, name="other"))}
    assert len(places) == 3
    assert all(Path(place).parent == Path("out/solvers") for place in places)
    assert folder_of(replace(tiny, name="../a b")) == f"out/solvers/.._a_b-{tiny.identity[:8]}"

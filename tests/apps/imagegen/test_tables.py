"""Cells on disk, tables as text and pictures, and the commands that make what is missing."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

import core
from apps.imagegen.benchmark import BenchmarkOptions, main
from apps.imagegen.published import load_published
from apps.imagegen.tables.lines import BASES, METHODS, OPERATORS, SPAN_LINES, SPECS, Line
from apps.imagegen.tables.plot import plot_table
from apps.imagegen.tables.store import Store
from apps.imagegen.tables.table import Cell, Filled, as_csv, as_json, exactly, screen_table, shown, write
from core.intervals import Interval
from data_tools.cli import UserError

PUBLISHED = load_published()
IDENTITY = {"model": "abc", "nfe": 3, "range": (1, 2)}


def test_a_cell_is_measured_once(tmp_path: Path) -> None:
    store, calls = Store(tmp_path / "cells"), []

    def make() -> dict[str, float]:
        calls.append(1)
        return {"value": 0.1}

    assert store.read("cell", IDENTITY) is None
    assert store.fill("cell", IDENTITY, make) == store.fill("cell", IDENTITY, make) == {"value": 0.1}
    assert len(calls) == 1
    assert [path.suffix for path in store.folder.iterdir()] == [".json"]
    store.fill("cell", IDENTITY | {"nfe": 4}, make)
    assert len(calls) == 2


def test_a_cell_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.fill("cell", IDENTITY, lambda: {"value": 1 / 0})
    with pytest.raises(ValueError, match="JSON"):
        store.fill("cell", IDENTITY, lambda: {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged"),
        ('{"identity": 3}', "damaged"),
        ("[]", "damaged"),
        ('{"identity": {"model": "other"}, "result": {}}', "expected the cell of"),
        ('{"identity": {"model": "abc", "nfe": 3, "range": [1, 2]}, "result": 5}', "expected the cell of"),
    ],
)
def test_a_damaged_or_foreign_cell_is_refused(content: str, message: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path("cell", IDENTITY).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        store.read("cell", IDENTITY)
    assert "remove it" in str(error.value)


def filled(columns: tuple[str, ...] = ("3", "4"), published: bool = True) -> Filled:
    paper = {"published": 8.16, "source": "SpanLift, Table 2(a)"} if published else {}
    rows = {
        "first [x]": (
            Cell("measured", Interval(12.345678, 11.0, 13.5), details={"precision": 0.5}, **paper),
            Cell("missing", why="python -m make second", **paper),
        ),
        "second": (Cell("impossible", why="takes odd numbers"), Cell("measured", exactly(2.0))),
        "third": (Cell("missing", why="python -m make second"), Cell("failed", why="not finite")),
    }
    return Filled("name", "Title", "FD", "NFE", columns, rows, ("a note",))


def test_table_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    Console(width=160).print(screen_table(filled()))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["method", "NFE 3", "published", "NFE 4", "published"]
    assert cells[2] == ["first [x]", "12.35 [11, 13.5]", "8.16", "missing", "8.16"]
    assert cells[3] == ["second", "-", "", "2", ""]
    assert cells[4] == ["third", "missing", "", "failed", ""]
    assert shown(Cell("measured", Interval(1.0, 0.5, 1.5))) == "1 [0.5, 1.5]"


def test_json_and_csv_say_the_same(tmp_path: Path) -> None:
    write(filled(), {"seed": 0}, tmp_path / "t.json", tmp_path / "t.csv")
    content = json.loads((tmp_path / "t.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content == json.loads(json.dumps(as_json(filled(), {"seed": 0})))
    assert content["missing"] == ["python -m make second"]
    assert content["rows"][0] == {
        "method": "first [x]",
        "nfe": "3",
        "status": "measured",
        "ours": {"value": 12.345678, "ci95": [11.0, 13.5]},
        "published": 8.16,
        "source": "SpanLift, Table 2(a)",
        "why": "",
        "details": {"precision": 0.5},
    }
    rows = list(csv.DictReader(io.StringIO(as_csv(filled()))))
    assert len(rows) == len(content["rows"]) == 6
    for line, row in zip(rows, content["rows"], strict=True):
        assert (line["method"], line["nfe"], line["status"]) == (row["method"], row["nfe"], row["status"])
        assert line["value"] == ("" if row["ours"] is None else repr(row["ours"]["value"]))
        assert line["published"] == ("" if row["published"] is None else repr(row["published"]))


@pytest.mark.parametrize(("columns", "published"), [(("3", "4"), True), (("a", "b"), True), (("3", "4"), False)])
def test_picture(columns: tuple[str, ...], published: bool, tmp_path: Path) -> None:
    plot_table(filled(columns, published), tmp_path / "t.png")
    with Image.open(tmp_path / "t.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > image.height > 300
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10
    width = image.width
    plot_table(filled(columns, not published), tmp_path / "u.png")
    with Image.open(tmp_path / "u.png") as image:
        assert (image.width > width) == (not published)


def test_rows_are_solvers_that_exist_and_have_keys_of_their_own() -> None:
    for spec in SPECS.values():
        labels = [line.label for line in spec.lines]
        assert len(set(labels)) == len(labels)
        keys = [line.key for line in spec.lines if line.learned]
        assert len(set(keys)) == len(keys)
        for line in spec.lines:
            assert line.solver in core.SOLVERS
            assert line.base is None or line.base in core.SOLVERS
    same = {}
    for line in (*METHODS, *OPERATORS, *BASES):  # one folder is one solver, whichever table asks for it
        if line.learned:
            asked = (line.solver, line.base, line.operator, line.kernel)
            assert same.setdefault(line.key, asked) == asked


def test_heun_takes_the_steps_of_the_others() -> None:
    """SpanLift, Table 5: 15, 19 and 23 calls in the columns 7, 9 and 11."""
    heun = [line for line in BASES if "Heun" in line.label]
    assert len(heun) == 2
    for line in heun:
        assert [line.spent(nfe) for nfe in (7, 9, 11)] == [15, 19, 23]
        assert all(line.analytic(nfe) for nfe in (7, 9, 11))
    assert [line.spent(7) for line in BASES if "Heun" not in line.label] == [7] * 6
    amed = next(line for line in METHODS if line.solver == "amed")
    assert [amed.analytic(nfe) for nfe in (3, 4, 5, 6)] == [True, False, True, False]
    assert next(line for line in METHODS if line.solver == "epd").analytic(3) is None


def test_commands() -> None:
    kernel = next(line for line in OPERATORS if line.kernel == 5)
    expected = (
        "python -m apps.imagegen.train --model digits --solver spanlift --base dyweight "
        "--base_path out/s/dyweight-nfe5 --kernel 5 --nfe 5 --afs true "
    )
    assert kernel.train_command("digits", 5, "out/s") == expected + "--out out/s/spanlift-kernel5-nfe5"
    heun = next(line for line in BASES if line.label == "Heun + SpanLift")
    expected = "python -m apps.imagegen.train --model m.safetensors --solver spanlift --base heun --nfe 15 --afs true "
    assert heun.train_command("m.safetensors", 7, "s") == expected + "--out s/spanlift-heun-nfe15"
    amed = next(line for line in METHODS if line.solver == "amed")
    assert (
        amed.train_command("m", 4, "s")
        == "python -m apps.imagegen.train --model m --solver amed --nfe 4 --out s/amed-nfe4"
    )


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.data])
def test_published_numbers_are_found_for_every_table(name: str) -> None:
    spec = SPECS[name]
    assert spec.data is not None
    for line in spec.lines:
        found = [number_of(line, spec.data, nfe) for nfe in spec.nfe]
        absent = name in {"ffhq", "afhqv2", "imagenet64"} and not any(found)
        if absent:  # methods that a paper did not run on these data
            assert line.solver in {"s4s-lms", "s4s-alt", "amed-plugin", "epd", "epd-plugin", "dlms"}
        elif line.solver in {"amed-plugin", "epd", "epd-plugin"}:
            assert [value is not None for value in found] == [nfe % 2 == 1 for nfe in spec.nfe]
        else:
            assert all(found[1:])
    spanlift = [number_of(line, spec.data, spec.nfe[0]) for line in spec.lines if line.label == "SpanLift"]
    assert spanlift in ([], [PUBLISHED.find(spec.data, "spanlift", 3)])


def number_of(line: Line, data: str, nfe: int) -> object:
    return PUBLISHED.find(
        data, line.solver, nfe, base=line.published_base, setting=line.setting, schedule=line.schedule
    )


def test_published_ratios_are_found() -> None:
    for line in SPAN_LINES:
        steps = [
            PUBLISHED.find("imagenet64", "spanlift", step, "out-of-span-ratio", base=line.base) for step in range(2, 8)
        ]
        assert all(0.84 < number.value < 1 for number in steps if number is not None)
        assert None not in steps
    assert all(a.key != b.key for a, b in pairwise(SPAN_LINES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BenchmarkOptions(table="cifar"), "did you mean 'cifar10'"),
        (BenchmarkOptions(table="digits", nfe="three"), "whole numbers like 3,4,5"),
        (BenchmarkOptions(table="digits", nfe="0,3"), "from 1 to 1000"),
        (BenchmarkOptions(table="overhead", nfe="3,4"), "one whole number"),
        (BenchmarkOptions(table="cifar10", model="no-such.safetensors"), "no file no-such.safetensors"),
    ],
)
def test_mistakes(options: BenchmarkOptions, message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message):
        main(BenchmarkOptions(**{**vars(options), "out": str(out)}))
    assert not out.exists()


def test_without_a_model_everything_is_missing_and_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(BenchmarkOptions(table="imagenet64", nfe="3", out=str(tmp_path)))
    content = json.loads((tmp_path / "imagenet64.json").read_text())
    assert {found["status"] for found in content["rows"]} == {"missing"}
    assert content["rows"][-1]["published"] == 11.83
    assert content["missing"] == [
        "python -m apps.imagegen.convert edm-imagenet-64x64-cond-adm.pkl imagenet-64x64-cond-adm.safetensors && "
        "python -m apps.imagegen.benchmark --table imagenet64 --model imagenet-64x64-cond-adm.safetensors "
        "--reference IMAGES"
    ]
    assert "11.83" in capsys.readouterr().out

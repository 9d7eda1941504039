"""The published numbers: against the papers' text where it is there, against each other; what the reader refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.imagegen.published import PAPERS, PATH, Number, Row, load_published

PUBLISHED = load_published()
KEY = {"paper", "table", "data", "metric", "label", "setting", "base", "schedule", "afs", "by"}
DISAGREEING = {("imagenet64", "dyweight", "9")}
"""Of the numbers that DyWeight prints twice under one setting: Tables 1(d) and A.8 differ here."""


def in_order(wanted: list[str], words: list[str]) -> bool:
    """Whether the numbers occur in a line, in this order, others between."""
    rest = iter(words)
    return all(any(value == word for word in rest) for value in wanted)


def words_of(line: str) -> list[str]:
    plain = re.sub(r"<[^>]*>|\\cellcolorsotacolor|\[[\d, ]+\]", " ", line)
    numbers = re.findall(r"(?<![\w.])-?\d+(?:[.,]\d+)?", plain.replace("8,82", "8.82"))
    return [f"{float(word.replace(',', '')):.10g}" for word in numbers]


def test_every_number_stands_in_the_text_of_its_paper(shared: Path) -> None:
    lines = {}
    for paper in PAPERS:
        text = (shared / "papers" / f"{paper}.txt").read_text(encoding="utf-8").splitlines()
        lines[paper] = [words_of(line) for line in text]
    lost = []
    for row in PUBLISHED.rows:
        transposed = (row.paper, row.table) in {("spanlift", "6"), ("spanlift", "7")}
        wanted = [[f"{abs(value):.10g}" if transposed else f"{value:.10g}"] for value in row.values.values()]
        if not transposed:
            wanted = [[word for part in wanted for word in part]]
        lost += [(row, part) for part in wanted if not any(in_order(part, words) for words in lines[row.paper])]
    assert not lost


def test_tables_are_whole() -> None:
    """Rows times columns of the printed tables; dashes are not values."""
    counts: dict[tuple[str, str], int] = {}
    for row in PUBLISHED.rows:
        counts[row.paper, row.table] = counts.get((row.paper, row.table), 0) + len(row.values)
    assert counts["spanlift", "2(a)"] == 12 * 4 - 3 * 2 - 1  # AMED-Plugin and both EPD lack even NFE, DLMS the first
    assert counts["spanlift", "5"] == 24
    assert counts["spanlift", "6"] == 18
    assert counts["dyweight", "A.5"] == 11 * 7 - 3 * 3 - 1
    assert counts["s4s", "14"] == (7 * 7 + 1) * 8
    assert counts["s4s", "13"] == counts["s4s", "15"] == (7 * 6 + 1) * 8
    assert counts["s4s", "16"] == (7 * 6 + 1) * 6


def test_keys_of_rows_are_unique() -> None:
    seen = [(*(getattr(row, name) for name in sorted(KEY)), *row.values) for row in PUBLISHED.rows]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("data", ["cifar10", "ffhq", "afhqv2", "imagenet64"])
def test_spanlift_quotes_dyweight(data: str) -> None:
    """The comparison rows of SpanLift's Table 2 are those of DyWeight's appendix."""
    rows = [
        row for row in PUBLISHED.rows if row.paper == "spanlift" and row.table.startswith("2(") and row.data == data
    ]
    compared = 0
    for row in rows:
        for nfe, value in row.values.items():
            same = [
                other.values[nfe]
                for other in PUBLISHED.rows
                if other.table.startswith("A.")
                and (other.data, other.method, other.setting) == (data, row.method, None)
                and nfe in other.values
            ]
            if row.method == "spanlift":
                assert not same
            else:
                assert set(same) == {value}
                compared += 1
    assert compared >= 28


def test_dyweight_says_the_same_twice_but_where_we_say_so() -> None:
    differing = set()
    first = [
        row for row in PUBLISHED.rows if row.paper == "dyweight" and row.table.startswith("1(") and row.table < "1(f"
    ]
    for row in first:
        for nfe, value in row.values.items():
            found = [
                other.values[nfe]
                for other in PUBLISHED.rows
                if other.paper == "dyweight"
                and other.table in {"A.5", "A.6", "A.7", "A.8", "A.9"}
                and (other.data, other.method) == (row.data, row.method)
                and nfe in other.values
            ]
            assert len(found) == 1
            if found != [value]:
                differing.add((row.data, row.method, nfe))
    assert differing == DISAGREEING


@pytest.mark.parametrize(("data", "table"), [("afhqv2", "13"), ("cifar10", "14"), ("ffhq", "15")])
def test_dyweight_quotes_s4s(data: str, table: str) -> None:
    for nfe in range(3, 10):
        own = PUBLISHED.find(data, "s4s-alt", nfe, table=table)
        quoted = [
            row for row in PUBLISHED.rows if row.table.startswith("A.") and (row.data, row.method) == (data, "s4s-alt")
        ]
        assert own is not None
        assert [row.values[str(nfe)] for row in quoted] == [own.value]


def test_headline_numbers() -> None:
    """The abstract of SpanLift: 8.16 to 5.69 on CIFAR-10, 17.37 to 11.83 on ImageNet, 3 calls."""
    for data, before, after in (("cifar10", 8.16, 5.69), ("imagenet64", 17.37, 11.83)):
        numbers = [PUBLISHED.find(data, method, 3) for method in ("dyweight", "spanlift")]
        assert [number.value for number in numbers if number is not None] == [before, after]
        assert {number.row.source for number in numbers if number} == {f"SpanLift, Table 2({'ab'[data != 'cifar10']})"}


def test_overhead_percentages_follow_from_the_two_columns() -> None:
    base, lifted = (
        {
            name: number.value
            for name in QUANTITIES
            if (number := PUBLISHED.find("imagenet64", method, name, "overhead", base=base))
        }
        for method, base in (("dyweight", None), ("spanlift", "dyweight"))
    )
    for name in QUANTITIES:
        stated = PUBLISHED.find("imagenet64", "spanlift", name, "overhead-percent", base="dyweight")
        assert stated is not None
        assert 100 * (lifted[name] / base[name] - 1) == pytest.approx(stated.value, abs=0.051)


QUANTITIES = ("parameters_m", "gflops_per_image", "latency_ms_per_image", "throughput_images_per_s")


def test_find() -> None:
    assert PUBLISHED.find("cifar10", "amed-plugin", 4) is None
    assert PUBLISHED.find("mnist", "ipndm", 4) is None
    nine = PUBLISHED.find("cifar10", "dyweight", 9)
    assert isinstance(nine, Number)
    assert (nine.value, nine.row.source, nine.row.afs) == (2.13, "DyWeight, Table 1(a)", True)
    corrected = PUBLISHED.find("imagenet64", "spanlift", 7, base="euler")
    assert corrected is not None
    assert corrected.value == 4.47
    wrapped = PUBLISHED.find("cifar10", "s4s-lms", 5, base="ipndm", schedule="Time EDM")
    assert wrapped is not None
    assert (wrapped.value, wrapped.row.table) == (14.72, "14")


ROW = {
    "paper": "s4s", "table": "1", "data": "d", "metric": "fid", "method": "m", "label": "l", "by": "nfe", "afs": None,
    "values": {"3": 1.5},
}  # fmt: skip
GOOD = {
    "papers": {paper: {} for paper in PAPERS},
    "rows": [ROW],
    "disagreements": [{"where": "a", "what": "b"}],
    "not_transcribed": [{"paper": "s4s", "where": "a", "why": "b"}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [ROW | {"values": {"3": "1.5"}}]}, "a number in column 3"),
        ({"rows": [ROW | {"values": {"3": float("nan")}}]}, "a number in column 3"),
        ({"rows": [ROW | {"values": {"3": True}}]}, "a number in column 3"),
        ({"rows": [ROW | {"values": {"three": 1.5}}]}, "whole number as nfe"),
        ({"rows": [ROW | {"values": {}}]}, "values by column"),
        ({"rows": [ROW | {"paper": "ours"}]}, "a paper among"),
        ({"rows": [ROW | {"by": "colour"}]}, "columns among"),
        ({"rows": [ROW | {"afs": "yes"}]}, "afs as true"),
        ({"rows": [ROW | {"fid": 3}]}, "a row with"),
        ({"rows": [{key: value for key, value in ROW.items() if key != "label"}]}, "a row with"),
        ({"rows": []}, "a list of rows"),
        ({"rows": [3]}, "a row as an object"),
        ({"papers": {}}, "papers spanlift"),
        ({"disagreements": [{"where": "a"}]}, "as text"),
        ({"not_transcribed": "nothing"}, "a list of not_transcribed"),
        ({"more": 1}, "four lists"),
    ],
)
def test_the_reader_refuses(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "published.json"
    path.write_text(json.dumps(GOOD))
    assert load_published(path).rows == (Row(**{**ROW, "values": {"3": 1.5}}),)
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(ValueError, match=message) as error:
        load_published(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@given(st.text(max_size=40))
def test_no_text_is_mistaken_for_numbers(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("published") / "published.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError):
        load_published(path)


def test_the_file_keeps_one_row_a_line() -> None:
    assert len(PATH.read_text(encoding="utf-8").splitlines()) > len(PUBLISHED.rows)

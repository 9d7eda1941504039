"""README's appendix: each table and figure of the three papers once, with where it is made, or why it is not."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from apps.imagegen.benchmark import TABLES

ROOT = Path(__file__).resolve().parents[1]
HEADING = "## Every table and figure of the papers"
STATUSES = ("at our scale", "official checkpoints", "not possible")


def numbered(kind: str, last: int, prefix: str = "") -> list[str]:
    return [f"{kind} {prefix}{number}" for number in range(1, last + 1)]


PAPERS = {
    # Its text has Tables 1 to 7 and speaks of Figures 1 to 5 and 7; what its appendix holds beside is not known here.
    "SpanLift": [*numbered("Table", 7), *numbered("Figure", 7)],
    "DyWeight": [
        *numbered("Table", 5),
        *numbered("Table", 9, "A."),
        *numbered("Figure", 6),
        *numbered("Figure", 25, "A."),
    ],
    "S4S": [*numbered("Table", 18), *numbered("Figure", 7)],
}
"""Paper -> its tables and figures, as captions number them."""


class Entry(NamedTuple):
    """A row of the appendix: the tables and figures that it is of, and what it says of them."""

    items: list[str]
    status: str


def section() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if f"\n{HEADING}\n" not in text:
        pytest.skip("README has no appendix of the papers' tables and figures yet")
    return text.partition(f"\n{HEADING}\n")[2].partition("\n## ")[0]


def items(label: str) -> list[str]:
    """ "Figures A.3 to A.5, 7" -> Figure A.3, Figure A.4, Figure A.5, Figure 7."""
    found = re.fullmatch(r"(Table|Figure)s? (.+)", label.strip())
    assert found, f"expected Table or Figure and numbers, got {label!r}"
    names = []
    for part in re.split(r", | and ", found[2]):
        ends = re.fullmatch(r"((?:A\.)?)(\d+)(?: to \1(\d+))?", part)
        assert ends, f"expected numbers like A.3 or A.3 to A.5, got {part!r}"
        first, last = int(ends[2]), int(ends[3] or ends[2])
        assert last >= first
        names += [f"{found[1]} {ends[1]}{number}" for number in range(first, last + 1)]
    return names


def entries(paper: str) -> list[Entry]:
    """Rows of the paper's table."""
    _, _, after = section().partition(f"\n### {paper}\n")
    assert after, f"expected a part on {paper}"
    rows = [line for line in after.partition("\n### ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]
    assert all(len(row) == 2 for row in cells)
    return [Entry(items(label), status) for label, status in cells]


@pytest.mark.parametrize("paper", PAPERS)
def test_each_is_named_once(paper: str) -> None:
    assert Counter(name for entry in entries(paper) for name in entry.items) == Counter(PAPERS[paper])


@pytest.mark.parametrize("paper", PAPERS)
def test_each_says_where_it_is_made_or_why_it_is_not(paper: str) -> None:
    for entry in entries(paper):
        parts = re.split(r"; (?=at our scale|official checkpoints|not possible)", entry.status)
        for part in parts:
            status, _, how = part.partition(": ")
            assert status in STATUSES, f"{entry.items}: expected one of {STATUSES}, got {status!r}"
            made = "`python " in how or "notebooks/" in how or "](#" in how
            assert made == (status != "not possible"), f"{entry.items}: {part}"
            assert len(how) > 10, f"{entry.items}: {part}"


def test_notebooks_tables_and_parts_that_are_named_exist() -> None:
    text = section()
    named = set(re.findall(r"notebooks/[\w.-]+", text))
    assert named
    for path in named:
        assert (ROOT / path).is_file(), path
    for table in re.findall(r"--table ([\w-]+)", text):
        assert table in TABLES, table
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", readme, re.M)
    }
    for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
        assert anchor in anchors, anchor


def test_labels_are_read_as_they_are_meant() -> None:
    assert items("Table 4") == ["Table 4"]
    assert items("Tables 2, 3 and A.5") == ["Table 2", "Table 3", "Table A.5"]
    assert items("Figures A.3 to A.5, 7") == ["Figure A.3", "Figure A.4", "Figure A.5", "Figure 7"]
    for wrong in ("Chart 3", "Table", "Table x", "Tables 3 to A.5"):
        with pytest.raises(AssertionError):
            items(wrong)

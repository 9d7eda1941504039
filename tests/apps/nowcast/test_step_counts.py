"""Numbers of steps from text, and how training draws them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.nowcast.step_counts import draw_count, parse_counts, parse_range
from data_tools.cli import UserError

COUNT = st.integers(1, 99)


@given(COUNT, st.integers(1, 20))
def test_a_range_is_read_back(low: int, more: int) -> None:
    assert parse_range(f"{low}:{low + more}") == (low, low + more)
    assert parse_range(f" {low} : {low + more} ") == (low, low + more)


RANGE = st.tuples(COUNT, st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair)))


@given(st.lists(RANGE, min_size=1, max_size=5))
def test_counts_are_read_back_in_order_and_once(parts: list[tuple[int, int]]) -> None:
    text = ",".join(str(low) if low == high else f"{low}:{high}" for low, high in parts)
    expected = sorted({count for low, high in parts for count in range(low, high + 1)})
    assert list(parse_counts(text)) == expected


@given(st.text(alphabet="0123456789:,- x.", max_size=8))
def test_other_text_is_refused_in_one_line_or_means_counts(text: str) -> None:
    for parse in (parse_range, parse_counts):
        counts, complaint = (), ""
        try:
            counts = parse(text)
        except UserError as error:
            complaint = str(error)
        assert min(counts) >= 1 if counts else "--nfe" in complaint
        assert "\n" not in complaint


@pytest.mark.parametrize("text", ["", "5", "5:5", "6:2", "0:4", "2:3:4", "a:b", "-1:3", "2:1001"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="FIRST:LAST"):
        parse_range(text)


def test_training_draws_every_count_equally_often_and_the_same_after_a_resume() -> None:
    drawn = [draw_count((2, 10), iteration, 7) for iteration in range(90)]
    assert {count: drawn.count(count) for count in set(drawn)} == dict.fromkeys(range(2, 11), 10)
    assert drawn == [draw_count((2, 10), iteration, 7) for iteration in range(90)]
    assert drawn != [draw_count((2, 10), iteration, 8) for iteration in range(90)]
    assert drawn[:9] != drawn[9:18]

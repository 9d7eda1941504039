"""Every table and figure of nowcasts, for `python -m apps.nowcast.evaluate --list`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from apps.listing import Ingredient, Reproducible
from apps.nowcast.tables.own import own_tables
from apps.nowcast.tables.papers import paper_tables


def tables() -> list[Reproducible]:
    """All of them: README's, then the papers'."""
    return [*own_tables(), *paper_tables()]


def briefly(rows: Sequence[Reproducible]) -> list[Reproducible]:
    """The rows for a screen: how to get what an earlier row lacks too is said once."""
    told: dict[Ingredient, str] = {}
    short = []
    for row in rows:
        ingredients = tuple(
            replace(each, where=f"as for {told[each]}") if each in told else each for each in row.ingredients
        )
        short.append(replace(row, ingredients=ingredients))
        for each in row.ingredients:
            if not each.present:
                told.setdefault(each, row.name)
    return short

"""Every table and figure of nowcasts, for `python -m apps.nowcast.evaluate --list`."""

from __future__ import annotations

from apps.listing import Reproducible
from apps.nowcast.tables.own import own_tables
from apps.nowcast.tables.papers import paper_tables


def tables() -> list[Reproducible]:
    """All of them: README's, then the papers'."""
    return [*own_tables(), *paper_tables()]

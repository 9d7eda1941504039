"""HTML elements. Text is escaped when an element is made of it: ids, paths and names come from files of others."""

from __future__ import annotations

import html
import re

_UNSAID = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
"""Characters that HTML forbids, no encoding has, or that turn the direction of the text around them."""

_VOID = {"img", "input", "meta", "col"}


class Html(str):
    """Text that is HTML already, made by `element` or `joined`."""


def text(value: object) -> Html:
    """A value as text of an element or an attribute."""
    return value if isinstance(value, Html) else Html(html.escape(_UNSAID.sub("\N{REPLACEMENT CHARACTER}", str(value))))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """An element; children that are no `Html` are text.

    Attribute names lose a last underscore and have hyphens for others (`class_`, `aria_label`); True stands for an
    attribute without value, False and None for none.
    """
    head = tag
    for name, value in attributes.items():
        name = name.removesuffix("_").replace("_", "-")
        if value is True:
            head += f" {name}"
        elif value is not None and value is not False:
            head += f' {name}="{text(value)}"'
    if tag in _VOID:
        return Html(f"<{head}>")
    return Html(f"<{head}>{joined(*children)}</{tag}>")


def joined(*children: object, between: str = "") -> Html:
    """One after the other; those that are None are left out."""
    return Html(between.join(text(child) for child in children if child is not None))


def identifier(name: str) -> str:
    """A name as an id: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "part"


def scrolling(table: Html, label: str) -> Html:
    """A box in which a wide table scrolls by itself, also by keyboard."""
    return element("div", table, class_="scroll", role="region", aria_label=label, tabindex=0)

"""What a user is told who runs out of an accelerator's memory: which knobs to turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data_tools.cli import UserError

REFUSED = ("DefaultCPUAllocator", "MPS backend out of memory")
"""What torch says where memory does not suffice and the error has no class of its own."""
KNOBS = "lower --batch, take --precision bfloat16 or a smaller --size"


@contextmanager
def enough_memory(knobs: str = KNOBS) -> Iterator[None]:
    """Turn a device's "out of memory" into one line.

    Args:
        knobs: what to do about it.

    Raises:
        UserError: the memory did not suffice for what was done within.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in REFUSED):
            raise
        told = str(error).split(". ")
        asked = next((part for part in told if part.startswith("Tried to allocate")), "")
        asked = f" ({asked[0].lower()}{asked[1:]})" if asked else ""
        raise UserError(
            f"expected a model that fits the memory of the device, got out of memory{asked}; {knobs}"
        ) from None

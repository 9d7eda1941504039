"""The optional packages of latent models: diffusers and transformers, imported when they are first needed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from data_tools.cli import UserError

PACKAGES = ("diffusers", "transformers", "accelerate")


def require() -> None:
    """Raise UserError unless the packages of the extra `imagegen` are installed."""
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    if lacking:
        raise UserError(f"expected {', '.join(lacking)} for latent models, got none; pip install spanlift[imagegen]")


def dtype_keyword() -> str:
    """What `from_pretrained` of diffusers calls the type of the weights: "torch_dtype" until it came to be "dtype"."""
    from diffusers.pipelines import pipeline_utils

    return "dtype" if hasattr(pipeline_utils, "_resolve_dtype") else "torch_dtype"


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Without the notes and progress bars that diffusers and transformers print of their own; errors are still raised.

    Args:
        bars: leave the bars, as of a download.
    """
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    loggers = [logging.getLogger(name) for name in PACKAGES]
    levels = [logger.level for logger in loggers]
    shown = [(package, package.is_progress_bar_enabled()) for package in (of_diffusers, of_transformers)]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    for package, _ in shown if not bars else ():
        package.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for package, enabled in shown:
            if enabled:
                package.enable_progress_bar()

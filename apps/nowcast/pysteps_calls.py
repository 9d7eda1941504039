"""Calls of pysteps, which is optional and talks much: everything it prints or warns of is kept from the user."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import numpy as np

from data_tools.cli import UserError

PACKAGES = {"pysteps": "pysteps", "cv2": "opencv-python-headless"}
"""Module -> the package that has it; pysteps does not ask for the second, without which it finds no motion."""


def require_pysteps(what: str) -> None:
    """Import pysteps, in seconds that no measurement shall count.

    Raises:
        UserError: it, or the package it finds motion with, is not installed; `what` needs it.
    """
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"expected {' and '.join(missing)} for {what}, got none; pip install 'spanlift[pysteps]'")
    with quietly():
        import pysteps.motion  # pyright: ignore[reportMissingImports]
        import pysteps.nowcasts  # noqa: F401  # pyright: ignore[reportMissingImports]


def pysteps_version() -> str:
    """Its version; empty where it is not installed."""
    try:
        return version("pysteps")
    except PackageNotFoundError:
        return ""


@contextmanager
def quietly() -> Iterator[None]:
    """No prints, no warnings, and numpy's global generator, which pysteps seeds, as it was."""
    state = np.random.get_state()  # noqa: NPY002 - it is pysteps that uses it
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002

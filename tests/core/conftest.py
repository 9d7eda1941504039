"""Fixtures of the engine's tests."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def brute_force() -> ModuleType:
    """`brute_force.py` of this folder: published rules in numpy."""
    spec = spec_from_file_location("brute_force", Path(__file__).with_name("brute_force.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

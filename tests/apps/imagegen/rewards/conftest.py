"""What the tests of scores share."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """`clip_in_numpy.py` of this folder."""
    spec = spec_from_file_location("clip_in_numpy", Path(__file__).with_name("clip_in_numpy.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def images() -> Tensor:
    """uint8 (4, 3, 32, 32): smooth, so that resizing is no matter of taste."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic", align_corners=True)
    return (255 * smooth.clip(0, 1)).round().to(torch.uint8)

"""Solvers, charts and schedules as plain JSON and back: what a checkpoint or a cache writes down of them.

Only the frozen dataclasses named here are read back: a file can name a class, never bring one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from core import charts, model_statistics, schedules, solvers
from core.operators.residual import ResidualConfig
from core.operators.scalar import ScalarConfig
from core.solvers.learned import CONFIGS


def _frozen_dataclasses(*modules: Any) -> dict[str, type]:
    found = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {kind.__name__: kind for kind in found if dataclasses.is_dataclass(kind)}


KNOWN = {
    **_frozen_dataclasses(schedules, charts, solvers, model_statistics),
    **{config.__name__: config for config in CONFIGS.values()},
    ResidualConfig.__name__: ResidualConfig,
    ScalarConfig.__name__: ScalarConfig,
}


def to_specification(value: Any) -> Any:
    """A JSON value from which `from_specification` rebuilds an equal one; floating-point numbers survive exactly.

    Raises:
        ValueError: something that is not made of known dataclasses, tensors, tuples and plain values.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return [to_specification(item) for item in value]
    if type(value).__name__ in KNOWN and type(value) is KNOWN[type(value).__name__]:
        fields = {f.name: to_specification(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"type": type(value).__name__, **fields}
    raise ValueError(
        f"expected a handcrafted solver, chart or schedule of core, got {type(value).__name__}; it has no written form"
    )


def from_specification(specification: Any) -> Any:
    """What `to_specification` wrote.

    Raises:
        ValueError: an unknown type or field.
    """
    if isinstance(specification, list):
        return tuple(from_specification(item) for item in specification)
    if not isinstance(specification, dict):
        return specification
    if "tensor" in specification:
        dtype = getattr(torch, specification["dtype"], None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"expected a tensor's dtype, got {specification['dtype']!r}; the file is not ours")
        return torch.tensor(specification["tensor"], dtype=dtype)
    kind = KNOWN.get(specification.get("type", ""))
    if kind is None:
        raise ValueError(
            f"expected one of {', '.join(sorted(KNOWN))}, got {specification.get('type')!r}; "
            "the file is not ours or of a newer version"
        )
    fields = {name: from_specification(value) for name, value in specification.items() if name != "type"}
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"expected the fields of {kind.__name__}, got {sorted(fields)} ({error})") from error

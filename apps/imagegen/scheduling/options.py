"""What a scheduler's configuration may say, and what those of other schedulers mean in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import core
from apps.imagegen.compatible import COMPATIBLE
from apps.imagegen.models.latent.diffusion import table_of
from apps.imagegen.scheduling.clock import TARGETS
from core.names import nearest
from core.solvers.learned import LEARNED
from core.solvers.options import shown
from data_tools.cli import UserError

LEARNED_NAMES = (*LEARNED, "spanlift")
PREDICTIONS = {"epsilon": "noise", "v_prediction": "v", "sample": "data", "flow_prediction": "flow"}
"""What diffusers calls the kinds of models."""
OF_THE_MODEL = (
    "num_train_timesteps", "use_dynamic_shifting", "time_shift_type", "base_shift", "max_shift", "base_image_seq_len",
    "max_image_seq_len", "shift_terminal", "beta_start", "beta_end", "beta_schedule", "trained_betas",
)  # fmt: skip
"""Options that a trained solver's scheduler takes from its pipeline's."""


def words_of_others(kind: str, shift: float) -> dict[str, Any]:
    """What a configuration of ours says in diffusers' words, so that one can go from it to another scheduler."""
    said = {"prediction_type": next(theirs for theirs, ours in PREDICTIONS.items() if ours == kind)}
    return {**said, "flow_shift": shift, "use_flow_sigmas": True} if kind == "flow" else said


def check_options(config: Mapping[str, Any]) -> None:
    """Raise ValueError for an option of `SpanLiftScheduler` that is none of its."""
    solver = config["solver"]
    if not isinstance(solver, str):
        raise ValueError(f"expected a solver's name or file, got {shown(solver)}; pass core's solvers by name")
    if solver in LEARNED_NAMES:
        raise ValueError(
            f"expected a handcrafted method, or the file of a trained solver, got {solver!r}, which is to be trained; "
            f"python -m apps.imagegen.train --solver {solver} writes one"
        )
    for name, known in (("kind", TARGETS), ("grid", core.GRIDS), ("compatible", COMPATIBLE)):
        value = config[name]
        if value not in known and (value is not None or name == "kind"):
            raise ValueError(f"expected {name} among {', '.join(known)}, got {value!r}{nearest(str(value), known)}")
    if solver not in core.SOLVERS:
        for name in ("order", "grid", "prediction", "variant", "compatible"):
            if config[name] is not None:
                raise ValueError(f"expected no {name} beside the trained solver {solver}, which has its own; drop it")
    if config["compatible"] is not None and (config["kind"] != "flow" or config["grid"] is not None):
        raise ValueError(
            f"expected a flow and no grid beside compatible={config['compatible']!r}, got kind={config['kind']!r} and "
            f"grid={config['grid']!r}; drop one"
        )
    if type(config["num_train_timesteps"]) is not int or config["num_train_timesteps"] < 1:
        raise ValueError(
            f"expected num_train_timesteps of at least 1, got {config['num_train_timesteps']!r}; 1000 is usual"
        )
    shift, packed = config["shift"], config["packed"]
    if not isinstance(shift, int | float) or not 0 < shift < float("inf"):
        raise ValueError(f"expected shift > 0, got {shift!r}; 1 leaves the grid even")
    good = isinstance(packed, list | tuple) and len(packed) == 2 and all(type(n) is int and n > 0 for n in packed)
    if packed is not None and not good:
        raise ValueError(f"expected packed=(rows, columns), got {packed!r}; pass the image's height and width over 16")


def betas_of(config: Mapping[str, Any]) -> list[float]:
    """The betas that a scheduler's configuration stands for.

    Raises:
        ValueError: an unknown spacing.
    """
    try:
        return list(table_of(config))
    except UserError as error:
        raise ValueError(str(error)) from None


def translated(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of another diffusers scheduler with our words for what it says of the model; ours as it is.

    `prediction_type` becomes `kind` (a scheduler with a `shift` and no such word is of a flow), `flow_shift` becomes
    `shift`; betas, dynamic shifting and terminal shift have the same names. What a scheduler left at its default counts
    as said: our defaults are not its.

    Raises:
        ValueError: a model that no solver of ours runs: inverted sigmas, a table of zero terminal SNR.
    """
    found = {name: value for name, value in config.items() if not name.startswith("_")}
    if {"kind", "solver"} <= found.keys():
        return found
    for wrong, what in (("invert_sigmas", "sigmas that rise"), ("rescale_betas_zero_snr", "zero terminal SNR")):
        if found.get(wrong):
            raise ValueError(f"expected a model without {what}, got {wrong}=True; keep its own scheduler")
    flow = found.get("use_flow_sigmas") or ("shift" in found and "prediction_type" not in found)
    predicts = "flow_prediction" if flow else found.get("prediction_type", "epsilon")
    if predicts not in PREDICTIONS:
        raise ValueError(
            f"expected prediction_type among {', '.join(PREDICTIONS)}, got {predicts!r}; use a scheduler of that model"
        )
    shift = found.get("shift", found.get("flow_shift"))
    return {**found, "kind": PREDICTIONS[predicts], "shift": 1.0 if shift is None else shift}

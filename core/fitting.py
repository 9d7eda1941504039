"""The one optimisation loop of the project: every training stage is a module, a loss of the iteration number, and this.

A run is a pure function of (initial module, loss, config): the loss draws whatever randomness it needs from the
iteration number it is given, and a checkpoint holds the module, the optimiser, the average and the iteration. A run
that was killed and started again therefore ends with the same parameters as one that was not.
"""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.distributed import Alone, Fabric, average_gradients, equalise, mean_of
from core.fit_config import Average, Constrained, FitConfig
from core.sharding import cut_as, is_sharded, whole

Loss = Callable[[int], tuple[Tensor, Mapping[str, float | Tensor]]]
"""iteration -> (scalar to minimise, what to log beside it)."""


FULL_DISK = 1 << 20
"""A disk with fewer free bytes than this is why a write failed."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then rename it: readers see the old file or the new one.

    It is readable by whom a file of the user's usually is, although some writers make theirs private.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        usual = _usual_mode(temporary)
        write(temporary)
        if temporary.stat().st_mode != usual:
            temporary.chmod(stat.S_IMODE(usual))
        os.replace(temporary, path)
    except Exception as error:
        # Writers in compiled code tell of a full disk in errors of their own.
        if not isinstance(error, OSError) and shutil.disk_usage(path.parent).free < FULL_DISK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _usual_mode(path: Path) -> int:
    """Mode of a file made here in the ordinary way, after the umask and the rules of the folder; none is left."""
    path.unlink(missing_ok=True)  # what a killed process of this number left
    path.touch()
    try:
        return path.stat().st_mode
    finally:
        path.unlink()


def fit(
    module: nn.Module,
    loss: Loss | Sequence[Loss],
    config: FitConfig,
    directory: Path,
    *,
    identity: Mapping[str, Any] | None = None,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
    autocast: Literal["float32", "bfloat16"] = "float32",
    fabric: Fabric | None = None,
) -> nn.Module:
    """Minimise `loss` over the trainable parameters of `module`, in place; resumes from `directory` where it holds a
    run.

    Args:
        module: its parameters with `requires_grad` are fitted; it ends with the average where `ema_decay` > 0. Parts
            of it that are `Constrained` are put back after each step. It may be cut over the processes, see
            core.sharding.
        loss: see `Loss`. It must depend on the iteration number and the module alone. Of several losses the mean is
            minimised: each is differentiated before the next is computed, so that memory holds the activations of one.
        config: see `FitConfig`.
        directory: holds `checkpoint.pt` and `log.jsonl`.
        identity: what the run is (model sizes, data hash, seed); a checkpoint of another identity is refused.
        report: called with (iteration, logged values) after each iteration, to draw progress.
        autocast: precision of the whole loss where it may be low; parameters and the optimiser stay in float32.
        fabric: processes that run this together, see core.distributed; None is this one alone. Losses and gradients
            are averaged over them; `directory` is one that all of them see, and process 0 alone writes to it.

    Raises:
        ValueError: the folder holds a run of another configuration.
        FloatingPointError: the loss is not finite.
    """
    fabric = fabric or Alone()
    first = fabric.global_rank == 0
    losses = [loss] if callable(loss) else list(loss)
    sharded = is_sharded(module)
    directory.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    average = Average(module, config.ema_decay) if config.ema_decay else None
    run = {"config": asdict(config), "identity": dict(identity or {})}
    run = json.loads(json.dumps(run, default=str))
    start = _resume(directory / "checkpoint.pt", run, module, optimizer, average)
    fabric.barrier()  # all have read what process 0 will replace
    if first:
        _truncate_log(directory / "log.jsonl", start)
    if start == 0 and not sharded:
        equalise(module, fabric)
    device = parameters[0].device
    constrained = [part for part in module.modules() if isinstance(part, Constrained)]
    for iteration in range(start, config.iterations):
        for group in optimizer.param_groups:
            group["lr"] = config.rate(iteration)
        optimizer.zero_grad(set_to_none=True)
        values = mean_of(_differentiate(losses, iteration, device, autocast), fabric)
        _require_finite(values["loss"], iteration)
        if not sharded:  # shares of gradients are means already
            average_gradients(parameters, fabric)
        norm = whole(nn.utils.clip_grad_norm_(parameters, config.clip))
        optimizer.step()
        for part in constrained:
            part.constrain()
        if average is not None:
            average.update(module)
        values = {"loss": values.pop("loss"), "gradient_norm": float(norm), **values}
        if first:
            _log(directory / "log.jsonl", iteration, values, config)
        if first and report is not None:
            report(iteration, values)
        if (iteration + 1) % config.checkpoint_every == 0 or iteration + 1 == config.iterations:
            content = _content(run, iteration + 1, module, optimizer, average) if first or sharded else {}
            if first:
                write_atomically(directory / "checkpoint.pt", partial(torch.save, content))
    fabric.barrier()  # all see the finished run
    if average is not None:
        average.copy_to(module)
    return module


def _differentiate(losses: Sequence[Loss], iteration: int, device: torch.device, autocast: str) -> dict[str, float]:
    """Add the gradient of the mean of the losses, one after another; their means and those of what they log."""
    passes = []
    for loss in losses:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast == "bfloat16"):
            value, logged = loss(iteration)
        passes.append({"loss": value.item(), **{k: float(v) for k, v in logged.items()}})
        (value / len(losses)).backward()
    return {key: sum(values[key] for values in passes) / len(passes) for key in passes[0]}


def _require_finite(loss: float, iteration: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"expected a finite loss, got {loss} at iteration {iteration}; lower the learning rate"
        )


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def _content(run: dict, iteration: int, module: nn.Module, optimizer: Any, average: Average | None) -> dict:
    """A checkpoint; all processes gather it together where they hold shares."""
    content = {
        "run": json.dumps(run, sort_keys=True),
        "iteration": iteration,
        "module": _trainable(module),
        "optimizer": optimizer.state_dict(),
        "average": None if average is None else {"values": average.values, "updates": average.updates},
    }
    return whole(content) if is_sharded(module) else content


def _resume(path: Path, run: dict, module: nn.Module, optimizer: Any, average: Average | None) -> int:
    if not path.exists():
        return 0
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        raise ValueError(f"expected a checkpoint of a run at {path}, got a damaged file; remove it") from None
    if not isinstance(content, dict) or "run" not in content:
        raise ValueError(f"expected a checkpoint of a run at {path}, got another file; remove it")
    if content["run"] != json.dumps(run, sort_keys=True):
        raise ValueError(
            f"expected {path} to belong to this run, got another configuration; choose another folder or remove it"
        )
    own = module.state_dict()
    values = {name: cut_as(value, own[name]) if name in own else value for name, value in content["module"].items()}
    missing = module.load_state_dict(values, strict=False)
    if missing.unexpected_keys:
        raise ValueError(f"expected the parameters of this module in {path}, got also {missing.unexpected_keys[:3]}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, state in content["optimizer"]["state"].items():
        moments = {name: cut_as(value, parameters[index]) for name, value in state.items() if name != "step"}
        state.update(moments)
    optimizer.load_state_dict(content["optimizer"])
    if average is not None:
        average.updates = content["average"]["updates"]
        for name, value in content["average"]["values"].items():
            average.values[name].copy_(cut_as(value, average.values[name]))
    return content["iteration"]


def _log(path: Path, iteration: int, values: Mapping[str, float], config: FitConfig) -> None:
    if iteration % config.log_every == 0 or iteration + 1 == config.iterations:
        with path.open("a") as file:
            file.write(json.dumps({"iteration": iteration, "rate": config.rate(iteration), **values}) + "\n")


def _truncate_log(path: Path, iteration: int) -> None:
    """Drop the lines that the killed run wrote after its last checkpoint, the last of them maybe torn."""
    if not path.exists():
        return
    if iteration == 0:
        path.unlink()
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["iteration"] < iteration:
                kept.append(line + "\n")
        except ValueError:
            break
    write_atomically(path, lambda temporary: temporary.write_text("".join(kept)))

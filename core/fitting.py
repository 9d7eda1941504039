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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from core.distributed import Alone, Fabric, average_gradients, equalise, mean_of

Loss = Callable[[int], tuple[Tensor, Mapping[str, float | Tensor]]]
"""iteration -> (scalar to minimise, what to log beside it)."""


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How a module is fitted.

    Attributes:
        iterations: number of optimiser steps.
        learning_rate: peak learning rate of Adam.
        warmup: fraction of the iterations over which the rate rises linearly from a tenth of its peak.
        final_rate: fraction of the peak that the cosine decay ends at.
        betas: Adam's averaging constants.
        weight_decay: decoupled weight decay; 0 gives Adam.
        clip: largest norm of the whole gradient.
        ema_decay: decay of the parameter average; 0 keeps none.
        checkpoint_every: iterations between checkpoints.
        log_every: iterations between lines of log.jsonl.
    """

    iterations: int
    learning_rate: float
    warmup: float = 0.1
    final_rate: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 1.0
    ema_decay: float = 0.0
    checkpoint_every: int = 200
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"expected iterations >= 1, got {self.iterations}; ask for at least one")
        if self.learning_rate <= 0:
            raise ValueError(f"expected learning_rate > 0, got {self.learning_rate}; use a positive rate")

    def rate(self, iteration: int) -> float:
        """Learning rate of an iteration: linear warm-up, then a cosine from the peak to `final_rate` of it."""
        rise = max(1, round(self.warmup * self.iterations))
        if iteration < rise:
            return self.learning_rate * (0.1 + 0.9 * iteration / rise)
        progress = (iteration - rise) / max(1, self.iterations - rise)
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * progress)))


@runtime_checkable
class Constrained(Protocol):
    """A module, or a part of one, whose values must stay in a set."""

    def constrain(self) -> None:
        """Put them back; called after each optimiser step."""
        ...


class Average:
    """Exponential moving average of a module's parameters, with the usual warm-up decay min(decay, (1+n)/(10+n))."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, parameter in module.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if name in self.values:
                parameter.copy_(self.values[name])


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
    loss: Loss,
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
            of it that are `Constrained` are put back after each step.
        loss: see `Loss`. It must depend on the iteration number and the module alone.
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
    if start == 0:
        equalise(module, fabric)
    device = parameters[0].device
    constrained = [part for part in module.modules() if isinstance(part, Constrained)]
    for iteration in range(start, config.iterations):
        for group in optimizer.param_groups:
            group["lr"] = config.rate(iteration)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast == "bfloat16"):
            value, logged = loss(iteration)
        values = mean_of({"loss": value.item(), **{k: float(v) for k, v in logged.items()}}, fabric)
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(
                f"expected a finite loss, got {values['loss']} at iteration {iteration}; lower the learning rate"
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        average_gradients(parameters, fabric)
        norm = nn.utils.clip_grad_norm_(parameters, config.clip)
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
        due = (iteration + 1) % config.checkpoint_every == 0 or iteration + 1 == config.iterations
        if first and due:
            _save(directory / "checkpoint.pt", run, iteration + 1, module, optimizer, average)
    fabric.barrier()  # all see the finished run
    if average is not None:
        average.copy_to(module)
    return module


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def _save(path: Path, run: dict, iteration: int, module: nn.Module, optimizer: Any, average: Average | None) -> None:
    content = {
        "run": json.dumps(run, sort_keys=True),
        "iteration": iteration,
        "module": _trainable(module),
        "optimizer": optimizer.state_dict(),
        "average": None if average is None else {"values": average.values, "updates": average.updates},
    }
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def _resume(path: Path, run: dict, module: nn.Module, optimizer: Any, average: Average | None) -> int:
    if not path.exists():
        return 0
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        raise ValueError(f"expected a checkpoint of a run at {path}, got a damaged file; remove it") from None
    if content["run"] != json.dumps(run, sort_keys=True):
        raise ValueError(
            f"expected {path} to belong to this run, got another configuration; choose another folder or remove it"
        )
    missing = module.load_state_dict(content["module"], strict=False)
    if missing.unexpected_keys:
        raise ValueError(f"expected the parameters of this module in {path}, got also {missing.unexpected_keys[:3]}")
    optimizer.load_state_dict(content["optimizer"])
    if average is not None:
        average.updates = content["average"]["updates"]
        for name, value in content["average"]["values"].items():
            average.values[name].copy_(value)
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

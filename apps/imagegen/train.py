"""`python -m apps.imagegen.train`: train a solver for a frozen image model."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import core
from apps.imagegen.data import Images, load_images
from apps.imagegen.dino import dino_at_hand
from apps.imagegen.losses import ImageLoss, default_loss, parse_loss
from apps.imagegen.models import FrozenModel
from apps.imagegen.models.latent.model import LatentModel
from apps.imagegen.models.memory import enough_memory
from apps.imagegen.prompt_options import written
from apps.imagegen.solvers import Method, build_method, sampling_card
from apps.imagegen.stages.pairs import Pairs
from apps.imagegen.stages.solver import held_out_errors, train_stage
from apps.imagegen.train_options import CONFIGS, TrainOptions, base_first, check
from apps.processes import launch
from core.distributed import Fabric
from core.frozen import fingerprint
from data_tools.cli import UserError, console, run

STAND_IN = ": EfficientNet-lite0 stands in for DINOv2, whose weights are not at hand"


@enough_memory()
def main(options: TrainOptions) -> None:
    """Train the solver, its base first where that is to be trained too.

    Raises:
        UserError: an option that cannot be, files that are missing or foreign, or a folder of another run.
    """
    check(options)
    fabric, device = launch(options.device, options.devices)
    model = options.load(options.model, device, options.precision)
    options = options.resolved(model)
    loss = parse_loss(options.loss or default_loss(model), model)
    if options.loss is None and isinstance(model, LatentModel) and fabric.global_rank == 0:
        console.print(f"loss {loss.name}{'' if dino_at_hand() else STAND_IN}", highlight=False, soft_wrap=True)
    images = load_images(options.data) if options.supervision == "target" else None
    out = Path(options.out)
    first = base_first(options)
    build_method(model, options.method(model))  # mistakes are told before the base is trained
    if first is not None:
        path = train(first, model, loss, images, out / "base", out / "pairs", fabric)
        options = replace(options, base=first.solver, base_path=str(path))
    path = train(options, model, loss, images, out, out / "pairs", fabric)
    if fabric.global_rank == 0:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    fabric.barrier()  # none ends before the one that writes


def train(
    options: TrainOptions,
    model: FrozenModel,
    loss: ImageLoss,
    images: Images | None,
    out: Path,
    cache: Path,
    fabric: Fabric,
) -> Path:
    """Train one solver and write `out/solver.safetensors`; returns its path.

    Args:
        options: `resolved` for the model.
        model, loss: frozen.
        images: of target supervision.
        out: folder of the run.
        cache: folder of the pairs.
        fabric: processes that share the batches.

    Raises:
        UserError: see `main`.
    """
    spec = options.method(model)
    method = build_method(model, spec)
    assert isinstance(method.solver, nn.Module)
    leader = fabric.global_rank == 0
    if leader:
        Pairs(model, options.of_pairs(), method, spec, cache, images).fill(options.batch)
    fabric.barrier()  # the others read what the first has computed
    pairs = Pairs(model, options.of_pairs(), method, spec, cache, images)
    identity = {
        "model": model.identity,
        "precision": model.precision,
        "grid": method.grid.tolist(),
        "start": fingerprint(method.solver),  # with the numbers of a trained base
    }
    if model.conditions:
        identity["conditions"] = model.conditions
    if on_cuda(model):
        torch.cuda.reset_peak_memory_stats(model.device)
    try:
        before, _ = held_out_errors(method, model, pairs, loss, options.batch)
        train_stage(options.stage(), method, model, pairs, loss, out / "run", identity, fabric)
        after, spent = held_out_errors(method, model, pairs, loss, options.batch)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error
    path = out / "solver.safetensors"
    if leader:
        console.print(
            f"{options.solver}, {spent}: loss {before['loss']:.5g} -> {after['loss']:.5g}, mean squared error "
            f"{before['mse']:.5g} -> {after['mse']:.5g} on {options.held_out} held-out pairs",
            highlight=False,
            soft_wrap=True,
        )
        extra: dict[str, Any] = {"sampling": sampling_card(method, spent.evaluations)}
        if spent.calls != spent.evaluations:
            extra["network_calls"] = spent.calls
        if on_cuda(model):  # not in the file, which is the same after a run that was stopped and went on
            peak = torch.cuda.max_memory_allocated(model.device) / 2**30
            console.print(f"peak memory of the training {peak:.2f} GiB", highlight=False)
        untrained = {f"{name}_untrained": value for name, value in before.items()}
        _save(path, options, method, model, pairs, loss, {**after, **untrained}, extra)
    fabric.barrier()
    return path


def on_cuda(model: FrozenModel) -> bool:
    """Whether it runs where memory is counted."""
    return model.device.type == "cuda"


def _save(
    path: Path,
    options: TrainOptions,
    method: Method,
    model: FrozenModel,
    pairs: Pairs,
    loss: ImageLoss,
    errors: dict[str, float],
    extra: dict[str, Any],
) -> None:
    assert isinstance(method.solver, nn.Module)
    local = {"out", "base_path", "device", "devices", "model", "data", "prompts", "text_cache"}
    if model.conditions:
        extra = {**extra, "conditions": model.conditions}
    if model.prompts is not None:
        extra = {**extra, "prompts": model.prompts.fingerprint}  # of their split: says what is held out
    described: dict[str, Any] = {
        **extra,
        "command": {key: value for key, value in written(options).items() if key not in local},
        "model": model.name,
        "kind": "flow" if model.predicts == "velocity" else model.predicts,
        "data": None if pairs.images is None else pairs.images.fingerprint,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    core.save(
        path,
        method.solver,
        grid=method.grid,
        field_identity=model.identity,
        supervision=pairs.name,
        loss=loss.name,
        metrics={**errors, "held_out_pairs": options.held_out},
        extra=described,
    )


if __name__ == "__main__":
    run(
        TrainOptions,
        main,
        prog="python -m apps.imagegen.train",
        description="Train a solver for a frozen image model.",
        examples="""examples:
  python -m apps.imagegen.train                                       spanlift over dyweight, 3 calls, digits
  python -m apps.imagegen.train --solver dyweight --nfe 4 --afs --out out/dyweight4
  python -m apps.imagegen.train --base ipndm --nfe 5 --loss features=1,mse=0.1 --out out/spanlift5
  python -m apps.imagegen.train --config spanlift-cifar10-nfe3 --model cifar10.safetensors --device cuda
  python -m apps.imagegen.sample --solver out/spanlift5
  python -m apps.imagegen.train --model sana-0.6b --prompts prompts.txt --nfe 5 --device cuda --precision bfloat16""",
        configs=CONFIGS,
    )

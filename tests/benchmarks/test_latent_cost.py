"""What SpanLift costs beside SANA-0.6B and FLUX.1-dev: time for an image, and memory of a training step.

Costs do not depend on weights, so that random ones at the published shapes do, without any download:

    python tests/benchmarks/test_latent_cost.py --model sana-0.6b --device cuda --batches 1,4 --nfe 3,5,7

SpanLift corrects DyWeight; both run in turn, and the ratio of their times is that of pairs of runs. A training step is
the gradient of the squared distance of final latents, with the evaluations of the rollout kept, or forgotten and
computed again. Its memory is the most that is allocated above the weights; on a CPU, what autograd keeps.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

import core
from apps.imagegen.models.frozen_model import Precision
from apps.imagegen.models.latent.model import LatentModel
from apps.imagegen.tables.overhead import OverheadRecipe, count_parameters, machine, solvers_for, times
from apps.imagegen.tables.random_latents import RANDOM, random_latent
from core.fitting import write_atomically
from core.intervals import student_mean
from core.training import rollout
from data_tools.cli import UserError, check_outputs, console, joined, progress_bar, run

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class CostOptions:
    """Options of the script.

    Attributes:
        model: sana-0.6b, flux-dev, or tiny and tiny-flux to try it on a CPU.
        nfe: comma-separated evaluations of the guided field.
        batches: comma-separated numbers of images at once.
        repeats: timed pairs of runs.
        memory: also the memory of a training step, at the first of the batches.
        size: pixels a side; the model's own by default.
        device: cpu, cuda, cuda:1, ...
        precision: of the network; bfloat16 by default on CUDA, float32 on a CPU.
        json: where to write the numbers.
        overwrite: replace that file.
    """

    model: str = "tiny"
    nfe: str = "3,5,7"
    batches: str = "1"
    repeats: int = 10
    memory: bool = True
    size: int | None = None
    device: str = "cpu"
    precision: Precision | None = None
    json: str = "out/latent-cost.json"
    overwrite: bool = False


def main(options: CostOptions) -> None:
    """Measure, print, write. Raises UserError: names and numbers that cannot be."""
    if options.model not in RANDOM:
        raise UserError(f"expected --model among {', '.join(RANDOM)}, got {options.model!r}; choose one")
    if options.repeats < 2:
        raise UserError(f"expected --repeats of at least 2, for an interval, got {options.repeats}")
    counts, batches = numbers(options.nfe, "nfe"), numbers(options.batches, "batches")
    check_outputs([Path(options.json)], options.overwrite)
    precision = options.precision or ("float32" if options.device == "cpu" else "bfloat16")
    model = random_latent(options.model, options.device, precision, options.size)
    rows = []
    with progress_bar() as bar:
        total = len(counts) * (len(batches) * 2 * options.repeats + 2 * options.memory)
        task = bar.add_task(options.model, total=total, note="")
        for nfe in counts:
            bar.update(task, note=f"nfe {nfe}")
            row = cost(model, nfe, batches, options.repeats, options.memory, lambda: bar.advance(task))
            rows.append(row)
    network = count_parameters(model.network)
    content = {
        "options": asdict(options), "model": model.name, "precision": precision, "shape": model.shape,
        "parameters": network, "machine": machine(model.device), "torch": torch.__version__, "rows": rows,
    }  # fmt: skip
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(Path(options.json), lambda part: part.write_text(text, encoding="utf-8"))
    for row in rows:
        for line in lines_of(row):
            print(line)
    console.print(f"wrote {options.json}", highlight=False, soft_wrap=True)


def cost(
    model: LatentModel, nfe: int, batches: Sequence[int], repeats: int, memory: bool, advance: Callable[[], object]
) -> dict[str, Any]:
    """Costs of so many evaluations: operator, times of each batch, memory of a training step at the first batch."""
    recipe = OverheadRecipe(nfe, afs=False, repeats=repeats)
    base, lifted, grid = solvers_for(model, recipe)
    row: dict[str, Any] = {"nfe": nfe, "network_calls": nfe * (2 if model.family.doubles else 1)}
    row["operator_parameters"] = count_parameters(lifted) - count_parameters(base)
    row["batches"] = []
    for batch in batches:
        seconds = times(model, recipe, (base, lifted), grid, batch, advance) / batch
        ratio = seconds[:, 1] / seconds[:, 0]
        row["batches"].append(
            {
                "batch": batch,
                "base_ms_per_image": tuple(student_mean(1e3 * seconds[:, 0])),
                "spanlift_ms_per_image": tuple(student_mean(1e3 * seconds[:, 1])),
                "ratio": tuple(student_mean(ratio)),
            }
        )
    if memory:
        row["training_bytes"] = found = {"batch": batches[0], "rematerialised": None, "plain": None}
        found["what"] = "takes at most" if model.device.type == "cuda" else "keeps until its backward pass"
        for name, forget in (("rematerialised", True), ("plain", False)):
            found[name] = training_bytes(model, lifted, grid, batches[0], forget)
            advance()
    return row


def training_bytes(model: LatentModel, solver: nn.Module, grid: Tensor, batch: int, rematerialise: bool) -> int | None:
    """Memory of one gradient beyond what is there before it, in bytes; None where there is not enough."""
    seeds = range(batch)
    start, target = model.start(seeds), model.noise([seed + batch for seed in seeds])
    field, cuda = model.field(model.labels(seeds)), model.device.type == "cuda"
    residual: nn.Module = solver.residual  # pyright: ignore
    residual.requires_grad_(True)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_allocated(model.device) if cuda else 0
    kept: dict[int, int] = {}
    weights = {weight.untyped_storage().data_ptr() for part in (model.network, solver) for weight in part.parameters()}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    try:
        with saved_tensors_hooks(keep, lambda value: value):
            end = rollout(solver, field, start, grid, rematerialise=rematerialise)  # pyright: ignore
            loss = (end - target).square().mean()
        loss.backward()
    except torch.OutOfMemoryError:
        return None
    finally:
        residual.zero_grad(set_to_none=True)
        residual.requires_grad_(False)
    return torch.cuda.max_memory_allocated(model.device) - before if cuda else sum(kept.values())


def numbers(text: str, name: str) -> list[int]:
    """Whole numbers of a list like 3,5,7."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UserError(f"expected --{name} as whole numbers like 3,5,7, got {text!r}")
    return sorted({int(word) for word in words})


def lines_of(row: Mapping[str, Any]) -> list[str]:
    """A row of the results for people."""
    lines = []
    for found in row["batches"]:
        base, own, ratio = (found[key] for key in ("base_ms_per_image", "spanlift_ms_per_image", "ratio"))
        lines.append(
            f"nfe {row['nfe']}, batch {found['batch']}: {base[0]:.4g} ms an image, with SpanLift {own[0]:.4g}, ratio "
            f"{ratio[0]:.4f} [{ratio[1]:.4f}, {ratio[2]:.4f}]"
        )
    if "training_bytes" in row:
        memory = row["training_bytes"]
        shown = {key: "out of memory" if memory[key] is None else f"{memory[key] / 2**30:.4g} GiB"
                 for key in ("rematerialised", "plain")}  # fmt: skip
        lines.append(
            f"nfe {row['nfe']}, batch {memory['batch']}: a training step {memory['what']} {shown['rematerialised']} "
            f"beside the weights, {shown['plain']} without rematerialisation"
        )
    return lines


@pytest.mark.parametrize(
    ("name", "shape", "parameters", "share"),
    [("sana-0.6b", (32, 32, 32), 591_747_872, 1e-3), ("flux-dev", (16, 128, 128), 11_901_408_320, 2e-4)],
)
def test_published_shapes(name: str, shape: tuple[int, int, int], parameters: int, share: float) -> None:
    """0.59 and 11.9 billion parameters, latents of 1024 x 1024 pixels; an evaluation, guided where guidance doubles, is
    counted without being computed, and beside it the operator's operations are few."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = random_latent(name, precision="bfloat16")
        with FlopCounterMode(display=False) as network:
            velocity = model.field(model.labels([0]))(torch.empty(1, *shape), torch.tensor(0.5))
        assert (velocity.shape, velocity.dtype) == ((1, *shape), torch.float32)
    assert model.shape == shape
    assert count_parameters(model.network) == parameters
    steps, schedule = 3, core.RectifiedFlow()
    lifted = core.spanlift(
        core.build_solver("ipndm", order=3), core.ResidualConfig(shape[0], steps=steps, data_std=1.0), schedule
    )
    with FlopCounterMode(display=False) as operator, torch.no_grad():
        core.integrate(lambda x, t: x, lifted, torch.zeros(1, *shape), core.build_grid("shifted", steps))
    assert 0 < operator.get_total_flops() / steps < share * network.get_total_flops()


@pytest.mark.parametrize(("name", "shape", "calls"), [("tiny", (32, 8, 8), 2), ("tiny-flux", (16, 16, 16), 1)])
def test_costs(name: str, shape: tuple[int, int, int], calls: int) -> None:
    model = random_latent(name)
    assert model.shape == shape
    steps: list[int] = []
    rows = {nfe: cost(model, nfe, [1, 2], 2, True, lambda: steps.append(1)) for nfe in (2, 4)}
    assert len(steps) == 2 * (2 * 2 * 2 + 2)
    for nfe, row in rows.items():
        assert row["network_calls"] == calls * nfe
        assert 0.05e6 < row["operator_parameters"] < 0.3e6
        assert [found["batch"] for found in row["batches"]] == [1, 2]
        for found in row["batches"]:
            assert all(low < mean < high for mean, low, high in (found["base_ms_per_image"], found["ratio"]))
            assert found["ratio"][0] > 0.5
        assert len(lines_of(row)) == 3
    few, more = (rows[nfe]["training_bytes"] for nfe in (2, 4))
    assert few["rematerialised"] < few["plain"]
    # the first evaluation needs no gradient, for its input is the noise, and here the operator's activations are many
    assert more["plain"] - few["plain"] > 0.9 * few["plain"]
    assert more["rematerialised"] - few["rematerialised"] < 0.3 * (more["plain"] - few["plain"])


def test_the_gradient_is_the_same_either_way_and_nothing_is_left_behind() -> None:
    model = random_latent("tiny")
    _, lifted, grid = solvers_for(model, OverheadRecipe(2, afs=False))
    assert training_bytes(model, lifted, grid, 2, True)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in lifted.parameters())


def test_the_script(tmp_path: Path) -> None:
    """As a user runs it; what cannot be is one line."""
    command = [sys.executable, __file__, "--nfe", "2", "--batches", "1,3", "--repeats", "2"]
    out = tmp_path / "cost.json"
    done = subprocess.run([*command, "--json", str(out)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    assert content["model"] == "tiny, random weights"
    assert content["shape"] == [32, 8, 8]
    assert [found["batch"] for found in content["rows"][0]["batches"]] == [1, 3]
    assert "without rematerialisation" in done.stdout


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "sana"}, "--model among sana-0.6b"),
        ({"nfe": "3;5"}, "whole numbers like 3,5,7"),
        ({"batches": "0"}, "whole numbers like 3,5,7"),
        ({"repeats": 1}, "at least 2"),
    ],
)
def test_mistakes(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        main(CostOptions(**{"json": str(tmp_path / "out.json"), **changed}))
    assert list(tmp_path.iterdir()) == []


if __name__ == "__main__":
    run(
        CostOptions,
        main,
        prog="python tests/benchmarks/test_latent_cost.py",
        description="What SpanLift costs beside latent models with random weights at their published shapes.",
        examples="""examples:
  python tests/benchmarks/test_latent_cost.py
  python tests/benchmarks/test_latent_cost.py --model sana-0.6b --device cuda --batches 1,4 --nfe 3,5,7
  python tests/benchmarks/test_latent_cost.py --model flux-dev --size 512 --device cuda --json out/flux-cost.json""",
        argv=joined("nfe", "batches"),
    )

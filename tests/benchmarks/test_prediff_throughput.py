"""Seconds and memory per member at PreDiff's size: DDPM-1000, DDIM-100 and SpanLift-5, with random weights, in one run.

    python tests/benchmarks/test_prediff_throughput.py --size prediff --device cuda --batches 1,8,32 --json out/t.json

A run of many steps is timed by a part of its steps, which cost the same each: `--timed` of them, scaled up to all. That
is written beside every number. In bfloat16 the autoencoder runs under autocast too. Ratios are against DDIM-100 of the
same precision and batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import core
from apps.nowcast.model import AutoencoderConfig, CuboidTransformerUNet, UNetConfig
from apps.nowcast.nowcaster import Codec, Nowcaster, Precision, bound
from apps.nowcast.solvers import build_base
from core.fitting import write_atomically
from core.operators import ResidualConfig, spanlift
from data_tools.cli import run

SAMPLERS = {"ddpm": 1000, "ddim": 100, "spanlift": 5}
TINY = (
    AutoencoderConfig(block_out_channels=(4, 8, 8), layers_per_block=1, latent_channels=3, norm_num_groups=4),
    UNetConfig((7, 8, 8, 3), (6, 8, 8, 3), base_units=8, depth=(1, 1), num_heads=2),
)
SIZES = {
    "tiny": TINY,
    "mini": (AutoencoderConfig.mini(), UNetConfig.mini()),
    "prediff": (AutoencoderConfig.prediff(), UNetConfig.prediff()),
}


@dataclass(frozen=True)
class Options:
    """Options of the measurement.

    Attributes:
        size: of the model, whose weights are random: they change no time.
        device: cpu, cuda, ...
        precisions: comma-separated, of the networks.
        batches: comma-separated members sampled at once; those that do not fit into memory are told and left out.
        timed: steps that are timed of a run of more; all where it is 0.
        repeats: of each measurement; the median is taken.
        width: hidden channels of the operator.
        json: where to write the numbers.
    """

    size: Literal["tiny", "mini", "prediff"] = "tiny"
    device: str = "cpu"
    precisions: str = "float32,bfloat16"
    batches: str = "1"
    timed: int = 10
    repeats: int = 3
    width: int = 128
    json: str = "out/throughput.json"


@dataclass(frozen=True)
class Measured:
    """One row.

    Attributes:
        sampler, steps, precision, batch: what was measured.
        seconds: per member, from context frames to forecast frames; the median.
        coding: part of it that encoding and decoding take.
        timed_steps: steps that were run, of `steps`.
        peak_bytes: of the accelerator's memory; None elsewhere.
        ratio: seconds of DDIM-100 of this precision and batch over these.
    """

    sampler: str
    steps: int
    precision: str
    batch: int
    seconds: float
    coding: float
    timed_steps: int
    peak_bytes: int | None
    ratio: float = float("nan")


def build(size: str, device: str, precision: Precision) -> Nowcaster:
    torch.manual_seed(0)
    codec, network = SIZES[size]
    return Nowcaster(Codec(codec), CuboidTransformerUNet(network), precision).to(device)


def sampler(name: str, nowcaster: Nowcaster, batch: int, width: int, steps: int) -> core.Solver:
    if name == "ddpm":
        return core.DDPM(nowcaster.schedule, tuple(range(batch)))
    base = build_base("ddim", nowcaster.schedule)
    if name == "ddim":
        return base
    channels, frames, _, _ = nowcaster.latent_shape
    condition = channels * nowcaster.context_frames
    config = ResidualConfig(
        channels=channels, dimensions=3, width=width, condition_channels=condition, frames=frames, steps=steps
    )
    device = next(nowcaster.parameters()).device
    return spanlift(base, config, nowcaster.schedule).to(device).eval().requires_grad_(False)


def median_seconds(call: Any, repeats: int, device: str) -> float:
    call()  # kernels are chosen and memory is taken
    times = []
    for _ in range(repeats):
        _wait(device)
        begun = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - begun)
    return sorted(times)[len(times) // 2]


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@torch.no_grad()
def measure(nowcaster: Nowcaster, name: str, batch: int, options: Options) -> Measured:
    """Time one sampler: coding, and as many of its steps as are to be timed."""
    steps, device = SAMPLERS[name], options.device
    timed = min(steps, options.timed or steps)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    # Every member has a window of its own, as where many places are forecast at once.
    frames = torch.rand(batch, nowcaster.context_frames, *nowcaster.frame_size, device=device)
    with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=nowcaster.precision == "bfloat16"):
        encoding = median_seconds(lambda: nowcaster.encode(frames), options.repeats, device)
        latents = nowcaster.encode(frames).float()
        noise = nowcaster.noise(range(batch))
        decoding = median_seconds(lambda: nowcaster.decode(noise), options.repeats, device)
    solver = bound(sampler(name, nowcaster, batch, options.width, steps), latents)
    field, grid = nowcaster.field(latents), nowcaster.grid(steps)[: timed + 1]
    sampling = median_seconds(lambda: core.integrate(field, solver, noise, grid), options.repeats, device)
    coding = (encoding + decoding) / batch
    peak = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None
    seconds = coding + sampling / batch * steps / timed
    return Measured(name, steps, nowcaster.precision, batch, seconds, coding, timed, peak)


def compare(options: Options) -> list[Measured]:
    """All samplers, precisions and batches of the options, each with its ratio."""
    rows: list[Measured] = []
    for precision in options.precisions.split(","):
        nowcaster = build(options.size, options.device, precision)  # type: ignore[arg-type]
        for batch in map(int, options.batches.split(",")):
            try:
                found = [measure(nowcaster, name, batch, options) for name in SAMPLERS]
            except torch.OutOfMemoryError:
                print(f"{precision}, batch {batch}: out of memory, left out")
                continue
            ddim = next(row.seconds for row in found if row.sampler == "ddim")
            rows += [Measured(**{**asdict(row), "ratio": ddim / row.seconds}) for row in found]
    return rows


def lines(rows: Sequence[Measured]) -> list[str]:
    head = f"{'sampler':>14} {'precision':>9} {'batch':>5} {'s/member':>10} {'coding':>8} {'x DDIM':>7} {'memory':>8}"
    body = []
    for row in rows:
        memory = "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.1f}G"
        part = "" if row.timed_steps == row.steps else f"  (from {row.timed_steps} of {row.steps} steps)"
        body.append(
            f"{f'{row.sampler}-{row.steps}':>14} {row.precision:>9} {row.batch:>5} {row.seconds:>10.4f} "
            f"{row.coding:>8.4f} {row.ratio:>7.2f} {memory:>8}{part}"
        )
    return [head, *body]


def main(options: Options) -> None:
    rows = compare(options)
    on = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "CPU"
    content = {"options": asdict(options), "on": on, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
    write_atomically(Path(options.json), lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))
    print("\n".join(lines(rows)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_few_steps_are_as_much_faster_as_they_are_fewer(precision: Precision) -> None:
    """Tiny, on a CPU: the calls of the network decide, not what stands around them."""
    rows = compare(Options(precisions=precision, batches="2", timed=5, repeats=1, width=8))
    assert [(row.sampler, row.steps, row.batch) for row in rows] == [
        ("ddpm", 1000, 2),
        ("ddim", 100, 2),
        ("spanlift", 5, 2),
    ]
    seconds = {row.sampler: row.seconds for row in rows}
    assert seconds["spanlift"] < seconds["ddim"] < seconds["ddpm"]
    assert all(0 < row.coding < row.seconds for row in rows)
    assert "from 5 of 1000 steps" in lines(rows)[1]


if __name__ == "__main__":
    run(
        Options,
        main,
        prog="python tests/benchmarks/test_prediff_throughput.py",
        description="Seconds and memory per member of DDPM-1000, DDIM-100 and SpanLift-5, as ratios in one run.",
        examples="""examples:
  python tests/benchmarks/test_prediff_throughput.py
  python tests/benchmarks/test_prediff_throughput.py --size prediff --device cuda --batches 1,8,32 --json out/t.json""",
    )

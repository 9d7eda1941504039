"""`python -m apps.imagegen.sample`: images of a model by any solver, one PNG for each seed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.imagegen.image_files import read_image
from apps.imagegen.methods import MethodOptions
from apps.imagegen.models import FrozenModel, Precision
from apps.imagegen.models.memory import enough_memory
from apps.imagegen.pictures import enlarged, tiled, write_png
from apps.imagegen.prompt_options import PromptOptions, prompts_of
from apps.imagegen.sampling import Sampler, batches, build_sampler, parse_seeds, to_uint8
from apps.processes import check_devices, launch
from core.fitting import write_atomically
from data_tools.cli import UserError, check_folder, check_outputs, console, progress_bar, run

MANIFEST, PROMPTS = "manifest.json", "prompts"
FORMAT = "spanlift-samples"
ON_SHEET = 64
"""Images of the sheet at most."""


@dataclass(frozen=True)
class SampleOptions(PromptOptions):
    """Options of the command.

    Attributes:
        model: name of a shipped model, or a file of train_model or convert; a pipeline of diffusers: its folder, its
            id on the hub, or a name like sana-0.6b.
        solver: name of a solver, or a trained one (file, or folder that holds solver.safetensors).
        nfe: network calls per image, evaluations where guidance takes two for each; a trained solver has its own. By
            default 3, or that of the trained solver.
        afs: analytic first step, which costs no call; where not given, only where the calls do not come out otherwise.
        denoise: end with one more call, for the data predicted from the last state.
        seeds: one image for each, like 0-63 or 1,2,5-10; an image depends on its seed alone.
        class_index: class of all images, from 0; drawn from each seed by default, where the model has classes.
        batch: images sampled at once.
        device: cpu, cuda, cuda:1, ...
        devices: processes that share the work; on cuda, one for each accelerator.
        precision: of the network; the state stays in float32.
        out: folder of the images. A run that was interrupted there goes on; its sheet of images lies beside it.
        grid_image: draw that sheet of the first 64 seeds, OUT.png.
        overwrite: replace the images of another run in the folder.
    """

    model: str = "digits"
    solver: str = "ipndm"
    nfe: int | None = None
    afs: bool | None = None
    denoise: bool = False
    seeds: str = "0-63"
    class_index: int | None = None
    batch: int = 64
    device: str = "cpu"
    devices: int = 1
    precision: Precision = "float32"
    out: str = "out/samples"
    grid_image: bool = True
    overwrite: bool = False

    def method(self) -> MethodOptions:
        """What is sampled by."""
        return MethodOptions(self.solver, self.nfe, afs=self.afs, denoise=self.denoise)


@enough_memory()
def main(options: SampleOptions) -> None:
    """Sample what is missing, draw the sheet.

    Raises:
        UserError: model, solver, seeds or folder are not what they should be, or an image is not finite.
    """
    seeds = parse_seeds(options.seeds)
    if options.batch < 1:
        raise UserError(f"expected --batch of at least 1, got {options.batch}")
    out = Path(options.out)
    check_folder(out)
    check_devices(options.device, options.devices)
    alone = options.devices == 1  # several are checked before they are started
    half = options.precision == "float16"  # which the CPU has not
    precision: Precision = "float32" if half and not alone else options.precision
    model = options.load(options.model, options.device if alone else "cpu", precision)
    sampler = build_sampler(model, options.method())
    _check(options, out, seeds, model, sampler)
    fabric, device = launch(options.device, options.devices)
    if not alone:
        model = options.load(options.model, device, options.precision) if half else model.to(device)
        sampler = build_sampler(model, options.method())
    if fabric.global_rank == 0:
        model.prepare(seeds)
        _claim(out, manifest(model, sampler, options), prompts_of(model, seeds))
    fabric.barrier()
    mine = seeds[fabric.global_rank :: fabric.world_size]
    missing = [seed for seed in mine if not image_path(out, seed).exists()]
    _sample(options, model, sampler, missing, shown=fabric.global_rank == 0)
    fabric.barrier()
    if fabric.global_rank == 0:
        console.print(f"{len(seeds)} images in {out}", highlight=False)
        if options.grid_image:
            picture = write_png(_sheet_path(out), enlarged(tiled(_read(out, seeds[:ON_SHEET]))))
            console.print(f"drew {picture}", highlight=False)
    fabric.barrier()


def _check(options: SampleOptions, out: Path, seeds: Sequence[int], model: FrozenModel, sampler: Sampler) -> None:
    """Tell mistakes before other processes are started and before anything is written.

    Raises:
        UserError: as `main`.
    """
    model.labels(seeds[:1], options.class_index)
    identity = manifest(model, sampler, options)
    found = _manifest_of(out / MANIFEST)
    if options.grid_image:
        own = found is not None or options.out == SampleOptions.out
        check_outputs([_sheet_path(out)], options.overwrite or own)
    if found is None and out.is_dir() and not all(path.suffix == ".part" for path in out.iterdir()):
        raise UserError(f"expected a new folder or one of this command, got {out} with other files; choose another")
    known = _identity(found)
    if known not in (None, identity) and not options.overwrite:
        changed = sorted(name for name in {*known, *identity} if known.get(name) != identity.get(name))
        raise UserError(
            f"expected images of this run in {out}, got those of another (other {', '.join(changed)}); "
            "add --overwrite or choose another folder"
        )


def manifest(model: FrozenModel, sampler: Sampler, options: SampleOptions) -> dict[str, Any]:
    """What a folder's images depend on beside their seeds; batch and device only change how they are rounded."""
    described = {"model": model.identity, "model_name": model.name, "precision": options.precision, "noise": "cpu"}
    if model.conditions:
        described["conditions"] = model.conditions
    return {"format": FORMAT, **described, "class": options.class_index, "sampler": sampler.written()}


def image_path(folder: Path, seed: int) -> Path:
    """Where the image of a seed lies: a thousand to a folder, as in EDM's published samples."""
    return folder / f"{seed - seed % 1000:06d}" / f"{seed:06d}.png"


def _sheet_path(folder: Path) -> Path:
    """Beside the folder: inside, it would be one of the images."""
    place = folder if folder.name not in ("", "..") else Path(os.path.abspath(folder))
    return place.with_name(f"{place.name}.png")


def _claim(folder: Path, identity: dict[str, Any], prompts: Mapping[str, str]) -> None:
    """Make the folder this run's; images of another run, which `_check` allowed to be replaced, go.

    The manifest also says the prompt of every seed, those of earlier runs of this identity included.
    """
    path = folder / MANIFEST
    found = _manifest_of(path)
    known = (found or {}).get(PROMPTS, {}) if _identity(found) == identity else {}
    merged = {**known, **prompts} if isinstance(known, dict) else dict(prompts)
    content = {**identity, PROMPTS: merged} if merged else identity
    if found == content:
        return
    if _identity(found) != identity:
        for image in folder.glob("[0-9]*/[0-9]*.png"):
            image.unlink()
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _identity(manifest: dict[str, Any] | None) -> dict[str, Any] | None:
    """What is left of a manifest without the prompts, of which a later run may bring more."""
    return None if manifest is None else {name: value for name, value in manifest.items() if name != PROMPTS}


def _manifest_of(path: Path) -> dict[str, Any] | None:
    """The manifest of a folder of this command, else None."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def _sample(options: SampleOptions, model: FrozenModel, sampler: Sampler, seeds: Sequence[int], shown: bool) -> None:
    """Write the images of the seeds."""
    bar = progress_bar()
    task = bar.add_task(sampler.label, total=len(seeds), visible=shown, note="")
    with bar:
        for part in batches(seeds, options.batch):
            try:
                x, _ = sampler.sample(model, part, options.class_index)
            except (ValueError, FloatingPointError) as error:
                raise UserError(f"{error} (seeds {part[0]} to {part[-1]})") from None
            for seed, image in zip(part, to_uint8(x).cpu().numpy(), strict=True):
                write_png(image_path(Path(options.out), seed), image)
            bar.advance(task, len(part))


def _read(folder: Path, seeds: Sequence[int]) -> np.ndarray:
    """Images of the seeds from their files, uint8 (n, C, H, W)."""
    first = read_image(image_path(folder, seeds[0]))
    size = (first.shape[1], first.shape[0])
    images = [read_image(image_path(folder, seed), size) for seed in seeds]
    return np.stack(images).transpose(0, 3, 1, 2)


if __name__ == "__main__":
    run(
        SampleOptions,
        main,
        prog="python -m apps.imagegen.sample",
        description="Sample images, one PNG for each seed, and a sheet of the first of them.",
        examples="""examples:
  python -m apps.imagegen.sample
  python -m apps.imagegen.sample --solver heun --nfe 18 --seeds 0-9 --out out/heun
  python -m apps.imagegen.sample --model cifar10.safetensors --solver out/train/solver.safetensors --seeds 0-49999 \\
      --batch 512 --device cuda --devices 2 --out out/cifar10
  python -m apps.imagegen.sample --model sana-0.6b --prompts prompts.txt --solver ipndm --nfe 5 --seeds 0-15 \\
      --batch 4 --device cuda --precision bfloat16 --out out/sana""",
    )

"""`python -m apps.imagegen.train_model`: train an image model, the denoiser that solvers are then made for."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

import core
from apps.imagegen.augment import Augmentation
from apps.imagegen.data import DIGITS, Images, load_images
from apps.imagegen.models.configurations import Architecture, find_architecture
from apps.imagegen.models.files import load_model, save_model
from apps.imagegen.pictures import tiled, write_png
from apps.imagegen.sampling import sample_batch, to_uint8
from apps.imagegen.stages.denoiser import DenoiserStage, train_denoiser
from apps.processes import launch
from core.fitting import FitConfig
from data_tools.cli import UserError, check_folder, console, run

Size = Literal["digits", "cifar10-small"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a size is trained unless the options say otherwise."""

    fitting: FitConfig
    batch: int
    augmentation: Augmentation | None


RECIPES: dict[Size, Recipe] = {
    "digits": Recipe(
        FitConfig(iterations=8000, learning_rate=2e-3, warmup=0.03, betas=(0.9, 0.99), ema_decay=0.995), 32, None
    ),
    # Karras et al. 2022, Table 7: Adam at 1e-3, augmentation at 12 %; the batch and the length fit one GPU.
    "cifar10-small": Recipe(
        FitConfig(iterations=100_000, learning_rate=1e-3, warmup=0.05, ema_decay=0.9995, checkpoint_every=1000),
        256,
        Augmentation(probability=0.12),
    ),
}


@dataclass(frozen=True)
class TrainModelOptions:
    """Options of the command.

    Attributes:
        data: digits (scikit-learn's), a folder of PNG and JPEG files, or .npz archives, comma-separated.
        size: of the model: digits is 16 x 16 grey and trains on a CPU; cifar10-small is 32 x 32 RGB and wants a GPU.
        conditional: whether the model is told the class of an image; needs labels.
        iterations: optimiser steps; each size has its default, digits 8000: half an hour on two CPU cores.
        batch: images per step, over all devices; each size has its default.
        learning_rate: peak rate; each size has its default.
        seed: of weights, draws and noise.
        device: cpu, cuda, cuda:1, ...
        devices: so many processes share each batch, one device each.
        precision: of the network in training; weights, losses and the optimiser stay in float32.
        storage: of the weights in the file; half of float32's bytes change nothing that can be seen.
        preview: images in the picture that ends a training, of seeds 0, 1, ...; 0 for no picture.
        out: folder to write to. A run that was stopped goes on when started again with the same options.
    """

    data: str = DIGITS
    size: Size = "digits"
    conditional: bool = False
    iterations: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    device: str = "cpu"
    devices: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    storage: Literal["float16", "float32"] = "float16"
    preview: int = 64
    out: str = "out/model"

    def stage(self) -> DenoiserStage:
        """The training that the options ask for."""
        recipe = RECIPES[self.size]
        fitting = recipe.fitting
        if self.iterations is not None:
            fitting = replace(fitting, iterations=self.iterations)
        if self.learning_rate is not None:
            fitting = replace(fitting, learning_rate=self.learning_rate)
        batch = recipe.batch if self.batch is None else self.batch
        return DenoiserStage(fitting, batch, self.seed, recipe.augmentation, self.precision)


def main(options: TrainModelOptions) -> None:
    """Train, write the model and a picture of its samples.

    Raises:
        UserError: an option that cannot be, data that do not fit the size, or a folder of another run.
    """
    _check(options)
    images = load_images(options.data)
    architecture = _architecture(options, images)
    fabric, device = launch(options.device, options.devices)
    if fabric.global_rank == 0:
        console.print(f"{len(images)} training images from {images.name}", highlight=False, soft_wrap=True)
    out = Path(options.out)
    torch.manual_seed(options.seed)  # initial weights
    network = architecture.build().to(device)
    try:
        train_denoiser(options.stage(), network, images, out / "run", fabric)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error
    if fabric.global_rank == 0:
        card = _card(options, images)
        path = save_model(out / "model.safetensors", network, architecture, card, options.storage)
        console.print(f"wrote {path}", highlight=False)
        if options.preview:
            try:
                picture = _preview(path, options.preview, device)
            except FloatingPointError as error:
                raise UserError(f"{error}; {path} is written, but try a lower --learning_rate") from error
            console.print(f"wrote {picture}", highlight=False)
    fabric.barrier()  # none ends before the one that writes


def _check(options: TrainModelOptions) -> None:
    for name in ("iterations", "batch", "devices"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"expected --{name} of at least 1, got {value}")
    if not 0 <= options.preview <= 1024:
        raise UserError(f"expected --preview from 0 to 1024, got {options.preview}")
    if options.learning_rate is not None and not 0 < options.learning_rate < float("inf"):
        raise UserError(f"expected --learning_rate above 0, got {options.learning_rate}")
    if not 0 <= options.seed < 2**40:
        raise UserError(f"expected --seed from 0 to 2^40, got {options.seed}")
    if options.batch is not None and options.batch < options.devices:
        raise UserError(f"expected --batch of at least {options.devices}, one image a device, got {options.batch}")
    check_folder(Path(options.out))


def _architecture(options: TrainModelOptions, images: Images) -> Architecture:
    architecture = find_architecture(options.size)
    if options.conditional:
        if images.labels is None:
            raise UserError(f"expected labels for --conditional, got none in {images.name}; leave it out")
        architecture = architecture.with_labels(int(images.labels.max()) + 1)
    images.check(architecture.resolution, architecture.channels, architecture.label_dim)
    return replace(architecture, dataset=images.name)


def _card(options: TrainModelOptions, images: Images) -> dict:
    """Provenance that is written with the weights."""
    return {
        "command": {key: value for key, value in asdict(options).items() if key not in {"out", "data", "preview"}},
        "data": {"name": images.name, "images": len(images), "fingerprint": images.fingerprint},
        "stage": asdict(options.stage()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _preview(path: Path, count: int, device: str) -> Path:
    """A picture of what the written model samples with 18 steps of Heun, as EDM samples CIFAR-10."""
    model = load_model(path, device)
    x, _ = sample_batch(model, core.build_solver("heun"), model.grid("karras", 18), range(count))
    return write_png(path.with_name("preview.png"), tiled(to_uint8(x).cpu().numpy(), columns=8))


if __name__ == "__main__":
    run(
        TrainModelOptions,
        main,
        prog="python -m apps.imagegen.train_model",
        description="Train an image model by denoising, as EDM does (Karras et al. 2022).",
        examples="""examples:
  python -m apps.imagegen.train_model --out out/digits                the digits model that ships
  python -m apps.imagegen.train_model --conditional --out out/digits10
  python -m apps.imagegen.train_model --size cifar10-small --data train_0.npz,train_1.npz --device cuda \\
      --precision bfloat16 --out out/cifar10
  python -m apps.imagegen.train_model --size cifar10-small --data IMAGES --device cuda --devices 4 --out out/images""",
    )

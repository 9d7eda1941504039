"""`python -m apps.imagegen.benchmark`: the papers' tables with our numbers beside the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from apps.imagegen.benchmark_options import BenchmarkOptions, counts_of
from apps.imagegen.evaluation import own_reference
from apps.imagegen.features import build_features
from apps.imagegen.models import ARCHITECTURES, FrozenModel, ImageModel, image_model
from apps.imagegen.models.files import check_precision, shipped
from apps.imagegen.models.latent.catalogue import CATALOGUE
from apps.imagegen.models.latent.model import LatentModel
from apps.imagegen.models.memory import enough_memory
from apps.imagegen.prompt_options import written
from apps.imagegen.published import Published, load_published
from apps.imagegen.tables.catalogue import LATENT_TABLES, PIXEL_TABLES, TABLES
from apps.imagegen.tables.ingredients import folder_of
from apps.imagegen.tables.latent import fill_latent
from apps.imagegen.tables.latent_bench import LatentBench, find_scorers
from apps.imagegen.tables.latent_lines import LatentSpec
from apps.imagegen.tables.lines import SPECS, Spec
from apps.imagegen.tables.listing import PUBLISHED_FILES, rows_of
from apps.imagegen.tables.overhead import OverheadRecipe, fill_overhead
from apps.imagegen.tables.plot import plot_table
from apps.imagegen.tables.quality import Bench, QualityRecipe, fill_quality
from apps.imagegen.tables.random_latents import RANDOM, random_latent
from apps.imagegen.tables.span import SpanRecipe, fill_span
from apps.imagegen.tables.store import Store
from apps.imagegen.tables.table import Filled, screen_table, write, write_several
from apps.listing import show
from apps.listing import write as write_rows
from apps.processes import check_device
from core.names import nearest
from data_tools.cli import UserError, check_outputs, console, joined, run

SPAN_NFE, OVERHEAD_NFE = 7, 9
SCREEN_WIDTH = 200
"""Columns of text; a pipe has 80, and a table must not be cut."""
UNWRITTEN = {"out", "json", "overwrite", "list"}
"""Options that no number depends on."""
LATENT_BATCH = 8


@enough_memory()
def main(options: BenchmarkOptions) -> None:
    """Fill a table from what is there, show it, write JSON, CSV and a picture.

    Raises:
        UserError: an unknown table, numbers that cannot be, or a model, solver or reference that is not what it
            should be.
    """
    if options.list:
        rows = rows_of(TABLES, {**PIXEL_TABLES, **LATENT_TABLES}, options.solvers)
        if options.json is not None:
            write_rows(rows, Path(options.json), options.overwrite)
        show(rows)
        return
    if options.table not in TABLES:
        known = ", ".join(TABLES)
        raise UserError(f"expected --table among {known}, got {options.table!r}{nearest(options.table, TABLES)}")
    if options.batch is not None and options.batch < 1:
        raise UserError(f"expected --batch of at least 1, got {options.batch}")
    check_precision(options.precision, options.device)
    out = Path(options.out)
    path = Path(options.json) if options.json else out / f"{options.table}.json"
    csv, picture = (out / f"{options.table}.{kind}" for kind in ("csv", "png"))
    if path.suffix != ".json":
        raise UserError(f"expected --json to end in .json, got {path}; change its name")
    check_outputs([path, csv, picture, out / "cells" / "cell"], overwrite=True)
    check_outputs([path], options.overwrite or options.json is None)
    check_device(options.device)
    latent = LATENT_TABLES.get(options.table)
    store, published = Store(out / "cells"), load_published()
    settings = {key: value for key, value in written(options).items() if key not in UNWRITTEN}
    if options.teacher_nfe is None:
        del settings["teacher_nfe"]
    try:
        if latent is not None:
            several = _latent(options, latent, store, published)
            files = write_several(options.table, latent.title, several, settings, path, out)
            for filled in several:
                plot_table(filled, out / f"{filled.name}.png")
        else:
            filled = _filled(options, store, published)
            several, files = [filled], f"{out / options.table}.csv and .png"
            write(filled, settings, path, csv)
            plot_table(filled, picture)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error
    for filled in several:
        _show(filled)
    _show_missing(several)
    console.print(f"wrote {path}, {files}", highlight=False, soft_wrap=True)


def _filled(options: BenchmarkOptions, store: Store, published: Published) -> Filled:
    if options.table == "overhead":
        (nfe,) = counts_of(options, (OVERHEAD_NFE,), most=1)
        name = options.model or SPECS["imagenet64"].model
        model = _any_weights(options, name)
        starts = isinstance(model, ImageModel)  # of latent models none is published with an analytic first step
        recipe = OverheadRecipe(nfe, starts, options.batch or 1, options.repeats, options.seed)
        return fill_overhead(model, name, recipe, store, published)
    if options.table == "out-of-span":
        (nfe,) = counts_of(options, (SPAN_NFE,), most=1)
        name = options.model or "digits"
        model = options.load(name, options.device, options.precision)
        recipe = SpanRecipe(options.samples, options.batch or 32, options.seed)
        return fill_span(model, name, options.solvers or folder_of(model), nfe, recipe, store, published)
    spec = PIXEL_TABLES[options.table]
    counts = counts_of(options, spec.nfe)
    name = options.model or spec.model
    bench, lacking = _bench(options, spec)
    folder = options.solvers or ("" if bench is None else folder_of(bench.model))
    return fill_quality(options.table, spec, bench, name, folder, counts, store, published, lacking)


def _latent(options: BenchmarkOptions, spec: LatentSpec, store: Store, published: Published) -> list[Filled]:
    name = options.model or (spec.model if CATALOGUE[spec.model].hub else "FOLDER")
    if options.model in (None, spec.model):  # sampled as it was for publication, unless the user says otherwise
        size, guidance = options.size or spec.size, spec.guidance if options.guidance is None else options.guidance
        options = replace(options, size=size, guidance=guidance)
    counts, words = counts_of(options, spec.nfe), _model_words(options, spec)
    again = f"python -m apps.imagegen.benchmark --table {options.table} --model {name}{words}"
    if options.model is None or (spec.prompts and options.prompts is None):
        lacking = {"model": f"{again} --reference IMAGES" if "fid" in spec.metrics else again}
        folder = options.solvers or "out/solvers"
        return fill_latent(options.table, spec, None, name, folder, counts, store, published, lacking)
    model = options.load(name, options.device, options.precision)
    scorers, lacking = find_scorers(spec.metrics, options.device)
    if options.reference is None:
        lacking["fid"] = f"{again} --reference IMAGES"
    seen = options.reference and build_features(options.features, model.image_channels, options.device)
    recipe = QualityRecipe(options.samples, options.blocks, options.seed)
    teacher = replace(spec.teacher, nfe=options.teacher_nfe or spec.teacher.nfe)
    bench = LatentBench(
        model, recipe, options.batch or LATENT_BATCH, teacher, Path(options.out) / "teachers", seen or None,
        options.reference, scorers,
    )  # fmt: skip
    if isinstance(model, LatentModel):  # said, for recipes have their own: solvers are for one size and guidance
        trained_on = None if model.prompts is None else len(model.prompts.train)  # none of which is evaluated on
        said = replace(options, size=model.image_resolution, guidance=model.guidance, train_prompts=trained_on)
        others = PUBLISHED_FILES.get(PUBLISHED_FILES[spec.data or ""].trained_on)
        if others is not None:  # a benchmark's prompts are none to train on
            said = replace(said, prompts=others.prompts, train_prompts=others.train_prompts)
        words = _model_words(said, spec)
    folder, also = options.solvers or folder_of(model), words.removeprefix(" ")
    return fill_latent(options.table, spec, bench, name, folder, counts, store, published, lacking, also)


def _model_words(options: BenchmarkOptions, spec: LatentSpec) -> str:
    """The options of the model that a command for what is missing repeats."""
    prompts = options.prompts or ("FILE" if spec.prompts else None)
    given = {"prompts": prompts, **{name: getattr(options, name) for name in ("train_prompts", "guidance", "size")}}
    return "".join(f" --{name} {value}" for name, value in given.items() if value is not None)


def _bench(options: BenchmarkOptions, spec: Spec) -> tuple[Bench | None, str]:
    """Model and reference, or what would provide the one that is lacking."""
    again = f"python -m apps.imagegen.benchmark --table {options.table} --model"
    if options.model is None and spec.model not in shipped():
        file = ARCHITECTURES[spec.model].file
        if file is None:
            return None, f"python -m apps.imagegen.train_model --size {spec.model}"
        convert = f"python -m apps.imagegen.convert {file} {spec.model}.safetensors"
        return None, f"{convert} && {again} {spec.model}.safetensors --reference IMAGES"
    name = options.model or spec.model
    model = options.load(name, options.device, options.precision)
    reference = options.reference or own_reference(model)
    if reference is None:
        return None, f"{again} {name} --reference IMAGES"
    recipe = QualityRecipe(options.samples, options.blocks, options.seed)
    return Bench(model, reference, options.features, recipe, options.batch or 128), ""


def _any_weights(options: BenchmarkOptions, name: str) -> FrozenModel:
    """The model of a file, or an architecture with random weights: costs do not depend on them."""
    if name in RANDOM:
        return random_latent(name, options.device, options.precision, options.size)
    if name in shipped() or name not in ARCHITECTURES:
        return options.load(name, options.device, options.precision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = image_model(ARCHITECTURES[name].build(), ARCHITECTURES[name], {}, options.precision)
    return model.to(options.device)


def _show(filled: Filled) -> None:
    screen = Console(width=SCREEN_WIDTH)
    screen.print(screen_table(filled))
    for note in filled.notes:
        screen.print(f"- {note}", highlight=False, markup=False)
    cells = [cell for row in filled.rows.values() for cell in row]
    for why in dict.fromkeys(cell.why for cell in cells if cell.status == "failed"):
        screen.print(f"- failed: {why}", highlight=False, markup=False)


def _show_missing(several: Sequence[Filled]) -> None:
    commands = dict.fromkeys(command for filled in several for command in filled.missing())
    if commands:
        screen = Console(width=SCREEN_WIDTH)
        screen.print("What is missing is made by:", highlight=False)
        for command in commands:
            screen.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    run(
        BenchmarkOptions,
        main,
        prog="python -m apps.imagegen.benchmark",
        description="Tables of the papers, our numbers beside the published ones; cells that are finished are kept.",
        examples="""examples:
  python -m apps.imagegen.benchmark --list
  python -m apps.imagegen.benchmark --table digits --nfe 3 4 --samples 500
  python -m apps.imagegen.benchmark --table overhead --repeats 0
  python -m apps.imagegen.benchmark --table overhead --device cuda --precision float16 --batch 16
  python -m apps.imagegen.benchmark --table cifar10 --model cifar10-32x32-uncond-vp.safetensors \\
      --reference cifar10-32x32.npz --features inception --samples 50000 --blocks 1 --device cuda
  python -m apps.imagegen.benchmark --table sana --model sana-0.6b --prompts meta_data.json \\
      --train_prompts 5000 --reference mjhq30k_imgs --features inception --samples 25000 --blocks 1 --device cuda""",
        argv=joined("nfe"),
    )

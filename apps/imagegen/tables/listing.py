"""What `benchmark --list` shows: each table with the papers' tables that it follows, what it takes, and its command.

Nothing is loaded or computed for it: files, folders and packages are looked for where the commands would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from apps import inception
from apps.imagegen.local_weights import cached_file
from apps.imagegen.methods import MethodOptions, budget
from apps.imagegen.models import ARCHITECTURES
from apps.imagegen.models.files import shipped
from apps.imagegen.models.latent.catalogue import CATALOGUE, INDEX
from apps.imagegen.published import PAPERS
from apps.imagegen.rewards import clip, hps, image_reward
from apps.imagegen.tables.ingredients import safe_name, trained
from apps.imagegen.tables.latent_lines import LatentSpec
from apps.imagegen.tables.lines import IMAGENET64, SPAN_LINES, Line, Spec
from apps.imagegen.tables.sources import COLUMNS, SOURCES
from apps.listing import Ingredient, Reproducible
from data_tools.cli import UserError

BENCHMARK = "python -m apps.imagegen.benchmark --table"
SOLVERS = Path("out/solvers")
"""Where trained solvers are, each model's in a folder of its own."""
EXTRA = "pip install -e '.[imagegen]'"
PIXEL_IMAGES = 50_000
"""Images of a published distance of pixel models."""


class Files(NamedTuple):
    """Names that a data set's reference images and prompts are published under, and how to get them.

    Attributes:
        reference, source: images, or moments of their features; "" where no score takes them.
        prompts, written: file and where it is from; "" of models without prompts.
        train_prompts: how many of the prompts the recipes train on.
        trained_on: the data set whose prompts solvers are trained on, where it is another.
    """

    reference: str = ""
    source: str = ""
    prompts: str = ""
    written: str = ""
    train_prompts: int = 0
    trained_on: str = ""


EDM = "in fid-refs, beside the models that NVIDIA publishes with EDM (arXiv 2206.00364)"
ADM = "of the reference batches that OpenAI publishes with guided-diffusion"
MJHQ = "hf download playgroundai/MJHQ-30K --repo-type dataset --local-dir ."
COCO = Files(
    "val2014", "val2014.zip of MS-COCO, unpacked", "captions_val2014.json",
    "in annotations_trainval2014.zip of MS-COCO, in its folder annotations", 5000,
)  # fmt: skip
PUBLISHED_FILES: Mapping[str, Files] = MappingProxyType(
    {
        "cifar10": Files("cifar10-32x32.npz", EDM),
        "ffhq": Files("ffhq-64x64.npz", EDM),
        "afhqv2": Files("afhqv2-64x64.npz", EDM),
        "imagenet64": Files("imagenet-64x64.npz", EDM),
        "sana-mjhq": Files(
            "mjhq30k_imgs", f"{MJHQ} mjhq30k_imgs.zip && unzip -q mjhq30k_imgs.zip -d mjhq30k_imgs",
            "meta_data.json", f"{MJHQ} meta_data.json", 5000,
        ),
        "ms-coco-flux": COCO,
        "ms-coco-sd15": COCO,
        "ms-coco-sd14": COCO._replace(train_prompts=1000),
        "drawbench-flux": Files(
            prompts="drawbench.txt", written="the 200 of DrawBench (arXiv 2205.11487), one a line",
            trained_on="ms-coco-flux",
        ),
        "lsun-bedroom": Files("VIRTUAL_lsun_bedroom256.npz", ADM),
        "imagenet256": Files("VIRTUAL_imagenet256_labeled.npz", ADM),
    }
)  # fmt: skip
"""By the published data set. Reference batches of latent diffusion's data are ours to choose: S4S and DyWeight do not
say which they took."""


def rows_of(titles: Mapping[str, str], specs: Mapping[str, Spec], solvers: str | None = None) -> list[Reproducible]:
    """A row for each table.

    Args:
        titles: table -> title, of all.
        specs: table -> its rows and columns, of those that have them.
        solvers: folder of trained solvers; by default each model's own.
    """
    return [
        _quality(name, title, specs[name], solvers) if name in specs else _analysis(name, title, solvers)
        for name, title in titles.items()
    ]


def source_of(table: str) -> str:
    """The papers' tables, in words."""
    parts = []
    for paper, numbers in SOURCES.get(table, {}).items():
        parts.append(f"{PAPERS[paper]}, Table{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}")
    return "; ".join(parts) or "ours"


def _quality(name: str, title: str, spec: Spec, solvers: str | None) -> Reproducible:
    """A table of distances and scores."""
    model, found = _model(spec)
    columns = COLUMNS.get(name, spec.nfe)
    needs, options = [found], [] if model in shipped() else [f"--model {model}"]
    if model in shipped():
        needs.append(Ingredient("reference", True, "the digits that it learned from"))
    else:
        for more, words in (_prompts(spec), _reference(spec)):
            needs += more
            options += words
    needs.append(_trained(spec, columns, model, solvers))
    if columns != spec.nfe:
        options.append(f"--nfe {','.join(map(str, columns))}")
    if model not in shipped():
        images = spec.images if isinstance(spec, LatentSpec) else PIXEL_IMAGES
        options.append(f"--samples {images} --blocks 1 --device cuda")
    return Reproducible(name, title, source_of(name), tuple(needs), " ".join([f"{BENCHMARK} {name}", *options]))


def _analysis(name: str, title: str, solvers: str | None) -> Reproducible:
    """Out-of-span ratios, and the overhead, for which random weights suffice."""
    if name == "overhead":
        needs = (Ingredient("the network of ImageNet-64", True, "random weights suffice for costs"),)
        return Reproducible(name, title, source_of(name), needs, f"{BENCHMARK} {name} --repeats 5 --device cuda")
    model, found = _pixel_model(IMAGENET64)
    lines = Spec(title=title, data=None, model=IMAGENET64, lines=SPAN_LINES, nfe=COLUMNS[name])
    needs = (found, _trained(lines, COLUMNS[name], model, solvers))
    return Reproducible(name, title, source_of(name), needs, f"{BENCHMARK} {name} --model {model} --device cuda")


def _model(spec: Spec) -> tuple[str, Ingredient]:
    """What --model takes, and whether it is here."""
    if isinstance(spec, LatentSpec):
        return _latent_model(spec.model)
    return _pixel_model(spec.model)


def _pixel_model(name: str) -> tuple[str, Ingredient]:
    if name in shipped():
        return name, Ingredient(f"model {name}", True, "comes with the project")
    file = f"{name}.safetensors"
    here = Path(file).is_file()
    convert = f"python -m apps.imagegen.convert {ARCHITECTURES[name].file} {file}"
    return file, Ingredient(f"model {file}", here, "" if here else convert)


def _latent_model(name: str) -> tuple[str, Ingredient]:
    entry = CATALOGUE[name]
    if find_spec("diffusers") is None:
        return name, Ingredient(f"model {name}", False, EXTRA)
    if entry.hub is None:
        here = (Path(name) / INDEX).is_file()
        return name, Ingredient(f"model {name}", here, "" if here else f"as a pipeline's folder: {entry.note}")
    here = cached_file(entry.hub, INDEX) is not None
    return name, Ingredient(f"model {name}", here, "in the hub's cache" if here else f"hf download {entry.hub}")


def _prompts(spec: Spec) -> tuple[list[Ingredient], list[str]]:
    files = PUBLISHED_FILES[spec.data or ""]
    if not files.prompts:
        return [], []
    needs, others = [_file("prompts", files.prompts, files.written)], PUBLISHED_FILES.get(files.trained_on)
    if others is not None:
        needs.append(_file("prompts to train on,", others.prompts, others.written))
    return needs, [f"--prompts {files.prompts}", f"--train_prompts {files.train_prompts}"]


def _reference(spec: Spec) -> tuple[list[Ingredient], list[str]]:
    """Images that distances are to and the network that looks, and scorers of single images."""
    metrics = spec.metrics if isinstance(spec, LatentSpec) else ("fid",)
    scores = [_scorer(metric) for metric in metrics if metric in SCORERS]
    if "fid" not in metrics:
        return scores, []
    files, here = PUBLISHED_FILES[spec.data or ""], inception.at_hand()
    network = Ingredient("Inception's weights", here, "" if here else "with the extra imagegen, at the first use")
    options = [f"--reference {files.reference}", "--features inception"]
    return [_file("reference", files.reference, files.source), network, *scores], options


def _file(kind: str, name: str, source: str) -> Ingredient:
    here = Path(name).exists()
    return Ingredient(f"{kind} {name}", here, "" if here else source)


SCORERS: Mapping[str, tuple[str, Callable[[], bool], str]] = MappingProxyType(
    {
        "clip": ("CLIP", clip.at_hand, f"hf download {clip.REPOSITORY}"),
        "image-reward": ("ImageReward", image_reward.at_hand, image_reward.NEEDS),
        "hps-v2.1": ("HPS v2.1", hps.at_hand, hps.NEEDS),
    }
)
"""Scores of images by the published metric: name, whether package and weights are here, how to get them."""


def _scorer(metric: str) -> Ingredient:
    name, at_hand, where = SCORERS[metric]
    here = at_hand()
    return Ingredient(f"score {name}", here, "" if here else where)


def _trained(spec: Spec, columns: tuple[int, ...], model: str, solvers: str | None) -> Ingredient:
    """How many of the solvers that the cells take are trained, in the folder that has most of them."""
    wanted = [(line, spec.evaluations(column)) for line in spec.lines if line.learned for column in columns]
    wanted = [(line, calls) for line, calls in wanted if _possible(line, calls)]
    name = safe_name(model.removesuffix(".safetensors"))
    folders = [Path(solvers)] if solvers else sorted(SOLVERS.glob(f"{name}-????????"))
    counts = [(sum(_is_trained(line, calls, folder) for line, calls in wanted), folder) for folder in folders]
    done, best = max(counts, default=(0, None))
    here = done == len(wanted)
    where = f"{best}" if here else "the command says how to train each"
    return Ingredient(f"trained solvers, {done} of {len(wanted)}", here, where)


def _is_trained(line: Line, calls: int, folder: Path) -> bool:
    return trained(Path(line.place(calls, str(folder)))) is not None


def _possible(line: Line, calls: int) -> bool:
    """Whether the method can take the calls; no learned one of flows takes more than one a step."""
    try:
        budget(MethodOptions(line.solver, line.spent(calls), base=line.base, afs=line.analytic(calls)))
    except UserError:
        return False
    return True

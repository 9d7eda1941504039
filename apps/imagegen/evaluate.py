"""`python -m apps.imagegen.evaluate`: Fréchet distance, precision and recall of sampling methods at few calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apps.imagegen.data import Split
from apps.imagegen.evaluation import (
    NEIGHBOURS,
    Evaluator,
    Reference,
    Scored,
    check_seeds,
    load_reference,
    own_reference,
)
from apps.imagegen.features import FeatureName, Features, build_features
from apps.imagegen.methods import DEFAULT_NFE, MethodOptions
from apps.imagegen.metrics import save_moments
from apps.imagegen.models import ImageModel, Precision, load_model
from apps.imagegen.report import show, write
from apps.imagegen.sampling import Sampler, build_sampler, shipped_samplers
from apps.imagegen.solvers import is_trained
from apps.processes import check_device
from data_tools.cli import UserError, check_outputs, console, joined, progress_bar, run

DEFAULT_JSON = "out/images.json"
DEFAULT_SOLVER = "ipndm"
PICTURED = 12


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the command.

    Attributes:
        model: name of a shipped model, or a file of train_model or convert.
        solver: comma-separated names of solvers and trained ones (files or folders); by default iPNDM and, of those
            that ship for the model, the ones of these --nfe.
        nfe: comma-separated network calls per image of the solvers named; trained ones have their own.
        afs: analytic first step, which costs no call; where not given, only where the calls do not come out otherwise.
        samples: images of a block.
        blocks: how often all is repeated on other seeds, for the intervals.
        seed: the first; every method has the same seeds, every image one. Solvers are trained on those from 2^31 on.
        features: of which network distances are: inception gives FID; efficientnet and digits give distances of their
            own, which are no FID. auto: digits for grey images; else inception where its weights are at hand, and
            efficientnet where they are not.
        reference: digits, a folder of images, an npz of images, or an npz of statistics (mu, sigma); by default the
            digits, for a model that learned from them.
        split: of the digits.
        save_reference: where to write the statistics of the reference's images (npz with mu, sigma).
        batch: images sampled at once.
        device: cpu, cuda, cuda:1, ...
        precision: of the model; the state stays in float32, features and distances in float64.
        json: where to write the numbers, and beside it a picture; an existing file needs --overwrite, but for the
            default one.
        overwrite: replace outputs that exist.
    """

    model: str = "digits"
    solver: str | None = None
    nfe: str = str(DEFAULT_NFE)
    afs: bool | None = None
    samples: int = 500
    blocks: int = 4
    seed: int = 0
    features: FeatureName = "auto"
    reference: str | None = None
    split: Split = "train"
    save_reference: str | None = None
    batch: int = 128
    device: str = "cpu"
    precision: Precision = "float32"
    json: str | None = None
    overwrite: bool = False

    @property
    def paths(self) -> tuple[Path, Path]:
        """(JSON, PNG)."""
        numbers = Path(self.json or DEFAULT_JSON)
        return numbers, numbers.with_suffix(".png")


def main(options: EvaluateOptions) -> None:
    """Score, print, write.

    Raises:
        UserError: model, solver, reference, numbers or outputs are not what they should be.
    """
    _check(options)
    check_device(options.device)
    model = load_model(options.model, options.device, options.precision)
    samplers = _samplers(options, model)
    features = build_features(options.features, model.channels, options.device)
    try:
        reference = _reference(options, model, features)
        evaluator = Evaluator(
            model, features, reference, options.samples, options.blocks, options.seed, options.batch, pictured=PICTURED
        )
        scored = _score(evaluator, samplers)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error
    show(evaluator, scored)
    numbers, picture = options.paths
    write(evaluator, scored, numbers, picture)
    console.print(f"wrote {numbers} and {picture} (one row a method, the same seeds)", highlight=False)


def _check(options: EvaluateOptions) -> None:
    for name, least in (("samples", NEIGHBOURS + 1), ("blocks", 1), ("batch", 1)):
        if getattr(options, name) < least:
            raise UserError(f"expected --{name} of at least {least}, got {getattr(options, name)}")
    check_seeds(options.seed, options.blocks * options.samples)
    numbers, picture = options.paths
    if numbers.suffix != ".json":
        raise UserError(f"expected --json to end in .json, got {numbers}; change its name")
    check_outputs([numbers, picture], options.overwrite or options.json is None)
    if options.save_reference is not None:
        if Path(options.save_reference).suffix != ".npz":
            raise UserError(f"expected --save_reference to end in .npz, got {options.save_reference}; change its name")
        check_outputs([Path(options.save_reference)], options.overwrite)


def _samplers(options: EvaluateOptions, model: ImageModel) -> list[Sampler]:
    counts = _counts(options.nfe)
    words = (options.solver or DEFAULT_SOLVER).split(",")
    names = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    samplers = []
    for name in names:
        own = [None] if is_trained(name) else counts
        samplers += [build_sampler(model, MethodOptions(name, nfe, afs=options.afs)) for nfe in own]
    if options.solver is None:
        samplers += [sampler for sampler in shipped_samplers(model) if sampler.nfe in counts]
    labels = [sampler.label for sampler in samplers]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None or not samplers:
        raise UserError(
            f"expected each method once, got {twice or 'none'}; check --solver, or rename a solver's folder"
        )
    return sorted(samplers, key=lambda sampler: sampler.nfe)


def _counts(text: str) -> list[int]:
    try:
        counts = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise UserError(f"expected --nfe as whole numbers like 3,4,5, got {text!r}") from None
    if counts[0] < 1:
        raise UserError(f"expected --nfe of at least 1, got {counts[0]}")
    return counts


def _reference(options: EvaluateOptions, model: ImageModel, features: Features) -> Reference:
    source = options.reference or own_reference(model)
    if source is None:
        raise UserError(f"expected --reference for the model {model.name}: images it learned from, or their statistics")
    with progress_bar() as bar:
        task = bar.add_task("reference", total=None, note="")
        reference = load_reference(source, model, features, options.split, lambda done: bar.advance(task, done))
        bar.update(task, total=reference.images or 1, completed=reference.images or 1)
    if options.save_reference is not None:
        if reference.images is None:
            raise UserError(f"expected images for --save_reference, got the statistics {source}; leave it out")
        save_moments(Path(options.save_reference), reference.moments, features.name)
    return reference


def _score(evaluator: Evaluator, samplers: Sequence[Sampler]) -> list[Scored]:
    scored = []
    evaluator.warm_up(samplers[0])
    with progress_bar() as bar:
        for sampler in samplers:
            task = bar.add_task(sampler.label, total=evaluator.blocks * evaluator.samples, note="")
            scored.append(evaluator.score(sampler, lambda done, task=task: bar.advance(task, done)))
    return scored


if __name__ == "__main__":
    run(
        EvaluateOptions,
        main,
        prog="python -m apps.imagegen.evaluate",
        description="Score solvers of an image model: Fréchet distance, precision, recall, time.",
        examples="""examples:
  python -m apps.imagegen.evaluate
  python -m apps.imagegen.evaluate --solver ipndm,dpm-solver++,out/train --nfe 3,4,5 --json out/few.json
  python -m apps.imagegen.evaluate --model cifar10.safetensors --reference cifar10-32x32.npz --features inception \\
      --samples 50000 --batch 512 --device cuda --nfe 5""",
        argv=joined("nfe", "solver"),
    )

"""`python -m apps.imagegen.evaluate`: scores of sampling methods at few calls, of sets of images and of single ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from apps.imagegen.models import FrozenModel, Precision
from apps.imagegen.models.memory import enough_memory
from apps.imagegen.prompt_options import PromptOptions
from apps.imagegen.references import decodes
from apps.imagegen.report import show, write
from apps.imagegen.rewards import Scorer, load_scorers
from apps.imagegen.sampling import Sampler, build_sampler, shipped_samplers
from apps.imagegen.solvers import is_trained
from apps.imagegen.teachers import Endpoints, build_teacher
from apps.processes import check_device
from data_tools.cli import UserError, check_folder, check_outputs, console, joined, progress_bar, run

DEFAULT_JSON = "out/images.json"
DEFAULT_SOLVER = "ipndm"
PICTURED, ROWS = 12, 8
"""Images of each method in the picture, and rows of one that is a table."""
BATCH, DECODED_BATCH = 128, 8
"""Images sampled at once, where no number is given: of pixels, and of decoded latents."""


@dataclass(frozen=True)
class EvaluateOptions(PromptOptions):
    """Options of the command.

    Attributes:
        model: name of a shipped model, or a file of train_model or convert; a pipeline of diffusers: its folder, its
            id on the hub, or a name like sana-0.6b.
        solver: comma-separated names of solvers and trained ones (files or folders); by default iPNDM and, of those
            that ship for the model, the ones of these --nfe.
        nfe: comma-separated network calls per image of the solvers named, or evaluations where guidance takes two calls
            for each; trained ones have their own.
        afs: analytic first step, which costs no call; where not given, only where the calls do not come out otherwise.
        samples: images of a block.
        blocks: how often all is repeated on other seeds, for the intervals.
        seed: the first; every method has the same seeds, every image one. Solvers are trained on those from 2^31 on.
        features: of which network distances are: inception gives FID; efficientnet and digits give distances of their
            own, which are no FID. auto: digits for grey images; else inception where its weights are at hand, and
            efficientnet where they are not.
        reference: digits, a folder of images, an npz of images, or an npz of statistics (mu, sigma); by default the
            digits, for a model that learned from them. Of a folder for a model with latents, images are cut to squares
            and resized where they must be; where files are called by the prompts' ids, as MJHQ-30K's are, those of the
            prompts for evaluation are taken. Without one, such a model gets no distance.
        split: of the digits.
        save_reference: where to write the statistics of the reference's images (npz with mu, sigma).
        scores: comma-separated scores of images by their prompts: clip, image-reward, hpsv2.
        teacher: many-step solver whose endpoints are held against, state by state; ipndm, euler for FLUX.
        teacher_nfe: its network calls, or evaluations. Without it there is no teacher, but for a model with latents
            that is given neither --reference nor --scores: 20 for flows, 28 for FLUX, else 35.
        teacher_order: its order, where it has several; 4, 2 for flows.
        teacher_cache: folder that the teachers' endpoints are kept in; a run that was stopped goes on there.
        batch: images sampled at once; 128, or 8 that are decoded from latents.
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
    scores: str = ""
    teacher: str | None = None
    teacher_nfe: int | None = None
    teacher_order: int | None = None
    teacher_cache: str = "out/teachers"
    batch: int | None = None
    device: str = "cpu"
    precision: Precision = "float32"
    json: str | None = None
    overwrite: bool = False

    @property
    def paths(self) -> tuple[Path, Path]:
        """(JSON, PNG)."""
        numbers = Path(self.json or DEFAULT_JSON)
        return numbers, numbers.with_suffix(".png")


@enough_memory()
def main(options: EvaluateOptions) -> None:
    """Score, print, write.

    Raises:
        UserError: model, solver, reference, numbers or outputs are not what they should be.
    """
    _check(options)
    check_device(options.device)
    scorers = load_scorers(options.scores, options.device)
    model = options.load(options.model, options.device, options.precision)
    model.labels([options.seed])  # tells at once that prompts are missing
    samplers = _samplers(options, model)
    teacher = _teacher(options, model)
    source = _source(options, model, teacher)
    features = None if source is None else build_features(options.features, model.image_channels, options.device)
    try:
        reference = None if source is None or features is None else _reference(options, model, features, source)
        evaluator = _evaluator(options, model, features, reference, scorers, teacher)
        scored = _score(evaluator, samplers)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error)) from error
    show(evaluator, scored)
    numbers, picture = options.paths
    write(evaluator, scored, numbers, picture)
    what = (
        "row a method, the same seeds"
        if teacher is None and model.prompts is None
        else "row a seed, one column a method"
    )
    console.print(f"wrote {numbers} and {picture} (one {what})", highlight=False)


def _check(options: EvaluateOptions) -> None:
    for name, least in (("samples", NEIGHBOURS + 1), ("blocks", 1), ("batch", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"expected --{name} of at least {least}, got {value}")
    check_seeds(options.seed, options.blocks * options.samples)
    numbers, picture = options.paths
    if numbers.suffix != ".json":
        raise UserError(f"expected --json to end in .json, got {numbers}; change its name")
    check_outputs([numbers, picture], options.overwrite or options.json is None)
    if options.scores and options.prompts is None:
        raise UserError(f"expected --prompts beside --scores {options.scores}, which rate images by them; add the file")
    check_folder(Path(options.teacher_cache), "--teacher_cache")
    if options.save_reference is not None:
        if Path(options.save_reference).suffix != ".npz":
            raise UserError(f"expected --save_reference to end in .npz, got {options.save_reference}; change its name")
        check_outputs([Path(options.save_reference)], options.overwrite)


def _samplers(options: EvaluateOptions, model: FrozenModel) -> list[Sampler]:
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


def _teacher(options: EvaluateOptions, model: FrozenModel) -> Sampler | None:
    """The teacher that is asked for, or that is all there is to hold latents against."""
    alone = decodes(model) and options.reference is None and not options.scores
    if options.teacher_nfe is None and not alone:
        if options.teacher is not None or options.teacher_order is not None:
            raise UserError("expected --teacher_nfe with --teacher or --teacher_order, got none; add it")
        return None
    return build_teacher(model, options.teacher, options.teacher_nfe, options.teacher_order)


def _source(options: EvaluateOptions, model: FrozenModel, teacher: Sampler | None) -> str | None:
    """Where the reference comes from; None where states are held against a teacher, or images against prompts."""
    source = options.reference or own_reference(model)
    if source is not None:
        return source
    if options.save_reference is not None:
        raise UserError("expected --reference beside --save_reference, got none; add it")
    if teacher is None and not options.scores:
        raise UserError(f"expected --reference for the model {model.name}: images it learned from, or their statistics")
    return None


def _reference(options: EvaluateOptions, model: FrozenModel, features: Features, source: str) -> Reference:
    prompts = model.prompts
    names = [] if prompts is None else [prompts.ids[text] for text in prompts.evaluation if text in prompts.ids]
    with progress_bar() as bar:
        task = bar.add_task("reference", total=None, note="")
        reference = load_reference(
            source, model, features, options.split, lambda done: bar.advance(task, done), names=names
        )
        bar.update(task, total=reference.images or 1, completed=reference.images or 1)
    if options.save_reference is not None:
        if reference.images is None:
            raise UserError(f"expected images for --save_reference, got the statistics {source}; leave it out")
        save_moments(Path(options.save_reference), reference.moments, features.name)
    return reference


def _evaluator(
    options: EvaluateOptions,
    model: FrozenModel,
    features: Features | None,
    reference: Reference | None,
    scorers: Mapping[str, Scorer],
    teacher: Sampler | None,
) -> Evaluator:
    batch = options.batch or (DECODED_BATCH if decodes(model) else BATCH)
    return Evaluator(
        model,
        features,
        reference,
        options.samples,
        options.blocks,
        options.seed,
        batch,
        pictured=ROWS if decodes(model) or teacher is not None else PICTURED,
        scorers=scorers,
        teacher=None if teacher is None else Endpoints(model, teacher, Path(options.teacher_cache)),
    )


def _score(evaluator: Evaluator, samplers: Sequence[Sampler]) -> list[Scored]:
    """Scores of all methods, and of the teacher, whose endpoints are computed first."""
    evaluator.prepare()
    scored, teacher = [], evaluator.teacher
    with progress_bar() as bar:
        if teacher is not None:
            missing = teacher.missing(evaluator.seeds)
            task = bar.add_task(f"teacher {teacher.sampler.label}", total=missing, note="")
            teacher.fill(evaluator.seeds, evaluator.batch, lambda done, task=task: bar.advance(task, done))
        evaluator.warm_up(samplers[0])
        for sampler in (*samplers, *([] if teacher is None else [teacher])):
            label = "teacher's images" if isinstance(sampler, Endpoints) else sampler.label
            task = bar.add_task(label, total=evaluator.blocks * evaluator.samples, note="")
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
      --samples 50000 --batch 512 --device cuda --nfe 5
  python -m apps.imagegen.evaluate --model sana-0.6b --prompts meta_data.json --reference mjhq30k_imgs \\
      --solver ipndm,out/dyweight,out/spanlift --nfe 5 --scores clip,image-reward --teacher_nfe 20 \\
      --samples 25000 --blocks 1 --device cuda --precision bfloat16""",
        argv=joined("nfe", "solver", "scores"),
    )

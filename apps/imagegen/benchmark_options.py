"""Options of `python -m apps.imagegen.benchmark`."""

from __future__ import annotations

from dataclasses import dataclass

from apps.imagegen.features import FeatureName
from apps.imagegen.models import Precision
from apps.imagegen.prompt_options import PromptOptions
from data_tools.cli import UserError


@dataclass(frozen=True)
class BenchmarkOptions(PromptOptions):
    """Options of the command.

    Attributes:
        table: which; --list shows them.
        model: shipped model, file of train_model or convert, or pipeline of diffusers (its folder, its id on the hub,
            or a name like sana-0.6b); for overhead also the name of an architecture, sana-0.6b or flux-dev, whose
            weights are then random. By default that of the table, where it can be had without being asked for.
        solvers: folder of trained solvers, KEY-nfeN each, as the commands for missing cells make them; by default one
            for each model, out/solvers/NAME-IDENTITY.
        nfe: comma-separated columns of the table, which are numbers of network calls, or of evaluations where guidance
            takes two calls for each, as the table says; by default the table's.
        samples: images of a block (distances), or over all (out-of-span).
        blocks: blocks of images that intervals are over.
        seed: of the first image.
        features: network that looks at images; see apps.imagegen.evaluate.
        reference: what distances are to: digits, a folder, an npz of images or of mu and sigma; by default the digits,
            for a model that learned from them.
        teacher_nfe: evaluations of the teacher that tables of latent models hold final states against; by default the
            table's.
        batch: images at once; in the overhead table those that throughput is measured with.
        repeats: timed runs of each kind in the overhead table; 0 times nothing.
        device: cpu, cuda, cuda:1, ...
        precision: of the network; the state stays in float32.
        out: folder of cells and tables. Cells that are finished there are kept when the command is started again.
        json: file of the table; an existing one needs --overwrite, but for the default one, TABLE.json in the folder.
        overwrite: replace a file that exists.
        list: show the tables, what each takes, what of that is here and its command, and end; --json writes it too.
        prompts: see `PromptOptions`, as the options after it.
    """

    table: str = "digits"
    model: str | None = None
    solvers: str | None = None
    nfe: str | None = None
    samples: int = 1000
    blocks: int = 3
    seed: int = 0
    features: FeatureName = "auto"
    reference: str | None = None
    teacher_nfe: int | None = None
    batch: int | None = None
    repeats: int = 5
    device: str = "cpu"
    precision: Precision = "float32"
    out: str = "out/benchmark"
    json: str | None = None
    overwrite: bool = False
    list: bool = False


def counts_of(options: BenchmarkOptions, usual: tuple[int, ...], most: int = 32) -> tuple[int, ...]:
    """Columns, ascending, each once: those of --nfe, or the usual ones.

    Raises:
        UserError: not whole numbers from 1 to 1000, or more than `most`.
    """
    if options.nfe is None:
        return usual
    try:
        counts = tuple(sorted({int(word) for word in options.nfe.replace(" ", ",").split(",") if word}))
    except ValueError:
        counts = ()
    if not counts or counts[0] < 1 or counts[-1] > 1000 or len(counts) > most:
        many = "one whole number" if most == 1 else "whole numbers like 3,4,5"
        raise UserError(f"expected --nfe as {many}, from 1 to 1000, for {options.table}, got {options.nfe!r}")
    return counts

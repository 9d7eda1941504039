"""README keeps its word: its two set-up lines, its Python, the commands and options it names, its links."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from apps.imagegen import benchmark, convert, sample, train_features, train_model
from apps.imagegen import evaluate as evaluate_images
from apps.imagegen import train_options as train_images
from apps.imagegen.models.latent import tiny
from apps.nowcast import convert as convert_prediff
from apps.nowcast import report
from apps.nowcast.adapters import blend_example
from apps.nowcast.evaluate import EvaluateOptions
from apps.nowcast.forecasting.options import ForecastOptions
from apps.nowcast.train import TrainOptions
from apps.solvers.compare import CompareOptions
from apps.solvers.statistics import StatisticsOptions
from data_tools import convert as convert_sevir
from data_tools import download, ingest, inspect, splits, stats, storms

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
CARD = (ROOT / "apps/nowcast/assets/mini/MODEL_CARD.md").read_text()
IMAGE_CARD = (ROOT / "apps/imagegen/assets/MODEL_CARD.md").read_text()


@dataclass(frozen=True)
class NoOptions:
    """Of a command that takes none."""


OPTIONS = {
    "apps.imagegen.benchmark": benchmark.BenchmarkOptions,
    "apps.imagegen.convert": convert.Options,
    "apps.imagegen.evaluate": evaluate_images.EvaluateOptions,
    "apps.imagegen.sample": sample.SampleOptions,
    "apps.imagegen.train": train_images.TrainOptions,
    "apps.imagegen.train_features": train_features.TrainFeaturesOptions,
    "apps.imagegen.train_model": train_model.TrainModelOptions,
    "apps.imagegen.models.latent.tiny": tiny.TinyOptions,
    "apps.nowcast.adapters.blend_example": blend_example.BlendOptions,
    "apps.nowcast.evaluate": EvaluateOptions,
    "apps.nowcast.forecast": ForecastOptions,
    "apps.nowcast.report": report.ReportOptions,
    "apps.nowcast.train": TrainOptions,
    "apps.nowcast.verification.definitions": NoOptions,
    "apps.solvers.compare": CompareOptions,
    "apps.solvers.statistics": StatisticsOptions,
    "apps.nowcast.convert": convert_prediff.ConvertOptions,
    "data_tools.convert": convert_sevir.Options,
    "data_tools.download": download.Options,
    "data_tools.ingest": ingest.Options,
    "data_tools.inspect": inspect.Options,
    "data_tools.splits": splits.Options,
    "data_tools.stats": stats.Options,
    "data_tools.storms": storms.Options,
}

CONFIGS = {
    "apps.imagegen.train": ROOT / "apps/imagegen/configs",
    "apps.nowcast.evaluate": ROOT / "apps/nowcast/configs/evaluate",
    "apps.nowcast.train": ROOT / "apps/nowcast/configs",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_it_opens_with_the_two_lines_that_set_everything_up() -> None:
    lines = blocks("sh")[0].splitlines()
    assert lines == [
        "pip install -e . && python -m apps.nowcast.evaluate",
        "pip install -e '.[test]' && pytest",
    ]
    assert TEXT.index("```sh") < 200


@pytest.mark.parametrize("code", blocks("python"))
def test_its_python_runs_and_prints_what_it_says(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for promised in re.findall(r"print\(.*\)  # (.*?)(?:: .*)?$", code, re.MULTILINE):
        assert promised in done.stdout


def test_its_commands_and_options_exist() -> None:
    commands = re.findall(r"python -m ([\w.]+)((?: [^\n`#]*)?)", TEXT + CARD + IMAGE_CARD)
    assert len(commands) > 8
    for module, arguments in commands:
        known = {*OPTIONS[module].__dataclass_fields__, "config"}
        for name in re.findall(r"--config ([\w-]+)", arguments):
            assert (CONFIGS[module] / f"{name}.yaml").is_file(), f"{module} has no configuration {name}"
        for option in re.findall(r"--(\w+)", arguments):
            assert option in known, f"{module} has no --{option}"


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target

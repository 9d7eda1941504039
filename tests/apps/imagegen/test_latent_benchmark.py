"""The benchmark of latent models as a user runs it: from a folder to a table, by the commands that it prints."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apps.imagegen import benchmark
from apps.imagegen.benchmark import BenchmarkOptions, main
from apps.imagegen.models.latent.tiny import tiny_pipeline
from data_tools.cli import UserError

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny pipeline `sana`, `prompts.txt`, and `images` to be a reference."""
    folder = tmp_path_factory.mktemp("latent")
    tiny_pipeline("sana").save_pretrained(folder / "sana")
    (folder / "prompts.txt").write_text("\n".join(f"{count} boats on the sea" for count in range(9)))
    (folder / "images").mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
    return folder


def options(place: Path, **changed: Any) -> list[str]:
    """Of every run."""
    chosen = {
        "table": "sana", "model": place / "sana", "prompts": place / "prompts.txt", "train_prompts": 4, "nfe": 3,
        "samples": 3, "blocks": 2, "teacher_nfe": 5, "solvers": place / "solvers", "text_cache": place / "text",
        "out": place / "out", **changed,
    }  # fmt: skip
    return [word for name, value in chosen.items() for word in (f"--{name}", str(value))]


def read(place: Path, name: str = "sana") -> dict[str, Any]:
    return json.loads((place / "out" / f"{name}.json").read_text(), parse_constant=lambda text: pytest.fail(text))


def test_from_a_folder_to_a_table(place: Path, run_cli: Cli, run_here: Cli) -> None:
    """Measured is what needs nothing; the commands printed for the rest are run, and the table is full."""
    done = run_cli("apps.imagegen.benchmark", *options(place))
    assert done.returncode == 0, done.stderr
    content = read(place)
    assert [table["table"] for table in content["tables"]] == ["sana-teacher", "sana-fid", "sana-image-reward"]
    first = content["tables"][0]["rows"]
    assert [row["status"] for row in first] == ["measured", "missing", "missing"]
    assert (first[0]["details"]["evaluations"], first[0]["details"]["calls"]) == (3, 6)
    assert content["options"]["prompts"] == str(place / "prompts.txt")
    commands = content["missing"]
    assert all(command in done.stdout for command in commands)
    base, both, again, *_ = commands
    assert again.endswith("--reference IMAGES")
    lift = both.removeprefix(f"{base} && ")
    assert "--guidance 4.5 --size 32" in base
    assert "--train_prompts 4" in base
    few = ["--pairs", "4", "--held_out", "2", "--batch", "2", "--iterations", "2", "--teacher_nfe", "4", "--loss",
           "mse=1", "--precision", "float32", "--text_cache", str(place / "text")]  # fmt: skip
    for command in (base, lift):
        words = shlex.split(command)
        done = run_here(words[2], *words[3:], *few, *(["--width", "8"] if command == lift else []))
        assert done.returncode == 0, done.stderr
    kept = {path: path.stat().st_mtime_ns for path in (place / "out" / "cells").iterdir()}
    done = run_here("apps.imagegen.benchmark", *options(place, reference=place / "images", features="efficientnet"))
    assert done.returncode == 0, done.stderr
    tables = {table["table"]: table["rows"] for table in read(place)["tables"]}
    for name in ("sana-teacher", "sana-fid"):
        assert [row["status"] for row in tables[name]] == ["measured"] * 3
        assert len({row["ours"]["value"] for row in tables[name]}) == 3
        assert (place / "out" / f"{name}.csv").read_text().count("measured") == 3
        with Image.open(place / "out" / f"{name}.png") as image:
            assert image.width > image.height > 300
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert tables["sana-fid"][2]["published"] == 14.4
    assert "EfficientNet" in read(place)["tables"][1]["value"]
    assert not any("apps.imagegen.train" in command for command in read(place)["missing"])


def test_without_a_model_or_prompts_the_commands_say_what_to_give(
    tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "plot_table", lambda filled, path: None)  # pictures of nothing take seconds
    main(BenchmarkOptions(table="flux", out=str(tmp_path / "out")))
    again = "python -m apps.imagegen.benchmark --table flux --model flux-dev --prompts FILE --guidance 3.5 --size 512"
    assert read(tmp_path, "flux")["missing"] == [f"{again} --reference IMAGES"]
    main(BenchmarkOptions(table="flux-drawbench", out=str(tmp_path / "out")))
    assert read(tmp_path, "flux-drawbench")["missing"] == [again.replace("--table flux", "--table flux-drawbench")]
    main(BenchmarkOptions(table="imagenet256", out=str(tmp_path / "out")))
    assert read(tmp_path, "imagenet256")["missing"] == [
        "python -m apps.imagegen.benchmark --table imagenet256 --model FOLDER --guidance 2.0 --reference IMAGES"
    ]
    main(BenchmarkOptions(table="sana", model=str(place / "sana"), out=str(tmp_path / "out")))
    assert "--prompts FILE --reference IMAGES" in read(tmp_path)["missing"][0]
    assert "75.92" in capsys.readouterr().out


def test_solvers_are_not_trained_on_a_benchmarks_prompts(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DyWeight of DrawBench is that of MS-COCO, with its prompts, whatever --prompts evaluate."""
    monkeypatch.setattr(benchmark, "plot_table", lambda filled, path: None)
    tiny_pipeline("flux").save_pretrained(place / "flux")
    main(
        BenchmarkOptions(
            table="flux-drawbench", model=str(place / "flux"), prompts=str(place / "prompts.txt"), train_prompts=0,
            nfe="9", samples=2, blocks=1, teacher_nfe=2, size=64, text_cache=str(place / "text"),
            out=str(tmp_path / "out"),
        )
    )  # fmt: skip
    trained = [command for command in read(tmp_path, "flux-drawbench")["missing"] if "imagegen.train" in command]
    assert len(trained) == 2
    for command in trained:
        assert "--prompts captions_val2014.json --train_prompts 5000" in command
        assert "prompts.txt" not in command
    assert "--config dyweight-flux-nfe9" in trained[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"nfe": "three"}, "whole numbers like 3,4,5"),
        ({"table": "sanna"}, "did you mean 'sana'"),
        ({"model": "no-such-folder"}, "no-such-folder"),
        ({"samples": 1}, "--samples of at least 2"),
        ({"size": 33}, "multiple of"),
        ({"teacher_nfe": -1}, "-1"),
        ({"reference": "no-such-images"}, "no-such-images"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    changed: dict[str, Any], message: str, place: Path, tmp_path: Path, run_here: Cli
) -> None:
    done = run_here("apps.imagegen.benchmark", *options(place, out=tmp_path / "out", **changed))
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "━" not in line and "WARNING" not in line]
    assert message in lines[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_prompts_for_a_model_without_them(tmp_path: Path, place: Path) -> None:
    with pytest.raises(UserError, match="no --prompts for digits"):
        main(BenchmarkOptions(table="sana", model="digits", prompts=str(place / "prompts.txt"), out=str(tmp_path)))

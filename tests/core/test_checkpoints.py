"""Checkpoints: identical samples after a round trip, a clear word for each bad file, no code run for foreign ones."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from core import load, save
from core.charts import DataChart, NoiseChart, TimeChart
from core.checkpoints import read_foreign_state_dict
from core.fields import MixtureField
from core.operators import Corrected, ResidualConfig, ScalarConfig, ScalarResidual, SpanLiftResidual, spanlift
from core.schedules import EDM, VP, Cosine, DiscreteVP, RectifiedFlow
from core.solvers import DDPM, IPNDM, AdamsBashforth, Euler, Heun
from core.specifications import from_specification, to_specification
from core.state import integrate

TABLE = DiscreteVP.scaled_linear(20)
SOLVERS = {
    "edm": lambda: spanlift(IPNDM(3), ResidualConfig(2, width=8, steps=2), EDM()),
    "table": lambda: spanlift(Euler(NoiseChart(TABLE)), ResidualConfig(2, width=8, steps=None)),
    "data chart": lambda: spanlift(AdamsBashforth(2, DataChart(VP(0.2, 10.0))), ResidualConfig(2, width=8, kernel=5)),
    "other chart": lambda: Corrected(
        DDPM(VP(), seeds=(3, 5, 8)), SpanLiftResidual(ResidualConfig(2, width=8), NoiseChart(VP()), VP())
    ),
    "flow": lambda: spanlift(Heun(), ResidualConfig(2, width=8, history=2), RectifiedFlow(3.0)),
    "scalar": lambda: Corrected(IPNDM(2), ScalarResidual(ScalarConfig(2, history=4), TimeChart())),
}


def trained(name: str, dtype: torch.dtype = torch.float32) -> Corrected:
    torch.manual_seed(1)
    solver = SOLVERS[name]().to(dtype)
    with torch.no_grad():
        for parameter in solver.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return solver


def keep(path: Path, solver, **changes) -> Path:
    card = {
        "grid": torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64),
        "field_identity": "0123abcd",
        "supervision": "teacher",
        "loss": "mse",
        "metrics": {"csi16": 0.25},
        "extra": {"iterations": 7, "note": ["a"]},
    }
    return save(path, solver, **{**card, **changes})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SOLVERS)
def test_round_trip_gives_identical_samples(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    solver = trained(name, dtype)
    path = keep(tmp_path / "a.safetensors", solver)
    loaded = load(path)
    generator = torch.Generator().manual_seed(0)
    field = MixtureField(torch.randn(3, 2, 4, 5, generator=generator), torch.ones(3), 0.4, VP())
    x_T = torch.randn(3, 2, 4, 5, generator=generator, dtype=dtype)
    with torch.no_grad():
        expected = integrate(field, solver, x_T, loaded.card.grid).x
    got = integrate(field, loaded, x_T, loaded.card.grid).x
    assert torch.equal(got, expected)
    assert not got.requires_grad
    assert loaded.memory == solver.memory


def test_card_tells_the_rest(tmp_path: Path) -> None:
    grid = torch.linspace(1, 0, 6, dtype=torch.float64) ** 1.1
    keep(tmp_path, trained("edm"), grid=grid)
    loaded = load(tmp_path)
    card = loaded.card
    assert torch.equal(card.grid, grid)
    assert card.steps == 5
    assert (card.field_identity, card.supervision, card.loss) == ("0123abcd", "teacher", "mse")
    assert card.metrics == {"csi16": 0.25}
    assert card.extra == {"iterations": 7, "note": ["a"]}
    assert loaded.bind(torch.zeros(1, 1, 4, 5)).card is card
    assert [path.name for path in tmp_path.iterdir()] == ["solver.safetensors"]
    assert keep(tmp_path / "new" / "folder", trained("edm")) == tmp_path / "new" / "folder" / "solver.safetensors"


def rewrite(path: Path, **changes) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    card = {**json.loads(metadata["card"]), **changes}
    save_file(tensors, path, {**metadata, "card": json.dumps(card)})


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = keep(tmp_path / "solver.safetensors", trained("edm"))
    content = path.read_bytes()

    def fails(words: str) -> None:
        with pytest.raises(ValueError, match=words):
            load(path)
        path.write_bytes(content)

    with pytest.raises(ValueError, match="got no file"):
        load(tmp_path / "nothing.safetensors")
    for size in (0, 5, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        fails("truncated")
    path.write_bytes(b"PK\x03\x04 something else entirely, longer than a header")
    fails("not safetensors")
    save_file({"weight": torch.zeros(3)}, path)
    fails("expected a file of format 'spanlift-solver', got None")
    rewrite(path, version=2)
    fails("expected version 1 of the format, got 2")
    rewrite(path, solver={"type": "unknown"})
    fails("got 'unknown'")
    rewrite(path, solver={**card_of(path)["solver"], "base": {"type": "Popen", "args": ["ls"]}})
    fails("expected one of .*Euler.* got 'Popen'")
    rewrite(path, solver={**card_of(path)["solver"], "base": {"type": "Euler", "speed": 3}})
    fails("fields of Euler")
    described = card_of(path)["solver"]
    rewrite(path, solver={**described, "config": {**described["config"], "width": 9}})
    fails("got .*damaged")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"weight": torch.zeros(3)}, path, {"format": metadata["format"], "card": "{"})
    fails("no.* that can be read")
    save_file({"weight": torch.zeros(3)}, path, {"format": metadata["format"], "card": '{"version": 1}'})
    fails("expected extra in the card")
    load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": "soon"},
        {"grid": [0.1, 0.5, 1.0]},
        {"grid": [1.0]},
        {"grid": [[1.0, 0.5]]},
        {"solver": "euler"},
        {"solver": None},
        {"field_identity": 7},
        {"metrics": []},
        {"extra": None},
    ],
)
def test_forged_cards_are_refused(tmp_path: Path, changes: dict) -> None:
    path = keep(tmp_path / "solver.safetensors", trained("edm"))
    rewrite(path, **changes)
    with pytest.raises(ValueError, match="save the solver again"):
        load(path)


def card_of(path: Path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["card"])


def test_long_tables_are_written_once(tmp_path: Path) -> None:
    path = keep(tmp_path, trained("table"))
    text = json.dumps(card_of(path))
    assert text.count("DiscreteVP") == 1


def test_what_has_no_written_form_leaves_no_file(tmp_path: Path) -> None:
    class Own(Euler):
        pass

    conditioned = spanlift(Euler(), ResidualConfig(2, width=8, condition_channels=3), EDM())
    for solver in (
        torch.nn.Linear(2, 2),
        spanlift(Own(), ResidualConfig(2, width=8), EDM()),
        Corrected(Euler(), lambda state, proposal: state.x),
        conditioned.bind(torch.zeros(1, 3, 4, 5)),
    ):
        with pytest.raises(ValueError, match="expected a"):
            keep(tmp_path / "a.safetensors", solver)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = keep(tmp_path / "a.safetensors", trained("edm"))
    before = path.read_bytes()

    def full(tensors, filename, metadata) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("core.checkpoints.save_file", full)
    with pytest.raises(OSError, match="No space"):
        keep(path, trained("flow"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "value", [Cosine(0.01), TABLE, NoiseChart(TABLE), DDPM(VP(), seeds=(1, 2)), RectifiedFlow(2.5)]
)
def test_specifications_survive_json(value: object) -> None:
    assert from_specification(json.loads(json.dumps(to_specification(value)))) == value


def test_tensors_in_specifications_survive_exactly() -> None:
    table = torch.tensor([1 / 3, 2e-38, 7.0], dtype=torch.float32)
    again = from_specification(json.loads(json.dumps(to_specification(table))))
    assert again.dtype == table.dtype
    assert torch.equal(again, table)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_foreign_pickles_run_no_code(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    for name, write in (
        ("plain.pkl", lambda path: path.write_bytes(pickle.dumps({"w": Payload(marker)}, protocol=protocol))),
        ("torch.pt", lambda path: torch.save({"w": Payload(marker)}, path, pickle_protocol=protocol)),
    ):
        path = tmp_path / name
        write(path)
        with pytest.raises(ValueError, match=r"expected tensors alone.*\.system"):
            read_foreign_state_dict(path)
    assert not marker.exists()


def test_foreign_state_dicts_are_found_where_they_are(tmp_path: Path) -> None:
    weights = OrderedDict(a=torch.arange(3.0), b=torch.eye(2).half())
    contents = {"bare.pt": weights, "nested.ckpt": {"state_dict": weights, "epoch": 3}, "twice.pt": {"model": weights}}
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
    save_file(dict(weights), tmp_path / "a.safetensors")
    for name in (*contents, "a.safetensors"):
        got = read_foreign_state_dict(tmp_path / name)
        assert got.keys() == weights.keys()
        assert all(torch.equal(got[key], weights[key]) and got[key].dtype == weights[key].dtype for key in weights)


def test_foreign_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got no file"):
        read_foreign_state_dict(tmp_path / "none.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"a": torch.zeros(50)}, tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:300])
    (tmp_path / "half.safetensors").write_bytes(b"12345678abc")
    for name in ("empty.pt", "half.pt", "half.safetensors"):
        with pytest.raises(ValueError, match=r"truncated or foreign|asks for"):
            read_foreign_state_dict(tmp_path / name)
    torch.save({"a": torch.zeros(2), "b": "text"}, tmp_path / "mixed.pt")
    with pytest.raises(ValueError, match="names to tensors"):
        read_foreign_state_dict(tmp_path / "mixed.pt")

"""The optimisation loop: resumes exactly, refuses another run's folder, averages, schedules its rate."""

from __future__ import annotations

import json
import os
import stat
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.fitting import Average, FitConfig, fit, write_atomically

CONFIG = FitConfig(iterations=23, learning_rate=0.05, ema_decay=0.9, checkpoint_every=5, log_every=2)


def module() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 2))


def loss_of(net: nn.Module, stop_at: int | None = None):
    def loss(iteration: int) -> tuple[Tensor, dict[str, float]]:
        if iteration == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(11, 4, generator=torch.Generator().manual_seed(iteration))
        return (net(x) - x[:, :2]).square().mean(), {"count": 11.0}

    return loss


def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole = module()
    fit(whole, loss_of(whole), CONFIG, tmp_path / "whole")
    net = module()
    with pytest.raises(KeyboardInterrupt):
        fit(net, loss_of(net, stop_at=13), CONFIG, tmp_path / "killed")
    again = module()
    fit(again, loss_of(again), CONFIG, tmp_path / "killed")
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (tmp_path / "whole/log.jsonl").read_text() == (tmp_path / "killed/log.jsonl").read_text()


def test_the_loss_falls_and_is_logged(tmp_path: Path) -> None:
    net = module()
    fit(net, loss_of(net), FitConfig(iterations=200, learning_rate=0.02), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.2 * lines[0]["loss"]
    assert lines[-1]["iteration"] == 199
    assert lines[0]["count"] == 11.0


@pytest.mark.parametrize("content", [[1, 2], {"weight": torch.zeros(2)}])
def test_a_file_that_is_no_checkpoint_of_a_run_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    net = module()
    with pytest.raises(ValueError, match="got another file; remove it"):
        fit(net, loss_of(net), CONFIG, tmp_path)


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    net = module()
    fit(net, loss_of(net), CONFIG, tmp_path, identity={"seed": 1})
    with pytest.raises(ValueError, match="another configuration"):
        fit(module(), loss_of(net), CONFIG, tmp_path, identity={"seed": 2})


def test_frozen_parameters_are_neither_fitted_nor_stored(tmp_path: Path) -> None:
    net = module()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    fit(net, loss_of(net), CONFIG, tmp_path)
    stored = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["module"]
    assert torch.equal(net[0].weight, before)
    assert set(stored) == {"2.weight", "2.bias"}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    net = module()
    with pytest.raises(FloatingPointError, match="iteration 0"):
        fit(net, lambda i: (net(torch.full((2, 4), torch.inf)).sum(), {}), CONFIG, tmp_path)


def test_the_rate_rises_then_falls() -> None:
    config = FitConfig(iterations=100, learning_rate=2.0, warmup=0.1, final_rate=0.01)
    rates = [config.rate(i) for i in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert rates.index(max(rates)) == 10
    assert rates[-1] < 0.03
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_the_average_follows_its_formula() -> None:
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    average = Average(net, decay=0.5)
    with torch.no_grad():
        net.weight.fill_(3.0)
    average.update(net)  # decay min(0.5, 1/10)
    assert average.values["weight"].item() == pytest.approx(0.1 * 1.0 + 0.9 * 3.0)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="no permission bits")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_written_file_has_the_mode_that_the_umask_gives(tmp_path: Path, mask: int) -> None:
    """safetensors writes private files; those of a shared folder would be unreadable for everybody else."""
    tensors = {"a": torch.ones(3)}
    before = os.umask(mask)
    try:
        for name in ("new", "new"):  # the second time over an old file
            write_atomically(tmp_path / name, lambda temporary: save_file(tensors, temporary))
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask
    finally:
        os.umask(before)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize(("name", "value"), [("iterations", 0), ("learning_rate", 0.0)])
def test_senseless_configurations_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        FitConfig(**{"iterations": 5, "learning_rate": 0.1, name: value})


def test_several_losses_are_fitted_as_their_mean(tmp_path: Path) -> None:
    """What they log is averaged too; the weights of parts of unequal size make up the whole."""
    x = torch.randn(11, 4, generator=torch.Generator().manual_seed(0)).double()
    config = FitConfig(iterations=7, learning_rate=0.05, ema_decay=0.9, log_every=1)

    def part(net: nn.Module, rows: slice, weight: float) -> tuple[Tensor, dict[str, float]]:
        error = (net(x[rows]) - x[rows, :2]).square().mean()
        return weight * error, {"rows": weight * len(x[rows])}

    whole, cut = module().double(), module().double()
    fit(whole, lambda _: part(whole, slice(None), 1.0), config, tmp_path / "whole")
    parts = [(slice(0, 4), 2 * 4 / 11), (slice(4, 11), 2 * 7 / 11)]
    fit(cut, [lambda _, p=p: part(cut, *p) for p in parts], config, tmp_path / "cut")
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
    logs = [
        [json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in ("whole", "cut")
    ]
    assert [line["loss"] for line in logs[1]] == pytest.approx([line["loss"] for line in logs[0]], rel=1e-9)
    assert logs[1][0]["rows"] == pytest.approx((16 + 49) / 11)


def test_the_identity_of_a_run_is_what_it_was(tmp_path: Path) -> None:
    """Runs of earlier releases go on: what a checkpoint is known by does not change."""
    net = module()
    fit(net, loss_of(net), FitConfig(iterations=1, learning_rate=0.1), tmp_path, identity={"seed": 1})
    run = json.loads(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["run"])
    assert run == {
        "config": {
            "iterations": 1,
            "learning_rate": 0.1,
            "warmup": 0.1,
            "final_rate": 0.01,
            "betas": [0.9, 0.999],
            "weight_decay": 0.0,
            "clip": 1.0,
            "ema_decay": 0.0,
            "checkpoint_every": 200,
            "log_every": 10,
        },
        "identity": {"seed": 1},
    }

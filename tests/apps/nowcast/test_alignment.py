"""Knowledge alignment: its network, the pull on ancestral sampling, and that no future is ever looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import core
from apps.nowcast.aligned import AlignedDDPM, Alignment, Anticipated, Pull, load_alignment_of, parse_anticipated
from apps.nowcast.data import load_windows
from apps.nowcast.evaluation import Evaluator
from apps.nowcast.methods import parse_methods
from apps.nowcast.metrics import PerceptualDistance
from apps.nowcast.model import AlignmentConfig, AlignmentNetwork
from apps.nowcast.model.alignment import AttentionPool
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.stages.alignment import AlignmentStage, mean_intensities, train_alignment
from apps.nowcast.stages.execution import Execution
from apps.nowcast.weight_files import load_alignment, save_weights, weights_hash
from core.fitting import FitConfig
from core.solvers.ddpm import noise_generator
from data_tools.cli import UserError

CONFIG = AlignmentConfig((6, 8, 8, 3), base_units=8, num_heads=2, dropout=0.0, norm_num_groups=4)
F64 = torch.float64


class Read(nn.Module):
    """A stand-in whose gradient is known: each frame's intensity is the mean of its latents."""

    def __init__(self, config: AlignmentConfig = CONFIG) -> None:
        super().__init__()
        self.config = config

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        return x.mean((2, 3, 4))[..., None]


def random(config: AlignmentConfig = CONFIG, seed: int = 0) -> AlignmentNetwork:
    torch.manual_seed(seed)
    network = AlignmentNetwork(config)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.requires_grad_(False).eval()


def pull(network: nn.Module, anticipated: Tensor, scale: float, seeds: tuple[int, ...]) -> core.Corrected:
    solver = core.DDPM(core.DiscreteVP.scaled_linear(), seeds)
    return core.Corrected(solver, Pull(cast(AlignmentNetwork, network), solver, anticipated, scale))


def noise_network(x: Tensor, time: Tensor) -> Tensor:
    return torch.tanh(x * (1 + time / 1000)) * 0.9


def start(rows: int) -> Tensor:
    draws = [torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(s), dtype=F64) for s in range(rows)]
    return torch.stack(draws)


def reference(x: Tensor, anticipated: Tensor, scale: float, seeds: tuple[int, ...], steps: int) -> Tensor:
    """The last `steps` of PreDiff's loop, from its table of betas: mean - exp(log variance / 2) scale gradient."""
    beta = torch.linspace(1e-4**0.5, 2e-2**0.5, 1000, dtype=F64) ** 2
    survival = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1, dtype=F64), survival[:-1]])
    for step, m in enumerate(range(steps - 1, -1, -1)):
        predicted = noise_network(x, torch.tensor(float(m), dtype=F64))
        data = x / survival[m].sqrt() - (1 / survival[m] - 1).sqrt() * predicted
        first = beta[m] * before[m].sqrt() / (1 - survival[m])
        second = (1 - before[m]) * (1 - beta[m]).sqrt() / (1 - survival[m])
        spread = (beta[m] * (1 - before[m]) / (1 - survival[m])).sqrt()
        # The intensity is the mean of a sample's values, so the gradient of its distance is a sign over their number.
        sign = (x.flatten(1).mean(1) - anticipated).sign()[:, None, None, None, None]
        mean = first * data + second * x - spread * scale * sign / x[0].numel()
        drawn = [torch.randn(x.shape[1:], generator=noise_generator(s, step), dtype=F64) for s in seeds]
        x = mean + (spread * torch.stack(drawn) if m > 0 else 0.0)
    return x


def test_the_pull_is_that_of_prediff() -> None:
    seeds, anticipated = (7, 3), torch.tensor([0.4, -2.0], dtype=F64)
    schedule = core.DiscreteVP.scaled_linear()
    field = core.NoisePredictionField(noise_network, schedule)
    solver = pull(Read(), anticipated, 50.0, seeds)
    grid = core.build_grid("uniform", 40, 0.04, 0.0)  # the last forty of the thousand steps
    state = core.integrate(field, solver, start(2), grid)
    torch.testing.assert_close(state.x, reference(start(2), anticipated, 50.0, seeds, 40), rtol=1e-8, atol=1e-8)
    assert state.nfe == 40  # the alignment network is not counted: it is another one, and small


def test_without_strength_it_is_ancestral_sampling_bit_for_bit() -> None:
    field = core.NoisePredictionField(noise_network, core.DiscreteVP.scaled_linear())
    grid = core.build_grid("uniform", 7, 1.0, 0.0)
    solver = pull(Read(), torch.zeros(2), 0.0, (5, 8))
    plain = core.integrate(field, core.DDPM(core.DiscreteVP.scaled_linear(), (5, 8)), start(2), grid).x
    assert torch.equal(core.integrate(field, solver, start(2), grid).x, plain)


@pytest.mark.parametrize("steps", [20, 60])
def test_samples_are_drawn_to_what_is_anticipated(steps: int) -> None:
    """The expected noise of data without a signal keeps the state standard normal: only the pull moves its mean."""
    schedule = core.DiscreteVP.scaled_linear()
    field = core.NoisePredictionField(lambda x, time: schedule((time + 1) / 1000).sigma * x, schedule)
    grid = core.build_grid("uniform", steps, 1.0, 0.0)
    means = []
    for wanted in (-1.0, 1.0):
        solver = pull(Read(), torch.full((3,), wanted, dtype=F64), 50.0, (1, 2, 3))
        means.append(core.integrate(field, solver, start(3), grid).x.flatten(1).mean(1))
    assert bool((means[1] > means[0] + 0.3).all())


def test_a_member_depends_neither_on_others_nor_on_what_is_anticipated_for_them() -> None:
    network, schedule = random(), core.DiscreteVP.scaled_linear()
    field = core.NoisePredictionField(noise_network, schedule)
    grid = core.build_grid("uniform", 4, 1.0, 0.0)
    x = torch.randn(3, 3, 6, 8, 8, generator=torch.Generator().manual_seed(4))
    together = core.integrate(field, pull(network, torch.tensor([-9.0, 9.0, 0.4]), 50.0, (5, 6, 7)), x, grid).x
    alone = core.integrate(field, pull(network, torch.tensor([9.0]), 50.0, (6,)), x[1:2], grid).x
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-4)
    other = core.integrate(field, pull(network, torch.tensor([9.0, 9.0, 0.4]), 50.0, (5, 6, 7)), x, grid).x
    assert not torch.allclose(other[0], together[0])
    assert torch.equal(other[1:], together[1:])


def test_the_gradient_is_that_of_the_network() -> None:
    network = random().double()
    x = torch.randn(2, 3, 6, 8, 8, generator=torch.Generator().manual_seed(5), dtype=F64)
    t, anticipated = torch.tensor(0.3, dtype=F64), torch.tensor([0.2, -5.0], dtype=F64)
    solver = core.DDPM(core.DiscreteVP.scaled_linear())
    found = Pull(network, solver, anticipated, 1.0).gradient(x, t)

    def distance(values: Tensor) -> Tensor:
        means = network(values.movedim(1, -1), torch.full((2,), 299.0, dtype=F64)).mean((1, 2))
        return (means - anticipated).abs().sum()

    for sample in range(2):  # along the gradient of each sample; its softmax in float32 forbids smaller differences
        along = torch.zeros_like(x)
        along[sample] = found[sample] / found[sample].norm()
        slope = (distance(x + 0.05 * along) - distance(x - 0.05 * along)) / 0.1
        assert slope.item() == pytest.approx(found[sample].norm().item(), rel=1e-2)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_pooling_by_brute_force() -> None:
    pool = AttentionPool(channels=6, cells=20, heads=3, out=2).double()
    x = torch.randn(2, 6, 4, 5, dtype=F64, generator=torch.Generator().manual_seed(6))
    weight, bias = pool.qkv_proj.weight[..., 0], pool.qkv_proj.bias
    for sample in range(2):
        cells = x[sample].flatten(1)
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], 1) + pool.positional_embedding
        q, k, v = (weight @ tokens + bias[:, None]).view(3, 3, 2, 21)  # (of q, k, v; head; channel; token)
        gathered = []
        for head in range(3):
            scores = torch.stack([(q[head, :, 0] * k[head, :, cell]).sum() / 2**0.5 for cell in range(21)])
            gathered.append(v[head] @ scores.softmax(0))
        expected = pool.c_proj.weight[..., 0] @ torch.cat(gathered) + pool.c_proj.bias
        torch.testing.assert_close(pool(x)[sample], expected, rtol=1e-6, atol=1e-7)  # its softmax is in float32


def test_frames_of_a_sample_are_read_in_their_order_and_samples_apart() -> None:
    network = random().double()
    x = torch.randn(2, 6, 8, 8, 3, dtype=F64, generator=torch.Generator().manual_seed(7))
    t = torch.tensor([3.0, 800.0], dtype=F64)
    both = network(x, t)
    assert both.shape == (2, 6, 1)
    for sample in range(2):
        torch.testing.assert_close(network(x[sample : sample + 1], t[sample : sample + 1])[0], both[sample])
    assert not torch.allclose(network(x, t.flip(0)), both)
    with pytest.raises(ValueError, match=r"expected x of shape \(2, 6, 8, 8, 3\)"):
        network(x[:, :5], t)


@pytest.mark.parametrize(
    ("text", "expected"), [("0.12", Anticipated(0.12)), (" 1 ", Anticipated(1.0)), ("1.5x", Anticipated(1.5, True))]
)
def test_what_is_anticipated_is_a_number_of_the_user(text: str, expected: Anticipated) -> None:
    assert parse_anticipated(text) == expected


@pytest.mark.parametrize("text", ["", "x", "1.2", "-0.1", "nan", "inf", "-2x", "nanx", "future", "2 x 3"])
def test_other_anticipations_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected --anticipated"):
        parse_anticipated(text)


def test_multiples_are_of_the_last_observed_frame() -> None:
    context = torch.zeros(2, 3, 4, 5)
    context[0, -1, 0], context[1, -1] = 1.0, 0.8  # five of twenty pixels; all
    assert Anticipated(2.0, True).of(context).tolist() == pytest.approx([0.5, 1.0])
    assert Anticipated(0.3).of(context).tolist() == pytest.approx([0.3, 0.3])


def test_the_future_is_never_looked_at(nowcaster: Nowcaster, tiny_store: Path) -> None:
    """A forecast with alignment is the same whatever came after its context."""
    windows = load_windows(str(tiny_store), "test", 13)
    frames = np.array(windows.frames)
    frames[:, 7:] = 20.0 - np.nan_to_num(frames[:, 7:])
    other = type(windows)(
        frames, windows.ids, windows.sources, windows.times, windows.quantity, windows.time_step_minutes
    )
    alignment = Alignment(random(), Anticipated(1.5, True))
    (method,) = parse_methods("aligned-ddpm-3", nowcaster, alignment)
    forecasts = []
    for source in (windows, other):
        evaluator = Evaluator(nowcaster, source, PerceptualDistance("efficientnet"), 2, 0, 4, 0, "cpu")
        forecasts.append([made.frames for made in evaluator._forecasts(method)])
    assert all(np.array_equal(a, b) for a, b in zip(*forecasts, strict=True))
    (plain,) = parse_methods("ddpm-3", nowcaster)
    unaligned = [made.frames for made in evaluator._forecasts(plain)]
    assert not np.array_equal(forecasts[0][0], unaligned[0])


def test_each_sample_gets_the_anticipation_of_its_window(nowcaster: Nowcaster) -> None:
    context = torch.rand(2, 7, 32, 32, generator=torch.Generator().manual_seed(8))
    alignment = Alignment(random(), Anticipated(0.9, True))
    sampler = AlignedDDPM(alignment, nowcaster.schedule, (1, 2, 3, 4, 5, 6))
    forecast = nowcaster.forecast(context, sampler, nowcaster.grid(2), [1, 2, 3, 4, 5, 6])
    alone = AlignedDDPM(alignment, nowcaster.schedule, (4, 5, 6))
    last = nowcaster.forecast(context[1:], alone, nowcaster.grid(2), [4, 5, 6])
    torch.testing.assert_close(last.frames, forecast.frames[3:], rtol=1e-4, atol=1e-5)


def test_methods_that_need_an_anticipation_say_so(nowcaster: Nowcaster) -> None:
    with pytest.raises(UserError, match="expected --anticipated"):
        parse_methods("aligned-ddpm-5", nowcaster)


def test_networks_are_loaded_for_the_model_they_fit(nowcaster: Nowcaster, tmp_path: Path) -> None:
    def load(path: str | None = None, scale: float = 50.0) -> Alignment:
        return load_alignment_of(nowcaster, "0.2", scale, path, tmp_path, "cpu")

    with pytest.raises(UserError, match="train the alignment stage first"):
        load()
    card: dict[str, Any] = {"codec": weights_hash(nowcaster.codec)}
    save_weights(tmp_path / "alignment.safetensors", random(), "alignment", CONFIG, card)
    assert load().network.config == CONFIG
    with pytest.raises(UserError, match="expected --guide_scale of 0 or more"):
        load(scale=float("nan"))
    save_weights(tmp_path / "c.safetensors", random(), "alignment", CONFIG, {"codec": "another"})
    with pytest.raises(UserError, match="another codec"):
        load(str(tmp_path / "c.safetensors"))
    small = AlignmentConfig((6, 4, 8, 3), base_units=8, num_heads=2, norm_num_groups=4)
    save_weights(tmp_path / "s.safetensors", AlignmentNetwork(small), "alignment", small, card)
    with pytest.raises(UserError, match=r"latents \(6, 8, 8, 3\)"):
        load(str(tmp_path / "s.safetensors"))


def test_training_reads_means_of_the_coming_frames(nowcaster: Nowcaster, tiny_store: Path, tmp_path: Path) -> None:
    windows = load_windows(str(tiny_store), "train", 13)
    means = mean_intensities(windows, 6, tmp_path, Execution())
    expected = np.nan_to_num(windows.quantity.encode(np.array(windows.frames))[:, 7:]).mean((-2, -1))
    np.testing.assert_allclose(means.numpy(), expected, rtol=1e-5)
    assert torch.equal(mean_intensities(windows, 6, tmp_path, Execution()), means)  # kept on disk
    (kept,) = tmp_path.glob("means-*")
    kept.write_bytes(kept.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"got a damaged file .*; remove it"):
        mean_intensities(windows, 6, tmp_path, Execution())
    stage = AlignmentStage(CONFIG, FitConfig(60, 1e-2, log_every=1), batch=4, seed=1)
    network = train_alignment(stage, nowcaster.codec, windows, tmp_path, Execution(), {"data": {}})
    saved = load_alignment(tmp_path / "alignment.safetensors")
    assert saved.config == CONFIG
    x, t = torch.randn(2, 6, 8, 8, 3), torch.tensor([0.0, 500.0])
    torch.testing.assert_close(saved(x, t), network(x, t), rtol=1e-2, atol=1e-2)  # written in half precision
    lines = (tmp_path / "alignment/log.jsonl").read_text().splitlines()
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])


def test_means_do_not_change_under_symmetries() -> None:
    """What lets one mean serve every symmetry of a window."""
    from apps.nowcast.data import dihedral

    frames = torch.rand(6, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(9))
    for element in range(8):
        torch.testing.assert_close(dihedral(frames, element).mean((-2, -1)), frames.mean((-2, -1)))


def test_stand_ins_are_what_they_claim() -> None:
    """The gradient that the reference assumes, against autograd."""
    x = start(2)
    found = Pull(cast(AlignmentNetwork, Read()), core.DDPM(core.VP()), torch.tensor([9.0, -9.0], dtype=F64), 1.0)
    gradient = found.gradient(x, torch.tensor(0.5, dtype=F64))
    expected = torch.tensor([-1.0, 1.0], dtype=F64)[:, None, None, None, None].expand_as(x) / x[0].numel()
    torch.testing.assert_close(gradient, expected)

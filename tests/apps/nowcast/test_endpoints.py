"""The endpoint losses of the nowcast: what is compared with what."""

from __future__ import annotations

import pytest
import torch

from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.stages.endpoints import DEFAULT_LOSS, parse_loss
from core.supervision import Example
from data_tools.cli import UserError

GENERATOR = torch.Generator().manual_seed(4)


def example(endpoint: torch.Tensor) -> Example:
    return Example(torch.empty(0), None, endpoint)


def test_latents_are_compared_as_they_are(nowcaster: Nowcaster) -> None:
    prediction, teacher = torch.randn(2, 2, 3, 6, 8, 8, generator=GENERATOR)
    loss = parse_loss("latent=2", nowcaster, members=1)
    assert loss(prediction, example(teacher)).item() == pytest.approx(2 * (prediction - teacher).square().mean().item())


def test_a_teachers_latents_are_decoded_for_losses_of_frames(nowcaster: Nowcaster) -> None:
    prediction, teacher = torch.randn(2, 2, 3, 6, 8, 8, generator=GENERATOR)
    loss = parse_loss("mse=1", nowcaster, members=1)
    expected = (nowcaster.decode(prediction) - nowcaster.decode(teacher)).square().mean()
    assert loss(prediction, example(teacher)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_members_of_a_window_are_scored_against_its_frames(nowcaster: Nowcaster) -> None:
    prediction = torch.randn(6, 3, 6, 8, 8, generator=GENERATOR)  # two windows of three members
    future = torch.rand(2, 6, 32, 32, generator=GENERATOR)
    frames = nowcaster.decode(prediction).view(2, 3, 6, 32, 32)
    skill = (frames - future[:, None]).abs().mean()
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    spread = sum((frames[:, i] - frames[:, j]).abs().mean() for i, j in pairs) / len(pairs)
    loss = parse_loss("crps=1", nowcaster, members=3)
    assert loss(prediction, example(future)).item() == pytest.approx((skill - 0.5 * spread).item(), rel=1e-4)
    of_mean = parse_loss("mean=1", nowcaster, members=3)
    expected = (frames.mean(1) - future).square().mean()
    assert of_mean(prediction, example(future)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_latents_of_a_target_are_its_frames_encoded(nowcaster: Nowcaster) -> None:
    prediction = torch.randn(4, 3, 6, 8, 8, generator=GENERATOR)
    future = torch.rand(2, 6, 32, 32, generator=GENERATOR)
    expected = (prediction - nowcaster.encode(future).repeat_interleave(2, 0)).square().mean()
    loss = parse_loss("latent=1", nowcaster, members=2)
    assert loss(prediction, example(future)).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("text", sorted(DEFAULT_LOSS.values()))
def test_gradients_reach_the_endpoint_and_stay_out_of_the_model(nowcaster: Nowcaster, text: str) -> None:
    prediction = torch.randn(4, 3, 6, 8, 8, generator=GENERATOR).requires_grad_()
    endpoint = torch.randn(4, 3, 6, 8, 8) if text.startswith("latent") else torch.rand(2, 6, 32, 32)
    loss = parse_loss(text, nowcaster, members=2)
    loss(prediction, example(endpoint)).backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().max() > 0
    assert all(p.grad is None for p in nowcaster.parameters())
    assert loss.name


@pytest.mark.parametrize("text", ["", "crps3=1", "mse=x"])
def test_unknown_terms_are_refused(nowcaster: Nowcaster, text: str) -> None:
    with pytest.raises(UserError, match="--loss"):
        parse_loss(text, nowcaster, members=2)


def test_inception_without_its_package_names_what_to_take_instead(
    nowcaster: Nowcaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.inception.installed", lambda: False)
    with pytest.raises(UserError, match="pip install torch-fidelity; or take --loss features=1"):
        parse_loss("inception=1", nowcaster, members=1)


def test_inception_sees_each_frame_as_a_grey_image(nowcaster: Nowcaster, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that averages quarters of images in place of the network."""
    shown: list[torch.Size] = []

    class Quarters(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            shown.append(images.shape)
            return torch.nn.functional.avg_pool2d(images, 16).flatten(1)

    frozen = Quarters()
    monkeypatch.setattr("apps.nowcast.stages.endpoints.load_inception", lambda instead: (frozen, "quarters", False))
    monkeypatch.setattr("apps.nowcast.stages.endpoints.differentiable", lambda network: network)
    loss = parse_loss("inception=2,mse=1", nowcaster, members=3)
    assert loss.networks == (frozen,)
    assert "quarters,plain" in loss.name
    prediction = torch.randn(6, 3, 6, 8, 8, generator=GENERATOR).requires_grad_()
    future = torch.rand(2, 6, 32, 32, generator=GENERATOR)
    frames = nowcaster.decode(prediction)
    repeated = future.repeat_interleave(3, 0)
    means = [torch.nn.functional.avg_pool2d(2 * part - 1, 16) for part in (frames, repeated)]
    expected = 2 * (means[0] - means[1]).square().mean() + (frames - repeated).square().mean()
    value = loss(prediction, example(future))
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    assert shown == [torch.Size([36, 1, 32, 32])] * 2
    value.backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().max() > 0

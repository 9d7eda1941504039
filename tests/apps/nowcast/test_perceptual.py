"""The perceptual distance: a distance, differentiable, and LPIPS where its weights are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from apps.nowcast.metrics import PerceptualDistance
from apps.nowcast.metrics.perceptual import WEIGHTS_VARIABLE
from data_tools.cli import UserError


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return PerceptualDistance("efficientnet")


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """(3, 64, 96) rain-like fields in [0, 1]: blobs over dry ground."""
    noise = np.random.default_rng(0).normal(size=(3, 64, 96))
    smooth = gaussian_filter(noise, (0, 3, 3))
    return torch.from_numpy(np.clip(4 * smooth, 0, 1).astype(np.float32))


def blur(frames: torch.Tensor, width: float) -> torch.Tensor:
    return torch.from_numpy(gaussian_filter(frames.numpy(), (0, width, width)))


def test_is_zero_for_equal_frames_symmetric_and_positive(distance, frames):
    assert distance(frames, frames).tolist() == [0, 0, 0]
    other = blur(frames, 2.0)
    there, back = distance(frames, other), distance(other, frames)
    assert there.shape == (3,)
    assert (there > 0.01).all()
    torch.testing.assert_close(there, back)


def test_grows_with_blur_displacement_and_noise(distance, frames):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(frames.shape, generator=generator)
    for damage in (
        [blur(frames, width) for width in (0.5, 1.0, 2.0, 4.0)],
        [frames.roll(pixels, dims=-1) for pixels in (1, 2, 4, 8)],
        [frames + size * noise for size in (0.01, 0.03, 0.1)],
    ):
        values = torch.stack([distance(damaged, frames).mean() for damaged in damage])
        assert (values.diff() > 0).all()


def test_members_share_the_target_and_batches_do_not_matter(distance, frames):
    members = torch.stack([blur(frames, width) for width in (0.5, 1.0, 1.5, 2.0)])
    together = distance(members, frames)
    assert together.shape == (4, 3)
    alone = torch.stack([torch.stack([distance(m, f) for m, f in zip(ms, frames, strict=True)]) for ms in members])
    torch.testing.assert_close(together, alone)


def test_gradients_reach_the_frames_even_where_it_is_dry(distance):
    dry = torch.zeros(2, 64, 32, requires_grad=True)
    wet = torch.full((2, 64, 32), 0.5)
    distance(dry, wet).sum().backward()
    assert dry.grad is not None
    assert torch.isfinite(dry.grad).all()
    assert (dry.grad != 0).any()
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_features_are_stages_of_descending_size(distance, frames):
    raw, unit = distance.features(frames), distance.features(frames, unit=True)
    assert [tuple(f.shape) for f in raw] == [
        (3, 16, 32, 48), (3, 24, 16, 24), (3, 40, 8, 12), (3, 112, 4, 6), (3, 192, 2, 3)
    ]  # fmt: skip
    for one, other in zip(unit, raw, strict=True):
        torch.testing.assert_close(one.square().sum(dim=1), torch.ones_like(one[:, 0]))
        torch.testing.assert_close(one, torch.nn.functional.normalize(other, dim=1), rtol=1e-4, atol=1e-6)


def test_definition(distance, frames):
    other = blur(frames, 1.0)
    pairs = zip(distance.features(frames, unit=True), distance.features(other, unit=True), strict=True)
    expected = sum((f - g).square().sum(dim=1).mean(dim=(1, 2)) for f, g in pairs) / 5
    torch.testing.assert_close(distance(frames, other), expected)


def test_stays_frozen_inside_a_module_that_trains(distance, frames):
    expected = distance(frames, blur(frames, 1.0))
    torch.nn.Sequential(distance).train()
    assert not any(module.training for module in distance.modules())
    torch.testing.assert_close(distance(frames, blur(frames, 1.0)), expected, rtol=0, atol=0)


def test_missing_pixels_are_ignored_on_both_sides(distance, frames):
    holed, other = frames.clone(), blur(frames, 1.0)
    holed[0, 10:20, 30:50] = torch.nan
    changed = other.clone()
    changed[0, 10:20, 30:50] = 0.9
    expected = distance(changed, holed)
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(distance(other, holed), expected)
    torch.testing.assert_close(distance(holed, other), expected)
    hidden = torch.full_like(frames, torch.nan)
    assert distance(other, hidden).tolist() == [0, 0, 0]


def test_agrees_with_the_lpips_package(shared, frames, monkeypatch):
    lpips = pytest.importorskip("lpips")
    weights = shared / "weights" / "squeezenet1_1_imagenet.pth"
    from torchvision import models

    network = models.squeezenet1_1(weights=None)
    state = torch.load(weights, weights_only=True)
    network.features.load_state_dict(
        {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}
    )
    with monkeypatch.context() as patch:
        patch.setattr(lpips.pretrained_networks.tv, "squeezenet1_1", lambda pretrained: network)
        reference = lpips.LPIPS(net="squeeze", verbose=False)
    other = blur(frames, 1.0)
    colour = [field[:, None].expand(-1, 3, -1, -1) * 2 - 1 for field in (frames, other)]
    expected = reference(*colour).flatten()
    ours = PerceptualDistance("squeeze", weights)
    assert ours.name == "LPIPS-like, heads of LPIPS v0.1 (SqueezeNet 1.1, squeezenet1_1_imagenet.pth)"
    torch.testing.assert_close(ours(frames, other), expected, rtol=1e-3, atol=1e-5)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(weights))
    assert PerceptualDistance().name == ours.name


def test_without_weights_at_hand_the_installed_network_is_used(tmp_path, monkeypatch, distance):
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert PerceptualDistance().name == distance.name
    assert "LPIPS-like (EfficientNet" in distance.name
    with pytest.raises(UserError, match="nothing is downloaded"):
        PerceptualDistance("alex")


def test_bad_weights_are_refused_in_one_sentence(tmp_path: Path, monkeypatch):
    with pytest.raises(UserError, match="found none"):
        PerceptualDistance(weights=tmp_path / "absent.pth")
    foreign = tmp_path / "foreign.pth"
    foreign.write_bytes(b"not a torch file")
    with pytest.raises(UserError, match="plain tensors"):
        PerceptualDistance(weights=foreign)
    torch.save({"features.0.weight": torch.zeros(8, 3, 3, 3)}, foreign)
    with pytest.raises(UserError, match="torchvision's layout"):
        PerceptualDistance(weights=foreign)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, foreign)
    with pytest.raises(UserError, match="other layers"):
        PerceptualDistance(weights=foreign)
    with pytest.raises(UserError, match="expected alex weights, got squeeze"):
        PerceptualDistance("alex", weights=foreign)

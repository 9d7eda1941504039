"""Endpoint losses of image solvers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from apps.imagegen.features import build_features
from apps.imagegen.losses import LPIPS_VARIABLE, default_loss, differentiable, parse_loss
from apps.imagegen.models import Architecture, ImageModel, image_model
from apps.imagegen.models.edm import SongConfig
from apps.inception import INCEPTION_FILE, INCEPTION_VARIABLE, load_inception
from core.supervision import Example
from data_tools.cli import UserError


def tiny(channels: int, resolution: int) -> ImageModel:
    size = SongConfig(
        img_resolution=resolution, in_channels=channels, out_channels=channels, model_channels=8, channel_mult=(1,),
        num_blocks=1, attn_resolutions=(), dropout=0.0,
    )  # fmt: skip
    architecture = Architecture(name="tiny", dataset="none", network=size)
    return image_model(architecture.build("cpu"), architecture, {})


@pytest.fixture(scope="module")
def grey() -> ImageModel:
    return tiny(1, 16)


@pytest.fixture(scope="module")
def colour() -> ImageModel:
    return tiny(3, 32)


def pair(model: ImageModel, count: int = 2) -> tuple[Tensor, Example]:
    generator = torch.Generator().manual_seed(0)
    reference, other = torch.rand(2, count, *model.shape, generator=generator) * 2 - 1
    return other.requires_grad_(), Example(reference, None, reference)


def test_a_sum_of_terms_has_their_weights(grey: ImageModel) -> None:
    prediction, example = pair(grey)
    mse = (prediction - example.endpoint).square().mean()
    features = parse_loss("features", grey)(prediction, example)
    torch.testing.assert_close(parse_loss("mse=2.5", grey)(prediction, example), 2.5 * mse)
    both = parse_loss(" features = 0.5 , mse=2", grey)
    torch.testing.assert_close(both(prediction, example), 0.5 * features + 2 * mse)
    assert both.name == "0.5 features(digit classifier,plain) + 2 mse"
    assert len(both.networks) == 1
    assert parse_loss(default_loss(grey), grey)(example.endpoint, example) == 0


@pytest.mark.parametrize("size", [(1, 16), (3, 32)])
def test_features_see_images_as_they_will_be_shown(size: tuple[int, int]) -> None:
    """Beyond the range of pixels nothing changes, and inside it gradients pass."""
    model = tiny(*size)
    loss = parse_loss("features=1", model)
    prediction, example = pair(model)
    loss(prediction, example).backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().max() > 0
    over = example._replace(endpoint=torch.full_like(example.endpoint, 1.0))
    assert loss(torch.full_like(prediction, 3.0), over) == 0
    assert all(not p.requires_grad and p.grad is None for network in loss.networks for p in network.parameters())


def test_features_are_those_that_distances_are_over(colour: ImageModel, grey: ImageModel) -> None:
    """On whole pixel values the loss is that of the features of the evaluation."""
    for model, name in ((grey, "digits"), (colour, "efficientnet")):
        pixels = torch.randint(0, 256, (4, *model.shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        seen = build_features(name, model.channels)(pixels)  # pyright: ignore[reportArgumentType]
        images = pixels.float() / 127.5 - 1
        got = parse_loss("features=1", model)(images[:2], Example(images[2:], None, images[2:]))
        expected = (seen[:2] - seen[2:]).square().mean()
        torch.testing.assert_close(got.double(), expected, rtol=2e-3, atol=1e-8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fid=1", "mse, features, inception, lpips"),
        ("", "mse, features, inception, lpips"),
        ("mse=1,mse=2", "each once"),
        ("mse=-1", "weights above 0"),
        ("mse=inf", "weights above 0"),
        ("mse=much", "'much'"),
    ],
)
def test_lines_that_are_no_loss_are_refused(grey: ImageModel, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_loss(text, grey)


def test_what_is_not_installed_is_named_with_an_alternative(
    colour: ImageModel, grey: ImageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install torch-fidelity; or take --loss features=1"):
        parse_loss("inception=1", colour)
    with pytest.raises(UserError, match="pip install lpips; or take --loss features=1"):
        parse_loss("lpips=1", colour)
    monkeypatch.undo()
    pytest.importorskip("lpips", reason="needs lpips")
    with pytest.raises(UserError, match="32 pixels"):
        parse_loss("lpips=1", grey)
    monkeypatch.setenv(LPIPS_VARIABLE, str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="found none at"):
        parse_loss("lpips=1", colour)
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "none.pth")
    with pytest.raises(UserError, match="got others in"):
        parse_loss("lpips=1", colour)


def test_lpips_is_that_of_its_package(colour: ImageModel, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lpips", reason="needs lpips")
    weights = shared / "weights" / "squeezenet1_1_imagenet.pth"
    if not weights.is_file():
        pytest.skip(f"no weights of SqueezeNet at {weights}")
    from apps.nowcast.metrics import PerceptualDistance

    monkeypatch.setenv(LPIPS_VARIABLE, str(weights))
    loss = parse_loss("lpips=1", colour)
    assert loss.name == "1 lpips(squeeze)"
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 1, 32, 32, generator=generator)  # grey frames, which the other implementation is for
    ends = [(2 * frames - 1).expand(-1, 3, -1, -1) for frames in (a, b)]
    got = loss(ends[0], Example(ends[1], None, ends[1]))
    expected = PerceptualDistance("squeeze")(a[:, 0], b[:, 0]).mean()
    torch.testing.assert_close(got, expected, rtol=0.02, atol=1e-4)
    prediction, example = pair(colour)
    loss(prediction, example).backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().max() > 0


def test_inception_has_gradients_and_sees_what_fid_sees(
    colour: ImageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="needs torch-fidelity")

    def no_weights_yet(*_: object, **__: object) -> dict[str, Tensor]:
        raise InterruptedError

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", no_weights_yet)
    torch.manual_seed(0)
    shell = fidelity.FeatureExtractorInceptionV3.__new__(fidelity.FeatureExtractorInceptionV3)
    with pytest.raises(InterruptedError):  # by then it has its layers
        shell.__init__("inception-v3-compat", ["2048"])
    torch.save(shell.state_dict(), tmp_path / INCEPTION_FILE)
    monkeypatch.setenv(INCEPTION_VARIABLE, str(tmp_path / INCEPTION_FILE))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    network, _, _ = load_inception("--loss features=1")
    images = (pixels.float() / 127.5 - 1).requires_grad_()
    seen = differentiable(network)(images)
    torch.testing.assert_close(seen, network(pixels)[0], rtol=1e-4, atol=1e-6)
    seen.square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    torch.testing.assert_close(network(pixels)[0], seen.detach(), rtol=1e-4, atol=1e-6)  # nothing stayed hooked
    prediction, example = pair(colour)
    loss = parse_loss("inception=1", colour)
    assert loss(prediction, example) > 0
    assert loss(example.endpoint, example) == 0

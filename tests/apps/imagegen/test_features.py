"""Feature networks: named, float64, indifferent to batches; Inception is never replaced, its file runs nothing."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from apps.backbones import efficientnet_lite0
from apps.imagegen.classifier import DigitClassifier, load_classifier, save_classifier
from apps.imagegen.data import load_images
from apps.imagegen.features import DIGIT_WEIGHTS, NetworkFeatures, build_features
from apps.imagegen.metrics import Moments, frechet_distance
from apps.imagegen.train_features import FILE_NAME, LARGEST_SHIFT, TrainFeaturesOptions, accuracy, main, moved
from apps.inception import INCEPTION_FILE, INCEPTION_VARIABLE
from core.frozen import fingerprint
from data_tools.cli import UserError


def pictures(count: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def no_weights(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that this machine happens to have cached."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)


@pytest.mark.parametrize(("name", "channels", "side"), [("digits", 1, 16), ("efficientnet", 3, 32)])
def test_features_are_float64_and_do_not_depend_on_the_batch(name, channels, side) -> None:
    features = build_features(name, channels)
    images = pictures(67, channels, side) if name == "digits" else pictures(5, channels, side)
    together = features(images)
    assert together.shape == (len(images), features.dim)
    assert together.dtype == torch.float64
    alone = torch.cat([features(images[:2]), features(images[2:])])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    assert features.distance.startswith("FD-")


def test_efficientnets_features_are_what_its_classifier_reads() -> None:
    network, features = efficientnet_lite0(), build_features("efficientnet", 3)
    images = pictures(2, 3, 224)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = network((images / 255 - mean) / std)
    torch.testing.assert_close(network._fc(features(images).float()), expected, rtol=1e-4, atol=1e-4)
    grey = pictures(2, 1, 32)
    torch.testing.assert_close(features(grey), features(grey.expand(-1, 3, -1, -1)), rtol=0, atol=0)


def test_the_shipped_classifier_is_small_reads_digits_and_is_what_its_card_says() -> None:
    assert DIGIT_WEIGHTS.stat().st_size <= 300_000
    network, card = load_classifier(DIGIT_WEIGHTS)
    held_out = load_images("digits", "test", 16)
    assert accuracy(network, held_out) > 0.97
    assert card["accuracy"]["test"] == pytest.approx(accuracy(network, held_out), abs=0.01)
    assert card["fingerprint"] == load_images("digits", "train", 16).fingerprint


def test_damage_to_digits_is_seen_and_grows() -> None:
    features = build_features("digits", 1)
    train, test = (torch.from_numpy(load_images("digits", split, 16).pixels) for split in ("train", "test"))
    reference, generator = Moments.of(features(train)), torch.Generator().manual_seed(0)
    noise = torch.randn(test.shape, generator=generator)
    distances = []
    for size in (0, 16, 32, 64):
        damaged = (test + size * noise).clamp(0, 255).to(torch.uint8)
        distances.append(frechet_distance(Moments.of(features(damaged)), reference))
    assert distances == sorted(distances)
    assert distances[-1] > 2 * distances[0]


def test_automatic_features_are_named_and_colour_is_refused_where_grey_is_needed(capsys) -> None:
    assert build_features("auto", 1).distance == "FD-digits"
    assert "digit classifier" in capsys.readouterr().err
    assert build_features("auto", 3).distance == "FD-EfficientNet"
    assert "EfficientNet-lite0" in capsys.readouterr().err
    with pytest.raises(UserError, match="grey"):
        build_features("digits", 3)
    with pytest.raises(UserError, match="channels"):
        build_features("digits", 1)(pictures(2, 3, 16))
    with pytest.raises(ValueError, match="uint8"):
        build_features("digits", 1)(torch.zeros(2, 1, 16, 16))


def test_inception_asked_for_by_name_is_never_replaced(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("apps.inception.installed", lambda: False)
    with pytest.raises(UserError, match="pip install torch-fidelity"):
        build_features("inception", 3)
    monkeypatch.setattr("apps.inception.installed", lambda: True)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match="could not download"):
        build_features("inception", 3)
    assert build_features("auto", 3).distance == "FD-EfficientNet"


def test_inception_runs_on_weights_at_hand_and_is_called_fid_only_with_the_genuine_ones(monkeypatch, tmp_path) -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="needs torch-fidelity")
    weights = tmp_path / INCEPTION_FILE

    def no_weights_yet(*_: object, **__: object) -> dict[str, torch.Tensor]:
        raise InterruptedError

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", no_weights_yet)
    torch.manual_seed(0)
    shell = fidelity.FeatureExtractorInceptionV3.__new__(fidelity.FeatureExtractorInceptionV3)
    with pytest.raises(InterruptedError):  # by then it has its layers
        shell.__init__("inception-v3-compat", ["2048"])
    torch.save(shell.state_dict(), weights)
    monkeypatch.setenv(INCEPTION_VARIABLE, str(weights))
    features = build_features("auto", 3)
    assert (features.distance, features.dim) == ("FD-Inception", 2048)
    found = features(pictures(2, 3, 32))
    assert found.shape == (2, 2048)
    assert bool(torch.isfinite(found).all())


class Boom:
    """A pickle that would leave a file behind if it were run."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_hostile_inception_weights_run_nothing(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("apps.inception.installed", lambda: True)
    weights, target = tmp_path / INCEPTION_FILE, tmp_path / "ran"
    for write in (
        lambda: torch.save({"Conv2d_1a_3x3.conv.weight": Boom(target)}, weights),
        lambda: weights.write_bytes(pickle.dumps(Boom(target))),
    ):
        write()
        monkeypatch.setenv(INCEPTION_VARIABLE, str(weights))
        with pytest.raises(UserError, match="plain tensors"):
            build_features("inception", 3)
        assert not target.exists()


def test_a_classifier_comes_back_and_anything_else_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = DigitClassifier()
    path = save_classifier(tmp_path / "c.safetensors", network, {"seed": 1})
    back, card = load_classifier(path)
    x = torch.randn(3, 1, 24, 24)
    torch.testing.assert_close(back(x), network(x), rtol=0, atol=0)
    assert card == {"seed": 1}
    with pytest.raises(UserError, match="train_features"):
        load_classifier(tmp_path / "absent.safetensors")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="something else"):
        load_classifier(path)
    solver = next(Path(__file__).parents[3].glob("apps/nowcast/assets/mini/*.safetensors"))
    with pytest.raises(UserError, match="something else"):
        load_classifier(solver)


def test_training_images_are_moved_and_nothing_else() -> None:
    x = torch.full((40, 1, 16, 16), -1.0)
    x[:, 0, 7, 4] = torch.linspace(0.1, 1, 40)
    out = moved(x, torch.Generator().manual_seed(0))
    assert out.shape == x.shape
    places = set()
    for image, before in zip(out, x, strict=True):
        torch.testing.assert_close(image.sort().values.flatten().max(), before.max())
        row, column = divmod(int(image.argmax()), 16)
        places.add((row - 7, column - 4))
    assert places == {(a, b) for a in range(-LARGEST_SHIFT, 2) for b in range(-LARGEST_SHIFT, 2)}


def test_training_resumes_and_complains_in_one_line(run_cli, tmp_path: Path) -> None:
    done = run_cli("apps.imagegen.train_features", "--iterations", "4", "--batch", "8", "--out", str(tmp_path / "f"))
    assert done.returncode == 0, done.stderr
    network, card = load_classifier(tmp_path / "f" / FILE_NAME)
    options = TrainFeaturesOptions(iterations=4, batch=8, out=str(tmp_path / "f"))
    main(options)
    again, its_card = load_classifier(tmp_path / "f" / FILE_NAME)
    assert fingerprint(again) == fingerprint(network)
    assert its_card == card
    for changes in ({"batch": 0}, {"batch": 9}, {"seed": -1}, {"learning_rate": 0.0}):
        with pytest.raises(UserError, match="expected"):
            main(replace(options, **changes))


def test_large_images_are_seen_a_few_at_a_time() -> None:
    seen: list[int] = []

    def describe(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return images.float().mean((2, 3))

    found = NetworkFeatures("means", "FD-means", 3, torch.nn.Linear(1, 1), describe, 3)
    for count, height, width in ((70, 16, 24), (20, 512, 512), (3, 2048, 1024), (2, 4096, 2048)):
        assert tuple(found(torch.zeros(count, 3, height, width, dtype=torch.uint8)).shape) == (count, 3)
    assert seen == [64, 6, 16, 4, 2, 1, 1, 1]

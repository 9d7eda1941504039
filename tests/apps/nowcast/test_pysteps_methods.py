"""pysteps' methods as baselines: what they forecast, what is filled, what stands in for them."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from apps.nowcast import pysteps_calls
from apps.nowcast.baselines import persistence, without_gaps
from apps.nowcast.methods import parse_methods
from apps.nowcast.nowcaster import Nowcaster
from apps.nowcast.pysteps_calls import quietly, require_pysteps
from apps.nowcast.pysteps_methods import FORECASTERS, pixel_km
from data_tools.cli import UserError
from data_tools.quantities import RAINFALL_RATE, VIL

pytestmark = pytest.mark.skipif(
    find_spec("pysteps") is None or find_spec("cv2") is None, reason="pysteps or opencv is not installed"
)
LEADS = 4
SHAPE = (72, 96)


def moving_rain(frames: int = 7, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Two cells that move by 2 columns and 1 row a frame, and that flicker: an autoregression of what never changes is
    not stationary."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    when = np.arange(frames)[:, None, None]
    fields = np.zeros((frames, *shape))
    for row, column, peak, width in ((18, 12, 12.0, 40.0), (34, 30, 6.0, 90.0)):
        distance = (rows - row - when) ** 2 + (columns - column - 2 * when) ** 2
        fields += peak * np.exp(-distance / width)
    noise = np.random.default_rng(0).standard_normal(fields.shape)
    fields *= np.exp(2.0 * gaussian_filter(noise, (0.0, 2.0, 2.0)))
    return np.where(fields >= 0.1, fields, 0.0).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    require_pysteps("the tests")


def test_moving_rain_is_followed() -> None:
    frames = moving_rain(7 + LEADS)
    truth, context = frames[7:], frames[:7]
    stays = np.sqrt(np.mean((persistence(context, LEADS) - truth) ** 2))
    for name, share in (("extrapolation", 0.6), ("sprog", 0.6), ("steps", 0.7)):
        made = FORECASTERS[name](context, LEADS, range(5), 5.0, RAINFALL_RATE)
        assert made.frames.shape == (5 if name == "steps" else 1, LEADS, *SHAPE)
        assert made.frames.dtype == np.float32
        assert made.stand_in == ""
        assert np.sqrt(np.mean((made.frames.mean(0) - truth) ** 2)) < share * stays


def test_steps_is_pysteps_own_with_what_it_does_not_know_filled() -> None:
    """The same numbers as a call of pysteps by the book, and their count of pixels from beyond the frame."""
    context = moving_rain()
    made = FORECASTERS["steps"](context, LEADS, [2**40 + 7, 1, 2], 10.0, RAINFALL_RATE)
    with quietly():
        from pysteps import motion, nowcasts
        from pysteps.utils.transformation import dB_transform

        decibel = dB_transform(context.astype(np.float64), threshold=0.1, zerovalue=-15.0)[0]  # type: ignore[index]
        velocity = motion.get_method("LK")(decibel[-3:])
        direct = nowcasts.get_method("steps")(
            decibel[-3:], velocity, LEADS, n_ens_members=3, precip_thr=-10.0, kmperpixel=1.0, timestep=10.0, seed=7
        )
        expected = dB_transform(direct, {"transform": "dB"}, threshold=-10.0, inverse=True)[0]  # type: ignore[index]
    unknown = np.isnan(expected)
    assert unknown.any()
    assert not unknown.all()
    np.testing.assert_array_equal(made.filled, unknown.sum(axis=(0, 2, 3)))
    last = np.broadcast_to(context[-1], made.frames.shape)
    np.testing.assert_array_equal(made.frames[unknown], last[unknown])
    np.testing.assert_allclose(made.frames[~unknown], expected[~unknown], rtol=1e-6)


def test_a_member_does_not_depend_on_how_many_there_are() -> None:
    forecaster, context = FORECASTERS["steps"], moving_rain()
    five = forecaster(context, LEADS, [9, 8, 7, 6, 5], 5.0, RAINFALL_RATE).frames
    np.testing.assert_array_equal(forecaster(context, LEADS, [9, 8], 5.0, RAINFALL_RATE).frames, five[:2])
    assert np.abs(five[0] - five[1]).max() > 0.1
    other = forecaster(context, LEADS, [10], 5.0, RAINFALL_RATE).frames
    assert np.abs(other[0] - five[0]).max() > 0.1


def test_pysteps_is_quiet_and_leaves_numpys_generator_alone(capsys: pytest.CaptureFixture[str]) -> None:
    np.random.seed(3)  # noqa: NPY002 - what others may use
    expected = np.random.random(4)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    FORECASTERS["steps"](moving_rain(), 2, [1], 5.0, RAINFALL_RATE)
    np.testing.assert_array_equal(np.random.random(4), expected)  # noqa: NPY002
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("quantity", [RAINFALL_RATE, VIL], ids=lambda quantity: quantity.name)
def test_rain_in_a_corner_does_not_vanish(quantity) -> None:
    """pysteps' STEPS takes a frame for dry whose rain lies where the window of its noise is 0."""
    context = np.zeros((7, 48, 40), np.float32)
    context[:, 1:4, 1:5] = 40.0 + 20.0 * np.random.default_rng(0).random((7, 3, 4))
    made = FORECASTERS["steps"](context, LEADS, [1, 2], 5.0, quantity)
    assert made.stand_in == "extrapolation"
    assert (made.frames.max(axis=(-2, -1)) > 30.0).all()


@pytest.mark.parametrize("quantity", [RAINFALL_RATE, VIL], ids=lambda quantity: quantity.name)
@pytest.mark.parametrize("name", FORECASTERS)
def test_odd_fields_are_forecast_all_the_same(name: str, quantity) -> None:
    noise = np.random.default_rng(0).gamma(0.3, 30.0, (7, 40, 48)).astype(np.float32)
    fields = {
        "dry": np.zeros((7, 40, 48), np.float32),
        "constant": np.full((7, 40, 48), 50.0, np.float32),
        "missing": np.full((7, 40, 48), np.nan, np.float32),
        "just come up": np.concatenate([np.zeros((6, 40, 48), np.float32), noise[:1]]),
        "one frame": noise[:1],
        "small": noise[:, :4, :5],
        "one pixel": noise[:, :1, :1],
        "huge": np.float32(1e30) * noise,
        "noise": noise,
    }
    for what, context in fields.items():
        made = FORECASTERS[name](context, LEADS, [1, 2], 5.0, quantity)
        assert made.frames.shape[1:] == (LEADS, *context.shape[1:]), what
        assert np.isfinite(made.frames).all(), what
        assert (made.frames >= 0.0).all(), what
        if what in {"dry", "missing"}:
            assert not made.frames.any()
        if what in {"just come up", "one frame"}:  # nothing tells where it goes: it stays
            np.testing.assert_allclose(made.frames, np.broadcast_to(context[-1], made.frames.shape), atol=1e-4)
            assert made.stand_in == ("" if name == "extrapolation" else "extrapolation"), what


def test_missing_pixels_are_filled_in_time() -> None:
    frames = np.random.default_rng(1).random((5, 3, 4))
    gaps = frames.copy()
    gaps[np.random.default_rng(2).random(gaps.shape) < 0.6] = np.nan
    gaps[:, 0, 0] = np.nan
    whole = without_gaps(gaps)
    for row in range(3):
        for column in range(4):
            seen = [k for k in range(5) if not np.isnan(gaps[k, row, column])]
            for k in range(5):
                before = [s for s in seen if s <= k] or seen[:1]
                expected = gaps[before[-1], row, column] if before else 0.0
                assert whole[k, row, column] == expected


def test_pixels_of_sevir_are_wider_where_they_are_fewer() -> None:
    assert pixel_km(VIL, 384) == 1.0
    assert pixel_km(VIL, 128) == 3.0
    assert pixel_km(RAINFALL_RATE, 128) == 1.0


def test_without_pysteps_its_methods_are_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch, nowcaster: Nowcaster
) -> None:
    monkeypatch.setattr(pysteps_calls, "find_spec", lambda name: None if name == "cv2" else object())
    with pytest.raises(UserError, match=r"expected opencv-python-headless for --methods steps.*spanlift\[pysteps\]"):
        parse_methods("persistence,steps", nowcaster)
    (method,) = parse_methods("persistence", nowcaster)
    assert method.forecaster is not None

"""A small evaluation to report, and a headless Chromium that tests ask what it shows, over the pipe of its DevTools
protocol, which needs no package."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from select import select
from typing import Any

import numpy as np
import pytest

from apps.nowcast.evaluation import Scored
from apps.nowcast.methods import Method
from apps.nowcast.metrics import Statistics
from apps.nowcast.verification.events import event_sums
from apps.nowcast.verification.fractions import WINDOWS
from apps.nowcast.verification.results import Evaluation
from apps.nowcast.verification.scope import Events, Picture, Scope
from data_tools.quantities import QUANTITIES

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip


def find_browser() -> str | None:
    """SPANLIFT_BROWSER, else a Chromium on the PATH."""
    named = os.environ.get("SPANLIFT_BROWSER")
    return named if named else next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser with one page; a context manager, which ends it."""

    def __init__(self, executable: str, patience: float = 120.0) -> None:
        self.patience, self.events = patience, []
        self._profile = tempfile.mkdtemp(prefix="browser-")
        inner_read, self._write = os.pipe()
        self._read, inner_write = os.pipe()
        words = [executable, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        # The protocol is spoken over the descriptors 3 and 4, which the shell makes of ours.
        shell = f'exec "$0" "$@" 3<&{inner_read} 4>&{inner_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, *words], pass_fds=(inner_read, inner_write), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(inner_read)
        os.close(inner_write)
        self._buffer, self._number, self._session = b"", 0, None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a session of its own: it and its children
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result; events that come meanwhile are kept in `events`."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        until = time.monotonic() + self.patience
        while time.monotonic() < until:
            answer = self._receive(until)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
        raise TimeoutError(method)

    def _receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select([self._read], [], [], max(0.0, until - time.monotonic()))
            read = os.read(self._read, 1 << 20) if ready else b""
            if not read:
                raise TimeoutError("the browser says nothing more")
            self._buffer += read
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, or of the promise that it is."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"].get("description", str(result)))
        return result["result"].get("value")

    def open(self, page: Path, *, width: int = 1200, dark: bool = False, calm: bool = True, media: str = "") -> None:
        """Show a file in a window of a width (a phone's below 600), light or dark, with or without reduced motion."""
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if calm else "no-preference",
        }
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        self.send(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": k, "value": v} for k, v in features.items()]
        )
        self.events.clear()
        self.send("Page.navigate", url=page.resolve().as_uri())
        until = time.monotonic() + self.patience
        while self.run("[location.href, document.readyState]") != [page.resolve().as_uri(), "complete"]:
            if time.monotonic() > until:
                raise TimeoutError(str(page))
            time.sleep(0.05)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )  # fmt: skip

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """A screenshot as PNG."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


EVENTS, CONTEXT, LEADS, SIZE = 3, 4, 5, (22, 34)
METHODS = {
    "persistence": (1, 0, None),
    "ddim-2": (3, 2, None),
    "ddim-5": (3, 5, None),
    "spanlift-5 (target)": (3, 5, "target"),
}
"""Label -> (members, evaluations, supervision)."""


def make_evaluation(
    methods: dict[str, tuple[int, int, str | None]] = METHODS,
    *,
    quantity: str = "rainfall_rate",
    size: tuple[int, int] = SIZE,
    ids: tuple[str, ...] = ("first", "second", "third"),
    source: str = "blobs",
    data: str = "blobs.zarr",
    baseline: str | None = "persistence",
    kinds: tuple[str, ...] = ("source", "wetness"),
    about: dict[str, Any] | None = None,
) -> Evaluation:
    """Random forecasts of random rain, scored."""
    rng, kind = np.random.default_rng(1), QUANTITIES[quantity]
    truths = rng.gamma(0.4, kind.thresholds[-1] / 2, (EVENTS, CONTEXT + LEADS, *size)).astype(np.float32)
    truths[:, :, :3, :4] = np.nan
    truth = truths[:, CONTEXT:]
    scored = []
    for label, (members, nfe, supervision) in methods.items():
        made = np.nan_to_num(truth[:, None]) * rng.uniform(0.4, 1.5, (EVENTS, members, LEADS, *size))
        rows = [(ids[k], event_sums(made[k], truth[k], kind, seconds=(nfe + 0.1) * members)) for k in range(EVENTS)]
        method = Method(label, label.rpartition("-")[0] or label, supervision, nfe or None)
        described = {"seed": 7, "batch": 16, "precision": "float32", "solver": "abc123"} if nfe else {}
        scored.append(Scored(method, nfe, Statistics.stack(rows), made[-1], described))
    events = Events(
        ids, (source,) * EVENTS, tuple(f"2020-0{k + 1}-01T00:00" for k in range(EVENTS)), np.full(EVENTS, 5.0),
        np.arange(EVENTS) + 0.5,
    )  # fmt: skip
    scope = Scope("0123abcd", quantity, kind.thresholds, WINDOWS, LEADS, size, "no distance")
    picture = Picture(ids[-1], truths[-1, :CONTEXT], truth[-1])
    told = {"members": 3, "anticipated": None, "guide_scale": None, "model": "m0de1"}
    return Evaluation(
        scored,
        scope,
        events,
        picture,
        data,
        "test",
        7,
        "event",
        50,
        baseline,
        kinds,
        told,
        about or {"command": "made"},
    )


@pytest.fixture(scope="session")
def evaluation_factory() -> Callable[..., Evaluation]:
    return make_evaluation


@pytest.fixture(scope="session")
def evaluation() -> Evaluation:
    return make_evaluation()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        pytest.skip("no Chromium on the PATH; point SPANLIFT_BROWSER to one")
    with Browser(executable) as running:
        yield running

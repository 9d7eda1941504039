"""A real S3-compatible server (moto's) on loopback behind a proxy that behaves as badly as it is told to."""

from __future__ import annotations

import http.client
import io
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Server:
    """The proxy as the tests see it.

    Attributes:
        port, behind: of the proxy and of moto's server.
        faults: what befalls the next ranged GETs, one each: drop, truncate, slow, stall, or a function that is called
            before the request goes on.
        log: (method, path, range) of every request.
    """

    port: int
    behind: int
    faults: list = field(default_factory=list)
    log: list[tuple[str, str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, data: bytes = b"") -> tuple[bytes, dict[str, str]]:
        """Straight to moto."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.behind}{path}", data=data or None, method=method)
        request.add_header("x-amz-acl", "public-read")
        request.add_header("Content-Type", "application/octet-stream")  # urllib's own makes moto look for a form
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read(), dict(answer.headers)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.request("PUT", f"/{bucket}/{key}", data)

    def put_in_parts(self, bucket: str, key: str, data: bytes, part: int) -> None:
        answer, _ = self.request("POST", f"/{bucket}/{key}?uploads")
        upload = answer.decode().split("<UploadId>")[1].split("<")[0]
        parts = ""
        for number, start in enumerate(range(0, len(data), part), start=1):
            place = f"/{bucket}/{key}?partNumber={number}&uploadId={upload}"
            etag = self.request("PUT", place, data[start : start + part])[1]["ETag"]
            parts += f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"
        self.request("POST", f"/{bucket}/{key}?uploadId={upload}", body.encode())

    def ranges(self, key: str) -> list[str]:
        return [span for method, path, span in self.log if method == "GET" and path.endswith(key) and span]


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._forward("")

        def do_GET(self) -> None:
            ranged = bool(self.headers.get("Range"))
            fault = server.faults.pop(0) if ranged and server.faults else ""
            if callable(fault):
                fault()
            self._forward(fault if isinstance(fault, str) else "")

        def _forward(self, fault: str) -> None:
            server.log.append((self.command, self.path, self.headers.get("Range", "")))
            if fault == "stall":
                server.released.wait(60)
            if fault in {"drop", "stall"}:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            status, headers, body = 503, {"Content-Type": "application/xml"}, SLOW_DOWN
            if fault != "slow":
                behind = http.client.HTTPConnection("127.0.0.1", server.behind, timeout=30)
                behind.request(self.command, self.path, headers=dict(self.headers))
                answer = behind.getresponse()
                status, headers, body = answer.status, dict(answer.getheaders()), answer.read()
                behind.close()
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in {"content-length", "connection", "transfer-encoding"}:
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            if fault == "truncate":
                body, self.close_connection = body[: len(body) // 2], True
            self.wfile.write(body)

    return Handler


@pytest.fixture(scope="session")
def moto_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=file, stderr=file
        )
        try:
            _await_port(port, process, log)
            yield port
        finally:
            process.terminate()
            process.wait()


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError("moto's server did not start")


@pytest.fixture
def server(moto_port: int) -> Iterator[Server]:
    """An empty server with the public bucket `sevir`."""
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    proxy.daemon_threads = True
    state = Server(proxy.server_address[1], moto_port)
    proxy.RequestHandlerClass = _handler(state)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state.request("POST", "/moto-api/reset")
    state.request("PUT", "/sevir")
    yield state
    state.released.set()
    proxy.shutdown()
    proxy.server_close()
    thread.join()


@pytest.fixture(scope="session")
def hdf5_bytes():
    """`hdf5_bytes(seed, megabytes, name)`: an HDF5 file with a dataset of noise."""

    def make(seed: int, megabytes: float = 0.01, name: str = "vil") -> bytes:
        buffer = io.BytesIO()
        events = max(1, round(megabytes * 1e6 / 1225))
        with h5py.File(buffer, "w") as file:
            file[name] = np.random.default_rng(seed).integers(0, 255, (events, 5, 5, 49), dtype=np.uint8)
        return buffer.getvalue()

    return make

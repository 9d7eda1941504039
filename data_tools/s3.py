"""Public objects of S3, read without an account, in ranges, by a client that waits out a bad line.

`Bucket` is all that is known of S3 here. Each call is tried again after drops, truncated answers, time-outs, 5xx and
`SlowDown`, with waits that double and are drawn at random, so that many clients do not return in step; what cannot
get better by waiting (no such object, no permission, another version of the object) is told at once.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from data_tools.cli import UserError

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """An object as the server describes it.

    Attributes:
        key: name in its bucket.
        size: bytes.
        etag: without quotation marks; an MD5, or `<MD5 of the parts' MD5s>-<number of parts>`, or neither.
        opaque: the ETag is no MD5 although it looks like one (encryption with a key of the owner).
    """

    key: str
    size: int
    etag: str
    opaque: bool = False


class ChangedError(Exception):
    """The object is no longer the one that the download began with."""


class NotThereError(UserError):
    """No such bucket or object, or one that is not public: S3 does not tell which."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How failures are waited out: `attempts` in all, `first` seconds (drawn from half of it on) doubling to `most`."""

    attempts: int = 8
    first: float = 0.5
    most: float = 30.0

    def wait(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self.most, self.first * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


class Bucket:
    """A public bucket, safe to use from several threads.

    Args:
        name: of the bucket.
        endpoint: URL of an S3-compatible server; None is Amazon's.
        connections: requests at one time.
        patience: with failures.
        stop: set by the owner to end waits and refuse further requests.

    Raises:
        UserError: s3fs is not installed.
    """

    def __init__(
        self,
        name: str,
        endpoint: str | None = None,
        *,
        connections: int = 4,
        patience: Patience | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.name, self.endpoint, self.patience = name, endpoint, patience or Patience()
        self.stop = stop or threading.Event()
        self._files = _file_system(endpoint, connections)

    def describe(self, key: str) -> RemoteObject:
        """Size and identity of an object.

        Raises:
            NotThereError: there is none, or not for everybody.
            UserError: the server cannot be reached, or keeps failing.
        """
        answer = self._ask(key, lambda: self._files._call_s3("head_object", Bucket=self.name, Key=key))
        opaque = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
        return RemoteObject(key, int(answer["ContentLength"]), answer.get("ETag", "").strip('"'), opaque)

    def read(self, item: RemoteObject, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop` of the very object that was described.

        Raises:
            ChangedError: the object was replaced meanwhile.
            UserError: as `describe`.
        """
        match = {"IfMatch": f'"{item.etag}"'} if item.etag else {}

        async def get() -> bytes:
            answer = await self._files._call_s3(
                "get_object", Bucket=self.name, Key=item.key, Range=f"bytes={start}-{stop - 1}", **match
            )
            async with answer["Body"] as stream:
                data = await stream.read()
            if answer.get("ETag", "").strip('"') != item.etag:  # a server that ignores the condition
                raise ChangedError(item.key)
            if len(data) != stop - start:
                raise OSError(f"{len(data)} bytes instead of {stop - start}")
            return data

        return self._ask(item.key, get)

    def _ask(self, key: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        from fsspec.asyn import sync

        failures = 0
        while not self.stop.is_set():
            try:
                return sync(self._files.loop, call)  # type: ignore[return-value]
            except ChangedError:
                raise
            except Exception as error:  # of aiobotocore, aiohttp, ssl, the socket: all of them are a bad line
                self._require_hope(key, error)
                failures += 1
                if failures == self.patience.attempts:
                    detail = " ".join(str(error).split())[:200] or type(error).__name__
                    raise UserError(
                        f"expected {self.url(key)} within {failures} attempts, got {detail}: check the network, then "
                        "run the same command again; it goes on where it ended"
                    ) from error
            self.stop.wait(self.patience.wait(failures))
        raise InterruptedError("stopped")

    def _require_hope(self, key: str, error: Exception) -> None:
        """Raise what waiting does not mend."""
        status = _status(error)
        if status == 412:
            raise ChangedError(key) from error
        if status in {401, 403, 404}:
            raise NotThereError(f"expected a public object {self.url(key)}, got {status} from the server") from error
        if status is not None and 400 <= status < 500 and status not in {408, 429}:
            raise UserError(f"expected {self.url(key)}, got {status} ({error}): check --endpoint") from error

    def url(self, key: str) -> str:
        """What a person is shown."""
        return f"s3://{self.name}/{key}" + (f" at {self.endpoint}" if self.endpoint else "")


def _status(error: Exception) -> int | None:
    """HTTP status of an answer that was refused; None where there was no answer."""
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            code = str(response.get("Error", {}).get("Code", ""))
            return 503 if code == "SlowDown" else int(status or 500)
    return None


def _file_system(endpoint: str | None, connections: int) -> Any:
    """s3fs without an account, and without retries of its own: two layers of them would multiply."""
    try:
        import s3fs
    except ImportError as error:
        raise UserError("expected the package s3fs to download with, got none: pip install 'spanlift[s3]'") from error
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise UserError(f"expected --endpoint as a URL like http://127.0.0.1:9000, got {endpoint!r}")
    files = s3fs.S3FileSystem(
        anon=True,
        endpoint_url=endpoint,
        client_kwargs={"region_name": "us-east-1"},  # where SEVIR is; also keeps a user's profile out of it
        config_kwargs={
            "retries": {"total_max_attempts": 1},
            "connect_timeout": 10,
            "read_timeout": 60,
            "max_pool_connections": max(connections, 1),
        },
        skip_instance_cache=True,
    )
    files.retries = 1
    return files

"""Text embeddings, computed once and kept on disk: a safetensors file for each text, with a checksum.

A killed run loses the batch that it was computing. Processes may fill one cache side by side: a file appears whole,
and both would write the same. Nothing is held in memory but the batch at hand.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.fitting import write_atomically
from data_tools.cli import UserError

FORMAT, VERSION = "spanlift-text", "1"

Encode = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Texts -> {name: (B, ...)}, e.g. SANA {"embeds" (B, T, D), "mask" (B, T)}, FLUX {"embeds", "pooled" (B, P)}."""


class TextCache:
    """Embeddings of one text encoder by text; other encoders have other folders within `folder`.

    Args:
        folder: of all caches; made when something is written.
        identity: what embeddings depend on besides the text: the hash of the encoder's weights, the tokenizer, the
            number of tokens, an instruction before the prompt, the type; anything that is JSON.

    Attributes:
        fingerprint: SHA-256 of `identity`.

    Raises:
        UserError: the folder is a file, or holds something else.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        self._identity = json.dumps({"format": FORMAT, "version": VERSION, "of": dict(identity)}, sort_keys=True)
        self.fingerprint = hashlib.sha256(self._identity.encode()).hexdigest()
        self.folder = Path(folder) / self.fingerprint[:16]
        for place in (self.folder, *self.folder.parents):
            if place.exists() and not place.is_dir():
                raise UserError(f"expected a folder for text embeddings, got the file {place}; change --text_cache")
        note = self.folder / "identity.json"
        if note.exists() and note.read_bytes() != self._identity.encode():
            raise UserError(
                f"expected embeddings of another text encoder in {self.folder}; remove it, or change --text_cache"
            )

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Those of `texts` that are not here, or whose file is cut short, once each, in their order."""
        return [text for text in dict.fromkeys(texts) if not self._whole(self._path(text))]

    def fill(
        self,
        texts: Sequence[str],
        encode: Encode,
        batch: int = 16,
        report: Callable[[int, int], object] | None = None,
    ) -> int:
        """Compute and keep the embeddings of the texts that are missing.

        Args:
            texts: in any order, repeated or not.
            encode: see `Encode`; called with at most `batch` texts. Its gradients are not kept.
            batch: texts at once.
            report: called with (texts done, texts to do) after each batch.

        Returns:
            Number of texts encoded.

        Raises:
            UserError: the disk has no room for them, or embeddings are not finite.
            ValueError: `encode` gives something else than a row for each text.
        """
        todo = self.missing(texts)
        for first in range(0, len(todo), batch):
            part = todo[first : first + batch]
            with torch.no_grad():
                rows = _rows(part, encode(part))
            if first == 0:
                self._check_room(len(todo), sum(value.nbytes for value in rows[0].values()))
                self._write_identity()
            for text, row in zip(part, rows, strict=True):
                self._write(text, row)
            if report is not None:
                report(first + len(part), len(todo))
        return len(todo)

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """{name: (B, ...)} of B texts, on the CPU in the type that they were given in.

        Raises:
            UserError: a text that is not here, or a file that is damaged; the line names it.
        """
        if not texts:
            raise ValueError("expected at least one text, got none; ask for those of a batch")
        found = {text: self._read(text) for text in dict.fromkeys(texts)}
        kinds = {tuple((name, value.dtype, value.shape) for name, value in row.items()) for row in found.values()}
        if len(kinds) > 1:
            raise UserError(f"expected embeddings of one shape in {self.folder}, got several; remove the folder")
        return {name: torch.stack([found[text][name] for text in texts]) for name in found[texts[0]]}

    def _path(self, text: str) -> Path:
        key = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"  # folders of thousands of files are slow to list

    def _whole(self, path: Path) -> bool:
        """Whether a file is here with all the bytes that its header tells of; their values are checked by `read`."""
        try:
            with safe_open(path, "pt") as file:
                return (file.metadata() or {}).get("of") == self.fingerprint
        except (OSError, SafetensorError):
            return False

    def _write(self, text: str, row: Mapping[str, Tensor]) -> None:
        header = {"format": FORMAT, "version": VERSION, "of": self.fingerprint, "checksum": _checksum(row)}
        write_atomically(self._path(text), lambda temporary: save_file(dict(row), temporary, header))

    def _read(self, text: str) -> dict[str, Tensor]:
        path = self._path(text)
        if not path.exists():
            raise UserError(
                f"expected the embedding of {text[:60]!r} in {self.folder}, got no file; run the command again"
            )
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                row = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except (OSError, SafetensorError):
            header, row = {}, {}
        if header.get("of") != self.fingerprint or header.get("checksum") != _checksum(row):
            raise UserError(
                f"expected a text embedding in {path}, got a damaged file; remove it and run the command again"
            )
        return row

    def _write_identity(self) -> None:
        """For people: what the folder is of."""
        note = self.folder / "identity.json"
        if not note.exists():
            write_atomically(note, lambda temporary: temporary.write_text(self._identity))

    def _check_room(self, count: int, size: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if count * size > free:
            raise UserError(
                f"expected {count * size / 1e9:.1f} GB free for {count} text embeddings in {self.folder}, got "
                f"{free / 1e9:.1f} GB; change --text_cache or take fewer --prompts"
            )


def _rows(texts: Sequence[str], encoded: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """One mapping a text, each tensor with memory of its own."""
    wrong = [name for name, value in encoded.items() if value.ndim < 1 or len(value) != len(texts)]
    if not encoded or wrong:
        raise ValueError(f"expected tensors of {len(texts)} rows from the text encoder, got others: {wrong or 'none'}")
    for name, value in encoded.items():
        if not value.isfinite().all():
            raise UserError(f"expected finite text embeddings, got others in {name}; take another --precision")
    values = {name: value.detach().cpu() for name, value in encoded.items()}
    return [{name: value[row].clone().contiguous() for name, value in values.items()} for row in range(len(texts))]


def _checksum(row: Mapping[str, Tensor]) -> str:
    """CRC-32C of names, types, shapes and values."""
    checksum = google_crc32c.Checksum()
    for name, value in sorted(row.items()):
        checksum.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        checksum.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return checksum.hexdigest().decode()

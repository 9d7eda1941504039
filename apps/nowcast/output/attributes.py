"""Attributes of a nowcast file as a whole: what it is, what it was made of and with, and what went wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from apps.nowcast.forecasting.scene import Scene

REFERENCES = "Gao et al. 2023, PreDiff, doi:10.48550/arXiv.2307.10422 (the model's architecture)"
_SHOWN = 20  # seeds, notes


@dataclass(frozen=True)
class Provenance:
    """How a nowcast was made.

    Attributes:
        method: of the forecast, as the table of scores has it, or of what was sent in its place.
        solver: name and steps; `none` where nothing was sampled.
        nfe: evaluations of the network for each member and tile; 0 where nothing was sampled.
        seeds: of the members.
        seed: of the run.
        checkpoints: name of a file of the model or solver -> its SHA-256.
        model: identity of the model's weights.
        fallback: why something else than the model's forecast was sent; empty where it was not.
        tiles: (all, sampled).
        overlap: least pixels that tiles share.
    """

    method: str
    solver: str = "none"
    nfe: int = 0
    seeds: Sequence[int] = ()
    seed: int = 0
    checkpoints: Mapping[str, str] | None = None
    model: str = ""
    fallback: str = ""
    tiles: tuple[int, int] = (0, 0)
    overlap: int = 0

    @property
    def kind(self) -> str:
        """Of a fallback, in few words: Lagrangian or Eulerian persistence."""
        return " ".join(self.method.split()[:2])


def file_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of files by name."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def global_attributes(
    scene: Scene, provenance: Provenance, *, command: str, institution: str, now: datetime | None = None
) -> dict[str, str | np.int32 | np.float64]:
    """CF's attributes of a file and our own, which begin with `spanlift_`; all text but for counts and shares."""
    moment = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    quantity = scene.quantity
    comment = "Pixels that no observed frame shows are missing; other missing pixels were filled in time."
    if provenance.fallback:
        comment = f"FALLBACK: not the model's forecast but {provenance.method}, as {provenance.fallback}. {comment}"
    gaps = [f"{wanted}Z by {used}Z" for wanted, used in scene.substituted]
    return {
        "Conventions": "CF-1.11",
        "title": f"Ensemble nowcast of {quantity.long_name} from {scene.init_time}Z",
        "institution": institution,
        "source": f"spanlift {_version()}, {provenance.method}; observations: {scene.title}",
        "history": f"{moment}: {command}",
        "references": REFERENCES,
        "comment": comment,
        "spanlift_method": provenance.method,
        "spanlift_fallback": provenance.fallback or "no",
        "spanlift_solver": provenance.solver,
        "spanlift_nfe": np.int32(provenance.nfe),
        "spanlift_seed": str(provenance.seed),
        "spanlift_member_seeds": " ".join(map(str, provenance.seeds)) or "none",
        "spanlift_model": provenance.model or "none",
        "spanlift_checkpoint_sha256": " ".join(f"{n}:{h}" for n, h in (provenance.checkpoints or {}).items()) or "none",
        "spanlift_tiles": f"{provenance.tiles[0]}, of which {provenance.tiles[1]} with rain were sampled",
        "spanlift_overlap_pixels": np.int32(provenance.overlap),
        "spanlift_versions": f"torch {torch.__version__}, numpy {np.__version__}",
        "spanlift_observed_times": " ".join(f"{time}Z" for time in scene.times),
        "spanlift_substituted_frames": "; ".join(gaps) or "none",
        "spanlift_missing_fraction": np.float64(scene.missing_fraction),
        "spanlift_unobserved_fraction": np.float64(scene.unobserved.mean()),
        "spanlift_notes": "; ".join(list(scene.notes)[:_SHOWN]) or "none",
    }


def _version() -> str:
    try:
        return version("spanlift")
    except PackageNotFoundError:
        return "(not installed)"

"""Progress of a training stage, as people see it."""

from __future__ import annotations

from data_tools.progress import Report

__all__ = ["Report"]

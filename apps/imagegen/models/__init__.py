"""Image models: EDM's networks, the architectures known by name, and their files."""

from __future__ import annotations

from apps.imagegen.models.configurations import ARCHITECTURES, Architecture, find_architecture
from apps.imagegen.models.edm import EDMPrecond
from apps.imagegen.models.files import load_model, save_model
from apps.imagegen.models.frozen_model import FrozenModel, Precision
from apps.imagegen.models.image_model import ImageModel, image_model

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "EDMPrecond",
    "FrozenModel",
    "ImageModel",
    "Precision",
    "find_architecture",
    "image_model",
    "load_model",
    "save_model",
]

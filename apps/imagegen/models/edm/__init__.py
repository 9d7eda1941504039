"""EDM's networks and preconditionings, written anew; state dicts have the names and shapes of published checkpoints."""

from __future__ import annotations

from apps.imagegen.models.edm.config import DhariwalConfig, SongConfig, UNetConfig, network_config, written
from apps.imagegen.models.edm.networks import DhariwalUNet, SongUNet, build_network
from apps.imagegen.models.edm.preconditioning import EDMPrecond, Preconditioned, VEPrecond, VPPrecond

__all__ = [
    "DhariwalConfig",
    "DhariwalUNet",
    "EDMPrecond",
    "Preconditioned",
    "SongConfig",
    "SongUNet",
    "UNetConfig",
    "VEPrecond",
    "VPPrecond",
    "build_network",
    "network_config",
    "written",
]

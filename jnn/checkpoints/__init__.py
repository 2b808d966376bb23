"""Checkpoints that are whole or not there: arrays by Orbax, synced, with a manifest of checksums. Nothing in them is code."""

from jnn.checkpoints.files import Loaded, Report, load, save
from jnn.checkpoints.manifests import CheckpointError, DamagedError, Manifest, verify
from jnn.checkpoints.series import Checkpoints as Checkpoints  # known as `jnn.Checkpoints`
from jnn.checkpoints.series import at, latest, steps

__all__ = [
    "CheckpointError",
    "DamagedError",
    "Loaded",
    "Manifest",
    "Report",
    "at",
    "latest",
    "load",
    "save",
    "steps",
    "verify",
]

"""Long runs: compiled segments with progress, evaluation, checkpoints and a way back between them."""

from jnn.runs.loop import DivergedError, Run
from jnn.runs.loop import run as run  # known as `jnn.run`
from jnn.runs.watching import Report, tensorboard

__all__ = ["DivergedError", "Report", "Run", "tensorboard"]

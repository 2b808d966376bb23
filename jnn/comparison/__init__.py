"""Comparing optimizers: equal tuning, complete replications, one verdict."""

from jnn.comparison.calibration import calibrate
from jnn.comparison.grids import verdict_map
from jnn.comparison.protocol import compare
from jnn.comparison.spaces import complement_log_uniform, log_uniform, uniform

__all__ = ["calibrate", "compare", "complement_log_uniform", "log_uniform", "uniform", "verdict_map"]

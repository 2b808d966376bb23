"""Comparing optimizers: equal tuning, complete replications, one verdict."""

from jnn.comparison.protocol import compare
from jnn.comparison.spaces import log_uniform, uniform

__all__ = ["compare", "log_uniform", "uniform"]

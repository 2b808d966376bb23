"""Layers: factories of (init, apply) pairs."""

from jnn.layers.linear import dense
from jnn.layers.shapes import flatten
from jnn.layers.stochastic import dropout

__all__ = ["dense", "dropout", "flatten"]

"""Data: real data sets, and the order in which examples come."""

from jnn.data.datasets import (
    DataError,
    MissingDataError,
    co2,
    cora,
    digits,
    fashion_mnist,
    picture,
    sunspots,
    tiny_shakespeare,
)
from jnn.data.graphs import batch_graphs
from jnn.data.orders import batch_order, folds, shuffled

__all__ = [
    "DataError",
    "MissingDataError",
    "batch_graphs",
    "batch_order",
    "co2",
    "cora",
    "digits",
    "fashion_mnist",
    "folds",
    "picture",
    "shuffled",
    "sunspots",
    "tiny_shakespeare",
]

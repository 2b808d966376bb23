"""Data: real data sets, files as arrays, streams of what is larger than memory, and the order in which examples come."""

from jnn.data.datasets import co2, cora, digits, fashion_mnist, picture, sunspots, tiny_shakespeare
from jnn.data.errors import DataError, MissingDataError
from jnn.data.graphs import batch_graphs
from jnn.data.orders import batch_order, folds, shuffled
from jnn.data.readers import idx, npz, text
from jnn.data.sources import Images, Table, Tokens, write_tokens
from jnn.data.streams import Stream, stream

__all__ = [
    "DataError",
    "Images",
    "MissingDataError",
    "Stream",
    "Table",
    "Tokens",
    "batch_graphs",
    "batch_order",
    "co2",
    "cora",
    "digits",
    "fashion_mnist",
    "folds",
    "idx",
    "npz",
    "picture",
    "shuffled",
    "stream",
    "sunspots",
    "text",
    "tiny_shakespeare",
    "write_tokens",
]

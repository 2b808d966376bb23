"""Layers: factories of (init, apply) pairs."""

from jnn.layers.attentions import attention
from jnn.layers.convolution import conv, conv_transpose
from jnn.layers.embeddings import embed, learned_positions, sinusoidal_positions
from jnn.layers.graphs import graph_attention, graph_conv, on_nodes, pool_nodes
from jnn.layers.linear import dense, maxout
from jnn.layers.normalization import batch_norm, group_norm, layer_norm, rms_norm
from jnn.layers.pooling import avg_pool, global_avg_pool, global_max_pool, max_pool
from jnn.layers.rectifiers import prelu
from jnn.layers.recurrent import bidirectional, gru, jordan, lstm, rnn, stateful
from jnn.layers.shapes import flatten
from jnn.layers.stochastic import dropout, stochastic_depth

__all__ = [
    "attention",
    "avg_pool",
    "batch_norm",
    "bidirectional",
    "conv",
    "conv_transpose",
    "dense",
    "dropout",
    "embed",
    "flatten",
    "global_avg_pool",
    "global_max_pool",
    "graph_attention",
    "graph_conv",
    "group_norm",
    "gru",
    "jordan",
    "layer_norm",
    "learned_positions",
    "lstm",
    "max_pool",
    "maxout",
    "on_nodes",
    "pool_nodes",
    "prelu",
    "rms_norm",
    "rnn",
    "sinusoidal_positions",
    "stateful",
    "stochastic_depth",
]

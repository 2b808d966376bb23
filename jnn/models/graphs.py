"""Graph networks: a Graph to the logits of each of its nodes."""

import jax

from jnn.combinators import serial
from jnn.layers import dropout, graph_attention, graph_conv, on_nodes
from jnn.types import Layer


def gcn(hidden: int, classes: int, *, rate=0.5) -> Layer:
    """Graph -> (nodes, classes):  two graph convolutions with relu between them, dropout before each (Kipf & Welling 2017).

    rate: the share that dropout takes of the nodes' features.
    """
    return serial(
        dropout_1=on_nodes(dropout(rate)),
        conv_1=graph_conv(hidden),
        relu=on_nodes(jax.nn.relu),
        dropout_2=on_nodes(dropout(rate)),
        conv_2=graph_conv(classes),
        nodes=_nodes,
    )


def gat(hidden: int, classes: int, *, heads: int = 8, rate=0.6) -> Layer:
    """Graph -> (nodes, classes):  two layers of graph attention with elu between them, dropout before each and of their
    attention (Velickovic et al. 2018, section 3.3).

    hidden: features of each of the `heads` heads of the first layer; the second has one head.
    rate: the share that dropout takes of the nodes' features, and of the attention.
    """
    return serial(
        dropout_1=on_nodes(dropout(rate)),
        attention_1=graph_attention(hidden, heads, rate=rate),
        elu=on_nodes(jax.nn.elu),
        dropout_2=on_nodes(dropout(rate)),
        attention_2=graph_attention(classes, 1, rate=rate),
        nodes=_nodes,
    )


def _nodes(graph):
    return graph.nodes

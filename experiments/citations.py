"""Cora's papers with their citations, and the networks that tell their topics, each with the hyperparameters of its paper."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn

TOPICS = ("theory", "reinforcement", "genetic algorithms", "neural networks", "probabilistic", "case based", "rules")


class Method(NamedTuple):
    title: str
    first: jnn.Layer
    activation: Callable
    second: jnn.Layer
    rate: float  # of dropout
    decay: tuple[float, float]  # half of it times the square of each layer's weights is added to the loss
    learning_rate: float


glorot: dict[str, Any] = {"w_init": jnn.initializers.xavier_uniform()}
convolutions = jnn.graph_conv(16, **glorot), jax.nn.relu, jnn.graph_conv(7, **glorot)
attentions = jnn.graph_attention(8, 8, rate=0.6, **glorot), jax.nn.elu, jnn.graph_attention(7, 1, rate=0.6, **glorot)
products = jnn.on_nodes(jnn.dense(16, **glorot)), jax.nn.relu, jnn.on_nodes(jnn.dense(7, **glorot))
METHODS = {
    "gcn": Method("graph convolution", *convolutions, 0.5, (5e-4, 0.0), 0.01),  # Kipf & Welling 2017, section 5.2
    "gat": Method("graph attention", *attentions, 0.6, (5e-4, 5e-4), 0.005),  # Velickovic et al. 2018, section 3.3
    "mlp": Method("words alone", *products, 0.5, (5e-4, 0.0), 0.01),
}


def network(method: Method) -> jnn.Layer:
    """(Graph, (paper, word)) -> (nodes, classes): dropout, the first layer, its activation, dropout, the second.

    paper, word: int (words,), the places of the nodes that are not zero. The first dropout is drawn for them alone: zeros stay
    zero whatever is drawn, and drawing for all 3.9 million took three quarters of the time of a step."""

    def forward(net, x):
        graph, places = x
        nodes = jnp.asarray(graph.nodes)
        hidden = net.first(graph._replace(nodes=nodes.at[places].set(net.words(nodes[places]))))
        hidden = hidden._replace(nodes=net.dropout(method.activation(hidden.nodes)))
        return net.second(hidden).nodes

    drop = jnn.dropout(method.rate)
    return jnn.compose(forward, words=drop, first=method.first, dropout=drop, second=method.second)


def penalty_of(method: Method) -> Callable:
    first, second = (jnn.regularizers.l2(decay / 2) for decay in method.decay)
    return lambda params: first(params["first"]) + second(params["second"])


def objective_of(method: Method) -> jnn.Objective:
    accuracy = {"accuracy": jnn.metrics.accuracy}
    return jnn.supervised(network(method), jnn.losses.softmax_cross_entropy, penalty=penalty_of(method), metrics=accuracy)


def papers():
    """-> (Graph, (paper, word)), labels, and float32 weights of each part of the split, 1 for its papers and 0 elsewhere."""
    graph, labels, split = jnn.data.cora()
    # rows that add up to 1, as in both papers
    graph = graph._replace(nodes=graph.nodes / np.maximum(graph.nodes.sum(axis=1, keepdims=True), 1))
    weights = [np.isin(np.arange(len(labels)), part).astype(np.float32) for part in split]
    return (graph, np.nonzero(graph.nodes)), labels, weights

"""Layers on graphs: each takes a Graph and returns it with other nodes; `pool_nodes` leaves an array.

Messages run along the edges, from sender to receiver: j -> i is an edge from node j to node i. With `self_edges=True` an edge
from every node to itself is added to those that are listed; an edge listed twice counts twice. Sums over edges are computed
in float32 or better.

Nodes and edges that are padding reach no other node and no gradient, whatever numbers they hold. An edge to or from a node
that there is not raises LayerError where its number is known; inside `jit`, `vmap` or `grad` of the graph the nodes returned
are all NaN: never those of another graph.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jnn.errors import LayerError
from jnn.initializers import lecun_normal, zeros
from jnn.layers.checks import describe, keys_for, require_dtype, require_floating, require_initializers, require_width, taken
from jnn.layers.stochastic import dropout
from jnn.numbers import require_one_of, require_share, whole, wide
from jnn.pairs import as_layer, forwarding
from jnn.types import Graph, Layer

FORM = "Graph(nodes, senders, receivers)"


def graph_conv(features: int, *, aggregate="symmetric", self_edges=True, w_init=lecun_normal(), b_init=zeros) -> Layer:
    """Graph of (n, in) -> Graph of (n, features):  y_i = sum over j -> i of x_j @ w / sqrt(d_i * d_j) + b.

    d_i is the number of edges that lead to node i, the self edge included: D^-1/2 (A + I) D^-1/2 x w + b.

    aggregate: "symmetric" as above, or over all j -> i the "sum", "mean" or "max" of x_j @ w, plus b.
    self_edges: whether the edges i -> i are added, for each of the four. Without them, a node to which no edge leads gets b.
    Parameters: `w (in, features)`, `b (features,)`.
    Raises LayerError for anything but a Graph, for indices out of range and for nodes of another width or dtype than w.
    Kipf & Welling 2017, eq. 2.
    """
    features = whole("graph_conv", "features", features)
    require_initializers("graph_conv", w_init=w_init, b_init=b_init)
    require_one_of("graph_conv", "aggregate", aggregate, "symmetric", "sum", "mean", "max")

    def init(key, x):
        require_matrix("graph_conv", x)
        w_key, b_key = keys_for("graph_conv", key, 2)
        w = w_init(w_key, (x.nodes.shape[1], features), jnp.float32)
        return {"w": w, "b": b_init(b_key, (features,), jnp.float32)}, {}

    def apply(params, state, x, *, key=None, train=False):
        w, b = taken("graph_conv", params, "w", "b")
        require_matrix("graph_conv", x)
        require_width("graph_conv", x.nodes, w.shape[0])
        require_dtype("graph_conv", x.nodes, w.dtype)
        senders, receivers, valid = _edges(x, self_edges)
        y = _aggregated(aggregate, real_nodes(x) @ w, senders, receivers)
        return x._replace(nodes=(y.astype(w.dtype) + b) * valid.astype(w.dtype)), state

    return Layer(init, apply)


def graph_attention(
    features: int, heads: int, *, merge="concat", rate=None, self_edges=True, w_init=lecun_normal(), b_init=zeros
) -> Layer:
    """Graph of (n, in) -> Graph of (n, heads * features):  y_i = sum over j -> i of a_ij h_j + b,  h = x @ w.

    In each head, a_ij = softmax over j -> i of leaky_relu(h_i . attend_to + h_j . attend_from), of slope 0.2.

    features: those of one head.
    merge: "concat" puts the heads side by side, head 0 first; "mean" takes their mean, (n, features), for the last layer.
    rate: the share that dropout takes of the a_ij while training, each head by itself, so that a node hears from a random
        sample of its neighbours (section 2.2); None for no dropout.
    self_edges: whether the edges i -> i are added. Without them, a node to which no edge leads gets b.
    Parameters: `w (in, heads * features)`, `attend_from (heads, features)`, `attend_to (heads, features)`, `b` as wide as y.
    Raises LayerError for anything but a Graph, for indices out of range, for nodes of another width or dtype than w, and for
    training with a rate and without a key.
    Velickovic et al. 2018, eq. 3 to 6, whose vector a is attend_to and attend_from in a row.
    """
    features = whole("graph_attention", "features", features)
    heads = whole("graph_attention", "heads", heads)
    require_initializers("graph_attention", w_init=w_init, b_init=b_init)
    require_one_of("graph_attention", "merge", merge, "concat", "mean")
    if rate is not None:
        require_share("graph_attention", "rate is the share dropped", rate)
    outputs = heads * features if merge == "concat" else features

    def init(key, x):
        require_matrix("graph_attention", x)
        w_key, from_key, to_key, b_key = keys_for("graph_attention", key, 4)
        params = {
            "w": w_init(w_key, (x.nodes.shape[1], heads * features), jnp.float32),
            # an initializer counts the inputs along the first axis: here the features of a head
            "attend_from": w_init(from_key, (features, heads), jnp.float32).T,
            "attend_to": w_init(to_key, (features, heads), jnp.float32).T,
            "b": b_init(b_key, (outputs,), jnp.float32),
        }
        return params, {}

    def apply(params, state, x, *, key=None, train=False):
        w, attend_from, attend_to, b = taken("graph_attention", params, "w", "attend_from", "attend_to", "b")
        require_matrix("graph_attention", x)
        require_width("graph_attention", x.nodes, w.shape[0])
        require_dtype("graph_attention", x.nodes, w.dtype)
        senders, receivers, valid = _edges(x, self_edges)
        n = x.nodes.shape[0]
        h = (real_nodes(x) @ w).reshape(n, heads, features)

        def score(vectors):
            return jnp.einsum("nhf,hf->nh", h, vectors, preferred_element_type=wide(h.dtype))

        scores = _at(score(attend_from), senders) + _at(score(attend_to), receivers)
        scores = jax.nn.leaky_relu(scores, 0.2)
        # one row more: it takes the edges that are padding
        largest = jax.ops.segment_max(jax.lax.stop_gradient(scores), receivers, n + 1)
        shares = jnp.exp(scores - largest[receivers])
        total = _sum(shares, receivers, n)[:, :, None]
        if rate is not None and train:
            if key is None:
                raise LayerError("graph_attention", "needs a key when train=True")
            shares = dropout(rate).apply({}, {}, shares, key=key, train=True)[0]
        y = _sum(shares[:, :, None] * _at(h, senders).astype(shares.dtype), receivers, n)
        y = y / jnp.where(total == 0, jnp.ones_like(total), total)
        y = y.reshape(n, heads * features) if merge == "concat" else jnp.mean(y, axis=1)
        return x._replace(nodes=(y.astype(w.dtype) + b) * valid.astype(w.dtype)), state

    return Layer(init, apply)


def on_nodes(layer) -> Layer:
    """Graph of (n, ...) -> Graph of (n, ...):  `layer` on the nodes, as on an array of n examples.

    layer: a Layer or a plain function: `on_nodes(jax.nn.relu)`, `on_nodes(dropout(0.5))`.
    Parameters and state: those of `layer`, without a level of their own.
    Nodes that are padding come to it as zeros. Only where a layer mixes examples do these count: batch_norm, while training.
    """
    layer = as_layer(layer)

    def init(key, x):
        require_graph("on_nodes", x)
        return layer.init(key, x.nodes)

    def apply(params, state, x, *, key, train, extra):
        require_graph("on_nodes", x)
        y, state = layer.apply(params, state, real_nodes(x), key=key, train=train, **extra)
        if not hasattr(y, "shape") or y.shape[:1] != x.nodes.shape[:1]:
            raise LayerError("on_nodes", f"expected the layer to return {x.nodes.shape[0]} nodes, got {describe(y)}")
        return x._replace(nodes=y), state

    return Layer(init, forwarding("on_nodes", [layer], apply))


def pool_nodes(how: str = "mean") -> Layer:
    """Graph of (n, features) -> (graphs, features):  the mean, sum or max over the nodes of each graph.

    how: "mean", "sum" or "max". A graph without nodes gives 0.
    A Graph without `sizes` is one graph, and gives (features,). Nodes that are padding belong to none.
    Raises LayerError for anything but a Graph, and for sizes that add up to more nodes than there are (NaN where traced).
    """
    require_one_of("pool_nodes", "how", how, "mean", "sum", "max")

    def init(key, x):
        require_matrix("pool_nodes", x)
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        require_matrix("pool_nodes", x)
        n = x.nodes.shape[0]
        sizes = jnp.full((1,), n, jnp.int32) if x.sizes is None else jnp.asarray(x.sizes)
        # the graph of each node; for padding, the number of graphs
        ends = jnp.cumsum(sizes, dtype=jnp.int32)
        graph = jnp.searchsorted(ends, jnp.arange(n, dtype=jnp.int32), side="right").astype(jnp.int32)
        y = _reduced(how, real_nodes(x).astype(wide(x.nodes.dtype)), graph, sizes.shape[0])
        y = (y * _valid_sizes(x).astype(y.dtype)).astype(x.nodes.dtype)
        return (y[0] if x.sizes is None else y), state

    return Layer(init, apply)


def require_graph(kind: str, graph) -> None:
    """Raises LayerError unless `graph` is a Graph of arrays that fit each other."""
    _require_arrays(kind, graph)
    _require_known_in_range(kind, graph)


def require_matrix(kind: str, graph) -> None:
    """`require_graph`, whose nodes have numbers for features."""
    _require_arrays(kind, graph)
    if graph.nodes.ndim != 2:
        raise LayerError(kind, f"expected nodes (n, features), got {describe(graph.nodes)}")
    require_floating(kind, graph.nodes, "(n, features) as nodes", 2)
    _require_known_in_range(kind, graph)


def _require_arrays(kind, graph):
    if not isinstance(graph, Graph):
        raise LayerError(kind, f"expected a {FORM}, got {describe(graph)}")
    nodes, senders, receivers, sizes = graph
    if not hasattr(nodes, "ndim") or nodes.ndim < 1:
        raise LayerError(kind, f"expected nodes (n, features), got {describe(nodes)}")
    integers = {"senders": senders, "receivers": receivers} | ({} if sizes is None else {"sizes": sizes})
    for name, array in integers.items():
        if not (hasattr(array, "ndim") and array.ndim == 1 and jnp.issubdtype(array.dtype, jnp.integer)):
            form = "graphs" if name == "sizes" else "edges"
            raise LayerError(kind, f"expected {name} as integers ({form},), got {describe(array)}")
    if senders.shape != receivers.shape:
        raise LayerError(kind, f"expected as many senders as receivers, got {senders.shape[0]} and {receivers.shape[0]}")


def _require_known_in_range(kind, graph):
    n = graph.nodes.shape[0]
    if graph.sizes is not None:
        sizes = _known(graph.sizes)
        if sizes is None:
            return
        if np.any(sizes < 0) or sizes.sum() > n:
            raise LayerError(kind, f"expected sizes that add up to the {n} nodes at most, got {sizes.tolist()}"[:200])
        n = int(sizes.sum())
    ends = {"senders": _known(graph.senders), "receivers": _known(graph.receivers)}
    for name, index in ends.items():
        if index is None:
            continue
        outside = (index < 0) | (index >= n)
        others = [other for other in ends.values() if other is not None]
        if len(others) == 2:
            outside &= ~((others[0] == -1) & (others[1] == -1))
        else:
            outside &= index != -1
        if np.any(outside):
            edge = int(np.argmax(outside))
            raise LayerError(kind, f"expected {name} in [0, {n}), as there are {n} nodes, got {index[edge]} at edge {edge}")


def _known(array):
    """The numbers of an array as signed ones, or None where there are none yet."""
    if isinstance(array, Tracer) or not isinstance(array, np.ndarray | jax.Array):
        return None
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return None
    array = np.asarray(array)
    return array.astype(np.int64) if array.dtype != np.uint64 else array


def real_nodes(graph):
    """The nodes, with zeros for those that are padding: NaN in them would reach the gradients of parameters."""
    if graph.sizes is None:
        return jnp.asarray(graph.nodes)
    n = graph.nodes.shape[0]
    real = (jnp.arange(n, dtype=jnp.int32) < _count(graph)).reshape(n, *[1] * (graph.nodes.ndim - 1))
    return jnp.where(real, graph.nodes, jnp.zeros_like(graph.nodes))


def _count(graph):
    """int32 []: the number of nodes that are no padding."""
    return jnp.sum(jnp.asarray(graph.sizes), dtype=jnp.int32)


def _edges(graph, self_edges):
    """-> senders, receivers (int32, padding at n), with the self edges; and 1, or NaN where an index is out of range."""
    n = graph.nodes.shape[0]
    count = n if graph.sizes is None else _count(graph)
    senders, receivers = (_index(ends, n) for ends in (graph.senders, graph.receivers))
    padding = (senders == -1) & (receivers == -1)
    outside = (senders < 0) | (senders >= count) | (receivers < 0) | (receivers >= count)
    valid = jnp.where(jnp.any(outside & ~padding), jnp.nan, 1.0) * _valid_sizes(graph)
    itself = [jnp.arange(n, dtype=jnp.int32)] if self_edges else []
    senders, receivers = (jnp.concatenate([jnp.where(outside, n, e), *itself]) for e in (senders, receivers))
    return senders, receivers, valid


def _valid_sizes(graph):
    """1, or NaN for sizes that cannot be."""
    if graph.sizes is None:
        return jnp.ones(())
    wrong = jnp.any(jnp.asarray(graph.sizes) < 0) | (_count(graph) > graph.nodes.shape[0])
    return jnp.where(wrong, jnp.nan, 1.0)


def _index(ends, n):
    """Indices of any integer dtype as int32; one out of range remains so."""
    ends = jnp.asarray(ends)
    if ends.dtype.itemsize >= 4:
        ends = jnp.clip(ends, -2 if jnp.issubdtype(ends.dtype, jnp.signedinteger) else 0, n)
    return ends.astype(jnp.int32)


def _at(values, index):
    """values[index], and 0 where index is the number of values."""
    if values.shape[0] == 0:
        return jnp.zeros((*index.shape, *values.shape[1:]), values.dtype)
    return values.at[index].get(mode="fill", fill_value=0)


def _sum(messages, receivers, n):
    return jax.ops.segment_sum(messages, receivers, n + 1)[:n]


def _degree(receivers, n, dtype):
    """(n, 1): the number of edges that lead to each node."""
    return _sum(jnp.ones((receivers.shape[0], 1), dtype), receivers, n)


def _aggregated(how, h, senders, receivers):
    n, dtype = h.shape[0], wide(h.dtype)
    if how != "symmetric":
        return _reduced(how, _at(h, senders).astype(dtype), receivers, n)
    degree = _degree(receivers, n, dtype)
    # no edge leads to a node of degree 0, but one may lead from it: its message is weighted 0
    root = jnp.where(degree == 0, jnp.zeros_like(degree), 1 / jnp.sqrt(jnp.maximum(degree, 1)))
    return _sum(_at(h.astype(dtype) * root, senders), receivers, n) * root


def _reduced(how, messages, receivers, n):
    """(edges, features), (edges,) -> (n, features): sum, mean or max of what arrives; 0 where nothing does."""
    if how == "sum":
        return _sum(messages, receivers, n)
    degree = _degree(receivers, n, messages.dtype)
    if how == "mean":
        return _sum(messages, receivers, n) / jnp.maximum(degree, 1)
    largest = jax.ops.segment_max(messages, receivers, n + 1)[:n]
    return jnp.where(degree == 0, jnp.zeros_like(largest), largest)

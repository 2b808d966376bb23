from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn import Graph
from jnn.data import batch_graphs

from layer_properties import Case, LayerProperties, filled, stacked

# edges one way, two of them both ways, one twice, one from a node to itself; none leads to node 4, none comes from node 3
SENDERS = np.array([0, 1, 1, 2, 4, 4, 0, 0, 2], np.int32)
RECEIVERS = np.array([1, 0, 2, 1, 0, 3, 3, 3, 2], np.int32)


def one_graph(shape, dtype, rng):
    return Graph(rng.normal(size=(5, *shape)).astype(dtype), SENDERS, RECEIVERS)


def padded_batch(shape, dtype, rng):
    """Two graphs, of 2 and 3 nodes, and one without any; 2 nodes and 2 edges of padding."""
    nodes = rng.normal(size=(7, *shape)).astype(dtype)
    senders, receivers = np.array([0, 0, 3, -1, 4, -1], np.int32), np.array([1, 1, 2, -1, 3, -1], np.int32)
    return Graph(nodes, senders, receivers, np.array([2, 0, 3], np.int32))


def dense_edges(graph, self_edges=True):
    """A (n, n): the number of edges from j to i at (i, j); and the rows of padding out of the nodes."""
    n = graph.nodes.shape[0]
    dtype = graph.nodes.dtype
    into, out_of = (jax.nn.one_hot(ends, n, dtype=dtype) for ends in (graph.receivers, graph.senders))
    count = n if graph.sizes is None else jnp.sum(graph.sizes)
    nodes = jnp.where((jnp.arange(n) < count)[:, None], graph.nodes, 0)
    return into.T @ out_of + (jnp.eye(n, dtype=dtype) if self_edges else 0), nodes


def dense_conv(params, state, graph, aggregate="symmetric", self_edges=True):
    a, x = dense_edges(graph, self_edges)
    h = x @ params["w"]
    degree = a.sum(1)
    if aggregate == "symmetric":
        root = jnp.diag(jnp.where(degree > 0, degree, jnp.inf) ** -0.5)
        y = root @ a @ root @ h
    elif aggregate == "max":
        y = jnp.where(a[:, :, None] > 0, h[None], -jnp.inf).max(1)
        y = jnp.where(degree[:, None] > 0, y, 0)
    else:
        y = (a if aggregate == "sum" else a / jnp.maximum(degree, 1)[:, None]) @ h
    return graph._replace(nodes=y + params["b"])


def dense_attention(params, state, graph, merge="concat", self_edges=True):
    a, x = dense_edges(graph, self_edges)
    outputs = []
    for head, (attend_from, attend_to) in enumerate(zip(params["attend_from"], params["attend_to"], strict=True)):
        features = attend_from.size
        h = x @ params["w"][:, head * features : (head + 1) * features]
        scores = (h @ attend_to)[:, None] + (h @ attend_from)[None, :]
        scores = jnp.where(scores > 0, scores, 0.2 * scores)
        weights = a * jnp.exp(scores)
        total = weights.sum(1, keepdims=True)
        outputs.append(weights / jnp.where(total > 0, total, 1) @ h)
    y = jnp.concatenate(outputs, -1) if merge == "concat" else sum(outputs) / len(outputs)
    return graph._replace(nodes=y + params["b"])


def dense_pool(how):
    def pool(params, state, graph):
        n = graph.nodes.shape[0]
        sizes = jnp.array([n]) if graph.sizes is None else graph.sizes
        starts = jnp.cumsum(sizes) - sizes
        members = (jnp.arange(n) >= starts[:, None]) & (jnp.arange(n) < (starts + sizes)[:, None])
        values = jnp.where(members[:, :, None], graph.nodes, -jnp.inf if how == "max" else 0)
        y = values.max(1) if how == "max" else values.sum(1)
        if how == "mean":
            y = y / jnp.maximum(sizes, 1)[:, None].astype(y.dtype)
        y = jnp.where(sizes[:, None] > 0, y, 0)
        return y[0] if graph.sizes is None else y

    return pool


def conv_case(name, make, oracle=dense_conv, input=one_graph, **options):
    return Case(name, make, (4,), oracle, input=input, leading=False, has_params=True, **options)


CASES = [
    conv_case("graph_conv of a padded batch", lambda: jnn.graph_conv(3), input=padded_batch),
    *(
        conv_case(
            f"graph_conv, {aggregate}, self_edges={self_edges}",
            partial(jnn.graph_conv, 3, aggregate=aggregate, self_edges=self_edges),
            partial(dense_conv, aggregate=aggregate, self_edges=self_edges),
            graph,
        )
        for aggregate, self_edges, graph in (
            ("symmetric", False, one_graph),
            ("sum", False, padded_batch),
            ("mean", True, one_graph),
            ("max", False, padded_batch),
        )
    ),
    conv_case("graph_attention of a padded batch", lambda: jnn.graph_attention(3, 2), dense_attention, padded_batch),
    conv_case(
        "graph_attention, mean, no self edges",
        lambda: jnn.graph_attention(3, 2, merge="mean", self_edges=False),
        partial(dense_attention, merge="mean", self_edges=False),
    ),
    conv_case(
        "graph_attention with dropout",
        lambda rate: jnn.graph_attention(3, 2, rate=rate),
        dense_attention,
        reals=(0.4,),
        is_random=True,
    ),
    conv_case(
        "on_nodes(dense)",
        lambda: jnn.on_nodes(jnn.dense(3)),
        lambda p, s, x: x._replace(nodes=x.nodes @ p["w"] + p["b"]),
    ),
    Case(
        "on_nodes(dropout)",
        lambda rate: jnn.on_nodes(jnn.dropout(rate)),
        (4,),
        lambda p, s, x: x,
        reals=(0.4,),
        is_random=True,
        input=one_graph,
        leading=False,
    ),
    *(
        Case(f"pool_nodes, {how}, {kind}", partial(jnn.pool_nodes, how), (4,), dense_pool(how), input=make, leading=False)
        for how, kind, make in (
            ("mean", "one graph", one_graph),
            ("max", "a padded batch", padded_batch),
        )
    ),
]


class TestEveryGraphLayer(LayerProperties):
    cases = CASES


LAYERS = {
    "graph_conv": lambda: jnn.graph_conv(3),
    "graph_conv, sum": lambda: jnn.graph_conv(3, aggregate="sum", self_edges=False),
    "graph_conv, mean": lambda: jnn.graph_conv(3, aggregate="mean"),
    "graph_conv, max": lambda: jnn.graph_conv(3, aggregate="max", self_edges=False),
    "graph_attention": lambda: jnn.graph_attention(3, 2),
    "on_nodes": lambda: jnn.on_nodes(jnn.dense(3)),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def example(make=LAYERS["graph_conv"], features=4):
    layer, graph = make(), one_graph((features,), np.float32, np.random.default_rng(0))
    return layer, params_of(layer, graph), graph


def params_of(layer, graph):
    return filled(jax.eval_shape(layer.init, jax.random.key(0), graph)[0])


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def several_graphs():
    return [
        Graph(numbers(2, 4, seed=1), np.array([0]), np.array([1])),
        Graph(numbers(1, 4, seed=2), np.array([], int), np.array([], int)),
        Graph(numbers(3, 4, seed=3), np.array([0, 1, 2, 2]), np.array([1, 0, 0, 2])),
    ]


@pytest.mark.parametrize(
    ("name", "oracle"), [("graph_conv", dense_conv), ("graph_attention", dense_attention)], ids=["conv", "attention"]
)
def test_gradients_with_respect_to_nodes_equal_those_of_the_dense_formula(name, oracle):
    layer, params, graph = example(LAYERS[name])

    def gradient(apply):
        return jax.jit(jax.grad(lambda nodes: jnp.sum(jnp.sin(apply(graph._replace(nodes=nodes)).nodes))))(graph.nodes)

    with jax.numpy_dtype_promotion("standard"):
        expected = gradient(lambda graph: oracle(params, {}, graph))
    np.testing.assert_allclose(gradient(lambda graph: layer.apply(params, {}, graph)[0]), expected, rtol=1e-5, atol=1e-5)


def test_graph_conv_is_kipf_and_wellings_formula_in_double_precision():
    layer, params, graph = example()
    a_hat = np.eye(5)
    np.add.at(a_hat, (RECEIVERS, SENDERS), 1)
    d = np.diag(1 / np.sqrt(a_hat.sum(1)))
    w, b = (np.asarray(params[name], np.float64) for name in ("w", "b"))
    expected = d @ a_hat @ d @ graph.nodes.astype(np.float64) @ w + b
    np.testing.assert_allclose(layer.apply(params, {}, graph)[0].nodes, expected, rtol=1e-5, atol=1e-6)


def simple_edges():
    """Without an edge from a node to itself, which torch_geometric replaces, and without one that is listed twice."""
    return np.array([0, 1, 1, 2, 4, 4]), np.array([1, 0, 2, 1, 0, 3])


def torch_numbers(torch, array):
    return torch.tensor(np.asarray(array))


def test_graph_conv_equals_torch_geometrics_forward_and_gradient():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pyg = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not installed")
    layer, params, graph = example()
    graph = Graph(graph.nodes, *simple_edges())
    theirs = pyg.GCNConv(4, 3)
    with torch.no_grad():
        theirs.lin.weight.copy_(torch_numbers(torch, params["w"].T))
        theirs.bias.copy_(torch_numbers(torch, params["b"]))
    y = theirs(torch_numbers(torch, graph.nodes), torch.tensor(np.stack(simple_edges())))
    y.sin().sum().backward()
    np.testing.assert_allclose(layer.apply(params, {}, graph)[0].nodes, y.detach().numpy(), rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(layer.apply(p, {}, graph)[0].nodes)))(params)
    np.testing.assert_allclose(gradient["w"], theirs.lin.weight.grad.numpy().T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient["b"], theirs.bias.grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("merge", ["concat", "mean"])
def test_graph_attention_equals_torch_geometrics_forward_and_gradient(merge):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pyg = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not installed")
    layer, params, graph = example(lambda: jnn.graph_attention(3, 2, merge=merge))
    graph = Graph(graph.nodes, *simple_edges())
    theirs = pyg.GATConv(4, 3, heads=2, concat=merge == "concat")
    with torch.no_grad():
        theirs.lin.weight.copy_(torch_numbers(torch, params["w"].T))
        theirs.att_src.copy_(torch_numbers(torch, params["attend_from"][None]))
        theirs.att_dst.copy_(torch_numbers(torch, params["attend_to"][None]))
        theirs.bias.copy_(torch_numbers(torch, params["b"]))
    y = theirs(torch_numbers(torch, graph.nodes), torch.tensor(np.stack(simple_edges())))
    y.sin().sum().backward()
    np.testing.assert_allclose(layer.apply(params, {}, graph)[0].nodes, y.detach().numpy(), rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(layer.apply(p, {}, graph)[0].nodes)))(params)
    for name, grad in (("attend_from", theirs.att_src.grad[0]), ("attend_to", theirs.att_dst.grad[0])):
        np.testing.assert_allclose(gradient[name], grad.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient["w"], theirs.lin.weight.grad.numpy().T, rtol=1e-4, atol=1e-5)


def test_parameters_have_the_names_shapes_and_spread_that_the_docstrings_say(key):
    graph = Graph(jnp.ones((5, 100)), SENDERS, RECEIVERS)
    params, state = jnn.graph_attention(50, 40).init(key, graph)
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "w": (100, 2000),
        "attend_from": (40, 50),
        "attend_to": (40, 50),
        "b": (2000,),
    }
    assert state == {}
    np.testing.assert_allclose(np.var(params["w"]), 1 / 100, rtol=0.05)
    for name in ("attend_from", "attend_to"):  # of 2000 numbers: 5 standard errors
        np.testing.assert_allclose(np.var(params[name]), 1 / 50, rtol=5 * np.sqrt(2 / 2000))
    assert np.any(params["attend_from"] != params["attend_to"])
    assert jnn.graph_attention(50, 40, merge="mean").init(key, graph)[0]["b"].shape == (50,)
    params, _ = jnn.graph_conv(7).init(key, graph)
    assert {name: leaf.shape for name, leaf in params.items()} == {"w": (100, 7), "b": (7,)}


def test_edges_lead_one_way():
    graph = Graph(jnp.array([[1.0], [10.0], [100.0]]), jnp.array([0, 1]), jnp.array([1, 2]))
    params = {"w": jnp.ones((1, 1)), "b": jnp.zeros(1)}
    layer = jnn.graph_conv(1, aggregate="sum", self_edges=False)
    np.testing.assert_array_equal(layer.apply(params, {}, graph)[0].nodes, [[0], [1], [10]])
    both = Graph(graph.nodes, jnp.array([0, 1, 1, 2]), jnp.array([1, 0, 2, 1]))
    np.testing.assert_array_equal(layer.apply(params, {}, both)[0].nodes, [[10], [101], [10]])


@pytest.mark.parametrize("aggregate", ["symmetric", "sum", "mean", "max"])
def test_a_node_without_incoming_edges_gets_b(aggregate):
    layer, params, graph = example(lambda: jnn.graph_conv(3, aggregate=aggregate, self_edges=False))
    np.testing.assert_array_equal(layer.apply(params, {}, graph)[0].nodes[4], params["b"])


@every_layer
def test_a_graph_without_edges_is_nodes_alone(make):
    layer, params, graph = example(make)
    none = np.array([], np.int32)
    apply = jax.jit(layer.apply)
    alone = [apply(params, {}, Graph(node[None], none, none))[0].nodes for node in graph.nodes]
    np.testing.assert_allclose(
        apply(params, {}, Graph(graph.nodes, none, none))[0].nodes, np.concatenate(alone), rtol=1e-5, atol=1e-6
    )
    empty = apply(params, {}, Graph(graph.nodes[:0], none, none))[0].nodes
    assert empty.shape == (0, alone[0].shape[1])


@every_layer
def test_renaming_the_nodes_renames_the_values(make):
    layer, params, graph = example(make)
    order = np.array([3, 0, 4, 1, 2])
    place = np.argsort(order)
    shuffled = Graph(graph.nodes[order], place[SENDERS], place[RECEIVERS])
    apply = jax.jit(layer.apply)
    expected = apply(params, {}, graph)[0].nodes[order]
    np.testing.assert_allclose(apply(params, {}, shuffled)[0].nodes, expected, rtol=1e-5, atol=1e-6)


def test_dropout_takes_its_share_of_the_attention_of_each_head(key):
    """A node whose only edge is its own gives all its attention to itself: a head that loses it returns b."""
    n, rate = 3000, 0.3
    graph = Graph(numbers(n, 4), np.array([], int), np.array([], int))
    layer = jnn.graph_attention(3, 2, rate=rate)
    params = params_of(layer, graph)
    whole = layer.apply(params, {}, graph)[0].nodes - params["b"]
    some = layer.apply(params, {}, graph, key=key, train=True)[0].nodes - params["b"]
    whole, some = (np.reshape(y, (n, 2, 3)) for y in (whole, some))
    kept = np.abs(some).sum(axis=2) > 0.5 * np.abs(whole).sum(axis=2)
    # a weight of attention is one number for all features of a head
    np.testing.assert_allclose(some, np.where(kept[:, :, None], whole / (1 - rate), 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(kept.mean(axis=0), 1 - rate, atol=4 * np.sqrt(rate * (1 - rate) / n))
    np.testing.assert_allclose(np.mean(kept[:, 0] & kept[:, 1]), (1 - rate) ** 2, atol=0.04)  # the heads' dice are their own


def test_dropped_attention_is_right_in_the_mean(key):
    layer, params, graph = example(lambda: jnn.graph_attention(3, 2, rate=0.4))
    run = jax.jit(jax.vmap(lambda key: layer.apply(params, {}, graph, key=key, train=True)[0].nodes))
    runs = np.asarray(run(jax.random.split(key, 4000)))
    spread = runs.std(axis=0) / np.sqrt(len(runs))
    expected = layer.apply(params, {}, graph)[0].nodes
    assert np.all(np.abs(runs.mean(axis=0) - expected) < 5 * spread)


def test_attention_stays_finite_for_large_scores():
    layer, params, graph = example(lambda: jnn.graph_attention(3, 2))
    large = jax.tree.map(lambda a: 1e4 * a, {k: v for k, v in params.items() if k.startswith("attend")})
    value, gradient = jax.value_and_grad(lambda p: jnp.sum(layer.apply(p, {}, graph)[0].nodes))({**params, **large})
    assert np.isfinite(value)
    chex.assert_tree_all_finite(gradient)


def test_sums_over_many_edges_are_kept_in_float32():
    edges = 1000
    graph = Graph(jnp.ones((2, 1), jnp.bfloat16), np.zeros(edges, np.int32), np.ones(edges, np.int32))
    params = {"w": jnp.ones((1, 1), jnp.bfloat16), "b": jnp.zeros(1, jnp.bfloat16)}
    y, _ = jnn.graph_conv(1, aggregate="sum", self_edges=False).apply(params, {}, graph)
    # one after another in bfloat16, 256 + 1 = 256
    np.testing.assert_array_equal(y.nodes.astype(jnp.float32), [[0], [1000]])


@every_layer
def test_vmap_over_nodes_with_edges_in_common(make):
    layer, params, graph = example(make)
    many = jnp.asarray(numbers(3, 5, 4))
    axes = Graph(0, None, None)
    apply = jax.jit(lambda graph: layer.apply(params, {}, graph)[0].nodes)
    together = jax.vmap(apply, (axes,))(graph._replace(nodes=many))
    apart = [apply(graph._replace(nodes=nodes)) for nodes in many]
    np.testing.assert_allclose(together, stacked(apart), rtol=1e-5, atol=1e-5)


@every_layer
def test_a_batch_gives_each_graph_what_it_gives_alone(make):
    layer, params, _ = example(make)
    graphs = several_graphs()
    batch = batch_graphs(graphs, nodes=9, edges=8)
    assert batch.nodes.shape == (9, 4)
    assert batch.senders.shape == batch.receivers.shape == (8,)

    def value(params, batch):
        nodes = layer.apply(params, {}, batch)[0].nodes[:6]
        return jnp.sum(jnp.sin(nodes)), nodes

    run = jax.jit(jax.value_and_grad(value, has_aux=True))
    (_, together), gradient = run(params, batch)
    alone = [run(params, graph) for graph in graphs]
    np.testing.assert_allclose(together, np.concatenate([nodes for (_, nodes), _ in alone]), rtol=1e-5, atol=1e-5)
    expected = jax.tree.map(lambda *parts: sum(parts), *(gradient for _, gradient in alone))
    chex.assert_trees_all_close(gradient, expected, rtol=1e-4, atol=1e-4)


@every_layer
def test_nan_in_the_padding_reaches_no_node_and_no_gradient(make):
    layer, params, _ = example(make)
    batch = batch_graphs(several_graphs(), nodes=9, edges=8)
    broken = batch._replace(nodes=np.where(np.arange(9)[:, None] < 6, batch.nodes, np.nan))

    def value(params, nodes, batch):
        y, _ = layer.apply(params, {}, batch._replace(nodes=nodes))
        pooled, _ = jnn.pool_nodes("max").apply({}, {}, y)
        return jnp.sum(jnp.sin(pooled)), pooled

    run = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))
    chex.assert_trees_all_equal(run(params, broken.nodes, broken), run(params, batch.nodes, batch))


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
def test_pool_nodes_gives_each_graph_what_it_gives_alone(how):
    graphs = several_graphs()
    pool = jnn.pool_nodes(how)
    alone = [pool.apply({}, {}, graph)[0] for graph in graphs]
    reduce = {"mean": np.mean, "sum": np.sum, "max": np.max}[how]
    np.testing.assert_allclose(alone[2], reduce(graphs[2].nodes, axis=0), rtol=1e-6)
    np.testing.assert_allclose(pool.apply({}, {}, batch_graphs(graphs, nodes=9))[0], stacked(alone), rtol=1e-6)


def test_a_batch_without_padding_says_where_the_graphs_part():
    batch = batch_graphs(several_graphs())
    np.testing.assert_array_equal(batch.sizes, [2, 1, 3])
    np.testing.assert_array_equal(batch.senders, [0, 3, 4, 5, 5])
    np.testing.assert_array_equal(batch.receivers, [1, 4, 3, 3, 5])
    assert all(isinstance(array, np.ndarray) for array in batch)
    assert {array.dtype for array in batch[1:]} == {np.dtype(np.int32)}


@pytest.mark.parametrize(
    ("graphs", "options", "message"),
    [
        (list, {}, "batch_graphs: expected at least one graph, got none"),
        (several_graphs, {"nodes": 5}, "batch_graphs: the graphs have 6 nodes, more than nodes=5"),
        (several_graphs, {"edges": 4}, "batch_graphs: the graphs have 5 edges, more than edges=4"),
        (
            lambda: [np.ones((2, 3))],
            {},
            "batch_graphs: graph 0: expected a Graph(nodes, senders, receivers), got float64 (2, 3)",
        ),
        (
            lambda: [*several_graphs(), Graph(numbers(2, 4), np.array([0, 1]), np.array([1, 2]))],
            {},
            # the node after the last of one graph is the first of the next
            "batch_graphs: graph 3: expected receivers in [0, 2), as there are 2 nodes, got 2 at edge 1",
        ),
        (
            lambda: [*several_graphs(), Graph(numbers(2, 3), np.array([0]), np.array([1]))],
            {},
            "batch_graphs: the nodes of graph 0 are float32 (2, 4), but those of graph 3 are float32 (2, 3)",
        ),
        (lambda: [batch_graphs(several_graphs())], {}, "batch_graphs: graph 0 is a batch of 3 graphs already"),
    ],
)
def test_batch_graphs_says_what_does_not_fit(graphs, options, message, raises):
    with raises(ValueError, message):
        batch_graphs(graphs(), **options)


INDICES = [
    ("sender too large", [0, 5], [1, 2], None, "expected senders in [0, 5), as there are 5 nodes, got 5 at edge 1"),
    ("receiver too large", [0, 1], [7, 2], None, "expected receivers in [0, 5), as there are 5 nodes, got 7 at edge 0"),
    ("sender alone -1", [0, -1], [1, 2], None, "expected senders in [0, 5), as there are 5 nodes, got -1 at edge 1"),
    ("below -1", [0, -2], [1, -2], None, "expected senders in [0, 5), as there are 5 nodes, got -2 at edge 1"),
    ("padding node", [0, 4], [1, 2], [1, 3], "expected senders in [0, 4), as there are 4 nodes, got 4 at edge 1"),
    ("sizes", [0, 1], [1, 2], [3, 3], "expected sizes that add up to the 5 nodes at most, got [3, 3]"),
    ("negative size", [0, 1], [1, 2], [6, -1], "expected sizes that add up to the 5 nodes at most, got [6, -1]"),
]
wrong_index = pytest.mark.parametrize(
    ("senders", "receivers", "sizes", "problem"), [row[1:] for row in INDICES], ids=[row[0] for row in INDICES]
)


def wrong_graph(senders, receivers, sizes, make=np.array):
    make = partial(make, dtype=np.int32)
    return Graph(jnp.ones((5, 4)), make(senders), make(receivers), None if sizes is None else make(sizes))


@wrong_index
@pytest.mark.parametrize("make", [np.array, jnp.array], ids=["numpy", "jax"])
def test_indices_out_of_range_raise_where_they_are_known(senders, receivers, sizes, problem, make, key, raises):
    model = jnn.serial(jnn.graph_conv(3), second=jnn.graph_attention(3, 1))
    params = params_of(model, one_graph((4,), np.float32, np.random.default_rng(0)))
    graph = wrong_graph(senders, receivers, sizes, make)
    with raises(ValueError, f"graph_conv_0: {problem}"):
        model.init(key, graph)
    with raises(ValueError, f"graph_conv_0: {problem}"):
        model.apply(params, {}, graph)
    with raises(ValueError, f"graph_conv_0: {problem}"):  # a constant of the compiled program
        jax.jit(lambda nodes: model.apply(params, {}, graph._replace(nodes=nodes)))(graph.nodes)


@pytest.mark.parametrize("name", ["graph_conv", "graph_conv, max", "graph_attention"])
def test_indices_out_of_range_give_nan_where_they_are_traced(name):
    layer, params, _ = example(LAYERS[name])

    @jax.jit
    def nodes_and_gradient(params, graph):
        y, pull = jax.vjp(lambda p: layer.apply(p, {}, graph)[0].nodes, params)
        return y, pull(jnp.ones_like(y))[0]["w"]

    assert not np.any(np.isnan(nodes_and_gradient(params, wrong_graph([0, -1], [1, -1], [1, 3]))[0]))
    for row, senders, receivers, sizes, _ in INDICES:
        for values in nodes_and_gradient(params, wrong_graph(senders, receivers, sizes)):
            assert np.all(np.isnan(values)), row


def test_sizes_that_cannot_be_give_nan_from_pool_nodes_where_they_are_traced():
    graph = wrong_graph([0], [1], [3, 3])
    assert np.all(np.isnan(jax.jit(jnn.pool_nodes().apply)({}, {}, graph)[0]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64], ids=lambda d: d.__name__)
def test_indices_may_be_any_integers(dtype):
    layer, params, graph = example()
    expected = jax.jit(layer.apply)(params, {}, graph)[0].nodes
    with jax.enable_x64(dtype == np.int64):
        wide = graph._replace(senders=SENDERS.astype(dtype), receivers=RECEIVERS.astype(dtype))
        np.testing.assert_allclose(jax.jit(layer.apply)(params, {}, wide)[0].nodes, expected, rtol=1e-6)
        np.testing.assert_allclose(layer.apply(params, {}, wide)[0].nodes, expected, rtol=1e-5, atol=1e-6)


def test_small_integers_index_more_nodes_than_they_can_count(x64):
    # 300 is 44 in uint8
    graph = Graph(jnp.ones((300, 1), jnp.float32), np.array([50], np.uint8), np.array([200], np.uint8))
    params = {"w": jnp.ones((1, 1), jnp.float32), "b": jnp.zeros(1, jnp.float32)}
    y, _ = jax.jit(jnn.graph_conv(1, aggregate="sum").apply)(params, {}, graph)
    np.testing.assert_array_equal(np.flatnonzero(y.nodes[:, 0] == 2), [200])
    assert np.all(np.isfinite(y.nodes))
    far = graph._replace(senders=np.array([2**32 + 3]))
    assert np.all(np.isnan(jax.jit(jnn.graph_conv(1).apply)(params, {}, far)[0].nodes))


GRAPH = Graph(jnp.ones((5, 4)), SENDERS, RECEIVERS)
WRONG = [
    ("array", jnp.ones((5, 4)), "expected a Graph(nodes, senders, receivers), got float32 (5, 4)"),
    ("tuple", (jnp.ones((5, 4)), SENDERS), "expected a Graph(nodes, senders, receivers), got a tuple of 2"),
    ("lengths", GRAPH._replace(senders=SENDERS[1:]), "expected as many senders as receivers, got 8 and 9"),
    (
        "float indices",
        GRAPH._replace(receivers=RECEIVERS.astype(np.float32)),
        "expected receivers as integers (edges,), got float32 (9,)",
    ),
    ("edge matrix", GRAPH._replace(senders=np.stack([SENDERS] * 2)), "expected senders as integers (edges,), got int32 (2, 9)"),
    ("list", GRAPH._replace(senders=SENDERS.tolist()), "expected senders as integers (edges,), got a list of 9"),
    ("float sizes", GRAPH._replace(sizes=np.ones(2, np.float32)), "expected sizes as integers (graphs,), got float32 (2,)"),
    ("rank of the nodes", GRAPH._replace(nodes=jnp.ones((2, 5, 4))), "expected nodes (n, features), got float32 (2, 5, 4)"),
    ("no nodes", GRAPH._replace(nodes=None), "expected nodes (n, features), got NoneType None"),
    (
        "integer nodes",
        GRAPH._replace(nodes=jnp.ones((5, 4), jnp.int32)),
        "expected floating-point input (n, features) as nodes, got int32 (5, 4)",
    ),
]


@pytest.mark.parametrize("make", [LAYERS["graph_conv"], LAYERS["graph_attention"], jnn.pool_nodes])
@pytest.mark.parametrize(("graph", "problem"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_no_graph_is_refused(make, graph, problem, key, raises):
    layer = make()
    params = params_of(layer, GRAPH)
    kind = layer.init.__qualname__.partition(".")[0]
    with raises(ValueError, f"{kind}: {problem}"):
        layer.init(key, graph)
    with raises(ValueError, f"{kind}: {problem}"):
        layer.apply(params, {}, graph)


@pytest.mark.parametrize("make", [LAYERS["graph_conv"], LAYERS["graph_attention"]])
def test_width_and_dtype_of_the_nodes_are_checked(make, key, raises):
    model = jnn.serial(first=make())
    params, _ = model.init(key, GRAPH)
    with raises(ValueError, "first: expected 4 features in the last axis, got (5, 3)"):
        model.apply(params, {}, GRAPH._replace(nodes=jnp.ones((5, 3))))
    with raises(ValueError, "first: expected float32 input, as the parameters are, got bfloat16: cast one of them"):
        model.apply(params, {}, GRAPH._replace(nodes=jnp.ones((5, 4), jnp.bfloat16)))


def test_a_layer_on_arrays_that_gets_a_graph_says_on_nodes(key, raises):
    model = jnn.serial(jnn.graph_conv(3), jnn.dense(3))
    hint = "got a Graph: on_nodes(layer) applies a layer to its nodes"
    with raises(ValueError, f"dense_1: expected an array (..., in), {hint}"):
        model.init(key, GRAPH)
    params = {"graph_conv_0": jnn.graph_conv(3).init(key, GRAPH)[0], "dense_1": jnn.dense(3).init(key, jnp.ones((5, 3)))[0]}
    with raises(ValueError, f"dense_1: expected 3 features in the last axis, {hint}"):
        model.apply(params, {}, GRAPH)


def test_on_nodes_is_transparent_in_parameters_state_key_and_errors(key, raises):
    model = jnn.serial(jnn.on_nodes(jnn.dense(3)), norm=jnn.on_nodes(jnn.batch_norm()), drop=jnn.on_nodes(jnn.dropout(0.5)))
    params, state = model.init(key, GRAPH)
    assert set(params) == {"on_nodes_0", "norm"}
    assert set(params["on_nodes_0"]) == {"w", "b"}
    assert set(state["norm"]) == {"mean", "var"}
    _, new_state = model.apply(params, state, GRAPH, key=key, train=True)
    assert np.any(new_state["norm"]["mean"] != state["norm"]["mean"])
    with raises(ValueError, "drop: needs a key when train=True"):
        model.apply(params, state, GRAPH, train=True)
    with raises(ValueError, "on_nodes_0: expected 4 features in the last axis, got (5, 2)"):
        model.apply(params, state, GRAPH._replace(nodes=jnp.ones((5, 2))))


def test_on_nodes_takes_functions_and_refuses_one_that_loses_nodes(raises):
    y, _ = jnn.on_nodes(jax.nn.relu).apply({}, {}, GRAPH._replace(nodes=-GRAPH.nodes))
    np.testing.assert_array_equal(y.nodes, 0)
    with raises(ValueError, "on_nodes: expected the layer to return 5 nodes, got float32 (4,)"):
        jnn.on_nodes(lambda x: jnp.mean(x, axis=0)).apply({}, {}, GRAPH)
    with raises(ValueError, "on_nodes: expected a Graph(nodes, senders, receivers), got float32 (5, 4)"):
        jnn.on_nodes(jax.nn.relu).apply({}, {}, GRAPH.nodes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jnn.graph_conv(0), "graph_conv: features must be at least 1, got 0"),
        (
            lambda: jnn.graph_conv(3, aggregate="median"),
            "graph_conv: aggregate must be 'symmetric', 'sum', 'mean' or 'max', got 'median'",
        ),
        (lambda: jnn.graph_attention(3, 0), "graph_attention: heads must be at least 1, got 0"),
        (lambda: jnn.graph_attention(3, 2, rate=2), "graph_attention: rate is the share dropped and lies in [0, 1], got 2"),
        (lambda: jnn.graph_attention(3, 2, merge="sum"), "graph_attention: merge must be 'concat' or 'mean', got 'sum'"),
        (lambda: jnn.pool_nodes("min"), "pool_nodes: how must be 'mean', 'sum' or 'max', got 'min'"),
    ],
)
def test_options_are_checked_at_construction(make, message, raises):
    with raises(ValueError, message):
        make()


def test_a_network_learns_which_of_two_groups_a_node_is_in(key):
    """Two groups of ten, joined by one edge; one node of each is labelled, and the features say nothing."""
    pairs = [(i, j) for group in (range(10), range(10, 20)) for i in group for j in group if (i + j) % 3 == 0 and i != j]
    pairs += [(i, i + 1) for i in range(19)] + [(i + 1, i) for i in range(19)]
    senders, receivers = np.array(pairs, np.int32).T
    graph = Graph(np.eye(20, dtype=np.float32), senders, receivers)
    groups = np.repeat(np.arange(2, dtype=np.int32), 10)
    weights = np.isin(np.arange(20), [2, 17]).astype(np.float32)
    model = jnn.serial(jnn.graph_conv(8), jnn.on_nodes(jax.nn.relu), jnn.graph_conv(2), lambda graph: graph.nodes)
    objective = jnn.supervised(model, jnn.losses.softmax_cross_entropy, metrics={"accuracy": jnn.metrics.accuracy})
    training = jnn.training(objective, jnn.optim.adam(0.05))
    fitted = jnn.fit(training, (graph, groups, weights), key=key, steps=50)
    trained = fitted.train_state
    scores = jnn.evaluate(objective, trained.params, trained.state, (graph, groups))
    assert scores["accuracy"] >= 0.9

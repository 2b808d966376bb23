import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jnn
from experiments import computation_graph
from experiments.jaxprs import graph, layout

pytestmark = pytest.mark.slow


def test_the_rules_hold_and_the_examples_have_the_numbers_of_the_lecture(quick):
    results = quick("computation_graph", list(computation_graph.EXAMPLES))
    assert set(results["rules"]) == {"add", "mul", "max", "used more than once"}
    assert max(results["rules"].values()) < 1e-14
    gradients = results["gradients"]
    assert gradients["add_multiply"] == [-4, -4, 3]
    np.testing.assert_allclose(gradients["neuron"], [-0.20, 0.39, -0.39, -0.59, 0.20], atol=0.005)
    assert gradients["max"] == [-8, 6, 2, 0]
    assert gradients["used_twice"] == [2, 5, 0]
    np.testing.assert_allclose(gradients["matrix"][0], [[0.088, 0.176], [0.104, 0.208]], rtol=1e-5)


def test_every_node_of_a_neuron_has_its_value_and_gradient():
    def neuron(w, x):
        return 1 / (1 + jnp.exp(-(w * x)))

    nodes = graph(neuron, 2.0, -0.5, names=("w", "x"))
    assert [node.operation for node in nodes] == ["", "", "mul", "neg", "exp", "add", "div"]
    assert [node.label for node in nodes[:2]] + [nodes[5].label, nodes[6].label] == ["w", "x", "1 +", "1 /"]
    assert [node.inputs for node in nodes] == [(), (), (0, 1), (2,), (3,), (4,), (5,)]
    z = -1.0
    s = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose([n.value for n in nodes], [2, -0.5, z, -z, np.exp(-z), 1 + np.exp(-z), s], rtol=1e-6)
    d = s * (1 - s)
    np.testing.assert_allclose([n.gradient for n in nodes], [d * -0.5, d * 2, d, -d, -s * s, -s * s, 1], rtol=1e-6)


def test_a_whole_layer_has_the_gradients_of_jax():
    layer = jnn.serial(jnn.dense(3), jax.nn.relu, jnn.layer_norm(), jnp.tanh)
    x = jax.random.normal(jax.random.key(1), (2, 4))
    params, state = layer.init(jax.random.key(0), x)
    flat, structure = jax.tree.flatten(params)

    def value(*flat):
        return jnp.sum(layer.apply(structure.unflatten(flat), state, x)[0] ** 2)

    nodes = graph(value, *flat)
    for node, expected in zip(nodes, jax.grad(value, tuple(range(len(flat))))(*flat), strict=False):
        np.testing.assert_allclose(node.gradient, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(nodes[-1].value, value(*flat), rtol=1e-6)
    assert "relu" in [node.label for node in nodes]


def test_a_value_used_twice_by_one_node_is_handed_a_gradient_each_time():
    square = graph(lambda x: x * x, 3.0)
    assert square[1].inputs == (0, 0)
    assert [float(h) for h in square[1].handed] == [3, 3]
    assert float(square[0].gradient) == 6


def test_integers_have_no_gradient_and_loops_with_several_values_are_refused():
    nodes = graph(lambda x: jnp.where(x > 0, x, -x), -2.0)
    assert [node.gradient is None for node in nodes if node.operation == "gt"] == [True]
    assert float(nodes[0].gradient) == -1
    with pytest.raises(ValueError, match=r"while has 2 results|scan has 2 results"):
        graph(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: x * 2, x), 1.0)
    with pytest.raises(ValueError, match="does not depend on the arguments"):
        graph(lambda x: 1.0, 2.0)


def test_a_rule_that_does_not_hold_is_measured():
    nodes = graph(lambda x, y: x + y, 1.0, 2.0)
    wrong = [*nodes[:-1], nodes[-1]._replace(handed=(jnp.array(1.0), jnp.array(1.5)))]
    assert float(computation_graph.rule_errors(wrong)["add"]) == 0.5


def test_edges_run_from_left_to_right_and_no_two_nodes_share_a_place():
    for _, function, values in computation_graph.EXAMPLES.values():
        nodes = graph(function, *values.values())
        places, ways = layout(nodes)
        passed = {place for way in ways.values() for place in way[1:-1]}
        assert len({*places, *passed}) == len(nodes) + len(passed)
        for (start, end), way in ways.items():
            assert (way[0], way[-1]) == (places[start], places[end])
            assert all(b[0] - a[0] == 1 for a, b in itertools.pairwise(way))


def test_values_stand_above_and_gradients_below():
    axes = Figure().subplots()
    computation_graph.draw(axes, graph(lambda x, y: x * y, 2.0, 3.0))
    offsets = {text.get_text(): text.xyann[1] for text in axes.texts if hasattr(text, "xyann")}
    assert offsets["6.00"] > 0 > offsets["1.00"]

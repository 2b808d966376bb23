import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from experiments import citations, graph_network

pytestmark = pytest.mark.slow

GRAPH = jnn.Graph(
    np.array([[0.5, 0, 0.5], [0, 1, 0], [0.2, 0.8, 0], [0, 0, 1]], np.float32), np.array([0, 1, 2, 3]), np.array([1, 2, 3, 0])
)
INPUTS = (GRAPH, np.nonzero(GRAPH.nodes))


def test_citations_are_worth_many_points(quick):
    results = quick("graph_network", ["curves", "embedding"])
    accuracy = {name: np.mean(results[name]["test_accuracy"]["loss"]) for name in citations.METHODS}
    assert accuracy["gcn"] > 76
    assert accuracy["gat"] > 76
    assert 45 < accuracy["mlp"] < min(accuracy["gcn"], accuracy["gat"]) - 15
    # by validation accuracy it is the same finding
    assert abs(np.mean(results["gcn"]["test_accuracy"]["accuracy"]) - accuracy["gcn"]) < 5
    assert max(results["mlp"]["neighbours_alike"]) < results["words"]["neighbours_alike"]
    assert min(results["gcn"]["neighbours_alike"]) > results["words"]["neighbours_alike"] + 5


@pytest.mark.parametrize(
    ("name", "twin", "layers"),
    [
        ("gcn", jnn.models.gcn(16, 7), ("conv_1", "conv_2")),
        ("gat", jnn.models.gat(8, 7), ("attention_1", "attention_2")),
    ],
)
def test_the_networks_are_those_of_the_library(name, twin, layers, key):
    model = citations.network(citations.METHODS[name])
    params, state = model.init(key, INPUTS)
    theirs = {layers[0]: params["first"], layers[1]: params["second"]}
    expected = twin.apply(theirs, {}, GRAPH)[0]
    np.testing.assert_allclose(model.apply(params, state, INPUTS)[0], expected, rtol=1e-5, atol=1e-6)


def test_words_are_dropped_and_zeros_stay(key):
    whole = jnn.Graph(np.eye(400, dtype=np.float32), np.array([0]), np.array([1]))
    look = citations.Method("", jnn.on_nodes(lambda x: x), lambda x: x, jnn.on_nodes(lambda x: x), 0.5, (0, 0), 0.1)
    # the second dropout draws too: a word is left with half of a half
    model = citations.network(look)
    y, _ = model.apply({}, {}, (whole, np.nonzero(whole.nodes)), key=key, train=True)
    assert set(np.unique(y)) == {0, 4}
    assert np.all(y[~np.eye(400, dtype=bool)] == 0)
    assert 60 < np.count_nonzero(y) < 140


def test_the_best_of_a_run_is_kept(key):
    method = citations.METHODS["mlp"]._replace(rate=0.0)
    objective = citations.objective_of(method)
    labels = np.array([0, 1, 1, 2])
    data = {"inputs": INPUTS, "labels": labels, "train": np.float32([1, 1, 0, 0]), "validation": np.float32([0, 0, 1, 1])}
    best, scores = graph_network.train(objective, 100, 0.05, key, data)
    kept = {
        name: jnn.evaluate(objective, params, {}, (INPUTS, labels, data["validation"]))[name] for name, params in best.items()
    }
    assert scores["loss"].shape == (20,)
    assert scores["loss"].min() < scores["loss"][-1] - 0.01  # the last is not the best
    np.testing.assert_allclose(kept["loss"], scores["loss"].min(), rtol=1e-5)
    np.testing.assert_allclose(kept["accuracy"], scores["accuracy"].max(), rtol=1e-5)


def test_the_penalty_is_half_the_decay_times_the_squares():
    params = {"first": {"w": jnp.full((2, 3), 2.0), "b": jnp.ones(3)}, "second": {"w": jnp.full((3, 1), 3.0)}}
    ours = citations.penalty_of(citations.METHODS["gat"])(params)
    np.testing.assert_allclose(ours, 2.5e-4 * (6 * 4 + 3 * 9), rtol=1e-6)
    np.testing.assert_allclose(citations.penalty_of(citations.METHODS["gcn"])(params), 2.5e-4 * 24, rtol=1e-6)


def test_agreement_counts_the_nearest_by_angle():
    points = np.array([[1, 0], [10, 1], [0, 1], [0.1, 5], [0, -1]])
    assert graph_network.agreement(points, np.array([0, 0, 1, 1, 1])) == pytest.approx(80)

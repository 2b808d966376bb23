import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from experiments import affine_maps, towers
from experiments.activations import BLOCKS

pytestmark = pytest.mark.slow


def test_gradients_signs_and_the_identity_are_as_they_must(quick):
    results = quick("activations", ["gradients", "speed"])

    def factor(name):  # from a layer to the next, at initialization
        norms = np.mean(np.log(results["gradient"][name]), axis=0)
        return np.exp(np.polyfit(np.arange(len(norms)), norms, 1)[0])

    # sigmoid's slope is at most 1 / 4, and about that where inputs are small; n_in var(w) is 1
    assert 3.5 < factor("sigmoid") < 4.5
    assert 0.9 < factor("tanh") < 1.1
    assert 0.9 < factor("relu") < 1.1
    assert results["steps"]["sigmoid"][-1] == [None] * len(results["steps"]["sigmoid"][-1])
    for name in ("tanh", "relu"):
        assert None not in results["steps"][name][0]
    assert np.min(results["one_sign"]["sigmoid"][0]) == np.min(results["one_sign"]["relu"][0]) == 1
    assert np.max(results["one_sign"]["tanh"]) < 0.01
    least = results["affine"]["best_affine_loss"]
    for name, network in results["affine"]["networks"].items():
        assert network["rank"] == 10
        if name.startswith("identity"):
            assert network["rank_beyond_affine"] == 0
            assert min(network["loss"]) > least * (1 - 1e-4)
        else:
            assert network["rank_beyond_affine"] == 10


def test_layer_outputs_and_norms_are_those_of_each_layer(key):
    block = BLOCKS["tanh"]
    x = jax.random.normal(key, (7, 64))
    params, _ = towers.tower(block, 3).init(key, x)
    outputs, y = towers.layer_outputs(block, params, x), x
    for i in range(3):
        y, _ = block.apply(jax.tree.map(lambda a, i=i: a[i], params["hidden"]), {}, y)
        np.testing.assert_allclose(outputs[i], y, rtol=1e-5, atol=1e-6)
    flat = jnn.tree.flatten(params["hidden"])
    expected = [np.sqrt(sum(float(np.sum(np.square(leaf[i]))) for leaf in flat.values())) for i in range(3)]
    np.testing.assert_allclose(towers.layer_norms(params), expected, rtol=1e-5)
    tiny = jax.tree.map(lambda a: 1e-25 * a, params)  # whose squares float32 does not hold
    np.testing.assert_allclose(towers.layer_norms(tiny), 1e-25 * np.array(expected), rtol=1e-5)


def test_steps_to_a_loss():
    losses = np.array([[0.5, 0.2, 0.3], [0.5, 0.4, np.nan]])
    np.testing.assert_array_equal(towers.steps_to(losses, 0.2), [2 * towers.EVERY, np.inf])
    nearer, farther = np.array([0.5, 0.4, 0.3]), np.array([0.5, 0.4, 0.4])
    reached, near, far, lost = towers.steps_to_or_beyond(np.stack([losses[0], nearer, farther, losses[1]]), 0.2)
    assert reached == 2 * towers.EVERY < 3 * towers.EVERY < near < far < lost == np.inf


def test_one_sign_counts_units_with_a_gradient():
    behind = jnp.array([[1.0, -1.0, 1.0, 0.0], [2.0, -2.0, -1.0, 0.0], [0.0, -3.0, 1.0, 0.0]])  # (in, features)
    w = jnp.stack([-jnp.ones_like(behind), behind])[None]  # the first layer does not count
    np.testing.assert_allclose(towers.one_sign(w), 2 / 3)


def test_what_is_beyond_an_affine_map():
    x = np.random.default_rng(0).normal(size=(50, 4))
    y = x @ np.ones((4, 3)) + [1, 2, 3]
    assert affine_maps.beyond_affine(x, y) == 0
    np.testing.assert_allclose(affine_maps.rest_of_affine(x, y), 0, atol=1e-12)
    assert affine_maps.beyond_affine(x, y + np.outer(x[:, 0] ** 2, [1, 0, 0])) == 1

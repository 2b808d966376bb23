import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from experiments import hypergradients

pytestmark = pytest.mark.slow


def test_gradients_through_runs_lead_to_better_learning_rates(quick):
    results = quick("hypergradients", ["hypergradients"])
    test = {way: np.array(results[way]["test_loss"]) for way in hypergradients.NAMES}
    assert np.all(np.isfinite([test["gradient"], test["search"], test["cosine"]]))
    curve = results["gradient"]["best_validation_loss_so_far"]
    assert np.all(np.diff(curve["mean"]) <= 0)
    np.testing.assert_allclose(curve["mean"][0], np.exp(np.mean(np.log(results["start_loss"]))), rtol=1e-5)
    assert np.mean(results["gradient"]["validation_loss"]) < np.mean(results["start_loss"]) / 4
    # most of it is the work of a run forward, backward, and both once more
    assert 1 < results["price"]["backward"] < 15


def test_learning_rates_go_through_their_knots_in_straight_lines_of_the_logarithm():
    knots = np.log(np.array([0.01, 0.1, 1, 0.1, 0.01, 0.001], np.float32))
    rates = hypergradients.through(jnp.array(knots), 11)
    np.testing.assert_allclose(rates[::2], np.exp(knots), rtol=1e-5)
    np.testing.assert_allclose(rates[1::2], np.sqrt(np.exp(knots[1:] + knots[:-1])), rtol=1e-5)


def test_the_gradient_through_a_run_is_that_of_differences_and_the_same_forward(key, x64):
    images, labels = jnn.data.digits()
    train, judge = (images[:200], labels[:200]), (images[200:300], labels[200:300])
    knots = jnp.log(jnp.array([0.02, 0.1, 0.2, 0.2, 0.1, 0.05], jnp.float64))
    # parameters are float32, so differences are rounded: a long step, and a tolerance for both
    run = jax.jit(lambda knots: hypergradients.final_loss(hypergradients.through(knots, 20), key, train, judge))
    backward, forward = jax.grad(run)(knots), jax.jacfwd(run)(knots)
    np.testing.assert_allclose(backward, forward, rtol=1e-3, atol=1e-6)
    h = 1e-2
    differences = [(run(knots + h * e) - run(knots - h * e)) / (2 * h) for e in jnp.eye(6)]
    np.testing.assert_allclose(backward, differences, rtol=1e-2, atol=1e-4)


def test_a_run_at_the_schedules_rates_is_a_fit(key):
    images, labels = jnn.data.digits()
    data = images[:200], labels[:200]
    rates = hypergradients.through(jnp.full(6, jnp.log(0.1)), 30)
    training = jnn.training(hypergradients.OBJECTIVE, jnn.optim.momentum(0.1))
    params = jnn.fit(training, data, key=key, steps=30, batch_size=64).train_state.params
    expected = jnn.evaluate(hypergradients.OBJECTIVE, params, {}, data)["loss"]
    np.testing.assert_allclose(hypergradients.final_loss(rates, key, data, data), expected, rtol=1e-4)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from experiments import curvature_pairs, descents, second_order

pytestmark = pytest.mark.slow


def test_second_derivatives_save_steps_and_batches_spoil_pairs(quick):
    results = quick("second_order", ["descent", "batches"])
    convex = results["softmax regression"]["needed"]
    steps = {method: np.mean(of["steps"]) for method, of in convex.items()}
    assert max(steps["newton"], steps["newton_cg"]) < steps["lbfgs"] / 2 < steps["adam"] / 4
    taken = {method: np.mean(of["evaluations"]) for method, of in convex.items()}
    assert taken["lbfgs"] < taken["adam"] < taken["newton"]
    noise = results["noise"]
    np.testing.assert_allclose(noise["two"][:3], noise["formula"][:3], rtol=0.2)
    assert noise["one"][0] < noise["two"][0] / 100
    assert noise["down two"][0] > 0.2 > noise["down one"][0]
    np.testing.assert_allclose([noise["one"][-1], noise["two"][-1]], 0, atol=1e-6)  # the full batch
    lbfgs, adam = (results["batches"][method] for method in ("lbfgs", "adam"))
    assert np.mean(lbfgs["ends"][0]) > np.mean(adam["ends"][0])
    assert np.mean(lbfgs["failed searches"][0]) > np.mean(lbfgs["failed searches"][-1])
    assert np.mean(lbfgs["kept pairs"][0]) < np.mean(lbfgs["kept pairs"][-1])


def test_evaluations_are_counted_by_what_the_states_say():
    state = (
        jnn.optim.newton_cg()
        .init({"w": jnp.zeros(3)})
        ._replace(count=jnp.int32(4), products=jnp.int32(10), trials=jnp.int32(6))
    )
    assert descents.evaluations("newton_cg", state, 3) == 4 + 20 + 3
    assert descents.evaluations("newton", jnn.optim.newton().init({})._replace(count=2), 3) == 2 * (1 + 6)


def test_the_tuned_trial_ends_lowest_and_diverged_runs_are_none():
    losses = np.ones((3, 2, 4))
    losses[0, 1, -1] = np.nan
    losses[1, :, -1] = 0.50001
    losses[2, :, -1] = 0.5
    assert descents.tuned(losses) == 2
    losses[1, :, 1] = 0.6  # as low, and sooner
    assert descents.tuned(losses) == 1


def test_what_is_needed_is_where_the_loss_first_is_low_enough():
    loss = np.array([[3.0, 1.0, 0.5], [3.0, 2.0, 1.5]])
    run = {"loss": loss, **{name: factor * np.array([[1.0, 2, 3]] * 2) for name, factor in
                            (("steps", 1), ("evaluations", 10), ("seconds", 0.1))}}  # fmt: skip
    adam = {**run, "loss": np.array([[3.0, 1.2, 1.0], [3.0, 1.0, 0.9]])}
    found = descents.needed({"newton": run, "adam": adam})
    np.testing.assert_allclose(found["newton"]["steps"], [2, np.nan])
    np.testing.assert_allclose(found["adam"]["evaluations"], [30, 20])


def test_on_the_full_batch_every_draw_is_the_gradient_itself(key):
    """A descent by the gradients of examples is that by the gradient."""
    data = tuple(a[:40] for a in jnn.data.digits())
    problem = second_order.objective([], 2)
    found = curvature_pairs.changes(problem, key, data, (40,), draws=2, descent=3)
    assert all(np.max(found[name]) < 1e-6 for name in ("one", "two", "formula"))
    assert jax.tree.all(jax.tree.map(lambda a: a.shape == (1, 3), found))

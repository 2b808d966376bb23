import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jnn
from jnn.optim import freeze


def model():
    return jnn.serial(encoder=jnn.serial(jnn.dense(5), jnp.tanh, jnn.dense(4)), head=jnn.dense(3))


def parameters(key):
    return jax.jit(lambda key: model().init(key, jnp.ones((2, 6), jnp.float32))[0])(key)


def run(optimizer, params, steps=20, loss=None):
    """-> the parameters at the end, of gradients that depend on all of them"""

    def whole(params):
        return sum(jnp.sum(jnp.sin(3 * p)) for p in jax.tree.leaves(params)) + jnp.square(
            sum(jnp.sum(p) for p in jax.tree.leaves(params))
        )

    loss = loss or whole

    def step(carry, _):
        params, opt_state = carry
        value, grads = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, opt_state, params)
        return (jnn.optim.apply_updates(params, updates), opt_state), value

    return jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0])(params)


OPTIMIZERS = {
    "adamw with decay": optax.adamw(0.1, weight_decay=0.5),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=2),
    "muon": optax.contrib.muon(0.1),
    "adam of jnn": jnn.optim.adam(0.1),
}


@pytest.mark.parametrize(
    ("name", "where"),
    [
        *((name, "encoder") for name in OPTIMIZERS),
        ("adamw with decay", ("encoder/dense_0", "b")),
        ("adafactor", lambda path, p: p.shape == (5, 4)),
    ],
)
def test_frozen_stays_bit_for_bit_and_the_rest_trains_as_if_alone(name, where, key, x64):
    optimizer, params = OPTIMIZERS[name], jax.tree.map(lambda p: p.astype(jnp.float64), parameters(key))
    frozen, trained = jnn.tree.split(params, where)
    after = run(freeze(optimizer, where), params)
    frozen_after, trained_after = jnn.tree.split(after, where)
    chex.assert_trees_all_equal(frozen_after, frozen)

    # the oracle: the optimizer itself, given nothing but the part
    def of_the_part(part):
        params = jnn.tree.merge(frozen, part)
        return sum(jnp.sum(jnp.sin(3 * p)) for p in jax.tree.leaves(params)) + jnp.square(
            sum(jnp.sum(p) for p in jax.tree.leaves(params))
        )

    chex.assert_trees_all_close(trained_after, run(optimizer, trained, loss=of_the_part), rtol=1e-9)
    for before, now in zip(jax.tree.leaves(trained), jax.tree.leaves(trained_after), strict=True):
        assert np.all(before != now)


def test_nothing_is_kept_for_what_is_frozen(key):
    params = parameters(key)
    opt_state = freeze(optax.adam(0.1), "encoder").init(params)
    assert sorted(leaf.shape for leaf in jax.tree.leaves(opt_state)) == [(), (3,), (3,), (4, 3), (4, 3)]


def test_clipping_counts_the_trained_gradients_only(key):
    params = parameters(key)
    grads = jax.tree.map(lambda p: jnp.full_like(p, 100.0), params)
    grads["head"] = jax.tree.map(lambda p: jnp.full_like(p, 0.01), params["head"])
    optimizer = freeze(optax.clip_by_global_norm(1.0), "encoder")
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    chex.assert_trees_all_equal(updates["head"], grads["head"])  # its norm is below 1
    chex.assert_trees_all_equal(updates["encoder"], jax.tree.map(jnp.zeros_like, params["encoder"]))


def test_updates_have_the_shapes_and_dtypes_of_the_parameters(key):
    params = parameters(key)
    params["encoder"] = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params["encoder"])
    optimizer = freeze(optax.sgd(0.1), "encoder")
    grads = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
    grads["head"] = params["head"]
    for given in (params, None):
        updates, _ = optimizer.update(grads, optimizer.init(params), given)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal(updates["encoder"], jax.tree.map(jnp.zeros_like, params["encoder"]))


def test_extra_arguments_are_given_by_signature_and_for_the_trained_part(key):
    params = parameters(key)
    grads = jax.tree.map(jnp.sin, params)
    seen = {}

    def update(grads, opt_state, params=None, *, value, grad, value_fn):
        seen.update(grads=grads, params=params, value=value, grad=grad)
        chex.assert_trees_all_equal(jax.grad(value_fn)(params), jax.tree.map(lambda p: 2 * p, params))
        seen["moved"] = value_fn(jax.tree.map(jnp.zeros_like, params))
        return grads, opt_state

    def value_fn(params):
        return sum(jnp.sum(jnp.square(p)) for p in jax.tree.leaves(params))

    optimizer = freeze((lambda params: (), update), "encoder")
    extra = {"value": value_fn(params), "grad": grads, "value_fn": value_fn}
    updates, _ = optimizer.update(grads, (), params, **extra, unknown=3)
    leaves = jax.tree.leaves
    chex.assert_trees_all_equal(leaves(seen["params"]), leaves(params["head"]))
    chex.assert_trees_all_equal(leaves(seen["grad"]), leaves(grads["head"]))
    chex.assert_trees_all_equal(leaves(seen["grads"]), leaves(grads["head"]))
    np.testing.assert_allclose(seen["moved"], value_fn(params["encoder"]), rtol=1e-6)
    np.testing.assert_array_equal(seen["value"], extra["value"])
    chex.assert_trees_all_equal(updates["head"], grads["head"])

    plain = freeze((lambda params: (), lambda grads, opt_state, params=None: (grads, opt_state)), "encoder")
    chex.assert_trees_all_equal(plain.update(grads, (), params, **extra)[0], updates)


def data(key):
    x = jax.random.normal(key, (32, 6))
    return x, jnp.sin(x[:, :3])


def start(training, key):
    return training.init(key, data(key))


@pytest.mark.parametrize(
    "optimizer",
    [
        freeze(optax.adamw(0.01, weight_decay=0.1), "encoder"),
        optax.chain(optax.clip_by_global_norm(1.0), freeze(optax.adamw(0.01), "encoder")),
        freeze(optax.chain(optax.clip_by_global_norm(1.0), jnn.optim.adam(0.01)), "encoder"),
        freeze(optax.lbfgs(), "encoder"),
        freeze(freeze(optax.sgd(0.1), "encoder/dense_0"), "encoder/dense_2"),
    ],
    ids=["adamw", "in a chain", "around a chain", "lbfgs", "twice"],
)
def test_fit_moves_the_head_alone(optimizer, key):
    training = jnn.training(jnn.supervised(model(), jnn.losses.squared_error), optimizer)
    before = start(training, key)
    fitted = jnn.fit(training, data(key), key=key, steps=10, start=before)
    after = fitted.train_state.params
    chex.assert_trees_all_equal(after["encoder"], before.params["encoder"])
    assert np.any(after["head"]["w"] != before.params["head"]["w"])
    assert fitted.history["loss"][-1] < fitted.history["loss"][0]


def test_it_works_under_vmap_over_learning_rates(key):
    params = parameters(key)
    grads = jax.tree.map(jnp.ones_like, params)

    def updates(rate):
        optimizer = freeze(jnn.optim.sgd(rate), "encoder")
        return optimizer.update(grads, optimizer.init(params), params)[0]

    rates = jnp.array([0.1, 0.2])
    got = jax.jit(jax.vmap(updates))(rates)
    np.testing.assert_allclose(got["head"]["b"], -jnp.outer(rates, jnp.ones(3)), rtol=1e-6)
    np.testing.assert_array_equal(got["encoder"]["dense_0"]["b"], 0)


def test_any_tree_of_parameters_will_do():
    params = ({"w": jnp.ones(3), "none": {}}, [jnp.ones(2), jnp.ones(4)])
    optimizer = freeze(optax.adam(0.1), "1/0")
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    np.testing.assert_array_equal(updates[1][0], 0)
    np.testing.assert_allclose(updates[1][1], -0.1, rtol=1e-5)


def test_a_pattern_that_takes_nothing_or_everything_is_refused(key, raises):
    params = parameters(key)
    with raises(ValueError, "tree: no path contains 'encodr'; did you mean encoder?"):
        freeze(optax.sgd(0.1), "encodr").init(params)
    with raises(ValueError, "freeze: where takes none of the parameters, so nothing would be frozen"):
        freeze(optax.sgd(0.1), lambda path, p: False).init(params)
    with raises(ValueError, "freeze: where takes all 6 parameters, so nothing would be trained"):
        freeze(optax.sgd(0.1), ("w", "b")).init(params)


def test_a_factory_is_no_optimizer(raises):
    with raises(TypeError, "freeze: expected an optimizer, a pair (init, update), got function"):
        freeze(jnn.optim.adam, "encoder")

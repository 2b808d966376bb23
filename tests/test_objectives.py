import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import jnn

DRAW = np.random.default_rng(0)
INPUTS = DRAW.normal(size=(6, 3)).astype(np.float32)
TARGETS = np.array([0, 1, 1, 0, 2, 2], np.int32)
WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 1.0], np.float32)
PARAMS = {"w": DRAW.normal(size=(3, 3)).astype(np.float32), "b": DRAW.normal(size=3).astype(np.float32)}


def objective(**options):
    return jnn.supervised(jnn.dense(3), jnn.losses.softmax_cross_entropy, metrics={"accuracy": jnn.metrics.accuracy}, **options)


def by_hand(inputs=INPUTS, targets=TARGETS):
    """-> losses and hits of every example, by numpy and scipy"""
    logits = np.float64(inputs) @ PARAMS["w"] + PARAMS["b"]
    losses = -scipy.special.log_softmax(logits, -1)[np.arange(len(targets)), targets]
    return losses, logits.argmax(-1) == targets


def test_init_is_the_models_by_shapes_only(key):
    batch = jax.eval_shape(lambda: (INPUTS, TARGETS))
    made = objective().init(key, batch)
    chex.assert_trees_all_equal(made, jnn.dense(3).init(key, INPUTS))
    chex.assert_trees_all_equal_shapes_and_dtypes(made, jax.eval_shape(objective().init, key, batch))


@pytest.mark.parametrize("train", [False, True])
def test_loss_and_metrics_are_the_means(train, key):
    value, aux = objective().loss(PARAMS, {}, (INPUTS, TARGETS), key=key, train=train)
    losses, hits = by_hand()
    np.testing.assert_allclose(value, losses.mean(), rtol=1e-5)
    assert list(aux.metrics) == ["accuracy"]
    np.testing.assert_allclose(aux.metrics["accuracy"], hits.mean(), rtol=1e-6)


def test_gradient_is_that_of_the_formula():
    grads = jax.grad(lambda p: objective().loss(p, {}, (INPUTS, TARGETS))[0])(PARAMS)
    excess = scipy.special.softmax(INPUTS @ PARAMS["w"] + PARAMS["b"], -1) - np.eye(3)[TARGETS]
    np.testing.assert_allclose(grads["w"], INPUTS.T @ excess / 6, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grads["b"], excess.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, bool, np.float16], ids=lambda d: d.__name__)
def test_weights_make_weighted_means(dtype):
    weights = WEIGHTS.astype(dtype)
    value, aux = objective().loss(PARAMS, {}, (INPUTS, TARGETS, weights))
    losses, hits = by_hand()
    np.testing.assert_allclose(value, np.average(losses, weights=weights), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["accuracy"], np.average(hits, weights=weights), rtol=1e-6)


def test_weight_zero_takes_an_example_out_whatever_is_in_it():
    kept = WEIGHTS > 0
    inputs = np.where(kept[:, None], INPUTS, np.nan)
    targets = np.where(kept, TARGETS, -1)
    value, aux = objective().loss(PARAMS, {}, (inputs, targets, WEIGHTS))
    losses, hits = by_hand(INPUTS[kept], TARGETS[kept])
    np.testing.assert_allclose(value, np.average(losses, weights=WEIGHTS[kept]), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["accuracy"], np.average(hits, weights=WEIGHTS[kept]), rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "targets", "hole"),
    [
        (jnn.losses.softmax_cross_entropy, TARGETS, -1),
        (jnn.losses.squared_error, INPUTS[::-1], np.nan),
    ],
    ids=["class -1", "NaN"],
)
def test_weight_zero_takes_a_target_that_is_no_target_out_of_the_gradient(loss, targets, hole):
    kept = WEIGHTS > 0
    punched = targets.copy()
    punched[~kept] = hole
    model = jnn.supervised(jnn.dense(3), loss)
    value, grads = jax.value_and_grad(lambda p: model.loss(p, {}, (INPUTS, punched, WEIGHTS))[0])(PARAMS)
    expected = jax.value_and_grad(lambda p: model.loss(p, {}, (INPUTS[kept], targets[kept], WEIGHTS[kept]))[0])(PARAMS)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    chex.assert_trees_all_close(grads, expected[1], rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_masked_whole_counts_nothing():
    loss = lambda p: objective().loss(p, {}, (INPUTS, TARGETS, 0 * WEIGHTS))[0]
    value, grads = jax.value_and_grad(loss)(PARAMS)
    assert value == 0
    chex.assert_trees_all_equal(grads, jax.tree.map(jnp.zeros_like, PARAMS))


def test_weights_of_examples_count_every_step_of_a_sequence_alike():
    inputs, targets = INPUTS.reshape(2, 3, 3), TARGETS.reshape(2, 3)
    losses, hits = (values.reshape(2, 3) for values in by_hand())
    value, aux = objective().loss(PARAMS, {}, (inputs, targets, np.array([1.0, 3.0], np.float32)))
    np.testing.assert_allclose(value, np.average(losses.mean(1), weights=[1, 3]), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["accuracy"], np.average(hits.mean(1), weights=[1, 3]), rtol=1e-6)
    value, _ = objective().loss(PARAMS, {}, (inputs, targets, WEIGHTS.reshape(2, 3)))
    np.testing.assert_allclose(value, np.average(losses.ravel(), weights=WEIGHTS), rtol=1e-5)


def test_weights_that_do_not_lead_the_losses_are_refused(raises):
    with raises(ValueError, "supervised: weights (5,) do not lead the axes of the losses (6,)"):
        objective().loss(PARAMS, {}, (INPUTS, TARGETS, np.ones(5, np.float32)))
    with raises(ValueError, "supervised: weights (6, 1) do not lead the axes of the losses (6,)"):
        objective().loss(PARAMS, {}, (INPUTS, TARGETS, np.ones((6, 1), np.float32)))


def test_penalty_counts_in_training_only(key):
    penalized = objective(penalty=lambda params: 0.1 * jnp.sum(jnp.square(params["w"])))
    losses, _ = by_hand()
    batch = (INPUTS, TARGETS)
    np.testing.assert_allclose(penalized.loss(PARAMS, {}, batch)[0], losses.mean(), rtol=1e-5)
    expected = losses.mean() + 0.1 * np.sum(PARAMS["w"] ** 2)
    np.testing.assert_allclose(penalized.loss(PARAMS, {}, batch, key=key, train=True)[0], expected, rtol=1e-5)


def test_augment_changes_the_inputs_in_training_only(key):
    flipped = objective(augment=lambda key, x: x * jax.random.rademacher(key, (), x.dtype))
    batch = (INPUTS, TARGETS)
    plain, mirrored = by_hand()[0].mean(), by_hand(-INPUTS)[0].mean()
    np.testing.assert_allclose(flipped.loss(PARAMS, {}, batch)[0], plain, rtol=1e-5)
    values = [float(flipped.loss(PARAMS, {}, batch, key=k, train=True)[0]) for k in jax.random.split(key, 12)]
    for value in values:
        np.testing.assert_allclose(value, min((plain, mirrored), key=lambda v: abs(v - value)), rtol=1e-5)
    assert min(values) < max(values)


def test_augment_and_the_model_get_different_keys(key):
    seen = []

    def spy(params, state, x, *, key=None, train=False):
        seen.append(jax.random.key_data(key))
        return x, state

    def augment(key, x):
        seen.append(jax.random.key_data(key))
        return x

    watched = jnn.supervised((lambda key, x: ({}, {}), spy), jnn.losses.softmax_cross_entropy, augment=augment)
    watched.loss({}, {}, (INPUTS, TARGETS), key=key, train=True)
    assert np.any(seen[0] != seen[1])


def test_augment_without_a_key_says_so(raises):
    with raises(ValueError, "supervised: augment needs a key when train=True"):
        objective(augment=lambda key, x: x).loss(PARAMS, {}, (INPUTS, TARGETS), train=True)


def test_the_key_reaches_the_model_and_a_missing_one_is_named(key, raises):
    model = jnn.serial(jnn.dropout(0.5), jnn.dense(3))
    noisy = jnn.supervised(model, jnn.losses.softmax_cross_entropy)
    params, state = noisy.init(key, (INPUTS, TARGETS))
    losses = {float(noisy.loss(params, state, (INPUTS, TARGETS), key=k, train=True)[0]) for k in jax.random.split(key, 4)}
    assert len(losses) == 4
    with raises(ValueError, "dropout_0: needs a key when train=True"):
        noisy.loss(params, state, (INPUTS, TARGETS), train=True)


def test_the_models_state_comes_back_in_aux(key):
    def counter():
        def apply(params, state, x, *, key=None, train=False):
            return x, {"count": state["count"] + 1} if train else state

        return jnn.Layer(lambda key, x: ({}, {"count": jnp.zeros([], jnp.int32)}), apply)

    counted = jnn.supervised(counter(), jnn.losses.softmax_cross_entropy)
    batch = (INPUTS, TARGETS)
    params, state = counted.init(key, batch)
    assert counted.loss(params, state, batch, key=key, train=True)[1].state == {"count": 1}
    assert counted.loss(params, state, batch)[1].state == {"count": 0}


def test_a_plain_function_is_a_model(key):
    plain = jnn.supervised(lambda x: 2 * x, jnn.losses.squared_error)
    assert plain.init(key, (INPUTS, INPUTS)) == ({}, {})
    value, _ = plain.loss({}, {}, (INPUTS, INPUTS))
    np.testing.assert_allclose(value, np.mean(INPUTS**2), rtol=1e-5)


@pytest.mark.parametrize("name", ["loss", "weight"])
def test_metrics_of_a_taken_name_are_refused(name, raises):
    with raises(ValueError, "supervised: the names 'loss' and 'weight' are taken, choose another for the metric"):
        jnn.supervised(jnn.dense(3), jnn.losses.squared_error, metrics={name: jnn.metrics.accuracy})


@pytest.mark.parametrize("parts", [1, 4])
def test_a_batch_of_another_number_of_parts_is_refused(parts, raises):
    message = f"supervised: a batch is (inputs, targets) or (inputs, targets, weights), got {parts} parts"
    with raises(ValueError, message):
        objective().loss(PARAMS, {}, (INPUTS, TARGETS, WEIGHTS, WEIGHTS)[:parts])


def test_a_model_that_is_no_layer_is_refused(raises):
    with raises(TypeError, "dense is a factory that returns a Layer: call it, as in dense(...)"):
        jnn.supervised(jnn.dense, jnn.losses.squared_error)

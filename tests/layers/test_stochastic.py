import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jnn

from layer_properties import Case, LayerProperties


def norm_with_dropout_now_and_then(rate):
    # the dropout inside makes two keys differ; one coin would often fall the same way
    return jnn.stochastic_depth(jnn.serial(jnn.dense(3), jnn.dropout(0.5), norm=jnn.batch_norm(eps=1e-3)), rate)


def norm_of_dense(p, s, x):
    y = x @ p["dense_0"]["w"] + p["dense_0"]["b"]
    return (y - s["norm"]["mean"]) / jnp.sqrt(s["norm"]["var"] + 1e-3) * p["norm"]["scale"] + p["norm"]["bias"]


CASES = [
    Case("dropout", lambda rate: jnn.dropout(rate), (64,), lambda p, s, x: x, (0.3,), is_random=True),
    Case(
        "stochastic_depth",
        norm_with_dropout_now_and_then,
        (4,),
        norm_of_dense,
        (0.3,),
        is_random=True,
        has_params=True,
        mixes_examples=True,
    ),
]


class TestEveryStochasticLayer(LayerProperties):
    cases = CASES


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_its_share(rate, key):
    x = jnp.full((400, 250), 3.0)
    y, _ = jnn.dropout(rate).apply({}, {}, x, key=key, train=True)
    dropped = int(np.sum(y == 0))
    assert scipy.stats.binomtest(dropped, x.size, rate).pvalue > 1e-4
    sigma = 3 * np.sqrt(rate / (1 - rate) / x.size)
    np.testing.assert_allclose(np.mean(np.asarray(y), dtype=np.float64), 3, atol=4 * sigma)
    np.testing.assert_allclose(y[y != 0], 3 / (1 - rate), rtol=1e-6)


def test_dropout_drops_entries_independently(key):
    dropped = np.asarray(jnn.dropout(0.5).apply({}, {}, jnp.ones((20000, 3)), key=key, train=True)[0] == 0)
    patterns = np.bincount(dropped @ np.array([1, 2, 4]), minlength=8)
    assert scipy.stats.chisquare(patterns).pvalue > 1e-4


def test_dropout_of_nothing_is_the_identity_and_of_everything_is_zero_with_finite_gradients(key):
    x = jnp.linspace(-1, 1, 50)

    def total(rate, x):
        return jnp.sum(jnn.dropout(rate).apply({}, {}, x, key=key, train=True)[0])

    np.testing.assert_array_equal(jnn.dropout(0.0).apply({}, {}, x, key=key, train=True)[0], x)
    np.testing.assert_array_equal(jnn.dropout(1.0).apply({}, {}, x, key=key, train=True)[0], 0)
    np.testing.assert_array_equal(jax.grad(total, 1)(0.0, x), 1)
    np.testing.assert_array_equal(jax.grad(total, 1)(1.0, x), 0)
    assert np.isfinite(jax.grad(total)(1.0, x))


def test_dropout_gradients_are_those_of_its_formula(key):
    x, rate = jnp.linspace(1, 2, 50), 0.3
    layer = jnn.dropout(rate)
    kept = np.asarray(layer.apply({}, {}, x, key=key, train=True)[0]) != 0
    by_x = jax.grad(lambda x: jnp.sum(layer.apply({}, {}, x, key=key, train=True)[0]))(x)
    by_rate = jax.grad(lambda r: jnp.sum(jnn.dropout(r).apply({}, {}, x, key=key, train=True)[0]))(rate)
    np.testing.assert_allclose(by_x, kept / (1 - rate), rtol=1e-6)
    np.testing.assert_allclose(by_rate, np.sum(np.asarray(x)[kept]) / (1 - rate) ** 2, rtol=1e-5)


def test_dropout_scales_float64_in_float64(key, x64):
    y, _ = jnn.dropout(0.1).apply({}, {}, jnp.ones(50, jnp.float64), key=key, train=True)
    np.testing.assert_allclose(y[y != 0], 1 / 0.9, rtol=1e-14)


@pytest.mark.parametrize(
    "rate", [-0.1, 50, float("nan"), np.float32(1.5), jnp.float32(1.5), jnp.ones(2) / 2, "0.5", None], ids=str
)
def test_dropout_refuses_a_rate_that_is_no_share(rate, raises):
    with raises(ValueError, f"dropout: rate is the share dropped and lies in [0, 1], got {rate}"):
        jnn.dropout(rate)


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (jnp.ones(3, int), "expected floating-point input (...), got int32 (3,)"),
        ((jnp.ones(3), jnp.ones(3)), "expected an array (...), got a tuple of 2"),
    ],
    ids=["integers", "tuple"],
)
def test_dropout_takes_numbers_that_can_be_scaled(x, problem, key, raises):
    with raises(ValueError, f"dropout: {problem}"):
        jnn.dropout(0.5).apply({}, {}, x, key=key, train=True)
    with raises(ValueError, f"dropout: {problem}"):
        jnn.dropout(0.5).init(key, x)


def test_dropout_of_half_precision_is_scaled_in_float32(key):
    x = jnp.full(50, 9, jnp.bfloat16)
    y = jnn.dropout(0.1).apply({}, {}, x, key=key, train=True)[0].astype(jnp.float32)
    np.testing.assert_array_equal(y[y != 0], 10)  # with 1 / 0.9 in bfloat16, 9.9375
    total = lambda x: jnp.sum(jnn.dropout(1.0).apply({}, {}, x, key=key, train=True)[0])
    np.testing.assert_array_equal(jax.grad(total)(jnp.ones(3, jnp.float16)), 0)


def test_dropout_without_a_key_says_so(raises):
    with raises(ValueError, "dropout: needs a key when train=True"):
        jnn.dropout(0.5).apply({}, {}, jnp.ones(3), train=True)


def with_keys(layer, params, state, x, key, n):
    """The layer trained on the same x with n keys, one after another. -> (n, ...)"""
    run = lambda key: layer.apply(params, state, x, key=key, train=True)[0]
    return jax.jit(jax.vmap(run))(jax.random.split(key, n))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_stochastic_depth_drops_the_whole_output_in_its_share_and_keeps_the_mean(rate, key):
    child = jnn.dense(3)
    params, state = child.init(key, jnp.ones((2, 4)))
    x = jax.random.normal(key, (2, 4))
    y, _ = child.apply(params, state, x)
    ys = np.asarray(with_keys(jnn.stochastic_depth(child, rate), params, state, x, key, 4000))
    dropped = np.all(ys == 0, (1, 2))
    assert scipy.stats.binomtest(int(dropped.sum()), 4000, rate).pvalue > 1e-4
    np.testing.assert_allclose(ys[~dropped], np.broadcast_to(y / (1 - rate), ys[~dropped].shape), rtol=1e-5)
    sigma = np.abs(y) * np.sqrt(rate / (1 - rate) / 4000)
    assert np.all(np.abs(ys.mean(0) - y) < 4 * sigma)


def test_stochastic_depth_under_vmap_tosses_a_coin_for_each_example(key):
    layer = jnn.stochastic_depth(jax.nn.tanh, 0.5)
    x = jnp.ones((500, 3))
    apply = lambda x, key: layer.apply({}, {}, x, key=key, train=True)[0]
    kept = np.asarray(jax.vmap(apply)(x, jax.random.split(key, 500))) != 0
    assert np.all(kept == kept[:, :1])
    assert scipy.stats.binomtest(int(kept[:, 0].sum()), 500, 0.5).pvalue > 1e-4


def test_stochastic_depth_of_nothing_is_the_layer_and_of_everything_is_zero_with_finite_gradients(key):
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    params, _ = jnn.dense(2).init(key, x)

    def total(rate, params):
        y, _ = jnn.stochastic_depth(jnn.dense(2), rate).apply(params, {}, x, key=key, train=True)
        return jnp.sum(y), y

    gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, y), (by_rate, by_params) = gradients(0.0, params)
    np.testing.assert_allclose(y, jnn.dense(2).apply(params, {}, x)[0], rtol=1e-6)
    np.testing.assert_allclose(by_params["b"], 3)
    (_, y), (by_rate, by_params) = gradients(1.0, params)
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(by_params["w"], 0)
    assert np.isfinite(by_rate)


def test_stochastic_depth_has_its_layers_paths_and_parameters(key):
    plain = jnn.serial(jnn.dense(3), jax.nn.relu, norm=jnn.batch_norm())
    wrapped = jnn.serial(jnn.stochastic_depth(jnn.dense(3), 0.2), jax.nn.relu, norm=jnn.stochastic_depth(jnn.batch_norm(), 0.2))
    made, expected = wrapped.init(key, jnp.ones((2, 4))), plain.init(key, jnp.ones((2, 4)))
    assert jax.tree.structure(made) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, made, expected)


def test_stochastic_depth_lets_the_state_of_its_layer_go_on_where_it_drops(key):
    x = jax.random.normal(key, (5, 3))
    params, state = jnn.batch_norm().init(key, x)
    _, expected = jnn.batch_norm().apply(params, state, x, train=True)
    y, new_state = jnn.stochastic_depth(jnn.batch_norm(), 1.0).apply(params, state, x, key=key, train=True)
    np.testing.assert_array_equal(y, 0)
    jax.tree.map(np.testing.assert_array_equal, new_state, expected)


def test_stochastic_depth_drops_all_floating_point_outputs_and_no_integers(key):
    child = lambda x: {"values": x, "more": 2 * x, "tokens": jnp.arange(3)}
    y, _ = jnn.stochastic_depth(child, 1.0).apply({}, {}, jnp.ones(2), key=key, train=True)
    np.testing.assert_array_equal(y["values"], 0)
    np.testing.assert_array_equal(y["more"], 0)
    np.testing.assert_array_equal(y["tokens"], [0, 1, 2])


def masked_sum():
    def apply(params, state, x, *, key=None, train=False, mask=None):
        return jnp.sum(x if mask is None else x * mask), state

    return jnn.Layer(lambda key, x: ({}, {}), apply)


@pytest.mark.parametrize("train", [False, True])
def test_stochastic_depth_hands_on_what_its_layer_takes(train, key, raises):
    layer = jnn.serial(jnn.stochastic_depth(masked_sum(), 0.0))
    y, _ = layer.apply({}, {}, jnp.asarray([1.0, 2.0, 4.0]), key=key, train=train, mask=jnp.asarray([1.0, 0.0, 1.0]))
    assert y == 5
    assert layer.apply({}, {}, jnp.asarray([1.0, 2.0, 4.0]), key=key, train=train)[0] == 7
    with raises(ValueError, "stochastic_depth: no layer inside takes the argument lengths; they take mask"):
        jnn.stochastic_depth(masked_sum(), 0.5).apply({}, {}, jnp.ones(3), lengths=3)


@pytest.mark.parametrize("rate", [-0.1, 50, np.float32(1.5)])
def test_stochastic_depth_refuses_a_rate_that_is_no_share(rate, raises):
    with raises(ValueError, f"stochastic_depth: rate is the share dropped and lies in [0, 1], got {rate}"):
        jnn.stochastic_depth(jnn.dense(3), rate)


def test_stochastic_depth_errors_name_the_path(key, raises):
    model = jnn.serial(inner=jnn.serial(jnn.stochastic_depth(jnn.dense(3), 0.5)))
    params, state = model.init(key, jnp.ones((2, 4)))
    with raises(ValueError, "inner/dense_0: stochastic_depth needs a key when train=True"):
        model.apply(params, state, jnp.ones((2, 4)), train=True)
    with raises(ValueError, "inner/dense_0: expected 4 features in the last axis, got (2, 5)"):
        model.apply(params, state, jnp.ones((2, 5)), key=key, train=True)
    with raises(TypeError, "dense is a factory that returns a Layer: call it, as in dense(...)"):
        jnn.stochastic_depth(jnn.dense, 0.5)

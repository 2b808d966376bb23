import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jnn
from jnn.regularizers import elastic_net, l1, l2

DRAW = np.random.default_rng(0)
PARAMS = {
    "dense_0": {"w": jnp.asarray(DRAW.normal(size=(4, 3)), jnp.float32), "b": jnp.asarray(DRAW.normal(size=3), jnp.float32)},
    "linen": {"kernel": jnp.asarray(DRAW.normal(size=(3, 3, 2, 2)), jnp.float32)},
    "blocks": {"b": jnp.asarray(DRAW.normal(size=(5, 3)), jnp.float32)},
}
WEIGHTS = np.concatenate([np.ravel(PARAMS["dense_0"]["w"]), np.ravel(PARAMS["linen"]["kernel"])]).astype(np.float64)
ALL = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(PARAMS)]).astype(np.float64)

CASES = {
    "l1": (l1, (0.3,), lambda w, s: s * np.sum(np.abs(w))),
    "l2": (l2, (0.3,), lambda w, s: s * np.sum(w**2)),
    "elastic_net": (elastic_net, (0.3, 0.7), lambda w, a, b: a * np.sum(np.abs(w)) + b * np.sum(w**2)),
}
every_regularizer = pytest.mark.parametrize(("make", "strengths", "formula"), CASES.values(), ids=CASES)


@every_regularizer
def test_weights_are_taken_by_rank_and_biases_left_out_stacked_too(make, strengths, formula):
    value = make(*strengths)(PARAMS)
    assert (value.shape, value.dtype) == ((), jnp.float32)
    np.testing.assert_allclose(value, formula(WEIGHTS, *strengths), rtol=1e-5)


@every_regularizer
def test_where_takes_others(make, strengths, formula):
    value = make(*strengths, where="b")(PARAMS)
    biases = np.concatenate([np.ravel(PARAMS["dense_0"]["b"]), np.ravel(PARAMS["blocks"]["b"])])
    np.testing.assert_allclose(value, formula(biases, *strengths), rtol=1e-5)
    np.testing.assert_allclose(make(*strengths, where=lambda path, w: True)(PARAMS), formula(ALL, *strengths), rtol=1e-5)
    with pytest.raises(ValueError, match="no path contains 'kernal'; did you mean kernel"):
        make(*strengths, where="kernal")(PARAMS)


@every_regularizer
def test_strengths_may_be_traced_and_are_learned_by_gradients(make, strengths, formula):
    factors = jnp.array([0.0, 0.5, 2.0])
    together = jax.jit(jax.vmap(lambda factor: make(*(factor * s for s in strengths))(PARAMS)))(factors)
    np.testing.assert_allclose(together, factors * np.float32(formula(WEIGHTS, *strengths)), rtol=1e-5)
    slope = jax.grad(lambda factor: make(*(factor * s for s in strengths))(PARAMS))(1.0)
    np.testing.assert_allclose(slope, formula(WEIGHTS, *strengths), rtol=1e-5)


@every_regularizer
def test_half_precision_is_summed_in_float32(make, strengths, formula):
    # 4096 ones and a few: in bfloat16 a sum stops at 256, in float16 at 2048
    for dtype in (jnp.bfloat16, jnp.float16):
        value, gradient = jax.value_and_grad(make(*strengths))({"w": jnp.ones((64, 65), dtype)})
        assert (value.dtype, gradient["w"].dtype) == (jnp.float32, dtype)
        np.testing.assert_allclose(value, formula(np.ones(64 * 65), *strengths), rtol=1e-6)


@every_regularizer
def test_double_precision_is_kept_and_goes_with_single(make, strengths, formula, x64):
    params = {"double": jnp.asarray(np.full((2, 2), 1 / 3)), "single": jnp.ones((2, 2), jnp.float32)}
    value = make(*strengths)(params)
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, formula(np.array([1 / 3] * 4 + [1] * 4), *strengths), rtol=1e-14)


@every_regularizer
def test_nothing_costs_nothing(make, strengths, formula):
    for params in ({}, {"b": jnp.ones(3)}, {"count": jnp.ones((2, 2), jnp.int32)}, {"w": jnp.zeros((2, 0))}):
        value = make(*strengths)(params)
        assert (value.shape, value.dtype, float(value)) == ((), jnp.float32, 0.0)


@every_regularizer
def test_gradients_equal_centred_differences_and_are_zero_at_zero(make, strengths, formula):
    jnn.check_gradients(make(*strengths), (PARAMS,))
    np.testing.assert_array_equal(jax.grad(make(*strengths))({"w": jnp.zeros((2, 2))})["w"], 0)


def test_the_gradient_of_l2_is_optaxs_weight_decay_of_twice_its_strength():
    decay = optax.add_decayed_weights(2 * 0.3, mask=jnn.tree.mask(PARAMS, jnn.tree.is_weight))
    with jax.numpy_dtype_promotion("standard"):
        decayed, _ = decay.update(jax.tree.map(jnp.zeros_like, PARAMS), decay.init(PARAMS), PARAMS)
    gradient = jax.grad(l2(0.3))(PARAMS)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(decayed), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_penalty_counts_in_training_only(key):
    model = jnn.dense(3)
    objective = jnn.supervised(model, jnn.losses.squared_error, penalty=l2(0.1))
    plain = jnn.supervised(model, jnn.losses.squared_error)
    batch = jnp.ones((5, 4)), jnp.zeros((5, 3))
    params, state = objective.init(key, batch)
    difference = objective.loss(params, state, batch, train=True)[0] - plain.loss(params, state, batch, train=True)[0]
    np.testing.assert_allclose(difference, 0.1 * np.sum(np.square(params["w"])), rtol=1e-4)
    assert objective.loss(params, state, batch)[0] == plain.loss(params, state, batch)[0]

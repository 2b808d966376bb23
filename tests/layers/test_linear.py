import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn

from layer_properties import Case, LayerProperties


def flax_dense(params, state, x):
    layer = nn.Dense(params["b"].size, param_dtype=params["w"].dtype)
    return layer.apply({"params": {"kernel": params["w"], "bias": params["b"]}}, x)


CASES = [
    Case("dense", lambda: jnn.dense(3), (4,), flax_dense, has_params=True),
]


class TestEveryLinearLayer(LayerProperties):
    cases = CASES


def test_dense_draws_w_with_variance_one_over_its_inputs_and_b_zero(key):
    params, state = jnn.dense(200).init(key, jnp.ones((2, 100)))
    assert state == {}
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in params.items()} == {
        "w": ((100, 200), jnp.float32),
        "b": ((200,), jnp.float32),
    }
    w = np.ravel(params["w"])
    assert abs(w.mean()) < 5 * 0.1 / np.sqrt(w.size)
    np.testing.assert_allclose(w.var(), 1 / 100, rtol=5 * np.sqrt(2 / w.size))
    np.testing.assert_array_equal(params["b"], 0)


def test_dense_gives_its_initializers_different_keys_and_the_shapes(key):
    seen = []

    def spy(key, shape, dtype):
        seen.append((jax.random.key_data(key), shape, dtype))
        return jnp.full(shape, len(seen), dtype)

    params, _ = jnn.dense(3, w_init=spy, b_init=spy).init(key, jnp.ones((2, 4)))
    assert [(shape, dtype) for _, shape, dtype in seen] == [((4, 3), jnp.float32), ((3,), jnp.float32)]
    assert np.any(seen[0][0] != seen[1][0])
    np.testing.assert_array_equal(params["w"], 1)
    np.testing.assert_array_equal(params["b"], 2)


@pytest.mark.parametrize("features", [0, -3])
def test_dense_refuses_fewer_than_one_feature(features, raises):
    with raises(ValueError, f"dense: features must be at least 1, got {features}"):
        jnn.dense(features)


def test_dense_takes_whole_numbers_only():
    with pytest.raises(TypeError):
        jnn.dense(2.5)


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (jnp.ones((2, 4), jnp.int32), "int32 (2, 4)"),
        (jnp.ones((2, 4), bool), "bool (2, 4)"),
        (jnp.ones(()), "float32 ()"),
    ],
)
def test_dense_refuses_to_start_from_integers_and_scalars(x, got, key, raises):
    with raises(ValueError, f"dense: expected floating-point input (..., in), got {got}"):
        jnn.dense(3).init(key, x)


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (jnp.ones((32, 10)), "expected 4 features in the last axis, got (32, 10)"),
        (jnp.ones(()), "expected 4 features in the last axis, got ()"),
        (jnp.ones((2, 4), jnp.bfloat16), "expected float32 input, as the parameters are, got bfloat16: cast one of them"),
        (jnp.ones((2, 4), jnp.int32), "expected float32 input, as the parameters are, got int32: cast one of them"),
    ],
    ids=["width", "scalar", "bfloat16", "integers"],
)
def test_dense_says_what_it_expected_and_what_it_got(x, problem, key, raises):
    layer = jnn.dense(3)
    params, _ = layer.init(key, jnp.ones((2, 4)))
    with raises(ValueError, f"dense: {problem}"):
        layer.apply(params, {}, x)
    with raises(ValueError, f"dense: {problem}"):
        jax.jit(layer.apply)(params, {}, x)


@pytest.mark.parametrize(
    ("params", "got"),
    [
        ({}, "none"),
        ({"kernel": jnp.ones((4, 3))}, "['kernel']"),
        ((jnp.ones((4, 3)), jnp.ones(3)), "tuple"),
        (None, "NoneType"),
    ],
    ids=["empty", "foreign", "tuple", "None"],
)
def test_dense_refuses_foreign_parameters(params, got, raises):
    with raises(ValueError, f"dense: expected parameters w and b, got {got}"):
        jnn.dense(3).apply(params, {}, jnp.ones((2, 4)))

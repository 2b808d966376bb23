import functools

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


def largest_of_flax_dense(params, state, x):
    pieces = zip(params["w"], params["b"], strict=True)
    return functools.reduce(jnp.maximum, [flax_dense({"w": w, "b": b}, state, x) for w, b in pieces])


CASES = [
    Case("dense", lambda: jnn.dense(3), (4,), flax_dense, has_params=True),
    Case("maxout", lambda: jnn.maxout(3, 4), (4,), largest_of_flax_dense, has_params=True),
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


def test_maxout_draws_every_piece_with_variance_one_over_its_inputs(key):
    params, state = jnn.maxout(200, 3).init(key, jnp.ones((2, 100)))
    assert state == {}
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in params.items()} == {
        "w": ((3, 100, 200), jnp.float32),
        "b": ((3, 200), jnp.float32),
    }
    for w in np.asarray(params["w"]).reshape(3, -1):
        assert abs(w.mean()) < 5 * 0.1 / np.sqrt(w.size)
        np.testing.assert_allclose(w.var(), 1 / 100, rtol=5 * np.sqrt(2 / w.size))
    correlations = np.corrcoef(np.asarray(params["w"]).reshape(3, -1)) - np.eye(3)
    assert np.max(np.abs(correlations)) < 5 / np.sqrt(100 * 200)
    np.testing.assert_array_equal(params["b"], 0)


def test_maxout_gives_the_initializers_of_every_piece_another_key_and_the_shapes_of_a_dense_layer(key):
    seen = []

    def spy(key, shape, dtype):
        seen.append((tuple(np.asarray(jax.random.key_data(key))), shape, dtype))
        return jnp.full(shape, len(seen), dtype)

    params, _ = jnn.maxout(3, 2, w_init=spy, b_init=spy).init(key, jnp.ones((5, 4)))
    assert [(shape, dtype) for _, shape, dtype in seen] == [((4, 3), jnp.float32)] * 2 + [((3,), jnp.float32)] * 2
    assert len({key for key, *_ in seen}) == 4
    np.testing.assert_array_equal(params["w"][:, 0, 0], [1, 2])
    np.testing.assert_array_equal(params["b"][:, 0], [3, 4])


def test_maxout_of_two_pieces_is_relu_or_an_absolute_value():
    x = jnp.linspace(-2, 2, 9)[:, None]
    b = jnp.zeros((2, 1))
    relu = {"w": jnp.asarray([[[1.0]], [[0.0]]]), "b": b}
    absolute = {"w": jnp.asarray([[[1.0]], [[-1.0]]]), "b": b}
    np.testing.assert_array_equal(jnn.maxout(1, 2).apply(relu, {}, x)[0], jnp.maximum(x, 0))
    np.testing.assert_array_equal(jnn.maxout(1, 2).apply(absolute, {}, x)[0], jnp.abs(x))


def test_maxout_is_convex(key):
    layer = jnn.maxout(5, 4)
    x, y = jax.random.normal(key, (2, 20, 3))
    params, _ = layer.init(key, x)
    value = lambda x: layer.apply(params, {}, x)[0]
    for t in (0.25, 0.5):
        assert np.all(value(t * x + (1 - t) * y) <= t * value(x) + (1 - t) * value(y) + 1e-6)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [((0, 2), "features must be at least 1, got 0"), ((3, 0), "pieces must be at least 1, got 0")],
    ids=str,
)
def test_maxout_refuses_sizes(arguments, problem, raises):
    with raises(ValueError, f"maxout: {problem}"):
        jnn.maxout(*arguments)


@pytest.mark.parametrize(
    ("w", "x", "problem"),
    [
        ((2, 4, 3), jnp.ones((32, 10)), "expected 4 features in the last axis, got (32, 10)"),
        ((2, 4, 3), jnp.ones((2, 4), jnp.int32), "expected float32 input, as the parameters are, got int32: cast one of them"),
        ((4, 3), jnp.ones((2, 4)), "expected w (2, in, 3), got (4, 3)"),
        ((5, 4, 3), jnp.ones((2, 4)), "expected w (2, in, 3), got (5, 4, 3)"),
    ],
    ids=["width", "integers", "dense", "pieces"],
)
def test_maxout_says_what_it_expected_and_what_it_got(w, x, problem, raises):
    with raises(ValueError, f"maxout: {problem}"):
        jax.jit(jnn.maxout(3, 2).apply)({"w": jnp.ones(w), "b": jnp.ones((2, 3))}, {}, x)


def test_maxout_refuses_to_start_from_integers_and_without_a_key(key, raises):
    with raises(ValueError, "maxout: expected floating-point input (..., in), got int32 (2, 4)"):
        jnn.maxout(3, 2).init(key, jnp.ones((2, 4), jnp.int32))
    with raises(ValueError, "maxout: init needs a key"):
        jnn.maxout(3, 2).init(None, jnp.ones((2, 4)))


def test_parameters_of_other_shapes_are_refused_and_never_broadcast(raises):
    for w in (jnp.ones((4, 2)), jnp.ones((5, 4, 3))):
        with raises(ValueError, f"dense: expected w (in, 3), got {w.shape}"):
            jnn.dense(3).apply({"w": w, "b": jnp.ones(3)}, {}, jnp.ones((2, 4)))
    for b, got in [(jnp.ones(1), "(1,)"), (jnp.ones((2, 3)), "(2, 3)"), ({"value": jnp.ones(3)}, "a dict")]:
        with raises(ValueError, f"dense: expected b (3,), got {got}"):
            jnn.dense(3).apply({"w": jnp.ones((4, 3)), "b": b}, {}, jnp.ones((2, 4)))
    with raises(ValueError, "maxout: expected b (2, 3), got (3,)"):
        jnn.maxout(3, 2).apply({"w": jnp.ones((2, 4, 3)), "b": jnp.ones(3)}, {}, jnp.ones((2, 4)))


def test_dense_without_b_is_the_product_alone(key):
    layer, x = jnn.dense(3, b_init=None), jnp.ones((2, 4))
    params, _ = layer.init(key, x)
    assert list(params) == ["w"]
    np.testing.assert_allclose(layer.apply(params, {}, x)[0], np.asarray(x) @ np.asarray(params["w"]), rtol=1e-6)

"""Every layer is a row of CASES, and every property below holds for every row."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jnn


def running_mean() -> jnn.Layer:
    """A user's own layer with state: takes away a running mean of the last axis."""

    def init(key, x):
        return {}, {"mean": jnp.zeros(x.shape[-1:], jnp.float32)}

    def apply(params, state, x, *, key=None, train=False):
        if train:
            mean = jnp.mean(x, axis=range(x.ndim - 1)).astype(state["mean"].dtype)
            state = {"mean": 0.5 * state["mean"] + 0.5 * mean}
        return x - state["mean"].astype(x.dtype), state

    return jnn.Layer(init, apply)


def flax_dense(params, x):
    layer = nn.Dense(params["b"].size, param_dtype=params["w"].dtype)
    return layer.apply({"params": {"kernel": params["w"], "bias": params["b"]}}, x)


def flax_network(params, state, x):
    x = jax.lax.collapse(x, x.ndim - 2)
    x = nn.relu(flax_dense(params["dense_1"], x))
    return flax_dense(params["head"], x - state["running_mean_4"]["mean"])


class Case(NamedTuple):
    name: str
    make: Callable[..., jnn.Layer]  # of its real hyperparameters
    shape: tuple[int, ...]  # of one example
    oracle: Callable[..., Any]  # (params, state, x) -> y, with train=False
    reals: tuple[float, ...] = ()
    is_random: bool = False
    has_params: bool = False


CASES = [
    Case("dense", lambda: jnn.dense(3), (4,), lambda p, s, x: flax_dense(p, x), has_params=True),
    Case("flatten", lambda: jnn.flatten(), (2, 3, 2), lambda p, s, x: x.reshape(*x.shape[:-3], 12)),
    Case("flatten of one axis", lambda: jnn.flatten(1), (3,), lambda p, s, x: x),
    Case("dropout", lambda rate: jnn.dropout(rate), (64,), lambda p, s, x: x, (0.3,), is_random=True),
    Case("serial of a function", lambda: jnn.serial(jnp.tanh), (4,), lambda p, s, x: jax.nn.tanh(x)),
    Case(
        "serial",
        lambda rate: jnn.serial(
            jnn.flatten(2), jnn.dense(32), jax.nn.relu, jnn.dropout(rate), running_mean(), head=jnn.dense(3)
        ),
        (2, 3),
        flax_network,
        (0.3,),
        is_random=True,
        has_params=True,
    ),
]

every_layer = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def filled(tree, dtype=np.float32, seed=0):
    """The same tree with normal numbers in it: biases that are zero would hide a sign."""
    numbers = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(numbers.normal(size=a.shape), dtype), tree)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def example(case, leading=(5,), dtype=np.float32):
    """-> layer, params, state, x"""
    layer = case.make(*case.reals)
    x = jax.ShapeDtypeStruct((*leading, *case.shape), jnp.float32)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    return layer, filled(params, dtype, 1), filled(state, dtype, 2), filled(x, dtype, 3)


def oracle(case, *args):
    with jax.numpy_dtype_promotion("standard"):
        return case.oracle(*args)


def precision_of(dtype):
    return jax.enable_x64(True) if dtype == jnp.float64 else contextlib.nullcontext()


@every_layer
@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 1e-5), (jnp.float64, 1e-12)])
def test_values_and_gradients_equal_the_oracles(case, dtype, rtol):
    with precision_of(dtype):
        layer, params, state, x = example(case, dtype=dtype)
        y, _ = layer.apply(params, state, x)
        expected = oracle(case, params, state, x)
        chex.assert_trees_all_close(y, expected, rtol=rtol, atol=rtol)

        towards = filled(y, dtype, 4)
        grads = jax.grad(lambda p, x: jnp.vdot(towards, layer.apply(p, state, x)[0]), (0, 1))(params, x)
        expected = jax.grad(lambda p, x: jnp.vdot(towards, oracle(case, p, state, x)), (0, 1))(params, x)
        chex.assert_trees_all_close(grads, expected, rtol=rtol, atol=rtol)


@every_layer
def test_jit_vmap_and_scan_give_the_oracles_values(case):
    layer, params, state, x = example(case)
    expected = oracle(case, params, state, x)

    def apply(x):
        return layer.apply(params, state, x)[0]

    def step(state, x):
        y, state = layer.apply(params, state, x)
        return state, y

    chex.assert_trees_all_close(jax.jit(apply)(x), expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(jax.vmap(apply)(x), expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(jax.lax.scan(step, state, x)[1], expected, rtol=1e-5, atol=1e-5)


@every_layer
def test_training_works_under_jit_vmap_grad_and_scan(case, key):
    layer, params, state, x = example(case, leading=(3, 5))
    keys = jax.random.split(key, 3)

    def apply(params, state, x, key):
        return layer.apply(params, state, x, key=key, train=True)

    def step(params, state, x, key):
        y, state = apply(params, state, x, key)
        return state, y

    def scanned(params):
        return jax.lax.scan(lambda s, x_and_key: step(params, s, *x_and_key), state, (x, keys))

    each_key = list(keys)

    def unrolled(params):
        last, ys = state, []
        for x_t, key_t in zip(x, each_key, strict=True):
            last, y = step(params, last, x_t, key_t)
            ys.append(y)
        return last, jnp.stack(ys)

    def value_and_gradient(run):
        return jax.jit(jax.value_and_grad(lambda p: (jnp.sum(jnp.square(run(p)[1])), run(p)), has_aux=True))(params)

    chex.assert_trees_all_close(value_and_gradient(scanned), value_and_gradient(unrolled), rtol=1e-5, atol=1e-5)

    compiled = jax.jit(apply)
    together = jax.vmap(compiled, (None, None, 0, 0))(params, state, x, keys)
    apart = [compiled(params, state, x_t, key_t) for x_t, key_t in zip(x, each_key, strict=True)]
    chex.assert_trees_all_close(together, stacked(apart), rtol=1e-5, atol=1e-5)


@every_layer
@pytest.mark.parametrize("leading", [(), (1,), (6,), (2, 3), (3, 1, 2)], ids=str)
def test_any_number_of_leading_axes_gives_each_example_its_own_value(case, leading):
    layer, params, state, x = example(case, leading)
    y, _ = layer.apply(params, state, x)
    flat = x.reshape(-1, *case.shape)
    each = jnp.stack([oracle(case, params, state, one) for one in flat])
    chex.assert_trees_all_close(y, each.reshape(*leading, *each.shape[1:]), rtol=1e-5, atol=1e-5)


@every_layer
def test_no_examples_give_no_values(case):
    layer, params, state, x = example(case, leading=(0,))
    y, _ = layer.apply(params, state, x)
    assert y.shape == oracle(case, params, state, x).shape


@every_layer
def test_init_reads_only_shapes_and_dtypes(case, key):
    layer = case.make(*case.reals)
    shape = jax.ShapeDtypeStruct((5, *case.shape), jnp.float32)
    made = layer.init(key, shape)
    chex.assert_trees_all_equal(made, layer.init(key, jnp.full(shape.shape, jnp.nan)))
    chex.assert_trees_all_equal(made, layer.init(key, np.ones(shape.shape, np.float32)))
    chex.assert_trees_all_equal_shapes_and_dtypes(made, jax.eval_shape(layer.init, key, shape))


@every_layer
def test_init_under_vmap_equals_init_of_each_key(case, key):
    layer = case.make(*case.reals)
    keys = jax.random.split(key, 3)
    x = jnp.ones(case.shape)
    together = jax.vmap(lambda k: layer.init(k, x))(keys)
    chex.assert_trees_all_close(together, stacked([layer.init(k, x) for k in keys]), rtol=1e-6)


@every_layer
def test_parameters_and_state_are_float32_with_x64_too(case, key, x64):
    made = case.make(*case.reals).init(key, jnp.ones(case.shape, jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} <= {jnp.dtype(jnp.float32)}


@every_layer
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64], ids=lambda d: d.__name__)
def test_dtype_is_kept(case, train, dtype, key):
    with precision_of(dtype):
        layer, params, state, x = example(case, dtype=dtype)
        y, new_state = layer.apply(params, state, x, key=key, train=train)
        assert y.dtype == dtype
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)


@every_layer
@pytest.mark.parametrize("train", [False, True])
def test_second_call_with_the_state_of_the_first_does_not_recompile(case, train, key):
    layer, params, state, x = example(case)
    chex.clear_trace_counter()
    apply = jax.jit(chex.assert_max_traces(lambda p, s, x, k: layer.apply(p, s, x, key=k, train=train), n=1))
    _, state = apply(params, state, x, key)
    apply(jax.tree.map(jnp.ones_like, params), state, x + 1, jax.random.fold_in(key, 1))


@every_layer
def test_same_key_gives_the_same_and_another_key_something_else(case, key):
    layer, params, state, x = example(case)
    other = jax.random.fold_in(key, 1)

    def train(key):
        return layer.apply(params, state, x, key=key, train=True)

    chex.assert_trees_all_equal(layer.init(key, x), layer.init(key, x))
    chex.assert_trees_all_equal(train(key), train(key))
    weights, others = (jax.tree.leaves(layer.init(k, x)[0]) for k in (key, other))
    assert any(np.any(a != b) for a, b in zip(weights, others, strict=True)) == case.has_params
    assert np.any(train(key)[0] != train(other)[0]) == case.is_random


@every_layer
def test_without_training_the_key_is_not_needed_and_the_state_stays(case, key):
    layer, params, state, x = example(case)
    y, new_state = layer.apply(params, state, x)
    chex.assert_trees_all_equal(new_state, state)
    chex.assert_trees_all_equal(layer.apply(params, state, x, key=key), (y, state))


@pytest.mark.parametrize("case", [case for case in CASES if case.reals], ids=lambda case: case.name)
def test_real_hyperparameters_may_be_traced(case, key):
    _, params, state, x = example(case)

    def train(*reals):
        return case.make(*reals).apply(params, state, x, key=key, train=True)

    factors = (0.0, 1.0, 2.0)
    fixed = stacked([train(*(factor * real for real in case.reals)) for factor in factors])
    traced = jax.vmap(train)(*(real * jnp.asarray(factors) for real in case.reals))
    chex.assert_trees_all_close(traced, fixed, rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("make", [jnn.dense, jnn.flatten])
def test_whole_numbers_must_be_whole(make):
    with pytest.raises(TypeError):
        make(2.5)


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


def test_flatten_puts_the_last_axis_fastest():
    y, _ = jnn.flatten(2).apply({}, {}, jnp.arange(12).reshape(2, 2, 3))
    np.testing.assert_array_equal(y, [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]])


def test_flatten_says_how_many_axes_it_wants(raises):
    with raises(ValueError, "flatten: expected at least 3 axes, got (2, 5)"):
        jnn.flatten().apply({}, {}, jnp.ones((2, 5)))
    with raises(ValueError, "flatten: axes must be at least 1, got 0"):
        jnn.flatten(0)


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


@pytest.mark.parametrize("rate", [-0.1, 1.5, 50])
def test_dropout_refuses_a_rate_that_is_no_share(rate, raises):
    with raises(ValueError, f"dropout: rate is the share dropped and lies in [0, 1], got {rate}"):
        jnn.dropout(rate)


def test_dropout_without_a_key_says_so(raises):
    with raises(ValueError, "dropout: needs a key when train=True"):
        jnn.dropout(0.5).apply({}, {}, jnp.ones(3), train=True)

"""Every loss is a row of CASES, and every property below holds for every row."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from jnn import losses

CLASSES = 5


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape)


def classes(*shape):
    return np.random.default_rng(1).integers(0, CLASSES, shape[:-1], np.int32)


def probabilities(*shape):
    return np.random.default_rng(2).dirichlet(np.ones(CLASSES), shape[:-1])


class Case(NamedTuple):
    name: str
    loss: Callable
    oracle: Callable
    target: Callable  # of the prediction's shape


CASES = [
    Case(
        "squared_error",
        losses.squared_error,
        lambda p, t: jnp.mean(optax.squared_error(p, t), -1),
        lambda *s: numbers(*s)[::-1],
    ),
    Case(
        "softmax_cross_entropy of integers",
        losses.softmax_cross_entropy,
        optax.softmax_cross_entropy_with_integer_labels,
        classes,
    ),
    Case("softmax_cross_entropy of probabilities", losses.softmax_cross_entropy, optax.softmax_cross_entropy, probabilities),
    Case(
        "softmax_cross_entropy of integers, smoothed",
        lambda p, t: losses.softmax_cross_entropy(p, t, smoothing=0.1),
        lambda p, t: optax.softmax_cross_entropy(p, optax.smooth_labels(jax.nn.one_hot(t, CLASSES, dtype=p.dtype), 0.1)),
        classes,
    ),
    Case(
        "softmax_cross_entropy of probabilities, smoothed",
        lambda p, t: losses.softmax_cross_entropy(p, t, smoothing=0.3),
        lambda p, t: optax.softmax_cross_entropy(p, optax.smooth_labels(t, 0.3)),
        probabilities,
    ),
]

every_loss = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def example(case, *leading, dtype=np.float32):
    shape = (*leading, CLASSES)
    target = case.target(*shape)
    target = target if np.issubdtype(target.dtype, np.integer) else target.astype(dtype)
    return jnp.asarray(3 * numbers(*shape), dtype), jnp.asarray(target)


def oracle(case):
    def loss(prediction, target):
        with jax.numpy_dtype_promotion("standard"):
            return case.oracle(prediction, target)

    return loss


@every_loss
@pytest.mark.parametrize("leading", [(), (2, 3), (0,)], ids=str)
def test_one_number_per_example_equals_the_oracles(case, leading):
    prediction, target = example(case, *leading)
    values = case.loss(prediction, target)
    assert (values.shape, values.dtype) == (leading, jnp.float32)
    np.testing.assert_allclose(values, oracle(case)(prediction, target), rtol=1e-5)


@every_loss
def test_float64_values_and_gradients_equal_the_oracles(case, x64):
    prediction, target = example(case, 6, dtype=np.float64)
    values = case.loss(prediction, target)
    assert values.dtype == jnp.float64
    np.testing.assert_allclose(values, oracle(case)(prediction, target), rtol=1e-12)
    ours, theirs = (jax.grad(lambda p, f=f: jnp.sum(jnp.sin(f(p, target))))(prediction) for f in (case.loss, oracle(case)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)


@every_loss
def test_float32_gradients_equal_the_oracles(case):
    prediction, target = example(case, 6)
    ours, theirs = (jax.grad(lambda p, f=f: jnp.sum(jnp.sin(f(p, target))))(prediction) for f in (case.loss, oracle(case)))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@every_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_half_precision_is_computed_in_float32(case, dtype):
    prediction, target = example(case, 6, dtype=dtype)
    wide = target if jnp.issubdtype(target.dtype, jnp.integer) else target.astype(jnp.float32)
    expected = case.loss(prediction.astype(jnp.float32), wide)
    values, pull = jax.vjp(lambda p: case.loss(p, target), prediction)
    (gradient,) = pull(jnp.ones_like(values))
    assert (values.dtype, gradient.dtype) == (jnp.float32, dtype)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@every_loss
def test_jit_vmap_and_scan_change_nothing_and_compile_once(case):
    prediction, target = example(case, 6)
    expected = case.loss(prediction, target)
    chex.clear_trace_counter()
    compiled = jax.jit(chex.assert_max_traces(case.loss, n=1))
    compiled(prediction + 1, target)
    np.testing.assert_allclose(compiled(prediction, target), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(case.loss)(prediction, target), expected, rtol=1e-6)
    scanned = jax.lax.scan(lambda carry, batch: (carry, case.loss(*batch)), None, (prediction, target))[1]
    np.testing.assert_allclose(scanned, expected, rtol=1e-6)


@every_loss
def test_numpy_arrays_give_the_same(case):
    prediction, target = example(case, 4)
    np.testing.assert_array_equal(case.loss(np.asarray(prediction), np.asarray(target)), case.loss(prediction, target))


def test_squared_error_is_a_mean_without_a_half():
    np.testing.assert_allclose(losses.squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])), [2.5])


def test_softmax_cross_entropy_is_the_negative_log_of_scipys_softmax():
    logits = 3 * numbers(4, CLASSES)
    target = np.array([0, 4, 2, 2])
    expected = -scipy.special.log_softmax(logits, -1)[np.arange(4), target]
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits.astype(np.float32), target), expected, rtol=1e-5)
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(jnp.log(jnp.array([1.0, 3.0])), jnp.array(1)), np.log(4 / 3), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int32, jnp.uint32], ids=lambda d: d.__name__)
def test_softmax_cross_entropy_takes_every_kind_of_integer(dtype):
    prediction, target = example(CASES[1], 6)
    expected = optax.softmax_cross_entropy_with_integer_labels(prediction, target)
    np.testing.assert_allclose(losses.softmax_cross_entropy(prediction, target.astype(dtype)), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [None, 0.1])
def test_a_class_out_of_range_gives_nan_and_leaves_the_others(smoothing):
    prediction, target = example(CASES[1], 4)
    wrong = jnp.stack([target[0], jnp.int32(-1), jnp.int32(CLASSES), target[3]])
    values = losses.softmax_cross_entropy(prediction, wrong, smoothing=smoothing)
    expected = losses.softmax_cross_entropy(prediction, target, smoothing=smoothing)
    np.testing.assert_array_equal(values, jnp.array([expected[0], jnp.nan, jnp.nan, expected[3]]))


def test_softmax_cross_entropy_stays_finite_for_large_logits():
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    target = jnp.array([1, 2])
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, target), [2e4, np.log(3)], rtol=1e-4)
    gradient = jax.grad(lambda x: jnp.sum(losses.softmax_cross_entropy(x, target)))(logits)
    np.testing.assert_allclose(gradient, [[1, -1, 0], [1 / 3, 1 / 3, -2 / 3]], atol=1e-6)


def test_a_class_masked_by_minus_infinity_does_not_count():
    logits = jnp.array([1.0, 2.0, -jnp.inf])
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, jnp.array(0)), np.log1p(np.e), rtol=1e-6)


def test_smoothing_may_be_traced():
    prediction, target = example(CASES[1], 4)
    shares = jnp.array([0.0, 0.1, 0.5, 1.0])
    together = jax.vmap(lambda share: losses.softmax_cross_entropy(prediction, target, smoothing=share))(shares)
    for share, values in zip([0.0, 0.1, 0.5, 1.0], together, strict=True):
        smooth = optax.smooth_labels(jax.nn.one_hot(target, CLASSES), share)
        np.testing.assert_allclose(values, optax.softmax_cross_entropy(prediction, smooth), rtol=1e-5)
    slope = jax.grad(lambda share: jnp.sum(losses.softmax_cross_entropy(prediction, target, smoothing=share)))(0.2)
    np.testing.assert_allclose(slope, jnp.sum(together[3] - together[0]), rtol=1e-5)


@pytest.mark.parametrize(("prediction", "target"), [((32, 1), (32,)), ((4, 3), (3,)), ((4, 3), (4, 1))], ids=str)
def test_squared_error_refuses_shapes_that_would_broadcast(prediction, target, raises):
    with raises(ValueError, f"squared_error: prediction {prediction} and target {target} differ in shape"):
        losses.squared_error(jnp.ones(prediction), jnp.ones(target))


@pytest.mark.parametrize(
    ("target", "got"),
    [
        (jnp.zeros((4, 1), jnp.int32), "int32 (4, 1)"),
        (jnp.zeros((4, 3), jnp.int32), "int32 (4, 3)"),
        (jnp.zeros(4), "float32 (4,)"),
        (jnp.zeros((4, 1)), "float32 (4, 1)"),
    ],
)
def test_softmax_cross_entropy_says_which_targets_it_wants(target, got, raises):
    message = (
        "softmax_cross_entropy: logits (4, 3) want integer targets of shape (4,) or probabilities of shape (4, 3), got " + got
    )
    with raises(ValueError, message):
        losses.softmax_cross_entropy(jnp.ones((4, 3)), target)

"""Every loss is a row of CASES, and every property below holds for every row."""

import re
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import sklearn.metrics

from jnn import losses

CLASSES = 5


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape)


HEAD = np.random.default_rng(3).integers(-8, 9, (CLASSES, CLASSES)) / 8  # exact in half precision


def classes(*shape):
    return np.random.default_rng(1).integers(0, CLASSES, shape[:-1], np.int32)


def probabilities(*shape):
    return np.random.default_rng(2).dirichlet(np.ones(CLASSES), shape[:-1])


class Case(NamedTuple):
    name: str
    loss: Callable
    oracle: Callable
    target: Callable  # of the prediction's shape


def log_probabilities(*shape):
    return np.log(probabilities(*shape))


def violations(scores, y, margin):
    right = jnp.take_along_axis(scores, y[..., None], -1)
    others = 1 - jax.nn.one_hot(y, CLASSES, dtype=scores.dtype)
    return others * jnp.maximum(0, scores - right + margin)


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
    Case(
        "linear_cross_entropy of integers",
        lambda p, t: losses.linear_cross_entropy((p, HEAD.astype(p.dtype)), t, chunk=2),
        lambda p, t: optax.softmax_cross_entropy_with_integer_labels(p @ HEAD.astype(p.dtype), t),
        classes,
    ),
    Case(
        "linear_cross_entropy of probabilities, with a bias, smoothed",
        lambda p, t: losses.linear_cross_entropy((p, HEAD.astype(p.dtype), HEAD[0].astype(p.dtype)), t, smoothing=0.1, chunk=4),
        lambda p, t: optax.softmax_cross_entropy(
            p @ HEAD.astype(p.dtype) + HEAD[0].astype(p.dtype), optax.smooth_labels(t, 0.1)
        ),
        probabilities,
    ),
    Case("absolute_error", losses.absolute_error, lambda p, t: jnp.mean(jnp.abs(p - t), -1), lambda *s: numbers(*s)[::-1]),
    Case("huber", losses.huber, lambda p, t: jnp.mean(optax.huber_loss(p, t), -1), lambda *s: numbers(*s)[::-1]),
    Case(
        "huber of delta 2.5",
        lambda p, t: losses.huber(p, t, delta=2.5),
        lambda p, t: jnp.mean(optax.huber_loss(p, t, delta=2.5), -1),
        lambda *s: numbers(*s)[::-1],
    ),
    Case(
        "sigmoid_cross_entropy",
        losses.sigmoid_cross_entropy,
        lambda p, t: jnp.mean(optax.sigmoid_binary_cross_entropy(p, t), -1),
        probabilities,
    ),
    Case("hinge", losses.hinge, lambda p, t: jnp.sum(violations(p, t, 1.0), -1), classes),
    Case(
        "hinge of margin 0.3",
        lambda p, t: losses.hinge(p, t, margin=0.3),
        lambda p, t: jnp.sum(violations(p, t, 0.3), -1),
        classes,
    ),
    Case("squared_hinge", losses.squared_hinge, lambda p, t: jnp.sum(violations(p, t, 1.0) ** 2, -1), classes),
    Case("kl_divergence", losses.kl_divergence, optax.losses.kl_divergence_with_log_targets, log_probabilities),
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
@pytest.mark.parametrize("leading", [(2, 3), (0,)], ids=str)
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
def test_half_precision_is_computed_in_float32(case):
    prediction, target = example(case, 6, dtype=jnp.bfloat16)
    wide = target if jnp.issubdtype(target.dtype, jnp.integer) else target.astype(jnp.float32)
    expected = case.loss(prediction.astype(jnp.float32), wide)
    values, pull = jax.vjp(lambda p: case.loss(p, target), prediction)
    (gradient,) = pull(jnp.ones_like(values))
    assert (values.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@every_loss
def test_a_scalar_has_no_axis_to_reduce(case, raises):
    with raises(ValueError, f"{case.name.split()[0]}: expected a prediction (..., n), got a scalar"):
        case.loss(jnp.ones(()), jnp.ones(()))


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


@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.hinge], ids=lambda loss: loss.__name__)
def test_small_integers_name_classes_beyond_their_range(loss):
    scores = jnp.asarray(numbers(2, 300), jnp.float32)
    target = jnp.array([3, 200], jnp.uint8)
    np.testing.assert_array_equal(loss(scores, target), loss(scores, target.astype(jnp.int32)))


def test_huber_is_half_a_square_up_to_delta_and_a_line_beyond():
    prediction, zero = jnp.array([[1.0], [2.0], [-5.0], [jnp.inf]]), jnp.zeros((4, 1))
    np.testing.assert_allclose(losses.huber(prediction, zero, delta=2.0), [0.5, 2.0, 8.0, jnp.inf])
    slopes = jax.vmap(lambda delta: jax.grad(lambda p: jnp.sum(losses.huber(p, zero, delta=delta)))(prediction))
    np.testing.assert_allclose(slopes(jnp.array([0.5, 2.0]))[..., 0], [[0.5, 0.5, -0.5, 0.5], [1, 2, -2, 2]])


def test_the_derivative_at_no_error_is_zero():
    for loss in (losses.absolute_error, losses.huber, losses.squared_error):
        np.testing.assert_array_equal(jax.grad(lambda p, f=loss: f(p, jnp.ones(2)))(jnp.ones(2)), 0)


def test_huber_refuses_a_delta_that_is_not_positive(raises):
    with raises(ValueError, "huber: delta must be positive, got 0"):
        losses.huber(jnp.ones(2), jnp.ones(2), delta=0)


def test_sigmoid_cross_entropy_stays_finite_at_the_extremes():
    logits = jnp.array([1e4, -1e4, 1e4, -1e4, jnp.inf, -jnp.inf])[:, None]
    target = jnp.array([1, 0, 0, 1, 1, 0])[:, None]
    np.testing.assert_allclose(losses.sigmoid_cross_entropy(logits, target), [0, 0, 1e4, 1e4, 0, 0])
    gradient = jax.grad(lambda p: jnp.sum(losses.sigmoid_cross_entropy(p, target)))(logits)
    np.testing.assert_allclose(gradient[:, 0], [0, 0, 1, -1, 0, 0], atol=1e-7)


def test_sigmoid_cross_entropy_is_scikit_learns_log_loss_of_each_question():
    logits, answers = numbers(20, 3), np.random.default_rng(1).integers(0, 2, (20, 3), np.int32)
    expected = [sklearn.metrics.log_loss(answers[:, i], scipy.special.expit(logits[:, i])) for i in range(3)]
    values = losses.sigmoid_cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(answers))
    np.testing.assert_allclose(jnp.mean(values), np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize(("loss", "power"), [(losses.hinge, 1), (losses.squared_hinge, 2)], ids=["hinge", "squared_hinge"])
def test_hinge_is_torchs_times_the_number_of_classes(loss, power):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    scores, target = 3 * numbers(6, CLASSES), classes(6, CLASSES)
    theirs = torch.nn.functional.multi_margin_loss(
        torch.tensor(scores), torch.tensor(target, dtype=torch.long), p=power, margin=0.7, reduction="none"
    )
    # torch divides by the number of classes
    values = loss(jnp.asarray(scores, jnp.float32), jnp.asarray(target), margin=0.7)
    np.testing.assert_allclose(values, CLASSES * theirs.numpy(), rtol=1e-5)


def test_hinge_by_hand():
    scores, target = jnp.array([[3.0, 1.0, 2.5], [0.5, 2.0, 4.0]]), jnp.array([0, 1])
    np.testing.assert_allclose(losses.hinge(scores, target), [0.5, 3.0])
    np.testing.assert_allclose(losses.squared_hinge(scores, target), [0.25, 9.0])
    gradient = jax.grad(lambda s: jnp.sum(losses.hinge(s, target)))(scores)
    np.testing.assert_allclose(gradient, [[-1, 0, 1], [0, -1, 1]])


@pytest.mark.parametrize("loss", [losses.hinge, losses.squared_hinge], ids=lambda loss: loss.__name__)
def test_hinge_of_a_class_out_of_range_is_nan_and_of_large_scores_finite(loss):
    scores = jnp.array([[1e4, -1e4, 0.0]] * 3)
    values = loss(scores, jnp.array([1, -1, 3]))
    assert np.isfinite(values[0])
    assert np.all(np.isnan(values[1:]))
    assert np.all(np.isfinite(jax.grad(lambda s: loss(s, jnp.array(1)))(scores[0])))


def test_margin_may_be_traced():
    scores, target = example(CASES[1], 4)
    margins = jnp.array([0.0, 0.5, 1.0])
    together = jax.vmap(lambda margin: losses.hinge(scores, target, margin=margin))(margins)
    for margin, values in zip([0.0, 0.5, 1.0], together, strict=True):
        np.testing.assert_allclose(values, losses.hinge(scores, target, margin=margin), rtol=1e-6)


def test_kl_divergence_is_the_targets_from_the_prediction():
    p, q = probabilities(4, CLASSES), probabilities(4, CLASSES)[::-1]
    values = losses.kl_divergence(jnp.log(p.astype(np.float32)), jnp.log(q.astype(np.float32)))
    np.testing.assert_allclose(values, scipy.special.rel_entr(q, p).sum(-1), rtol=1e-4)
    assert np.all(np.abs(values - scipy.special.rel_entr(p, q).sum(-1)) > 1e-3)


def test_kl_divergence_counts_nothing_where_the_target_has_probability_zero():
    prediction = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]))
    target = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(losses.kl_divergence(prediction, target), [np.log(2) / 2, 0, np.inf], rtol=1e-6)
    for argument in (0, 1):
        gradient = jax.grad(lambda p, t: jnp.sum(losses.kl_divergence(p, t)), argument)(prediction[:2], target[:2])
        assert np.all(np.isfinite(gradient))


ELEMENTWISE = [losses.squared_error, losses.absolute_error, losses.huber, losses.sigmoid_cross_entropy, losses.kl_divergence]


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize(("prediction", "target"), [((32, 1), (32,)), ((4, 3), (3,)), ((4, 3), (4, 1))], ids=str)
def test_shapes_that_would_broadcast_are_refused(loss, prediction, target, raises):
    with raises(ValueError, f"{loss.__name__}: prediction {prediction} and target {target} differ in shape"):
        loss(jnp.ones(prediction), jnp.ones(target))


@pytest.mark.parametrize("loss", [losses.hinge, losses.squared_hinge], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize(
    ("target", "got"), [(jnp.zeros(4), "float32 (4,)"), (jnp.zeros((4, 3), jnp.int32), "int32 (4, 3)")], ids=["float", "shape"]
)
def test_hinge_says_which_targets_it_wants(loss, target, got, raises):
    with raises(ValueError, f"{loss.__name__}: scores (4, 3) want integer targets of shape (4,), got {got}"):
        loss(jnp.ones((4, 3)), target)


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


def test_a_large_vocabulary_is_never_held_whole_and_gives_the_same(key):
    width, vocabulary, tokens = 8, 3000, 320
    x = jax.random.normal(key, (4, tokens // 4, width))
    w = jax.random.normal(jax.random.fold_in(key, 1), (width, vocabulary))
    target = jax.random.randint(jax.random.fold_in(key, 2), (4, tokens // 4), 0, vocabulary)
    plain = jax.jit(jax.value_and_grad(lambda x, w: losses.softmax_cross_entropy(x @ w, target).mean(), (0, 1)))
    chunked = jax.jit(jax.value_and_grad(lambda x, w: losses.linear_cross_entropy((x, w), target, chunk=30).mean(), (0, 1)))
    chex.assert_trees_all_close(chunked(x, w), plain(x, w), rtol=1e-6, atol=1e-6)
    needs = [f.lower(x, w).compile().memory_analysis().temp_size_in_bytes for f in (chunked, plain)]
    assert needs[0] < 4 * tokens * vocabulary < needs[1]


@pytest.mark.parametrize(
    ("dtype", "dtypes", "of"),
    # in float16 the gradient of x is too small to be exact; that of w need not be
    [("bfloat16", {("bf16", "bf16")}, (0, 1)), ("float16", {("f16", "f16"), ("f32", "f32")}, (1,))],
)
def test_a_narrow_dtype_makes_the_products_of_a_large_vocabulary_quick_and_its_loss_no_worse(key, dtype, dtypes, of):
    width, vocabulary, tokens = 16, 200, 96
    x = (8 * jax.random.normal(key, (tokens, width))).astype(dtype)
    w = jax.random.normal(jax.random.fold_in(key, 1), (width, vocabulary))
    target = jax.random.randint(jax.random.fold_in(key, 2), (tokens,), 0, vocabulary)

    def chunked(x, w):
        return losses.linear_cross_entropy((x, w), target, chunk=32)

    def exact(x, w):
        return losses.softmax_cross_entropy(jnp.matmul(x, w, precision="highest"), target)

    def gradient(loss):  # as in the mean over 100,000 tokens
        return jax.jit(jax.grad(lambda x, w: 1e-5 * loss(x, w).sum(), of))

    operand = r"tensor<(?:\d+x)*(\w+)>"
    text = gradient(chunked).lower(x, w).as_text()
    assert set(re.findall(rf"dot_general .*: \({operand}, {operand}\)", text)) == dtypes
    rounded = x.astype(jnp.float32), w.astype(dtype).astype(jnp.float32)
    # logits of about 32: rounded to bfloat16 they would be off by 0.1
    np.testing.assert_allclose(chunked(x, w), exact(*rounded), rtol=1e-5, atol=1e-5)
    for one, other in zip(gradient(chunked)(x, w), gradient(exact)(*rounded), strict=True):
        error = jnp.linalg.norm(one.astype(jnp.float32) - other) / jnp.linalg.norm(other)
        assert error < float(jnp.finfo(dtype).eps)


def test_what_is_no_head_is_refused(raises):
    x, w, y = jnp.ones((3, 4)), jnp.ones((5, 6)), jnp.zeros(3, jnp.int32)
    with raises(ValueError, "linear_cross_entropy: prediction must be (x, w) or (x, w, b), not the logits x @ w + b"):
        losses.linear_cross_entropy(x, y)
    with raises(ValueError, "linear_cross_entropy: expected x (..., n), w (n, classes) and b (classes,), got (3, 4), (5, 6)"):
        losses.linear_cross_entropy((x, w), y)

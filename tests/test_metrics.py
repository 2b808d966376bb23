import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

import jnn
from jnn import metrics


def example(*leading):
    draw = np.random.default_rng(0)
    return jnp.asarray(draw.normal(size=(*leading, 4)), jnp.float32), jnp.asarray(draw.integers(0, 4, leading), jnp.int32)


@pytest.mark.parametrize("leading", [(50,), (5, 10)], ids=str)
@pytest.mark.parametrize("one_hot", [False, True])
def test_accuracy_has_scikit_learns_mean_and_one_number_per_example(leading, one_hot):
    prediction, target = example(*leading)
    scores = metrics.accuracy(prediction, jax.nn.one_hot(target, 4) if one_hot else target)
    chosen = np.argmax(prediction, -1)
    assert (scores.shape, scores.dtype) == (leading, jnp.float32)
    np.testing.assert_array_equal(scores, chosen == target)
    expected = sklearn.metrics.accuracy_score(np.ravel(target), np.ravel(chosen))
    assert 0.1 < expected < 0.9
    np.testing.assert_allclose(jnp.mean(scores), expected, rtol=1e-6)


def test_accuracy_works_under_jit_vmap_and_scan_and_compiles_once():
    prediction, target = example(20)
    expected = np.argmax(prediction, -1) == target
    chex.clear_trace_counter()
    compiled = jax.jit(chex.assert_max_traces(metrics.accuracy, n=1))
    compiled(-prediction, target)
    np.testing.assert_array_equal(compiled(prediction, target), expected)
    np.testing.assert_array_equal(jax.vmap(metrics.accuracy)(prediction, target), expected)
    scanned = jax.lax.scan(lambda carry, batch: (carry, metrics.accuracy(*batch)), None, (prediction, target))[1]
    np.testing.assert_array_equal(scanned, expected)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.uint32], ids=lambda d: d.__name__)
@pytest.mark.parametrize("x64", [False, True])
def test_accuracy_takes_every_kind_of_integer(dtype, x64):
    prediction, target = example(20)
    expected = np.argmax(prediction, -1) == target
    with jax.enable_x64(x64):
        np.testing.assert_array_equal(metrics.accuracy(prediction, target.astype(dtype)), expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_accuracy_takes_half_precision(dtype):
    prediction, target = example(20)
    prediction = prediction.astype(dtype)
    np.testing.assert_array_equal(metrics.accuracy(prediction, target), np.argmax(prediction, -1) == target)


def test_accuracy_of_a_diverged_model_is_zero():
    scores = metrics.accuracy(jnp.full((3, 4), jnp.nan), jnp.array([0, 1, 2]))
    np.testing.assert_array_equal(scores, 0)


@pytest.mark.parametrize(
    "target",
    [
        jnp.zeros(3, jnp.int32),
        jnp.zeros((5, 2, 1), jnp.int32),
        # what argmax over the last axis would take for class 0, or for fewer classes
        jnp.full((5, 1), 2, jnp.int32),
        jnp.ones((5, 3)),
        jnp.full(5, 1.5),
    ],
    ids=lambda target: f"{target.dtype} {target.shape}",
)
@pytest.mark.parametrize("name", ["accuracy", "top_k_accuracy", "confusion_matrix"])
def test_targets_of_another_shape_are_refused(name, target, raises):
    metric = metrics.top_k_accuracy(2) if name == "top_k_accuracy" else getattr(metrics, name)
    wanted = "integer targets of shape (5,) or probabilities of shape (5, 4)"
    with raises(ValueError, f"{name}: logits (5, 4) want {wanted}, got {target.dtype} {target.shape}"):
        metric(jnp.ones((5, 4)), target)


@pytest.mark.parametrize("k", [1, 3, 4])
@pytest.mark.parametrize("one_hot", [False, True])
def test_top_k_accuracy_has_scikit_learns_mean_and_one_number_per_example(k, one_hot):
    leading = (5, 10)
    prediction, target = example(*leading)
    scores = jax.jit(metrics.top_k_accuracy(k))(prediction, jax.nn.one_hot(target, 4) if one_hot else target)
    assert (scores.shape, scores.dtype) == (leading, jnp.float32)
    flat = np.reshape(prediction, (-1, 4))
    expected = sklearn.metrics.top_k_accuracy_score(np.ravel(target), flat, k=k, labels=range(4)) if k < 4 else 1
    np.testing.assert_allclose(jnp.mean(scores), expected, rtol=1e-6)
    if k == 1:
        np.testing.assert_array_equal(scores, metrics.accuracy(prediction, target))


def test_top_k_accuracy_of_equal_logits_takes_the_first_and_of_nan_none():
    target = jnp.array([0, 1, 2, 3])
    np.testing.assert_array_equal(metrics.top_k_accuracy(2)(jnp.zeros((4, 4)), target), [1, 1, 0, 0])
    np.testing.assert_array_equal(metrics.top_k_accuracy(2)(jnp.full((4, 4), jnp.nan), target), 0)
    np.testing.assert_array_equal(metrics.top_k_accuracy(4)(jnp.zeros((2, 4)), jnp.array([-1, 4])), 0)


def test_top_k_accuracy_is_a_metric_of_supervised(key):
    objective = jnn.supervised(jnn.dense(4), jnn.losses.softmax_cross_entropy, metrics={"top_2": metrics.top_k_accuracy(2)})
    inputs, target = example(20)
    params, state = objective.init(key, (inputs, target))
    logits = np.asarray(jnn.dense(4).apply(params, state, inputs)[0])
    scores = jnn.evaluate(objective, params, state, (inputs, target), batch_size=8)
    expected = sklearn.metrics.top_k_accuracy_score(target, logits, k=2, labels=range(4))
    np.testing.assert_allclose(scores["top_2"], expected, rtol=1e-6)


def test_top_k_accuracy_says_what_k_may_be(raises):
    with raises(ValueError, "top_k_accuracy: k must be at least 1, got 0"):
        metrics.top_k_accuracy(0)
    with raises(ValueError, "top_k_accuracy: k is 5, but there are 4 classes"):
        metrics.top_k_accuracy(5)(*example(3))


@pytest.mark.parametrize("leading", [(50,), (5, 10)], ids=str)
@pytest.mark.parametrize("one_hot", [False, True])
def test_confusion_matrix_is_scikit_learns(leading, one_hot):
    prediction, target = example(*leading)
    matrix = jax.jit(metrics.confusion_matrix)(prediction, jax.nn.one_hot(target, 4) if one_hot else target)
    chosen = np.argmax(prediction, -1)
    assert matrix.dtype == jnp.int32
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(np.ravel(target), np.ravel(chosen), labels=range(4)))


def test_confusion_matrix_has_the_true_class_as_its_row_and_counts_no_nonsense():
    logits = 1.0 * jax.nn.one_hot(jnp.array([1, 1, 2, 0, 0]), 3)
    logits = logits.at[4].set(jnp.nan)
    matrix = metrics.confusion_matrix(logits, jnp.array([0, 1, 3, -1, 0]))
    np.testing.assert_array_equal(matrix, [[0, 1, 0], [0, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.uint32], ids=lambda d: d.__name__)
@pytest.mark.parametrize("x64", [False, True])
def test_confusion_matrix_and_top_k_accuracy_take_every_kind_of_integer(dtype, x64):
    with jax.enable_x64(x64):
        prediction, target = example(20)
        for metric in (metrics.confusion_matrix, metrics.top_k_accuracy(2)):
            np.testing.assert_array_equal(metric(prediction, target.astype(dtype)), metric(prediction, target))
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(9, 300)), jnp.float32)
    assert metrics.confusion_matrix(logits, jnp.arange(9, dtype=dtype)).sum() == 9


def test_mean_absolute_error_is_scikit_learns():
    draw = np.random.default_rng(0)
    prediction, target = (jnp.asarray(draw.normal(size=(20, 3)), jnp.float32) for _ in range(2))
    scores = metrics.mean_absolute_error(prediction, target)
    assert scores.shape == (20,)
    np.testing.assert_allclose(jnp.mean(scores), sklearn.metrics.mean_absolute_error(target, prediction), rtol=1e-6)


def test_perplexity_is_the_exponential_of_scikit_learns_log_loss():
    prediction, target = example(5, 10)
    value = jax.jit(metrics.perplexity)(prediction, target)
    flat = np.reshape(jax.nn.softmax(prediction), (-1, 4))
    expected = np.exp(sklearn.metrics.log_loss(np.ravel(target), flat, labels=range(4)))
    assert value.shape == ()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics.perplexity(jnp.zeros((2, 3, 7)), jnp.zeros((2, 3), jnp.int32)), 7, rtol=1e-6)


def test_perplexity_leaves_out_what_has_weight_zero():
    prediction, target = example(5, 10)
    kept = np.arange(5) < 3
    expected = metrics.perplexity(prediction[:3], target[:3])
    broken = prediction.at[3:].set(jnp.nan)
    np.testing.assert_allclose(metrics.perplexity(broken, target, weights=jnp.asarray(kept)), expected, rtol=1e-6)
    tokens = jnp.asarray(np.broadcast_to(kept[:, None], (5, 10)), jnp.float32)
    np.testing.assert_allclose(metrics.perplexity(broken, target, weights=tokens), expected, rtol=1e-6)


def test_perplexity_of_batches_is_the_exponential_of_the_loss_that_evaluate_returns():
    prediction, target = example(30)
    objective = jnn.supervised(lambda x: x, jnn.losses.softmax_cross_entropy)
    scores = jnn.evaluate(objective, {}, {}, (prediction, target), batch_size=7)
    np.testing.assert_allclose(jnp.exp(scores["loss"]), metrics.perplexity(prediction, target), rtol=1e-6)


def test_perplexity_refuses_weights_of_another_shape(raises):
    with raises(ValueError, "perplexity: weights (3,) do not lead the axes of the tokens (5, 10)"):
        metrics.perplexity(*example(5, 10), weights=jnp.ones(3))


@pytest.mark.parametrize("leading", [(400,), (20, 20)], ids=str)
@pytest.mark.parametrize("one_hot", [False, True])
def test_reliability_and_calibration_error_are_those_of_their_definition(leading, one_hot):
    prediction, target = example(*leading)
    probabilities = np.asarray(jax.nn.softmax(prediction)).reshape(-1, 4)
    labels = np.ravel(target)
    rows = []
    for i in range(10):
        chosen = [p for p in range(len(labels)) if i / 10 < probabilities[p].max() <= (i + 1) / 10]
        right = [float(np.argmax(probabilities[p]) == labels[p]) for p in chosen]
        means = [np.mean([probabilities[p].max() for p in chosen]), np.mean(right)] if chosen else [np.nan, np.nan]
        rows.append([len(chosen) / len(labels), *means])
    expected = np.array(rows).T
    given = jax.nn.one_hot(target, 4) if one_hot else target
    found = jax.jit(lambda z, y: metrics.reliability(z, y, bins=10))(prediction, given)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isnan(expected).any() and np.sum(expected[0] > 0) > 4
    error = np.nansum(expected[0] * abs(expected[1] - expected[2]))
    np.testing.assert_allclose(metrics.calibration_error(prediction, given, bins=10), error, rtol=1e-5)


def test_a_calibrated_prediction_has_no_calibration_error_and_a_sure_one_that_is_wrong_the_largest():
    half = jnp.log(jnp.array([[0.6, 0.4]] * 10))
    np.testing.assert_allclose(metrics.calibration_error(half, jnp.array([0] * 6 + [1] * 4)), 0, atol=1e-6)
    sure = jnp.array([[50.0, -50.0]] * 10)
    np.testing.assert_allclose(metrics.calibration_error(sure, jnp.ones(10, jnp.int32)), 1, rtol=1e-6)


def test_what_has_diverged_is_not_calibrated():
    prediction = jnp.array([[0.0, 1.0], [jnp.nan, 1.0]])
    share, *_ = metrics.reliability(prediction, jnp.array([1, 1]))
    np.testing.assert_allclose(jnp.sum(share), 0.5)
    assert np.isnan(metrics.calibration_error(prediction, jnp.array([1, 1])))


def test_calibration_of_half_precision_is_computed_in_float32():
    prediction, target = example(200)
    exact = metrics.calibration_error(prediction.astype(jnp.bfloat16).astype(jnp.float32), target)
    np.testing.assert_allclose(metrics.calibration_error(prediction.astype(jnp.bfloat16), target), exact, rtol=1e-6)

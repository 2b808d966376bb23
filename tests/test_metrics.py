import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

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


def test_accuracy_refuses_targets_of_another_shape(raises):
    with raises(ValueError, "accuracy: logits (5, 4) do not match targets (3,)"):
        metrics.accuracy(jnp.ones((5, 4)), jnp.zeros(3, jnp.int32))
    with raises(ValueError, "accuracy: logits (5, 4) do not match targets (5, 2, 1)"):
        metrics.accuracy(jnp.ones((5, 4)), jnp.zeros((5, 2, 1), jnp.int32))

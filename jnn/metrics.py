"""Metrics `(prediction, target) -> scores`: like losses, one number per example, of which `supervised` takes the mean.

prediction: logits. target: as for `losses.softmax_cross_entropy`, integers (...), or probabilities (..., classes) of which
the largest is meant: one-hot, for one.

Four are no means of examples and give one value for all of them: `confusion_matrix`, `reliability`, `calibration_error` and
`perplexity`. They are for evaluation outside `supervised`.
"""

import jax
import jax.numpy as jnp

from jnn.losses import absolute_error, softmax_cross_entropy
from jnn.numbers import is_by_index, whole, wide


def accuracy(prediction, target):
    """(..., classes), (...) or (..., classes) -> (...):  1 where the largest logit is at the target, else 0."""
    target = _classes("accuracy", prediction, target)
    best = jnp.argmax(prediction, axis=-1)
    # argmax takes NaN for the largest: a model that has diverged would be right about every example of class 0
    right = (best == target.astype(best.dtype)) & ~_has_nan(prediction)
    return right.astype(jnp.float32)


def top_k_accuracy(k: int):
    """-> a metric (..., classes), (...) or (..., classes) -> (...):  1 where the target is among the k largest logits, else 0.

    `metrics={"top_5": top_k_accuracy(5)}`. Of equal logits the first counts as larger: a model that says the same of every
    class is not always right, and `top_k_accuracy(1)` is `accuracy`. Raises ValueError for k beyond the number of classes.
    """
    k = whole("top_k_accuracy", "k", k)

    def metric(prediction, target):
        target = _classes("top_k_accuracy", prediction, target)
        classes = prediction.shape[-1]
        if k > classes:
            raise ValueError(f"top_k_accuracy: k is {k}, but there are {classes} classes")
        _, best = jax.lax.top_k(prediction, k)
        right = jnp.any(best == target.astype(best.dtype)[..., None], axis=-1) & ~_has_nan(prediction)
        return right.astype(jnp.float32)

    return metric


def confusion_matrix(prediction, target):
    """(..., classes), (...) or (..., classes) -> int32 (classes, classes):  how many examples of class i (row) are taken for
    class j (column), the one with the largest logit.

    Over all examples, and no metric for `supervised`, whose mean of the entries says nothing. Matrices of batches add up.
    An example is counted nowhere where its target is no class or its logits hold NaN.
    """
    target = _classes("confusion_matrix", prediction, target)
    classes = prediction.shape[-1]
    best = jnp.argmax(prediction, axis=-1)
    target = target.astype(best.dtype)
    counted = (target >= 0) & (target < classes) & ~_has_nan(prediction)
    counts = jnp.zeros((classes, classes), jnp.int32)
    return counts.at[jnp.where(counted, target, classes), best].add(1, mode="drop")


def reliability(prediction, target, *, bins: int = 15):
    """(..., classes), (...) or (..., classes) -> share, confidence, accuracy, each float32 (bins,):  of the examples whose
    confidence, the largest probability, lies in ((i - 1) / bins, i / bins]: their share of all, their mean confidence, and
    how many of them are right.

    prediction: logits; of probabilities, their logarithms. The curve of accuracy over confidence is the reliability diagram
    (Guo et al. 2017, section 2). Both are NaN where a bin is empty. An example whose logits hold NaN counts nowhere, but in
    the number of all.
    """
    bins = whole("reliability", "bins", bins)
    right = jnp.ravel(accuracy(prediction, target))
    confidence = jnp.max(jax.nn.softmax(prediction.astype(wide(prediction.dtype))), axis=-1).ravel().astype(jnp.float32)
    counted = jnp.isfinite(confidence)
    place = jnp.clip(jnp.ceil(confidence * bins) - 1, 0, bins - 1)
    place = jnp.where(counted, place, bins).astype(jnp.int32)
    count, *sums = (
        jnp.zeros(bins, jnp.float32).at[place].add(values, mode="drop")
        for values in (jnp.ones_like(confidence), confidence, right)
    )
    empty = count == 0
    means = [jnp.where(empty, jnp.nan, total / jnp.where(empty, 1.0, count)) for total in sums]
    return count / right.size, *means


def calibration_error(prediction, target, *, bins: int = 15):
    """(..., classes), (...) or (..., classes) -> scalar:  sum over bins of share * |confidence - accuracy|, as of
    `reliability`; the expected calibration error (Guo et al. 2017, equation 3). NaN where any logits hold NaN.
    """
    share, confidence, right = reliability(prediction, target, bins=bins)
    error = jnp.sum(jnp.where(share > 0, share * jnp.abs(confidence - right), 0.0))
    return jnp.where(jnp.any(_has_nan(prediction)), jnp.nan, error)


def mean_absolute_error(prediction, target):
    """(..., n), (..., n) -> (...):  mean over the last axis of |prediction - target|; what `losses.absolute_error` is."""
    return absolute_error(prediction, target)


def perplexity(prediction, target, *, weights=None):
    """(..., classes), (...) or (..., classes) -> scalar:  exp of the mean cross-entropy of all tokens.

    prediction: logits. weights: as in a batch of `supervised`, of the shape of the tokens or of their leading axes; 0 masks.
    The exponential of a mean is no mean of exponentials: over several batches it is `jnp.exp(scores["loss"])`, with the
    scores that `evaluate` returns for the loss softmax_cross_entropy, and not a mean of perplexities.
    """
    losses = softmax_cross_entropy(prediction, target)
    if weights is None:
        return jnp.exp(jnp.mean(losses))
    if losses.shape[: weights.ndim] != weights.shape:
        raise ValueError(f"perplexity: weights {weights.shape} do not lead the axes of the tokens {losses.shape}")
    w = weights.reshape(weights.shape + (1,) * (losses.ndim - weights.ndim)).astype(losses.dtype)
    w = jnp.broadcast_to(w, losses.shape)
    return jnp.exp(jnp.sum(jnp.where(w == 0, jnp.zeros_like(losses), w * losses)) / jnp.sum(w))


def _classes(name, prediction, target):
    """The target as integers, of the shape of the examples."""
    return target if is_by_index(name, prediction, target) else jnp.argmax(target, axis=-1)


def _has_nan(prediction):
    return jnp.isnan(jnp.max(prediction, axis=-1))

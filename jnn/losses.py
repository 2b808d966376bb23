"""Losses `(prediction, target) -> losses`: they reduce the last axis and nothing else, so that there is one number per
example (or per time step, or per pixel). Computed in float32 or better."""

import jax
import jax.numpy as jnp

from jnn.numbers import wide


def squared_error(prediction, target):
    """(..., n), (..., n) -> (...):  mean over the last axis of (prediction - target)^2, without a factor 1/2."""
    if prediction.shape != target.shape:
        # (32, 1) against (32,) would broadcast to (32, 32) in silence
        raise ValueError(f"squared_error: prediction {prediction.shape} and target {target.shape} differ in shape")
    prediction, target = _wide(prediction), _wide(target)
    return jnp.mean(jnp.square(prediction - target.astype(prediction.dtype)), axis=-1)


def softmax_cross_entropy(prediction, target, *, smoothing=None):
    """(..., classes), (...) or (..., classes) -> (...):  -sum_c q_c log softmax(prediction)_c.

    prediction: logits, the logarithms of unnormalised probabilities.
    target: integers in [0, classes), or a distribution over the classes (one-hot, for one).
    smoothing: a share in [0, 1]; q becomes (1 - smoothing) * q + smoothing / classes (Szegedy et al. 2016, section 7).
    A class out of range gives NaN: never a wrong number.
    """
    classes = prediction.shape[-1]
    by_index = jnp.issubdtype(target.dtype, jnp.integer)
    expected = prediction.shape[:-1] if by_index else prediction.shape
    if target.shape != expected:
        raise ValueError(
            f"softmax_cross_entropy: logits {prediction.shape} want integer targets of shape {prediction.shape[:-1]} "
            f"or probabilities of shape {prediction.shape}, got {target.dtype} {target.shape}"
        )
    logits = _wide(prediction)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    if by_index:
        chosen = jnp.take_along_axis(logits, target[..., None], axis=-1, mode="fill")[..., 0]
        # a negative index would count from the end
        losses = log_normalizer - jnp.where(target >= 0, chosen, jnp.nan)
    else:
        probabilities = target.astype(logits.dtype)
        losses = jnp.sum(probabilities * (log_normalizer[..., None] - logits), axis=-1)
    if smoothing is None:
        return losses
    share = jnp.asarray(smoothing, logits.dtype)
    uniform = log_normalizer - jnp.sum(logits, axis=-1) / classes
    return (1 - share) * losses + share * uniform


def _wide(x):
    return x.astype(wide(x.dtype))

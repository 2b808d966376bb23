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
    # not logsumexp less the logit: that loses digits where all logits are large
    log_probabilities = jax.nn.log_softmax(_wide(prediction), axis=-1)
    zero = jnp.zeros_like(log_probabilities)
    if by_index:
        # a selection and not a gather, whose derivative is a scatter: many small kernels on a CPU
        chosen = jax.nn.one_hot(target, classes, dtype=bool)
        losses = -jnp.sum(jnp.where(chosen, log_probabilities, zero), axis=-1)
        losses = jnp.where((target >= 0) & (target < classes), losses, jnp.full_like(losses, jnp.nan))
    else:
        probabilities = target.astype(log_probabilities.dtype)
        # an impossible class (-inf) of probability 0 counts nothing
        losses = -jnp.sum(jnp.where(probabilities == 0, zero, probabilities * log_probabilities), axis=-1)
    if smoothing is None:
        return losses
    share = jnp.asarray(smoothing).astype(losses.dtype)
    uniform = -jnp.sum(log_probabilities, axis=-1) / classes
    return (1 - share) * losses + share * uniform


def _wide(x):
    return x.astype(wide(x.dtype))

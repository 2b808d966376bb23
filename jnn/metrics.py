"""Metrics `(prediction, target) -> scores`: like losses, one number per example."""

import jax.numpy as jnp


def accuracy(prediction, target):
    """(..., classes), (...) or (..., classes) -> (...):  1 where the largest logit is at the target, else 0."""
    if target.ndim == prediction.ndim:
        target = jnp.argmax(target, axis=-1)
    if target.shape != prediction.shape[:-1]:
        raise ValueError(f"accuracy: logits {prediction.shape} do not match targets {target.shape}")
    best = jnp.argmax(prediction, axis=-1)
    # argmax takes NaN for the largest: a model that has diverged would be right about every example of class 0
    right = (best == target.astype(best.dtype)) & ~jnp.isnan(jnp.max(prediction, axis=-1))
    return right.astype(jnp.float32)

"""Layers that are random while training."""

import jax
import jax.numpy as jnp

from jnn.errors import LayerError
from jnn.numbers import wide
from jnn.types import Layer


def dropout(rate) -> Layer:
    """(...) -> (...):  while training, x * mask / (1 - rate), with P(mask = 0) = rate; otherwise x.

    rate: the share of entries *dropped*, in [0, 1]; may be a traced scalar. Inverted dropout: nothing is scaled at test time.
    Raises LayerError when training without a key. Srivastava et al. 2014.
    """
    if isinstance(rate, float | int) and not 0 <= rate <= 1:
        raise ValueError(f"dropout: rate is the share dropped and lies in [0, 1], got {rate}")

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        if not train:
            return x, state
        if key is None:
            raise LayerError("dropout", "needs a key when train=True")
        keep = 1 - jnp.asarray(rate).astype(wide(x.dtype))
        mask = jax.random.bernoulli(key, keep.astype(jnp.float32), x.shape)
        # with everything dropped (keep = 0) the mask is empty, and 1 / 0 must not arise
        scale = (1 / jnp.maximum(keep, 1e-7)).astype(x.dtype)
        return jnp.where(mask, x * scale, jnp.zeros_like(x)), state

    return Layer(init, apply)

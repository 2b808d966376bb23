"""Linear maps."""

import jax.numpy as jnp

from jnn.initializers import lecun_normal, zeros
from jnn.layers.checks import keys_for, require_dtype, require_floating, require_width, taken
from jnn.numbers import whole
from jnn.types import Layer


def dense(features: int, *, w_init=lecun_normal(), b_init=zeros) -> Layer:
    """(..., in) -> (..., features):  y = x @ w + b.

    Parameters: `w (in, features)`, `b (features,)`, both float32.
    Raises LayerError when the last axis of x has not as many entries as w has rows, or x not the dtype of w.
    """
    features = whole("dense", "features", features)

    def init(key, x):
        require_floating("dense", x, "(..., in)")
        w_key, b_key = keys_for("dense", key, 2)
        w = w_init(w_key, (x.shape[-1], features), jnp.float32)
        return {"w": w, "b": b_init(b_key, (features,), jnp.float32)}, {}

    def apply(params, state, x, *, key=None, train=False):
        w, b = taken("dense", params, "w", "b")
        require_width("dense", x, w.shape[0])
        require_dtype("dense", x, w.dtype)
        return x @ w + b, state

    return Layer(init, apply)

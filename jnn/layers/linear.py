"""Linear maps."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jnn.errors import LayerError
from jnn.initializers import lecun_normal, zeros
from jnn.numbers import whole
from jnn.types import Layer


def dense(features: int, *, w_init=lecun_normal(), b_init=zeros) -> Layer:
    """(..., in) -> (..., features):  y = x @ w + b.

    Parameters: `w (in, features)`, `b (features,)`, both float32.
    Raises LayerError when the last axis of x has not as many entries as w has rows, or x not the dtype of w.
    """
    features = whole("dense", "features", features)

    def init(key, x):
        if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise LayerError("dense", f"expected floating-point input (..., in), got {x.dtype} {x.shape}")
        w_key, b_key = jax.random.split(key)
        w = w_init(w_key, (x.shape[-1], features), jnp.float32)
        return {"w": w, "b": b_init(b_key, (features,), jnp.float32)}, {}

    def apply(params, state, x, *, key=None, train=False):
        if not isinstance(params, Mapping) or set(params) != {"w", "b"}:
            got = (sorted(params) or "none") if isinstance(params, Mapping) else type(params).__name__
            raise LayerError("dense", f"expected parameters w and b, got {got}")
        w, b = params["w"], params["b"]
        if x.shape[-1:] != w.shape[:1]:
            raise LayerError("dense", f"expected {w.shape[0]} features in the last axis, got {x.shape}")
        if x.dtype != w.dtype:
            raise LayerError("dense", f"expected {w.dtype} input, as the parameters are, got {x.dtype}: cast one of them")
        return x @ w + b, state

    return Layer(init, apply)

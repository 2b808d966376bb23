"""Linear maps."""

import jax
import jax.numpy as jnp

from jnn.initializers import lecun_normal, zeros
from jnn.layers.checks import (
    keys_for,
    require_dtype,
    require_floating,
    require_initializers,
    require_shapes,
    require_width,
    taken,
)
from jnn.layers.maxima import largest
from jnn.layers.products import affine
from jnn.numbers import whole
from jnn.types import Layer


def dense(features: int, *, w_init=lecun_normal(), b_init=zeros) -> Layer:
    """(..., in) -> (..., features):  y = x @ w + b.

    Parameters: `w (in, features)`, `b (features,)`, both float32. With b_init=None there is no b.
    Raises LayerError when the last axis of x has not as many entries as w has rows, or x not the dtype of w.
    """
    features = whole("dense", "features", features)
    require_initializers("dense", w_init=w_init, b_init=zeros if b_init is None else b_init)
    names = ("w",) if b_init is None else ("w", "b")

    def init(key, x):
        require_floating("dense", x, "(..., in)")
        w_key, b_key = keys_for("dense", key, 2)
        params = {"w": w_init(w_key, (x.shape[-1], features), jnp.float32)}
        if b_init is not None:
            params["b"] = b_init(b_key, (features,), jnp.float32)
        return params, {}

    def apply(params, state, x, *, key=None, train=False):
        w, *b = taken("dense", params, *names)
        require_shapes("dense", params, w=("in", features), b=(features,))
        require_width("dense", x, w.shape[0])
        require_dtype("dense", x, w.dtype)
        return affine(x, w, *b), state

    return Layer(init, apply)


def maxout(features: int, pieces: int, *, w_init=lecun_normal(), b_init=zeros) -> Layer:
    """(..., in) -> (..., features):  y = max over p of (x @ w[p] + b[p]).

    pieces: of how many linear maps the largest is taken.
    Parameters: `w (pieces, in, features)`, `b (pieces, features)`, both float32. Each piece is drawn as a dense layer of its
    own, with its own key and the shapes (in, features) and (features,), so fan_in is `in`.
    Gradient: where several pieces are largest, they share it equally.
    Raises LayerError as `dense` does. Goodfellow et al. 2013, "Maxout Networks".
    """
    features, pieces = whole("maxout", "features", features), whole("maxout", "pieces", pieces)
    require_initializers("maxout", w_init=w_init, b_init=b_init)

    def init(key, x):
        require_floating("maxout", x, "(..., in)")
        w_key, b_key = keys_for("maxout", key, 2)
        w = [w_init(k, (x.shape[-1], features), jnp.float32) for k in jax.random.split(w_key, pieces)]
        b = [b_init(k, (features,), jnp.float32) for k in jax.random.split(b_key, pieces)]
        return {"w": jnp.stack(w), "b": jnp.stack(b)}, {}

    def apply(params, state, x, *, key=None, train=False):
        w, b = taken("maxout", params, "w", "b")
        require_shapes("maxout", params, w=(pieces, "in", features), b=(pieces, features))
        require_width("maxout", x, w.shape[1])
        require_dtype("maxout", x, w.dtype)
        return largest(jnp.einsum("...i,pif->...pf", x, w) + b, (-2,)), state

    return Layer(init, apply)

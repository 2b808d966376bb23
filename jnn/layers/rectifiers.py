"""Activations with parameters."""

import jax.numpy as jnp

from jnn.layers.checks import require_dtype, require_floating, require_shapes, require_width, taken
from jnn.types import Layer


def prelu() -> Layer:
    """(..., features) -> (..., features):  y = max(x, 0) + slope * min(x, 0).

    Parameters: `slope (features,)`, 0.25 at first, one for each entry of the last axis.
    Raises LayerError when the last axis of x has not as many entries, or x not the dtype of slope.
    He et al. 2015, "Delving Deep into Rectifiers", eq. 1; leave slope out of weight decay (section 2.1).
    """

    def init(key, x):
        require_floating("prelu", x, "(..., features)")
        return {"slope": jnp.full(x.shape[-1:], 0.25, jnp.float32)}, {}

    def apply(params, state, x, *, key=None, train=False):
        (slope,) = taken("prelu", params, "slope")
        require_shapes("prelu", params, slope=("features",))
        require_width("prelu", x, slope.shape[0])
        require_dtype("prelu", x, slope.dtype)
        return jnp.where(x > 0, x, slope * x), state

    return Layer(init, apply)

"""Layers that move numbers without changing them."""

import math

from jnn.layers.checks import require_array
from jnn.numbers import whole
from jnn.types import Layer


def flatten(axes: int = 3) -> Layer:
    """(..., a, b, c) -> (..., a * b * c):  the last `axes` axes into one; 3 for images (height, width, channel)."""
    axes = whole("flatten", "axes", axes)

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        require_array("flatten", x, f"of at least {axes} axes", axes)
        return x.reshape(*x.shape[: x.ndim - axes], math.prod(x.shape[x.ndim - axes :])), state

    return Layer(init, apply)

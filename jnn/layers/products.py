"""The product that most layers are made of."""

import math


def affine(x, w, b=None):
    """(..., in), (in, out), (out,) -> (..., out):  x @ w + b, as one product of two matrices.

    With more than one leading axis, XLA for CPUs lays operands of the derivative by w out anew, and computes all that has led
    to them once more in doing so: the time of a step then grew with the square of the number of layers.
    """
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) if x.ndim > 2 else x
    y = flat @ w
    y = y if b is None else y + b
    return y.reshape(*x.shape[:-1], w.shape[-1])

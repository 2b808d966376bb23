"""Activations: plain functions of an array, each of them a layer as it is: `serial(dense(64), relu, dense(10))`.

Most are jax.nn's own; `gelu` and `silu` have its values, and a derivative that keeps less; `softmax` and `log_softmax`
compute half precision in float32. Arguments beyond x are given by a function: `lambda x: leaky_relu(x, 0.2)`.

    identity      x
    heaviside     1 where x >= 0, else 0; its derivative is 0        McCulloch & Pitts 1943; Rosenblatt 1958
    sigmoid       1 / (1 + exp(-x))
    tanh          (exp(x) - exp(-x)) / (exp(x) + exp(-x))
    relu          max(x, 0); derivative 0 at 0                       Nair & Hinton 2010
    leaky_relu    x where x >= 0, else negative_slope * x            Maas, Hannun & Ng 2013; negative_slope=0.01
    elu           x where x > 0, else alpha * (exp(x) - 1)           Clevert, Unterthiner & Hochreiter 2016; alpha=1
    selu          1.0507 * elu(x, 1.6733)                            Klambauer et al. 2017
    gelu          x * Phi(x), Phi the normal distribution function   Hendrycks & Gimpel 2016
    silu          x * sigmoid(x)                                     Elfwing, Uchibe & Doya 2018; also called swish
    softplus      log(1 + exp(x))                                    Dugas et al. 2001
    softmax       exp(x) / sum(exp(x)) over the last axis            Bridle 1990
    log_softmax   x - log(sum(exp(x))) over the last axis
    glu           a * sigmoid(b), halves a, b of the last axis       Dauphin et al. 2017

`gelu` is by default the approximation x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), as in GPT-2, and within 5e-4 of
the formula; `gelu(x, approximate=False)` is the formula itself, as torch's default.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.nn import (
    elu,
    glu,
    leaky_relu,
    relu,
    selu,
    sigmoid,
    softplus,
    tanh,
)

from jnn.numbers import wide

__all__ = [
    "elu",
    "gelu",
    "glu",
    "heaviside",
    "identity",
    "leaky_relu",
    "log_softmax",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]


def identity(x):
    """x -> x:  an array, or a pytree of them, such as a Graph."""
    return jax.tree.map(jnp.asarray, x)


def heaviside(x):
    """(...) -> (...):  1 where x >= 0, else 0: the threshold unit. Its derivative is 0: nothing learns through it."""
    return jnp.heaviside(x, 1.0)


def gelu(x, approximate: bool = True):
    """(...) -> (...):  x * Phi(x), jax.nn's own value. Hendrycks & Gimpel 2016."""
    return _with_slope(partial(jax.nn.gelu, approximate=approximate), x)


def silu(x):
    """(...) -> (...):  x * sigmoid(x), jax.nn's own value. Elfwing, Uchibe & Doya 2018."""
    return _with_slope(jax.nn.silu, x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_slope(function, x):
    """function(x), entry by entry. What its derivative keeps is its slope, one array; jax's own for gelu keeps five."""
    return function(x)


@_with_slope.defjvp
def _with_slope_jvp(function, primals, tangents):
    (x,), (d_x,) = primals, tangents
    y, slope = jax.jvp(function, (x,), (jnp.ones_like(x),))
    return y, slope * d_x


def softmax(x, axis=-1, where=None):
    """(...) -> (...):  exp(x) / sum(exp(x)) over an axis. Where `where` is False, an entry does not count and gives 0."""
    return _like(x, jax.nn.softmax(x.astype(wide(x.dtype)), axis, where))


def log_softmax(x, axis=-1, where=None):
    """(...) -> (...):  x - log(sum(exp(x))) over an axis. Where `where` is False, an entry does not count and gives -inf."""
    return _like(x, jax.nn.log_softmax(x.astype(wide(x.dtype)), axis, where))


def _like(x, y):
    return y.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else y

"""Initial parameters: `(key, shape, dtype) -> array`.

`zeros` and `ones` are such functions; the others are made by a call, `lecun_normal()`. The last axis of a shape counts the
outputs and the one before it the inputs; axes before these are a convolution's window, (*window, in / groups, features):

    n_in  = area of the window * in / groups        n_out = area of the window * features

    zeros, ones, constant(value)
    normal(std)                mean 0
    truncated_normal(std)      normal(std), but nothing beyond two std: what remains has the standard deviation 0.8796 std
    uniform(low, high)
    lecun_normal, _uniform     variance 1 / n_in              LeCun et al. 1998, "Efficient BackProp", section 4.6
    xavier_normal, _uniform    variance 2 / (n_in + n_out)    Glorot & Bengio 2010, eq. 16; with fan="in" 1 / n_in
    kaiming_normal, _uniform   variance 2 / n_in              He et al. 2015, "Delving Deep into Rectifiers", eq. 10
    orthogonal                 orthonormal columns (rows, where these are fewer), uniformly drawn   Saxe et al. 2014

lecun_normal, xavier_normal and kaiming_normal are truncated at two standard deviations, as in jax and flax (not in torch), and
have the variance given after that. The uniform ones lie within sqrt(3 * variance) of 0. Those with a fan and `orthogonal` take
`scale`, by which the values are multiplied. Every real argument may be a traced scalar.

Numbers are drawn in float32 at least and then rounded to dtype: the normal numbers that jax draws in bfloat16 end at 2.5.
"""

import math

import jax
import jax.numpy as jnp
from jax.nn.initializers import variance_scaling

from jnn.numbers import wide

__all__ = [
    "constant",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]


def zeros(key, shape, dtype=jnp.float32):
    """Zeros."""
    return jnp.zeros(shape, dtype)


def ones(key, shape, dtype=jnp.float32):
    """Ones."""
    return jnp.ones(shape, dtype)


def constant(value):
    """`value` everywhere; an array is broadcast to the shape."""

    def init(key, shape, dtype=jnp.float32):
        return jnp.full(shape, value, dtype)

    return init


def normal(std):
    """Normal numbers of mean 0 and standard deviation `std`."""
    return _drawn(std, jax.random.normal)


def truncated_normal(std):
    """Normal numbers of standard deviation `std` that lie within [-2 std, 2 std]; theirs is then 0.8796 std."""
    return _drawn(std, lambda key, shape, dtype: jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype))


def uniform(low, high):
    """Numbers between `low` and `high`, all equally likely."""
    if isinstance(low, float | int) and isinstance(high, float | int) and low > high:
        raise ValueError(f"uniform: low must not be above high, got {low} and {high}")
    return _drawn(1.0, lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, low, high))


def lecun_normal(*, scale=1.0):
    """Truncated normal numbers of variance scale^2 / n_in. LeCun et al. 1998."""
    return _by_fan("lecun_normal", 1.0, "fan_in", "truncated_normal", scale)


def lecun_uniform(*, scale=1.0):
    """Uniform numbers of variance scale^2 / n_in. LeCun et al. 1998."""
    return _by_fan("lecun_uniform", 1.0, "fan_in", "uniform", scale)


def xavier_normal(*, fan: str = "mean", scale=1.0):
    """Truncated normal numbers of variance 2 scale^2 / (n_in + n_out); with fan="in" scale^2 / n_in. Glorot & Bengio 2010."""
    return _by_fan("xavier_normal", 1.0, _xavier_fan("xavier_normal", fan), "truncated_normal", scale)


def xavier_uniform(*, fan: str = "mean", scale=1.0):
    """Uniform numbers of variance 2 scale^2 / (n_in + n_out); with fan="in" scale^2 / n_in. Glorot & Bengio 2010."""
    return _by_fan("xavier_uniform", 1.0, _xavier_fan("xavier_uniform", fan), "uniform", scale)


def kaiming_normal(*, scale=1.0):
    """Truncated normal numbers of variance 2 scale^2 / n_in, for layers before a relu. He et al. 2015."""
    return _by_fan("kaiming_normal", 2.0, "fan_in", "truncated_normal", scale)


def kaiming_uniform(*, scale=1.0):
    """Uniform numbers of variance 2 scale^2 / n_in, for layers before a relu. He et al. 2015."""
    return _by_fan("kaiming_uniform", 2.0, "fan_in", "uniform", scale)


def orthogonal(scale=1.0):
    """scale * q: as a matrix (n_in, features), q has orthonormal columns, or rows where these are fewer. Saxe et al. 2014."""
    return _of_matrices("orthogonal", scale, jax.nn.initializers.orthogonal())


def _by_fan(kind, variance, fan, distribution, scale):
    return _of_matrices(kind, scale, variance_scaling(variance, fan, distribution))


def _xavier_fan(kind, fan):
    fans = {"mean": "fan_avg", "in": "fan_in"}
    if fan not in fans:
        raise ValueError(f'{kind}: fan must be "mean" or "in", got {fan!r}')
    return fans[fan]


def _of_matrices(kind, scale, draw):
    def init(key, shape, dtype=jnp.float32):
        if len(shape) < 2:
            raise ValueError(f"{kind}: expected a shape (..., in, features), got {tuple(shape)}")
        # without entries there may be a fan of zero, by which nothing can be divided
        return _drawn(scale, draw)(key, shape, dtype) if math.prod(shape) else jnp.zeros(shape, dtype)

    return init


def _drawn(scale, draw):
    def init(key, shape, dtype=jnp.float32):
        values = draw(key, shape, wide(dtype))
        return (values * jnp.asarray(scale).astype(values.dtype)).astype(dtype)

    return init

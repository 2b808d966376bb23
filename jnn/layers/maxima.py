"""Maxima whose derivatives stay finite whatever XLA computes twice."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(x, axes):
    """The largest entry over the axes, a tuple. Where several are largest, they share the gradient equally.

    The derivative asks which entry is as large as the result. XLA may compute x anew for one use of the answer and not for the
    other, with another rounding: jax's own then counts no such entry, and divides by 0."""
    return jnp.max(x, axes)


@largest.defjvp
def _largest_jvp(axes, primals, tangents):
    (x,), (dx,) = primals, tangents
    y = jnp.max(x, axes)
    is_largest = (x == jnp.expand_dims(y, axes)) | jnp.isnan(x)  # what is no number stays none
    count = jnp.sum(is_largest.astype(x.dtype), axes)
    of_largest = jnp.sum(jnp.where(is_largest, dx, jnp.zeros_like(dx)), axes)
    return y, of_largest / jnp.maximum(count, jnp.ones_like(count))


@jax.custom_jvp
def larger(a, b):
    """The larger entry of two arrays. Where they are equal, they share the gradient."""
    return jnp.maximum(a, b)


@larger.defjvp
def _larger_jvp(primals, tangents):
    (a, b), (da, db) = primals, tangents
    mean = (da + db) * jnp.asarray(0.5, da.dtype)
    return jnp.maximum(a, b), jnp.where(a > b, da, jnp.where(a < b, db, mean))

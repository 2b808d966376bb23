"""Trees of parameters as vectors, and the scalars that come of them: all float32 at least."""

from functools import partial

import jax
import jax.numpy as jnp

from jnn.numbers import wide
from jnn.optim import numerics


def widened(tree):
    """float32 at least."""
    return jax.tree.map(numerics.widened, tree)


def widest(tree):
    """The dtype of scalars: that of the widest leaf."""
    dtypes = [wide(leaf.dtype) for leaf in jax.tree.leaves(tree)]
    return max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits, default=jnp.dtype(jnp.float32))


def dot(a, b):
    """<a, b>, a scalar."""
    dtype = widest(a)
    # an accelerator would multiply in fewer bits
    products = jax.tree.map(lambda x, y: jnp.vdot(x, y, precision="highest").astype(dtype), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros([], dtype))


def along(point, step, direction):
    """point + step * direction."""
    return jax.tree.map(lambda x, d: x + step.astype(x.dtype) * d, point, direction)


def negative(a):
    return jax.tree.map(jnp.negative, a)


def minus(a, b):
    return jax.tree.map(jnp.subtract, a, b)


def where(condition, a, b):
    """One of two trees, by a scalar bool."""
    return jax.tree.map(partial(jnp.where, condition), a, b)

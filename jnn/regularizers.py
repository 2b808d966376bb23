"""Regularizers `params -> scalar`, for `supervised(..., penalty=l2(1e-4))`.

They take the weights (`jnn.tree.is_weight`): every array of two axes or more, be it called `w` or `kernel`, and no bias and no
scale.
`where` takes others: a pattern of paths, several, or a function (path, array) -> bool, as everywhere in `jnn.tree`.
Strengths may be traced. Sums are computed in float32 or better; parameters that are no floating-point numbers count nothing.
"""

import jax
import jax.numpy as jnp

from jnn import tree
from jnn.numbers import wide


def l1(strength, *, where: tree.Where = tree.is_weight):
    """-> params -> scalar:  strength * sum |w|. Tibshirani 1996."""
    return lambda params: _times(strength, _total(_size, params, where))


def l2(strength, *, where: tree.Where = tree.is_weight):
    """-> params -> scalar:  strength * sum w^2, without a factor 1/2.

    Its gradient is 2 * strength * w: with plain gradient descent, what a weight decay of 2 * strength does.
    """
    return lambda params: _times(strength, _total(jnp.square, params, where))


def elastic_net(l1, l2, *, where: tree.Where = tree.is_weight):
    """-> params -> scalar:  l1 * sum |w| + l2 * sum w^2. Zou & Hastie 2005, eq. 3."""
    return lambda params: _times(l1, _total(_size, params, where)) + _times(l2, _total(jnp.square, params, where))


def _size(w):
    """|w|, with the derivative 0 at 0, where that of jnp.abs is 1: what is zero shall stay there."""
    return w * jnp.sign(w)


def _total(size, params, where):
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(tree.mask(params, where)), strict=True)
    arrays = [jnp.asarray(leaf) for leaf, is_taken in leaves if is_taken]
    arrays = [array for array in arrays if jnp.issubdtype(array.dtype, jnp.floating)]
    sums = [jnp.sum(size(array.astype(wide(array.dtype)))) for array in arrays]
    dtype = max((s.dtype for s in sums), key=lambda dtype: dtype.itemsize, default=jnp.dtype(jnp.float32))
    return sum((s.astype(dtype) for s in sums), jnp.zeros((), dtype))


def _times(strength, total):
    return jnp.asarray(strength).astype(total.dtype) * total

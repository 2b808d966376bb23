"""Parameters as matrices, and the optimizer that treats them so."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn import tree
from jnn.optim.adaptive import adamw
from jnn.optim.numerics import cast, running_mean, sqrt, value, with_weights, zero_count, zeros
from jnn.optim.parts import Parts
from jnn.types import Optimizer


def as_matrices(path: str, array):
    """(..., in, units) -> (matrices, in, units):  what leads to each unit is a column.

    The axes along which `repeat` stacks its layers count as several matrices, and so do the pieces of `maxout`; all other axes
    but the last are one, as in a convolution's kernel."""
    *parents, _ = ["", *path.split("/")]
    is_maxout = parents[-1] == "maxout" or parents[-1].startswith("maxout_")
    stacked = array.ndim - tree.rank(path, array) + is_maxout
    inputs, units = array.shape[stacked:-1], array.shape[stacked:][-1:]
    return array.reshape(math.prod(array.shape[:stacked]), math.prod(inputs), math.prod(units))


class MuonState(NamedTuple):
    matrices: Any  # MomentState of the matrices
    others: Any  # AdamState of the rest


def _is_matrix(path: str, array) -> bool:
    is_lookup = path.rpartition("/")[2] in ("table", "embedding", "attend_from", "attend_to")
    return tree.is_weight(path, array) and tree.rank(path, array) == 2 and not is_lookup


def muon(
    learning_rate,
    momentum=0.95,
    weight_decay=0.0,
    *,
    adam_learning_rate=None,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    where: tree.Where = _is_matrix,
) -> Optimizer:
    """m = rho * m + (1 - rho) * g;  u = -lr * (sqrt(max(1, out / in)) * orthogonal(m') + weight_decay * w),
    with Nesterov's m' = rho * m / (1 - rho^(t+1)) + (1 - rho) * g / (1 - rho^t), for matrices w (in, out).
    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".

    The rest of the parameters has `adamw`.
    orthogonal(x): five steps x = a x + (b xx' + c (xx')^2) x of Newton and Schulz from x / |x|, which bring the singular
    values near 1, here in the dtype of the moments. The published m' is not corrected for the zero start; here it is, as in
    optax.contrib.muon, and the steps are the same as there (optax gives the rest Nesterov's momentum as well).
    adam_learning_rate: of the rest; learning_rate by default.
    where: the matrices, as in `jnn.tree`. By default all weights of rank 2 but tables of embeddings and the attention vectors
        of graphs. The layers of `repeat` and the pieces of `maxout` are as many matrices; a kernel of more axes, where it is
        taken, is one matrix with its output channels as columns. A head is best left to adam, by a `where` of your own.
    weight_decay: of weights (`jnn.tree.is_weight`), the rest's as well.
    Raises ValueError for a parameter of rank below 2 that `where` takes."""
    orthogonalised = _orthogonalised(learning_rate, momentum, weight_decay, eps)
    adam_rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    others = adamw(adam_rate, b1, b2, eps, weight_decay, where=tree.is_weight)

    def init(params):
        parts = Parts(params, where)
        return MuonState(orthogonalised.init(parts.inside(params)), others.init(parts.outside(params)))

    def update(grads, opt_state, params=None):
        if params is None and jax.tree.leaves(grads):
            raise ValueError("muon: decay needs the parameters, as in update(grads, opt_state, params)")
        parts = Parts(params, where)
        inside, matrices = orthogonalised.update(parts.inside(grads), opt_state.matrices, parts.inside(params))
        outside, rest = others.update(parts.outside(grads), opt_state.others, parts.outside(params))
        return parts.whole(inside, outside), MuonState(matrices, rest)

    return Optimizer(init, update)


class MomentState(NamedTuple):
    count: Any  # int32 [], steps taken
    mean: Any  # as params, running mean of the gradient


def _orthogonalised(learning_rate, momentum, weight_decay, eps) -> Optimizer:
    def init(params):
        for path, array in tree.flatten(params).items():
            if tree.rank(path, array) < 2:
                raise ValueError(f"muon: {path or 'the leaf'} {jnp.shape(array)} is no matrix")
        return MomentState(zero_count(), zeros(params))

    def update(grads, opt_state, params=None):
        lr, rho, strength, epsilon = (value(number, opt_state.count) for number in (learning_rate, momentum, weight_decay, eps))
        count = opt_state.count + 1
        t = count.astype(float)
        means = jax.tree.map(lambda m, g: running_mean(m, rho, g), opt_state.mean, grads)
        old, new = rho / (1 - rho ** (t + 1)), (1 - rho) / (1 - rho**t)
        ahead = jax.tree.map(lambda m, g: cast(old, m) * m + cast(new, m) * cast(g, m), means, grads)

        def direction(path, m):
            matrices = as_matrices(path, m)
            _, rows, columns = matrices.shape
            return math.sqrt(max(1, columns / max(1, rows))) * orthogonal(matrices, cast(epsilon, m)).reshape(m.shape)

        flat = tree.flatten(ahead)
        directions = jax.tree.unflatten(jax.tree.structure(ahead), [direction(path, m) for path, m in flat.items()])
        updates = jax.tree.map(lambda d: -cast(lr, d) * d, directions)
        updates = with_weights("muon", updates, params, -lr * strength, tree.is_weight)
        return jax.tree.map(cast, updates, grads), MomentState(count, means)

    return Optimizer(init, update)


def orthogonal(x, eps):
    """(..., rows, columns) -> the same:  U V', nearly, where x = U S V': the singular values come to lie between 0.5 and 1.5,
    but for those that are tiny beside |x|."""
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    x = x / (sqrt(jnp.sum(jnp.square(x), (-2, -1), keepdims=True)) + eps)
    for _ in range(5):
        gram = x @ x.mT
        # steep at 0 rather than convergent at 1; Jordan et al. 2024
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if is_tall else x

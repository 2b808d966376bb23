"""Optimizers that divide every gradient by a root of its own past squares."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn import tree
from jnn.optim.numerics import cast, running_mean, sqrt, value, with_weights, zero_count, zeros
from jnn.types import Optimizer


class SquareState(NamedTuple):
    count: Any  # int32 [], steps taken
    square: Any  # as params, sum or running mean of the squared gradient


def adagrad(learning_rate, initial_accumulator=0.1, eps=1e-7, *, eps_in_sqrt=True) -> Optimizer:
    """s = s + g^2;  u = -lr * g / sqrt(s + eps), with s = initial_accumulator at first.
    Duchi et al. 2011, "Adaptive subgradient methods for online learning and stochastic optimization", figure 1.

    eps_in_sqrt: False for u = -lr * g / (sqrt(s) + eps), with initial_accumulator=0 the form of Goodfellow et al. 2016,
        "Deep learning", algorithm 8.4."""

    def init(params):
        start = value(initial_accumulator, zero_count())
        return SquareState(zero_count(), jax.tree.map(lambda s: jnp.full_like(s, cast(start, s)), zeros(params)))

    def update(grads, opt_state, params=None):
        lr, epsilon = value(learning_rate, opt_state.count), value(eps, opt_state.count)
        square = jax.tree.map(lambda s, g: s + jnp.square(cast(g, s)), opt_state.square, grads)

        def new_update(s, g):
            root = _root(s, epsilon, eps_in_sqrt)
            # a sum of zeros has seen no gradient but 0, whatever epsilon is
            return cast(-cast(lr, s) * cast(g, s) / jnp.where(root == 0, jnp.ones_like(root), root), g)

        return jax.tree.map(new_update, square, grads), SquareState(opt_state.count + 1, square)

    return Optimizer(init, update)


def rmsprop(learning_rate, decay=0.9, eps=1e-8, *, eps_in_sqrt=True) -> Optimizer:
    """s = decay * s + (1 - decay) * g^2;  u = -lr * g / sqrt(s + eps).
    Hinton 2012, "Neural networks for machine learning", lecture 6e.

    eps_in_sqrt: False for u = -lr * g / (sqrt(s) + eps).
    With momentum: `chain(rmsprop(lr), optax.trace(0.9))`."""

    def init(params):
        return SquareState(zero_count(), zeros(params))

    def update(grads, opt_state, params=None):
        lr, fading, epsilon = (value(number, opt_state.count) for number in (learning_rate, decay, eps))
        square = jax.tree.map(lambda s, g: running_mean(s, fading, jnp.square(cast(g, s))), opt_state.square, grads)

        def new_update(s, g):
            return cast(-cast(lr, s) * cast(g, s) / _root(s, epsilon, eps_in_sqrt), g)

        return jax.tree.map(new_update, square, grads), SquareState(opt_state.count + 1, square)

    return Optimizer(init, update)


def _root(square, eps, eps_in_sqrt):
    return sqrt(square + cast(eps, square)) if eps_in_sqrt else sqrt(square) + cast(eps, square)


class AdamState(NamedTuple):
    count: Any  # int32 [], steps taken
    mean: Any  # as params, running mean of the gradient
    square: Any  # as params, running mean of the squared gradient


def adam(learning_rate, b1=0.9, b2=0.999, eps=1e-8) -> Optimizer:
    """m = b1 * m + (1 - b1) * g;  s = b2 * s + (1 - b2) * g^2;  u = -lr * m_hat / (sqrt(s_hat) + eps),
    with m_hat = m / (1 - b1^t) and s_hat = s / (1 - b2^t). Kingma & Ba 2015, algorithm 1."""
    init, wide_update = _adam(learning_rate, b1, b2, eps)

    def update(grads, opt_state, params=None):
        updates, opt_state = wide_update(grads, opt_state)
        return jax.tree.map(cast, updates, grads), opt_state

    return Optimizer(init, update)


def adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4, *, where: tree.Where | None = None) -> Optimizer:
    """u = adam's - lr * weight_decay * w. Loshchilov & Hutter 2019, "Decoupled weight decay regularization", algorithm 2.

    where: the parameters that decay, as in `jnn.tree`, `jnn.tree.is_weight` say; all of them by default."""
    init, wide_update = _adam(learning_rate, b1, b2, eps)

    def update(grads, opt_state, params=None):
        rate = value(learning_rate, opt_state.count) * value(weight_decay, opt_state.count)
        updates, opt_state = wide_update(grads, opt_state)
        updates = with_weights("adamw", updates, params, -rate, where)
        return jax.tree.map(cast, updates, grads), opt_state

    return Optimizer(init, update)


def _adam(learning_rate, b1, b2, eps) -> Optimizer:
    """adam, whose updates have the dtype of its moments"""

    def init(params):
        return AdamState(zero_count(), zeros(params), zeros(params))

    def update(grads, opt_state, params=None):
        lr, old, fading, epsilon = (value(number, opt_state.count) for number in (learning_rate, b1, b2, eps))
        count = opt_state.count + 1
        # corrects the zero start, section 3; on scalars, so that no array is divided twice
        t = count.astype(float)
        step_size = lr / (1 - old**t)
        root_scale = 1 / jnp.sqrt(1 - fading**t)

        means = jax.tree.map(lambda m, g: running_mean(m, old, g), opt_state.mean, grads)
        square = jax.tree.map(lambda s, g: running_mean(s, fading, jnp.square(cast(g, s))), opt_state.square, grads)

        def new_update(m, s):
            return -cast(step_size, m) * m / (sqrt(s) * cast(root_scale, s) + cast(epsilon, s))

        return jax.tree.map(new_update, means, square), AdamState(count, means, square)

    return Optimizer(init, update)

"""Optimizers of first order. Defaults are optax's. Every number may be a traced scalar; a learning rate may be a schedule,
a function of the step counted from 0. Moments are kept in float32 or better, updates in the parameters' dtype."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.numbers import wide
from jnn.types import Optimizer


class SgdState(NamedTuple):
    count: Any  # int32 [], steps taken


def sgd(learning_rate) -> Optimizer:
    """u = -lr * g. Robbins & Monro 1951."""

    def init(params):
        return SgdState(jnp.zeros([], jnp.int32))

    def update(grads, opt_state, params=None):
        lr = _value(learning_rate, opt_state.count)
        return jax.tree.map(lambda g: -_as(lr, g) * g, grads), SgdState(opt_state.count + 1)

    return Optimizer(init, update)


class MomentumState(NamedTuple):
    count: Any  # int32 [], steps taken
    velocity: Any  # as params


def momentum(learning_rate, momentum=0.9) -> Optimizer:
    """v = rho * v - lr * g;  u = v. Polyak 1964.

    The learning rate enters the velocity, as in the course's form. optax.sgd(lr, momentum) keeps v = rho * v + g and scales
    it afterwards: the same steps while the learning rate is constant, others when it follows a schedule."""

    def init(params):
        return MomentumState(jnp.zeros([], jnp.int32), jax.tree.map(_zeros, params))

    def update(grads, opt_state, params=None):
        lr = _value(learning_rate, opt_state.count)

        def new_velocity(v, g):
            return _as(momentum, v) * v - _as(lr, v) * g.astype(v.dtype)

        velocity = jax.tree.map(new_velocity, opt_state.velocity, grads)
        return jax.tree.map(_to_dtype, velocity, grads), MomentumState(opt_state.count + 1, velocity)

    return Optimizer(init, update)


class AdamState(NamedTuple):
    count: Any  # int32 [], steps taken
    mean: Any  # as params, running mean of the gradient
    square: Any  # as params, running mean of the squared gradient


def adam(learning_rate, b1=0.9, b2=0.999, eps=1e-8) -> Optimizer:
    """m = b1 * m + (1 - b1) * g;  s = b2 * s + (1 - b2) * g^2;  u = -lr * m_hat / (sqrt(s_hat) + eps),
    with m_hat = m / (1 - b1^t) and s_hat = s / (1 - b2^t). Kingma & Ba 2015, algorithm 1."""

    def init(params):
        return AdamState(jnp.zeros([], jnp.int32), jax.tree.map(_zeros, params), jax.tree.map(_zeros, params))

    def update(grads, opt_state, params=None):
        lr = _value(learning_rate, opt_state.count)
        count = opt_state.count + 1
        # corrects the zero start, section 3; on scalars, so that no array is divided twice
        t = count.astype(float)
        step_size = _as(lr, t) / (1 - _as(b1, t) ** t)
        root_scale = 1 / jnp.sqrt(1 - _as(b2, t) ** t)

        mean = jax.tree.map(lambda m, g: _as(b1, m) * m + (1 - _as(b1, m)) * g.astype(m.dtype), opt_state.mean, grads)
        square = jax.tree.map(
            lambda s, g: _as(b2, s) * s + (1 - _as(b2, s)) * jnp.square(g.astype(s.dtype)), opt_state.square, grads
        )

        def new_update(m, s, g):
            return (-_as(step_size, m) * m / (_sqrt(s) * _as(root_scale, s) + _as(eps, s))).astype(g.dtype)

        return jax.tree.map(new_update, mean, square, grads), AdamState(count, mean, square)

    return Optimizer(init, update)


def _value(number_or_schedule, count):
    return number_or_schedule(count) if callable(number_or_schedule) else number_or_schedule


def _as(number, like):
    return jnp.asarray(number).astype(like.dtype)


def _zeros(p):
    return jnp.zeros(p.shape, wide(p.dtype))


def _to_dtype(x, like):
    return x.astype(like.dtype)


@jax.custom_jvp
def _sqrt(x):
    return jnp.sqrt(x)


@_sqrt.defjvp
def _sqrt_jvp(primals, tangents):
    # the slope at 0 is infinite, and infinity times a zero tangent would make gradients through a whole run NaN
    (x,), (dx,) = primals, tangents
    root = jnp.sqrt(x)
    positive = root > 0
    return root, jnp.where(positive, dx / (2 * jnp.where(positive, root, jnp.ones_like(root))), jnp.zeros_like(dx))

"""Optimizers with one learning rate for all parameters, or a gain for each."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn import tree
from jnn.optim.numerics import cast, running_mean, value, with_weights, zero_count, zeros
from jnn.types import Optimizer


class SgdState(NamedTuple):
    count: Any  # int32 [], steps taken


def sgd(learning_rate) -> Optimizer:
    """u = -lr * g. Robbins & Monro 1951."""

    def init(params):
        return SgdState(zero_count())

    def update(grads, opt_state, params=None):
        lr = value(learning_rate, opt_state.count)
        return jax.tree.map(lambda g: -cast(lr, g) * g, grads), SgdState(opt_state.count + 1)

    return Optimizer(init, update)


class MomentumState(NamedTuple):
    count: Any  # int32 [], steps taken
    velocity: Any  # as params


def momentum(learning_rate, momentum=0.9) -> Optimizer:
    """v = rho * v - lr * g;  u = v. Polyak 1964.

    The learning rate enters the velocity, as in the course's form. optax.sgd(lr, momentum) keeps v = rho * v + g and scales
    it afterwards: the same steps while the learning rate is constant, others when it follows a schedule."""

    def init(params):
        return MomentumState(zero_count(), zeros(params))

    def update(grads, opt_state, params=None):
        lr, rho = value(learning_rate, opt_state.count), value(momentum, opt_state.count)
        velocity = jax.tree.map(lambda v, g: _new_velocity(v, g, lr, rho), opt_state.velocity, grads)
        return jax.tree.map(cast, velocity, grads), MomentumState(opt_state.count + 1, velocity)

    return Optimizer(init, update)


def nesterov(learning_rate, momentum=0.9) -> Optimizer:
    """v = rho * v - lr * g;  u = rho' * v - lr * g. Nesterov 1983; Sutskever et al. 2013, "On the importance of
    initialization and momentum in deep learning", eq. 3 and 4.

    They write v = rho * v - lr * gradient(x + rho * v), u = v. The parameters here are where that gradient is taken,
    y = x + rho * v: the same run with y in place of x, of one gradient where the parameters are, as every optimizer gets it.
    rho' is the momentum of the next step, with which the next gradient looks ahead. While the numbers are constant, the steps
    are those of optax.sgd(lr, momentum, nesterov=True)."""

    def init(params):
        return MomentumState(zero_count(), zeros(params))

    def update(grads, opt_state, params=None):
        count = opt_state.count
        lr, rho, next_rho = value(learning_rate, count), value(momentum, count), value(momentum, count + 1)
        velocity = jax.tree.map(lambda v, g: _new_velocity(v, g, lr, rho), opt_state.velocity, grads)
        updates = jax.tree.map(lambda v, g: cast(_new_velocity(v, g, lr, next_rho), g), velocity, grads)
        return updates, MomentumState(count + 1, velocity)

    return Optimizer(init, update)


def _new_velocity(v, g, lr, rho):
    return cast(rho, v) * v - cast(lr, v) * cast(g, v)


class DeltaBarDeltaState(NamedTuple):
    count: Any  # int32 [], steps taken
    gain: Any  # as params
    mean: Any  # as params, running mean of the gradient


def delta_bar_delta(learning_rate, increase=0.05, decrease=0.95, low=0.1, high=10.0, decay=0.0) -> Optimizer:
    """u = -lr * gain * g, with a gain for every parameter, 1 at first:
    gain + increase where g * m > 0, gain * decrease where g * m < 0, within [low, high].

    m is the running mean of the gradients before, m = decay * m + (1 - decay) * g; with decay=0 the gradient before.
    Jacobs 1988, "Increased rates of convergence through learning rate adaptation"; the numbers are Hinton's (Neural networks
    for machine learning, 2012, lecture 6d). For full batches or large ones: noise flips signs as well."""

    def init(params):
        return DeltaBarDeltaState(zero_count(), jax.tree.map(jnp.ones_like, zeros(params)), zeros(params))

    def update(grads, opt_state, params=None):
        names = (learning_rate, increase, decrease, low, high, decay)
        lr, up, down, least, most, share = (value(number, opt_state.count) for number in names)

        def new_gain(gain, m, g):
            # of the signs, as a product of small gradients would underflow
            agreement = jnp.sign(m) * jnp.sign(cast(g, m))
            gain = jnp.where(agreement > 0, gain + cast(up, m), jnp.where(agreement < 0, gain * cast(down, m), gain))
            return jnp.clip(gain, cast(least, m), cast(most, m))

        gain = jax.tree.map(new_gain, opt_state.gain, opt_state.mean, grads)
        updates = jax.tree.map(lambda gain, g: cast(-cast(lr, gain) * gain * cast(g, gain), g), gain, grads)
        means = jax.tree.map(lambda m, g: running_mean(m, share, g), opt_state.mean, grads)
        return updates, DeltaBarDeltaState(opt_state.count + 1, gain, means)

    return Optimizer(init, update)


class LionState(NamedTuple):
    count: Any  # int32 [], steps taken
    mean: Any  # as params, running mean of the gradient


def lion(learning_rate, b1=0.9, b2=0.99, weight_decay=1e-3, *, where: tree.Where | None = None) -> Optimizer:
    """u = -lr * (sign(b1 * m + (1 - b1) * g) + weight_decay * w);  m = b2 * m + (1 - b2) * g.

    where: the parameters that decay, as in `jnn.tree`, `jnn.tree.is_weight` say; all of them by default.
    Chen et al. 2023, "Symbolic discovery of optimization algorithms", algorithm 2."""

    def init(params):
        return LionState(zero_count(), zeros(params))

    def update(grads, opt_state, params=None):
        lr, old, fading, strength = (value(number, opt_state.count) for number in (learning_rate, b1, b2, weight_decay))
        updates = jax.tree.map(lambda m, g: -cast(lr, m) * jnp.sign(running_mean(m, old, g)), opt_state.mean, grads)
        updates = with_weights("lion", updates, params, -lr * strength, where)
        means = jax.tree.map(lambda m, g: running_mean(m, fading, g), opt_state.mean, grads)
        return jax.tree.map(cast, updates, grads), LionState(opt_state.count + 1, means)

    return Optimizer(init, update)

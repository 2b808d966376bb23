"""Transforms of gradients and updates, and their composition."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn import tree
from jnn.numbers import whole
from jnn.optim.matrices import as_matrices
from jnn.optim.numerics import cast, sqrt, value, widened, with_weights, zero_count, zeros
from jnn.optim.updates import call_update
from jnn.types import Optimizer, is_pair


def chain(*optimizers) -> Optimizer:
    """u = the updates of the last, each given the updates of the one before as its gradients:
    `chain(clip_by_global_norm(1.0), adam(1e-3))`.

    `value`, `grad`, `value_fn` and all else are passed on to those that take them, jnn's, optax's and any other pair; optax's
    own chain drops them for pairs that are not of its classes."""
    for i, optimizer in enumerate(optimizers):
        if not is_pair(optimizer):
            raise TypeError(f"chain: expected optimizers, pairs (init, update), got {type(optimizer).__name__} at position {i}")

    def init(params):
        return tuple(init(params) for init, _ in optimizers)

    def update(grads, opt_state, params=None, **extra):
        updates, states = grads, []
        for optimizer, state in zip(optimizers, opt_state, strict=True):
            updates, state = call_update(optimizer, updates, state, params, **extra)
            states.append(state)
        return updates, tuple(states)

    return Optimizer(init, update)


class CountState(NamedTuple):
    count: Any  # int32 [], steps taken


def clip_by_global_norm(limit) -> Optimizer:
    """u = g * min(1, limit / |g|), with |g| the norm over all gradients.
    Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", algorithm 1."""

    def transform(grads, params, count):
        most = value(limit, count)
        squares = [jnp.sum(jnp.square(widened(g))).astype(most.dtype) for g in jax.tree.leaves(grads)]
        norm = sqrt(sum(squares, jnp.zeros_like(most)))
        # so that a norm that is not a number makes all updates such, as in optax
        factor = jnp.where(norm <= most, 1.0, most / jnp.where(norm == 0, 1.0, norm))
        return jax.tree.map(lambda g: cast(widened(g) * cast(factor, widened(g)), g), grads)

    return _stateless(transform)


def clip_by_value(limit) -> Optimizer:
    """u = min(max(g, -limit), limit), entry by entry."""

    def transform(grads, params, count):
        most = value(limit, count)
        return jax.tree.map(lambda g: jnp.clip(g, -cast(most, g), cast(most, g)), grads)

    return _stateless(transform)


def weight_decay(strength, *, where: tree.Where | None = None) -> Optimizer:
    """u = g + strength * w.

    In front of an optimizer it is the gradient of a penalty strength / 2 * |w|^2; between it and its learning rate,
    `chain(optax.scale_by_adam(), weight_decay(1e-2), sgd(1e-3))`, it is decoupled, as in `adamw`.
    where: the parameters that decay, as in `jnn.tree`, `jnn.tree.is_weight` say; all of them by default."""

    def transform(grads, params, count):
        wide_grads = jax.tree.map(widened, grads)
        updates = with_weights("weight_decay", wide_grads, params, value(strength, count), where)
        return jax.tree.map(cast, updates, grads)

    return _stateless(transform)


def max_norm(limit, *, where: tree.Where = tree.is_weight) -> Optimizer:
    """u = w' - w, where w' is w + g with every unit's incoming weights scaled down to the norm `limit` if theirs is larger.

    It goes last in a chain, where g is the step to be taken: `chain(sgd(0.1), max_norm(3.0))`.
    The incoming weights of a unit: all axes but the last, of each layer of `repeat` and each piece of `maxout` (by its name in
    the path, `maxout` or `maxout_*`) on its own.
    where: the parameters projected, as in `jnn.tree`.
    Srebro & Shraibman 2005; Srivastava et al. 2014, "Dropout", section 5.1."""

    def transform(grads, params, count):
        if params is None:
            raise ValueError("max_norm: it needs the parameters, as in update(grads, opt_state, params)")
        most = value(limit, count)

        def project(path, p, g):
            w = widened(p) + cast(g, widened(p))
            norm = sqrt(jnp.sum(jnp.square(as_matrices(path, w)), -2, keepdims=True))
            is_above = norm > cast(most, norm)
            factor = jnp.where(is_above, cast(most, norm) / jnp.where(is_above, norm, 1.0), 1.0)
            scaled = (as_matrices(path, w) * factor).reshape(w.shape)
            is_above = jnp.broadcast_to(is_above, as_matrices(path, w).shape).reshape(w.shape)
            return jnp.where(is_above, cast(scaled - widened(p), g), g)

        taken, structure = jax.tree.flatten(tree.mask(params, where))
        flat = zip(tree.flatten(params).items(), structure.flatten_up_to(grads), taken, strict=True)
        return structure.unflatten([project(path, p, g) if is_taken else g for (path, p), g, is_taken in flat])

    return _stateless(transform)


def _stateless(transform) -> Optimizer:
    """transform(grads, params, count) -> updates, as an optimizer"""

    def init(params):
        return CountState(zero_count())

    def update(grads, opt_state, params=None):
        return transform(grads, params, opt_state.count), CountState(opt_state.count + 1)

    return Optimizer(init, update)


class AccumulateState(NamedTuple):
    count: Any  # int32 [], gradients in the mean
    mean: Any  # as params, mean of the gradients since the last update
    inner: Any  # the optimizer's state


def accumulate(optimizer, every: int) -> Optimizer:
    """u = 0, and at every `every`-th step the optimizer's update for the mean of the last `every` gradients.

    A batch in parts: `value`, `grad` and `value_fn`, where the optimizer takes them, are those of the last part."""
    if not is_pair(optimizer):
        raise TypeError(f"accumulate: expected an optimizer, a pair (init, update), got {type(optimizer).__name__}")
    every = whole("accumulate", "every", every)

    def init(params):
        return AccumulateState(zero_count(), zeros(params), optimizer[0](params))

    def update(grads, opt_state, params=None, **extra):
        count, mean, inner = opt_state
        share = 1 / (count + 1).astype(float)
        mean = jax.tree.map(lambda m, g: m + cast(share, m) * (cast(g, m) - m), mean, grads)

        def emit(mean, inner):
            updates, inner = call_update(optimizer, jax.tree.map(cast, mean, grads), inner, params, **extra)
            return updates, AccumulateState(zero_count(), jax.tree.map(jnp.zeros_like, mean), inner)

        def wait(mean, inner):
            return jax.tree.map(jnp.zeros_like, grads), AccumulateState(count + 1, mean, inner)

        return jax.lax.cond(count + 1 == every, emit, wait, mean, inner)

    return Optimizer(init, update)

"""Newton's method, with the Hessian and without one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jnn.numbers import whole
from jnn.optim import numerics
from jnn.optim.updates import require
from jnn.optim.vectors import along, dot, negative, where, widened, widest
from jnn.types import Optimizer

LARGEST = 10_000  # a Hessian of 400 MB
DECREASE, HALVINGS = 1e-4, 30


class NewtonState(NamedTuple):
    count: Any  # int32 [], steps taken


class NewtonCgState(NamedTuple):
    count: Any  # int32 [], steps taken
    products: Any  # int32 [], Hessian-vector products made
    trials: Any  # int32 [], values of the loss taken along the way


def newton(learning_rate=1.0, damping=0.0) -> Optimizer:
    """u = -lr * (H + damping * I)^-1 g, with H the Hessian of the loss on this batch. Nocedal & Wright 2006, section 3.3.

    For small problems: one undamped step solves a quadratic, and near a minimum each doubles the digits. Far from one H may
    not be positive definite, and u lead uphill; where H is singular u is not finite without damping.

    Needs `value_fn`, the loss as a function of the parameters, as `jnn.training` hands it over.
    Raises ValueError for more than 10,000 parameters."""

    def init(params):
        return NewtonState(numerics.zero_count())

    def update(grads, opt_state, params=None, *, value_fn=None):
        params, value_fn = require("newton", params=params, value_fn=value_fn)
        dtype = widest(params)
        point, unravel = ravel_pytree(jax.tree.map(lambda p: p.astype(dtype), params))
        gradient, _ = ravel_pytree(jax.tree.map(lambda g: g.astype(dtype), grads))
        if point.size > LARGEST:
            raise ValueError(f"newton: {point.size} parameters, and a Hessian is made of {LARGEST} at most: use newton_cg")

        def loss(vector):
            return value_fn(jax.tree.map(numerics.cast, unravel(vector), params))

        hessian = jax.hessian(loss)(point).astype(dtype)
        lr, shift = (numerics.value(number, opt_state.count).astype(dtype) for number in (learning_rate, damping))
        direction = -jnp.linalg.solve(hessian + shift * jnp.eye(point.size, dtype=dtype), gradient)
        return jax.tree.map(numerics.cast, unravel(lr * direction), grads), NewtonState(opt_state.count + 1)

    return Optimizer(init, update)


def newton_cg(learning_rate=1.0, iterations: int = 100) -> Optimizer:
    """u = t p, where p solves H p = -g to |H p + g| <= min(0.5, sqrt(|g|)) |g| by conjugate gradients on products H v of the
    Hessian of the loss on this batch: H itself is never made. Nocedal & Wright 2006, algorithm 7.1.

    Where H curves downwards along a direction of the search, p is what has been found before, or -g. t is the first of
    lr, lr / 2, lr / 4, ... with loss(params + t p) <= loss(params) + 1e-4 t g'p, or 0 where none of 30 is.

    iterations: products H v a step, at most; each costs about as much as two gradients.

    Needs `value` and `value_fn`, the loss and the loss as a function of the parameters, as `jnn.training` hands them over."""
    iterations = whole("newton_cg", "iterations", iterations)

    def init(params):
        return NewtonCgState(*(numerics.zero_count(),) * 3)

    def update(grads, opt_state, params=None, *, value=None, value_fn=None):
        params, value, value_fn = require("newton_cg", params=params, value=value, value_fn=value_fn)
        point, gradient = widened(params), widened(grads)
        dtype = widest(point)

        def loss(point):
            return value_fn(jax.tree.map(numerics.cast, point, params)).astype(dtype)

        _, product = jax.linearize(jax.grad(loss), point)
        direction, products = _conjugate_gradients(product, gradient, iterations)
        lr = numerics.value(learning_rate, opt_state.count).astype(dtype)
        slope, value = dot(gradient, direction), jnp.asarray(value).astype(dtype)

        def is_enough(step, reached):
            return reached <= value + DECREASE * step * slope

        def half(carry):
            step, _, halvings = carry
            return step / 2, loss(along(point, step / 2, direction)), halvings + 1

        step, reached, halvings = jax.lax.while_loop(
            lambda carry: ~is_enough(*carry[:2]) & (carry[2] < HALVINGS),
            half,
            (lr, loss(along(point, lr, direction)), jnp.int32(0)),
        )
        nowhere = jax.tree.map(jnp.zeros_like, point)
        ahead = where(is_enough(step, reached), along(nowhere, step, direction), nowhere)
        count, made, trials = opt_state
        after = NewtonCgState(count + 1, made + products, trials + 1 + halvings)
        return jax.tree.map(numerics.cast, ahead, grads), after

    return Optimizer(init, update)


def _conjugate_gradients(product, gradient, iterations: int):
    """p with H p = -gradient, roughly, and the number of products made."""
    square = dot(gradient, gradient)
    norm = jnp.sqrt(square)
    tolerance = jnp.minimum(0.5, jnp.sqrt(norm)) * norm

    def advance(carry):
        i, p, residual, direction, square, _ = carry
        curved = product(direction)
        curvature = dot(direction, curved)
        is_convex = curvature > 0
        alpha = square / curvature
        further, rest = along(p, alpha, direction), along(residual, alpha, curved)
        new_square = dot(rest, rest)
        p = where(is_convex, further, where(i == 0, direction, p))
        conjugate = along(negative(rest), new_square / square, direction)
        return i + 1, p, rest, conjugate, new_square, is_convex & (jnp.sqrt(new_square) > tolerance)

    start = (jnp.int32(0), jax.tree.map(jnp.zeros_like, gradient), gradient, negative(gradient), square, jnp.ones([], bool))
    count, p, *_ = jax.lax.while_loop(lambda carry: carry[-1] & (carry[0] < iterations), advance, start)
    return p, count

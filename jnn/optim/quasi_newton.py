"""L-BFGS, one evaluation of value and gradient a step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.numbers import whole
from jnn.optim import numerics
from jnn.optim.averages import instead
from jnn.optim.line_searches import LineSearch, advance, begin
from jnn.optim.updates import require
from jnn.optim.vectors import along, dot, minus, negative, where, widened, widest
from jnn.types import Optimizer


class Memory(NamedTuple):
    """The last so many pairs, the newest first."""

    moves: Any  # as params, each (memory, ...): between accepted points
    changes: Any  # as params, each (memory, ...): of the gradient between them
    weights: Any  # (memory,), 1 / <move, change>; 0 where there is no pair
    scale: Any  # [], <move, change> / <change, change> of the newest; 1 where there is none


class LbfgsState(NamedTuple):
    count: Any  # int32 [], steps taken
    origin: Any  # as params, float32 at least: the last point accepted
    gradient: Any  # as params, at the origin
    direction: Any  # as params, of the line from there
    search: LineSearch  # along it
    fresh: Any  # bool [], the value and gradient to come are those of the origin, and nothing is remembered
    memory: Memory

    def eval_params(self, params):
        """The best point so far: `params` themselves are a trial."""
        return instead(along(self.origin, self.search.best, self.direction), params)


def lbfgs(learning_rate=1.0, memory: int = 10) -> Optimizer:
    """u = x + t d - params, the next trial point on the line from the last accepted point x along d = -B g, where B is the
    BFGS approximation of the inverse Hessian from the last `memory` accepted moves. Liu & Nocedal 1989; Nocedal & Wright
    2006, algorithms 7.4 and 7.5.

    A step takes one value and one gradient, those at `params`. Where they meet the strong Wolfe conditions, `params` become
    the new x and a new line is begun; else the search goes on along the same (More & Thuente 1994). So steps, not
    iterations, are what to compare with other optimizers. A search that fails goes back to the best point, forgets the
    memory, and begins anew with steepest descent. For losses without noise: full batches, no dropout.

    learning_rate: the first trial t of a line, 1 by its theory; times min(1, 1 / |g|) where nothing is remembered.

    Needs `value`, the loss at `params`, as `jnn.training` hands it over. Judged by the best point: see `eval_params`."""
    memory = whole("lbfgs", "memory", memory)

    def init(params):
        origin = widened(params)
        zeros, zero = jax.tree.map(jnp.zeros_like, origin), jnp.zeros([], widest(origin))
        pairs = _no_pairs(origin, memory, zero.dtype)
        return LbfgsState(jnp.int32(0), origin, zeros, zeros, begin(zero, zero, zero), jnp.ones([], bool), pairs)

    def update(grads, opt_state, params=None, *, value=None):
        params, value = require("lbfgs", params=params, value=value)
        count, origin, _, direction, search, fresh, pairs = opt_state
        point, gradient = widened(params), widened(grads)
        value = jnp.asarray(value).astype(search.value.dtype)
        lr = numerics.value(learning_rate, count).astype(value.dtype)
        forgotten = _no_pairs(origin, memory, value.dtype)
        trial, accepted, failed = advance(search, value, dot(gradient, direction))

        def new_line():
            remembered = _remember(pairs, opt_state, point, gradient)
            ahead = _quasi_newton_direction(remembered, gradient)
            slope, steepest = dot(gradient, ahead), -dot(gradient, gradient)
            remembered, ahead, slope = where(
                (slope < 0) & jnp.isfinite(slope),
                (remembered, ahead, slope),
                (forgotten, negative(gradient), steepest),
            )
            unit = jnp.minimum(1, 1 / jnp.sqrt(-steepest))
            step = lr * jnp.where(remembered.weights[0] == 0, unit, jnp.ones_like(unit))
            return LbfgsState(count + 1, point, gradient, ahead, begin(value, slope, step), jnp.zeros([], bool), remembered)

        def same_line():
            nowhere = begin(*(jnp.zeros_like(value),) * 3)
            best = along(origin, trial.best, direction)
            back = opt_state._replace(origin=best, search=nowhere, fresh=jnp.ones([], bool), memory=forgotten)
            on = where(failed, back, opt_state._replace(search=trial))
            return where(fresh, opt_state, on)._replace(count=count + 1)

        # a run whose first value is not finite waits where it is: another batch may have one that is
        begins = jnp.where(fresh, jnp.isfinite(value) & jnp.isfinite(dot(gradient, gradient)), accepted)
        after = jax.lax.cond(begins, new_line, same_line)
        target = along(after.origin, after.search.step, after.direction)
        return jax.tree.map(lambda t, x, g: (t - x).astype(g.dtype), target, point, grads), after

    return Optimizer(init, update)


def _no_pairs(params, memory: int, dtype) -> Memory:
    none = jax.tree.map(lambda p: jnp.zeros((memory, *p.shape), p.dtype), params)
    return Memory(none, none, jnp.zeros(memory, dtype), jnp.ones([], dtype))


def _remember(pairs: Memory, state: LbfgsState, point, gradient) -> Memory:
    """With the move from the state's origin to `point`, unless the curvature along it is no more than rounding."""
    move, change = minus(point, state.origin), minus(gradient, state.gradient)
    curvature, square = dot(move, change), dot(change, change)
    # L-BFGS-B's rule, and nothing whose inverse overflows
    least = -jnp.finfo(curvature.dtype).eps * dot(move, state.gradient)
    useful = ~state.fresh & (curvature > least) & (jnp.minimum(curvature, square) > jnp.finfo(curvature.dtype).tiny)

    def pushed(stack, newest):
        return jnp.concatenate([newest[None], stack[:-1]])

    longer = Memory(
        jax.tree.map(pushed, pairs.moves, move),
        jax.tree.map(pushed, pairs.changes, change),
        pushed(pairs.weights, 1 / curvature),
        curvature / square,
    )
    return where(useful, longer, pairs)


def _quasi_newton_direction(pairs: Memory, gradient):
    """-B g by the two loops of Nocedal & Wright 2006, algorithm 7.4."""

    def from_newest(q, pair):
        move, change, weight = pair
        alpha = weight * dot(move, q)
        return along(q, -alpha, change), alpha

    def from_oldest(r, pair_and_alpha):
        (move, change, weight), alpha = pair_and_alpha
        return along(r, alpha - weight * dot(change, r), move), None

    stacked = (pairs.moves, pairs.changes, pairs.weights)
    q, alphas = jax.lax.scan(from_newest, gradient, stacked)
    r = jax.tree.map(lambda a: pairs.scale.astype(a.dtype) * a, q)
    r, _ = jax.lax.scan(from_oldest, r, (stacked, alphas), reverse=True)
    return negative(r)

"""Parameters that are judged in place of those that are trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.numbers import wide
from jnn.optim.numerics import cast, value, zero_count
from jnn.optim.updates import require
from jnn.types import Optimizer, PyTree


class EmaParamsState(NamedTuple):
    count: Any  # int32 [], steps taken
    mean: Any  # as params, float32 at least: the average, corrected for its zero start; the parameters before the first step

    def eval_params(self, params):
        return instead(self.mean, params)


def ema_params(decay=0.999) -> Optimizer:
    """u = u, and m = decay * m + (1 - decay) * (params + u) beside it, judged by m / (1 - decay^t): see `eval_params`.

    Goes last in a chain, so that params + u are the parameters of the next step. Polyak & Juditsky 1992; the correction of
    the zero start as in Kingma & Ba 2015, section 3."""

    def init(params):
        return EmaParamsState(zero_count(), jax.tree.map(lambda p: p.astype(wide(p.dtype)), params))

    def update(grads, opt_state, params=None):
        (params,) = require("ema_params", params=params)
        count = opt_state.count + 1
        kept = value(decay, opt_state.count)
        # the share of the newest in the corrected average: 1 at the first step
        share = (1 - kept) / (1 - kept ** count.astype(float))

        def new_mean(m, p, u):
            return m + cast(share, m) * (cast(p + u, m) - m)

        return grads, EmaParamsState(count, jax.tree.map(new_mean, opt_state.mean, params, grads))

    return Optimizer(init, update)


def eval_params(opt_state: PyTree, params: PyTree) -> PyTree:
    """The parameters to judge a model by, given an optimizer's state and the parameters that it trains: those of `ema_params`,
    `lbfgs`, optax.contrib's schedule-free, wherever they stand in a chain or a wrapper; else `params` as they are.

    A state of your own has a say if it is a NamedTuple or a dataclass with a method `eval_params(params) -> params`. An
    optimizer of a part of the parameters replaces that part. What comes later in a chain goes by what comes before."""
    for node in jax.tree.leaves(opt_state, is_leaf=_replaces):
        if _is_schedule_free(node):
            params = _schedule_free(node, params)
        elif _replaces(node):
            params = node.eval_params(params)
    return params


def instead(held: PyTree, params: PyTree) -> PyTree:
    """`held` in the dtypes of `params`, and `params` where it has None or an optax.MaskedNode in place of a branch."""
    return _over_held(lambda h, p: h.astype(p.dtype), held, params)


def judges_by_others(opt_state: PyTree) -> bool:
    """Whether `eval_params` may return other parameters than it is given."""
    return any(map(_replaces, jax.tree.leaves(opt_state, is_leaf=_replaces)))


def _replaces(node) -> bool:
    return _is_schedule_free(node) or callable(getattr(node, "eval_params", None))


def _is_schedule_free(node) -> bool:
    return type(node).__name__ == "ScheduleFreeState"  # optax.contrib's, without importing it


def _schedule_free(state, params):
    """x = (y - (1 - b1) z) / b1. Defazio et al. 2024, equation 3."""

    def average(z, y):
        b1 = jnp.asarray(state.b1).astype(y.dtype)
        return (y - (1 - b1) * z.astype(y.dtype)) / b1

    return _over_held(average, state.z, params)


def _over_held(function, held, params):
    def is_missing(node):
        return node is None or type(node).__name__ == "MaskedNode"

    return jax.tree.map(lambda h, p: p if is_missing(h) else function(h, p), held, params, is_leaf=is_missing)

"""Training a part of the parameters."""

import jax
import jax.numpy as jnp

from jnn import tree
from jnn.optim.parts import Parts
from jnn.optim.updates import call_update
from jnn.types import Optimizer, is_pair


def freeze(optimizer, where: tree.Where) -> Optimizer:
    """u = 0 where `where` takes the parameter, and what `optimizer` says elsewhere: `freeze(adamw(1e-3), "encoder")`.

    optimizer: it sees the other parameters only, so that nothing decays what is frozen, no norm counts it, and no moments
        are kept for it. `grad` and `value_fn`, where it takes them, are restricted to its part likewise.
    where: patterns of paths, or a function (path, array) -> bool, as in `jnn.tree`; it may read an array's shape and dtype.

    Raises ValueError when nothing is frozen, or nothing left to train.
    """
    if not is_pair(optimizer):
        raise TypeError(f"freeze: expected an optimizer, a pair (init, update), got {type(optimizer).__name__}")

    def parts_of(params):
        parts = Parts(params, where)
        if not any(parts.taken):
            raise ValueError("freeze: where takes none of the parameters, so nothing would be frozen")
        if all(parts.taken):
            raise ValueError(f"freeze: where takes all {len(parts.taken)} parameters, so nothing would be trained")
        return parts

    def init(params):
        return optimizer[0](parts_of(params).outside(params))

    def update(grads, opt_state, params=None, **extra):
        parts = parts_of(grads if params is None else params)

        def of_the_rest(value_fn):
            return lambda trained, *args, **kwargs: value_fn(parts.whole(params, trained), *args, **kwargs)

        for name, value in extra.items():
            if name == "value_fn" and params is not None:
                extra[name] = of_the_rest(value)
            elif jax.tree.structure(value) == parts.structure:
                extra[name] = parts.outside(value)
        part = None if params is None else parts.outside(params)
        updates, opt_state = call_update(optimizer, parts.outside(grads), opt_state, part, **extra)
        still = jax.tree.map(jnp.zeros_like, grads if params is None else params)
        return parts.whole(still, updates), opt_state

    return Optimizer(init, update)

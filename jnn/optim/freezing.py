"""Training a part of the parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jnn import tree
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

    def init(params):
        return optimizer[0](_Parts(params, where).trained(params))

    def update(grads, opt_state, params=None, **extra):
        parts = _Parts(grads if params is None else params, where)
        for name, value in extra.items():
            if name == "value_fn" and params is not None:
                extra[name] = parts.restrict(value, params)
            elif jax.tree.structure(value) == parts.structure:
                extra[name] = parts.trained(value)
        part = None if params is None else parts.trained(params)
        updates, opt_state = call_update(optimizer, parts.trained(grads), opt_state, part, **extra)
        still = jax.tree.map(jnp.zeros_like, grads if params is None else params)
        return parts.whole(updates, still), opt_state

    return Optimizer(init, update)


class _Parts:
    """A tree of parameters in two. None stands where an array is left out: for jax, no array at all."""

    def __init__(self, params, where):
        mask = tree.mask(params, where)
        self.frozen, self.structure = jax.tree.flatten(mask)
        if not any(self.frozen):
            raise ValueError("freeze: where takes none of the parameters, so nothing would be frozen")
        if all(self.frozen):
            raise ValueError(f"freeze: where takes all {len(self.frozen)} parameters, so nothing would be trained")

    def trained(self, params):
        leaves = self.structure.flatten_up_to(params)
        return self.structure.unflatten([None if f else leaf for leaf, f in zip(leaves, self.frozen, strict=True)])

    def whole(self, trained, rest):
        """`trained` with the arrays of `rest` in its gaps"""
        moving = iter(jax.tree.leaves(trained))
        leaves = self.structure.flatten_up_to(rest)
        return self.structure.unflatten([leaf if f else next(moving) for leaf, f in zip(leaves, self.frozen, strict=True)])

    def restrict(self, value_fn: Callable, params) -> Callable:
        return lambda trained, *args, **kwargs: value_fn(self.whole(trained, params), *args, **kwargs)

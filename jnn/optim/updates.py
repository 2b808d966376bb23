"""Calling an optimizer, and adding what it returns."""

import inspect

import jax
import jax.numpy as jnp

from jnn.types import PyTree


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """params + updates, leaf by leaf.

    Raises ValueError, naming the first bad leaf, when the trees, the shapes or the dtypes differ: a broadcast would change
    the parameters' shapes in silence."""
    problem = difference(params, updates, "parameters", "updates")
    if problem:
        raise ValueError(f"apply_updates: {problem}")
    return jax.tree.map(lambda p, u: p + u, params, updates)


def difference(expected: PyTree, given: PyTree, expected_name: str, given_name: str) -> str | None:
    """Where two trees of arrays first differ in structure, shape or dtype, in words; None where they agree."""
    expected_leaves, expected_tree = jax.tree_util.tree_flatten_with_path(expected)
    given_leaves, given_tree = jax.tree_util.tree_flatten_with_path(given)
    if expected_tree != given_tree:
        paths, given_paths = ({_path(path) for path, _ in leaves} for leaves in (expected_leaves, given_leaves))
        missing, added = sorted(paths - given_paths), sorted(given_paths - paths)
        details = [f"{word} {', '.join(some)}" for word, some in (("without", missing), ("with", added)) if some]
        return f"{given_name} have another structure than the {expected_name} ({', '.join(details) or given_tree})"
    for (path, a), (_, b) in zip(expected_leaves, given_leaves, strict=True):
        a, b = (f"{jnp.result_type(leaf)} {jnp.shape(leaf)}" for leaf in (a, b))
        if a != b:
            return f"{_path(path)}: {expected_name} are {a}, {given_name} are {b}"
    return None


def call_update(optimizer, grads, opt_state, params, **extra):
    """optimizer.update with those of `extra` that it takes, by signature, under the dtype promotion that optax needs."""
    _, update = optimizer
    parameters = inspect.signature(update).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    taken = {name: value for name, value in extra.items() if takes_all or name in parameters}
    with jax.numpy_dtype_promotion("standard"):  # optax computes decay ** int32
        return update(grads, opt_state, params, **taken)


def require(owner: str, **needed) -> tuple:
    """Those arguments of an update, in order. Raises ValueError for one that is None."""
    for name, value in needed.items():
        if value is None:
            from_step = "which jnn.training hands over; optax.chain and optax's wrappers drop it: use jnn.optim.chain"
            raise ValueError(f"{owner}: update needs {name}" + ("" if name == "params" else f", {from_step}"))
    return tuple(needed.values())


def _path(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/") or "the leaf"

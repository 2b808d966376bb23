"""What a layer asks of its arguments before it computes, each in a sentence with the numbers."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jnn.errors import LayerError
from jnn.numbers import shown
from jnn.types import Graph


def keys_for(kind: str, key, n: int):
    """n keys to draw initial parameters from."""
    if key is None:
        raise LayerError(kind, "init needs a key")
    return jax.random.split(key, n)


def require_initializers(kind: str, **functions) -> None:
    """Raises TypeError for what cannot be called."""
    for name, value in functions.items():
        if not callable(value):
            raise TypeError(f"{kind}: {name} must be a function (key, shape, dtype) -> array, got {shown(value)}")


def require_array(kind: str, x, form: str, least: int = 1) -> None:
    """Raises unless x is an array of at least `least` axes; `form` says which: "(..., in)"."""
    if not (hasattr(x, "ndim") and hasattr(x, "dtype")):
        raise LayerError(kind, f"expected an array {form}, got {describe(x)}")
    if x.ndim < least:
        raise LayerError(kind, f"expected an array {form}, got {x.dtype} {x.shape}")


def require_floating(kind: str, x, form: str, least: int = 1) -> None:
    """Raises unless x is a floating-point array of at least `least` axes."""
    require_array(kind, x, form, 0)
    if x.ndim < least or not jnp.issubdtype(x.dtype, jnp.floating):
        raise LayerError(kind, f"expected floating-point input {form}, got {x.dtype} {x.shape}")


def require_width(kind: str, x, width: int) -> None:
    """Raises unless the last axis of x has `width` entries."""
    if not hasattr(x, "shape"):
        raise LayerError(kind, f"expected {width} features in the last axis, got {describe(x)}")
    if x.shape[-1:] != (width,):
        raise LayerError(kind, f"expected {width} features in the last axis, got {x.shape}")


def require_dtype(kind: str, x, dtype) -> None:
    """Raises unless x has the dtype of the parameters: nothing is promoted in silence."""
    if x.dtype != dtype:
        raise LayerError(kind, f"expected {dtype} input, as the parameters are, got {x.dtype}: cast one of them")


def taken(kind: str, params, *names: str) -> list:
    """The parameters called so, in this order. Raises where the tree is another."""
    return _taken(kind, "parameters", params, names)


def taken_state(kind: str, state, *names: str) -> list:
    """The entries of a state called so, in this order. Raises where the tree is another."""
    return _taken(kind, "state", state, names)


def _taken(kind, what, tree, names):
    if not isinstance(tree, Mapping) or set(tree) != set(names):
        got = (sorted(map(str, tree)) or "none") if isinstance(tree, Mapping) else type(tree).__name__
        wanted = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        raise LayerError(kind, f"expected {what} {wanted}, got {got}")
    return [tree[name] for name in names]


def require_shapes(kind: str, tree, **shapes) -> None:
    """Raises unless each entry of a tree has its shape; where that has a name for a number ("in"), any number will do."""
    for name, array in tree.items():
        shape, got = shapes[name], getattr(array, "shape", ())
        if len(got) != len(shape) or any(n != m for n, m in zip(got, shape, strict=True) if not isinstance(m, str)):
            wanted = ", ".join(map(str, shape)) + "," * (len(shape) == 1)
            raise LayerError(kind, f"expected {name} ({wanted}), got {got if hasattr(array, 'shape') else describe(array)}")


def describe(x) -> str:
    """What x is, in a few words: never the numbers of an array."""
    if isinstance(x, Graph):
        return "a Graph: on_nodes(layer) applies a layer to its nodes"
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype} {x.shape}"
    if isinstance(x, tuple | list) and not hasattr(x, "_fields"):
        return f"a {type(x).__name__} of {len(x)}"
    return f"a {type(x).__name__}" if isinstance(x, Mapping) or hasattr(x, "_fields") else f"{type(x).__name__} {x!r}"[:80]

"""Numbers as arguments: whole ones that fix a structure, and the dtype in which real ones are computed."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def whole(owner: str, name: str, value, least: int = 1) -> int:
    """`value` as a Python integer of at least `least`. Raises TypeError or ValueError that begins with the owner."""
    try:
        number = operator.index(value)
    except TypeError:
        got = f"{value.dtype} {value.shape}" if hasattr(value, "shape") else repr(value)
        hint = f"; to be a layer, {owner} must be called first, as in {owner}({least})" if hasattr(value, "shape") else ""
        raise TypeError(f"{owner}: {name} must be a whole number, got {got}{hint}") from None
    if number < least:
        raise ValueError(f"{owner}: {name} must be at least {least}, got {number}")
    return number


def wholes(owner: str, name: str, values) -> tuple[int, ...]:
    """`values`, any number of them, as such integers."""
    try:
        values = tuple(values)
    except TypeError:
        raise TypeError(f"{owner}: {name} must be a sequence of whole numbers, as ({values!r},) is, got {values!r}") from None
    return tuple(whole(owner, name, value) for value in values)


def require_share(owner: str, what: str, value) -> None:
    """Raises ValueError unless `value` is one number in [0, 1]; of a traced one only the shape is known."""
    is_number = isinstance(value, int | float | np.number | np.ndarray | jax.Array) and np.shape(value) == ()
    if not is_number or not (isinstance(value, Tracer) or 0 <= np.asarray(value) <= 1):
        raise ValueError(f"{owner}: {what} and lies in [0, 1], got {value}")


def is_by_index(owner: str, prediction, target) -> bool:
    """Whether a target is integers (...), True, or probabilities (..., classes). Raises ValueError where it does not fit the
    logits (..., classes). By the dtype and not by the rank: a column of integers is not one-hot."""
    by_index = jnp.issubdtype(target.dtype, jnp.integer)
    if target.shape != (prediction.shape[:-1] if by_index else prediction.shape):
        raise ValueError(
            f"{owner}: logits {prediction.shape} want integer targets of shape {prediction.shape[:-1]} "
            f"or probabilities of shape {prediction.shape}, got {target.dtype} {target.shape}"
        )
    return by_index


def wide(dtype):
    """The dtype in which sums, losses and moments of `dtype` are kept: itself, but float32 at least."""
    # jnp.promote_types refuses under strict promotion
    return dtype if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)

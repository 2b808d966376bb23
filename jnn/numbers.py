"""Numbers as arguments: whole ones that fix a structure, and the dtype in which real ones are computed."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

LARGEST = 2**31 - 1  # of int32, which places in arrays and steps are counted in


def whole(owner: str, name: str, value, least: int = 1, most: int = LARGEST) -> int:
    """`value` as a Python integer from `least` to `most`. Raises TypeError or ValueError that begins with the owner."""
    try:
        number = operator.index(value)
    except TypeError:
        got = f"{value.dtype} {value.shape}" if hasattr(value, "shape") else shown(value)
        hint = f"; to be a layer, {owner} must be called first, as in {owner}({least})" if hasattr(value, "shape") else ""
        raise TypeError(f"{owner}: {name} must be a whole number, got {got}{hint}") from None
    if number < least:
        raise ValueError(f"{owner}: {name} must be at least {least}, got {shown(number)}")
    if number > most:
        raise ValueError(f"{owner}: {name} must be at most {most}, got {shown(number)}")
    return number


def wholes(owner: str, name: str, values) -> tuple[int, ...]:
    """`values`, any number of them, as such integers."""
    try:
        values = tuple(values)
    except TypeError:
        got = shown(values)
        raise TypeError(f"{owner}: {name} must be a sequence of whole numbers, as ({got},) is, got {got}") from None
    return tuple(whole(owner, name, value) for value in values)


def require_share(owner: str, what: str, value) -> None:
    """Raises ValueError unless `value` is one number in [0, 1]; of a traced one only shape and dtype are known."""
    if not is_between(value, 0, 1):
        raise ValueError(f"{owner}: {what} and lies in [0, 1], got {shown(value, str)}")


def require_not_negative(owner: str, name: str, value) -> None:
    """Raises ValueError unless `value` is one finite number, 0 or more; of a traced one only shape and dtype are known."""
    if not is_between(value, 0, float(jnp.finfo(jnp.float32).max)):
        raise ValueError(f"{owner}: {name} must be one finite number, 0 or more, got {shown(value)}")


def is_between(value, low, high) -> bool:
    """Whether `value` is one real number between two; of a traced one only shape and dtype are known."""
    return is_real(value) and (isinstance(value, Tracer) or low <= np.asarray(value).item() <= high)


def is_real(value) -> bool:
    """Whether `value` is one real number, Python's, numpy's or jax's, known or traced."""
    if not isinstance(value, np.number | np.ndarray | jax.Array):
        return isinstance(value, int | float)
    return not value.shape and any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer))


def shown(value, form: Callable[[Any], str] = repr) -> str:
    """`value` in a message, cut where it is long."""
    try:
        text = form(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def require_bool(owner: str, **values) -> None:
    """Raises TypeError for what is neither True nor False."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{owner}: {name} must be True or False, got {shown(value)}")


def require_one_of(owner: str, name: str, value, *names: str) -> None:
    """Raises ValueError unless `value` is one of the names."""
    if not isinstance(value, str) or value not in names:
        *first, last = map(repr, names)
        raise ValueError(f"{owner}: {name} must be {', '.join(first)} or {last}, got {shown(value)}")


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

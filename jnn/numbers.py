"""Numbers as arguments: whole ones that fix a structure, and the dtype in which real ones are computed."""

import operator

import jax.numpy as jnp


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


def wide(dtype):
    """The dtype in which sums, losses and moments of `dtype` are kept: itself, but float32 at least."""
    # jnp.promote_types refuses under strict promotion
    return dtype if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)

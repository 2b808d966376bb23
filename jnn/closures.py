"""What a function closes over."""

import functools
from collections.abc import Mapping
from typing import Any

from jax.core import Tracer


def holds_tracer(value: Any) -> bool:
    """Whether a function, or a tuple, dict or partial of such, closes over a traced array.

    A jitted function keeps its static arguments: given such a one, it would keep the tracer beyond its trace."""
    seen: set[int] = set()

    def search(value) -> bool:
        if isinstance(value, Tracer):
            return True
        if id(value) in seen:
            return False
        seen.add(id(value))
        if isinstance(value, tuple | list):
            return any(map(search, value))
        if isinstance(value, Mapping):
            return any(map(search, value.values()))
        if isinstance(value, functools.partial):
            return search((value.func, value.args, value.keywords))
        cells = getattr(value, "__closure__", None) or ()
        return any(search(cell.cell_contents) for cell in cells if _filled(cell)) or search(
            getattr(value, "__defaults__", None)
        )

    return search(value)


def _filled(cell) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is not bound yet
        return False

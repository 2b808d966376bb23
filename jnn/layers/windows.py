"""Windows that slide along the spatial axes: what convolutions and pools have in common."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jnn.errors import LayerError
from jnn.layers.checks import require_array
from jnn.numbers import whole

AXES = {1: ("time",), 2: ("height", "width"), 3: ("depth", "height", "width")}

Pairs = tuple[tuple[int, int], ...]
Padding = str | int | Sequence[Sequence[int]]


class Window(NamedTuple):
    """A window and how it moves: one entry per spatial axis."""

    kind: str  # the factory that it belongs to
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str | Pairs

    @property
    def extent(self) -> tuple[int, ...]:
        """What it spans of the input, dilated."""
        return tuple((size - 1) * dilation + 1 for size, dilation in zip(self.size, self.dilation, strict=True))

    def pads(self, x) -> Pairs:
        """The padding (low, high) of each spatial axis of x. Raises LayerError where the window does not fit x."""
        axes = len(self.size)
        if self.padding == "SAME":
            require_spatial(self.kind, x, (1,) * axes)
            each = zip(x.shape[-1 - axes : -1], self.extent, self.stride, strict=True)
            totals = [max((-(-n // stride) - 1) * stride + extent - n, 0) for n, extent, stride in each]
            return tuple((total // 2, total - total // 2) for total in totals)
        pads = ((0, 0),) * axes if isinstance(self.padding, str) else self.padding
        require_spatial(self.kind, x, tuple(max(1, e - sum(pad)) for e, pad in zip(self.extent, pads, strict=True)))
        return pads


def window_of(kind: str, size: Any, stride: Any, padding: Any, dilation: Any = 1) -> Window:
    """A Window from what a user writes. Raises TypeError or ValueError for what is none."""
    if not isinstance(size, tuple | list):
        size = (whole(kind, "window", size),) * 2
    if len(size) not in AXES:
        raise ValueError(f"{kind}: window must have 1, 2 or 3 entries, one per spatial axis, got {size}")
    size = per_axis(kind, "window", size, len(size))
    stride = per_axis(kind, "stride", stride, len(size))
    dilation = per_axis(kind, "dilation", dilation, len(size))
    return Window(kind, size, stride, dilation, _padding(kind, padding, len(size)))


def per_axis(kind: str, name: str, value, axes: int) -> tuple[int, ...]:
    """A whole number for every spatial axis, or one for each."""
    if not isinstance(value, tuple | list):
        return (whole(kind, name, value),) * axes
    if len(value) != axes:
        raise ValueError(f"{kind}: {name} must be a whole number or {axes} of them, one per spatial axis, got {value}")
    return tuple(whole(kind, name, entry) for entry in value)


def _padding(kind, padding, axes) -> str | Pairs:
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        return padding
    pairs = isinstance(padding, tuple | list)
    if isinstance(padding, str) or (
        pairs and not (len(padding) == axes and all(isinstance(pad, tuple | list) and len(pad) == 2 for pad in padding))
    ):
        raise ValueError(
            f'{kind}: padding must be "SAME", "VALID", a whole number, or a pair (low, high) for each of '
            f"{axes} spatial axes, got {padding!r}"
        )
    if not pairs:
        return ((whole(kind, "padding", padding, 0),) * 2,) * axes
    return tuple((whole(kind, "padding", low, 0), whole(kind, "padding", high, 0)) for low, high in padding)


def form(axes: int) -> str:
    return f"(..., {', '.join(AXES[axes])}, channel)"


def require_spatial(kind: str, x, least: tuple[int, ...]) -> None:
    """Raises unless x is a floating-point array with a channel axis and, before it, spatial ones of at least these sizes."""
    axes = len(least)
    require_array(kind, x, form(axes), axes + 1)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise LayerError(
            kind, f"expected floating-point input {form(axes)}, got {x.dtype} {x.shape}: cast it, as in x.astype(jnp.float32)"
        )
    if any(n < m for n, m in zip(x.shape[-1 - axes : -1], least, strict=True)):
        *first, last = AXES[axes]
        names = " and ".join(filter(None, [", ".join(first), last]))
        raise LayerError(kind, f"expected at least {' x '.join(map(str, least))} in {names}, got {x.shape}")


def as_batch(x, axes: int):
    """x with its leading axes as one: (batch, *spatial, channel)."""
    lead = x.ndim - axes - 1
    return x.reshape(math.prod(x.shape[:lead]), *x.shape[lead:])

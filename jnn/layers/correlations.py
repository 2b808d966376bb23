"""The product that convolutions are made of, and its two derivatives, each in the form that is quickest where it runs.

    y[o] = sum_k x[o * stride + k * dilation - low] @ w[k]

is linear in x and in w, so its derivatives are products of the same kind: of dy and w (mirrored) for x, of x and dy for w.
They are three primitives here, each with the other two as its derivatives, in forward and in reverse mode, to any order.

Everywhere but on a CPU they are XLA's convolution with jax's own derivatives, and its grouped convolution under `vmap`. On a
CPU they differ, as XLA there has one quick kernel, for a plain (batch, *spatial, in) by (*window, in, out), and finds it in
jax's derivatives only outside of loops: inside a `lax.scan`, the body of every compiled training run, they were up to 80
times slower. So each is written as that plain product, with the operands laid out beforehand. A grouped convolution is not
quick either: under `vmap`, operands with one w each are multiplied one after another.
"""

import math
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching, mlir

from jnn.numbers import wide

# of input, w and output, by the number of spatial axes
_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


CORRELATE = "correlate"  # the primitive's name


class Slide(NamedTuple):
    """How the window moves: whole numbers, one (of `pads` a pair) for each spatial axis."""

    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]  # zeros around x; where negative, what is cut off
    spread: tuple[int, ...]  # the distance of the entries of x, with zeros between
    dilation: tuple[int, ...]  # the distance of the window's entries
    groups: int
    precision: Any = None  # of the products, as lax takes it


def correlate(x, w, slide: Slide):
    """(batch, *spatial, in), (*window, in / groups, out) -> (batch, *spatial', out). One dtype."""
    # read here, as a primitive's program is made when the context that set it has ended
    slide = slide._replace(precision=getattr(jax.config, "jax_default_matmul_precision"))  # noqa: B009  pyright knows no such name
    if jax.sharding.get_abstract_mesh().explicit_axes:
        return _y(x, w, slide, None)  # whose derivatives know how their results are sharded
    return _products().y(x, w, slide, lanes=False)


def _alike(a, b):
    """Both, varying over the same axes inside a `shard_map`, where a product of the two is asked for that."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return a, b
    return a + jnp.sum(b[:0]), b + jnp.sum(a[:0])


# The three products as jax has them. `size` is that of the result's spatial axes, where its operands do not tell.


def _y(x, w, slide, size):
    return lax.conv_general_dilated(
        x,
        w,
        slide.stride,
        slide.pads,
        lhs_dilation=slide.spread,
        rhs_dilation=slide.dilation,
        dimension_numbers=_LAYOUTS[len(slide.stride)],
        feature_group_count=slide.groups,
        precision=slide.precision,
    )


def _dx(dy, w, slide, size):
    x = jax.ShapeDtypeStruct((dy.shape[0], *size, w.shape[-2] * slide.groups), dy.dtype)
    return jax.linear_transpose(lambda x: _y(x, w, slide, None), x)(dy)[0]


def _dw(x, dy, slide, size):
    w = jax.ShapeDtypeStruct((*size, x.shape[-1] // slide.groups, dy.shape[-1]), dy.dtype)
    return jax.linear_transpose(lambda w: _y(x, w, slide, None), w)(dy)[0]


# The same for a CPU.


def _cpu_y(x, w, slide, size):
    dense = _is_dense(slide, w.shape[:-2])
    return jnp.matmul(x, w.reshape(w.shape[-2:]), precision=slide.precision) if dense else _y(x, w, slide, size)


def _cpu_dx(dy, w, slide, size):
    axes = range(len(size))
    if _is_dense(slide, w.shape[:-2]):
        return jnp.matmul(dy, w.reshape(w.shape[-2:]).T, precision=slide.precision)
    ins, outs = w.shape[-2], w.shape[-1] // slide.groups
    mirrored = jnp.flip(w, axes).reshape(*w.shape[:-1], slide.groups, outs)
    mirrored = jnp.moveaxis(mirrored, -3, -1).swapaxes(-2, -3).reshape(*w.shape[:-2], outs, slide.groups * ins)
    pads = []
    for i in axes:
        extent = (w.shape[i] - 1) * slide.dilation[i] + 1
        low = extent - 1 - slide.pads[i][0]
        pads.append((low, (size[i] - 1) * slide.spread[i] + extent - (dy.shape[1 + i] - 1) * slide.stride[i] - 1 - low))
    back = Slide(slide.spread, tuple(pads), slide.stride, slide.dilation, slide.groups, slide.precision)
    return _y(dy, mirrored, back, None)


def _cpu_dw(x, dy, slide, size):
    if _is_dense(slide, size):
        dw = jnp.matmul(x.reshape(-1, x.shape[-1]).T, dy.reshape(-1, dy.shape[-1]), precision=slide.precision)
        return dw.reshape(*size, *dw.shape)
    axes = range(len(size))
    pads = []
    for i in axes:
        span, low = (x.shape[1 + i] - 1) * slide.spread[i] + 1, slide.pads[i][0]
        pads.append((low, (size[i] - 1) * slide.dilation[i] + (dy.shape[1 + i] - 1) * slide.stride[i] + 1 - span - low))

    def part(x, dy):
        # the batch is summed over, as channels are, and every place of dy is one of the window
        return lax.conv_general_dilated(
            jnp.swapaxes(x, 0, -1),
            jnp.moveaxis(dy, 0, -2),
            slide.dilation,
            pads,
            lhs_dilation=slide.spread,
            rhs_dilation=slide.stride,
            dimension_numbers=_LAYOUTS[len(size)],
            batch_group_count=slide.groups,
            precision=slide.precision,
            preferred_element_type=wide(x.dtype),
        )

    # some examples at a time, which the processor's cache holds: three times as quick where pictures are large
    examples, itemsize = x.shape[0], x.dtype.itemsize
    example_bytes = itemsize * (math.prod(x.shape[1:]) + math.prod(dy.shape[1:]))
    w_bytes = itemsize * math.prod(size) * x.shape[-1] // slide.groups * dy.shape[-1]
    count = max(max(_CACHE, w_bytes) // example_bytes, 1)
    if count >= examples:
        dw = part(x, dy)
    else:
        whole = examples // count * count
        cut = [a[:whole].reshape(-1, count, *a.shape[1:]) for a in (x, dy)]
        start = part(x[whole:], dy[whole:]) if whole < examples else part(cut[0][0], cut[1][0])
        rest = cut if whole < examples else [a[1:] for a in cut]
        dw, _ = lax.scan(lambda dw, some: (dw + part(*some), None), start, rest)
    return jnp.moveaxis(dw, 0, -2).astype(x.dtype)


_CACHE = 2**20  # bytes, less than a core's own on most processors


def _is_dense(slide, window) -> bool:
    """Whether it is one matrix product."""
    ones = (1,) * len(window)
    return (slide.stride, slide.spread, window, slide.groups) == (ones, ones, ones, 1) and not any(map(any, slide.pads))


def _lanes_cpu(function):
    return lambda a, b, **how: lax.map(lambda pair: function(*pair, **how), (a, b))


def _lanes(function):
    return lambda a, b, **how: jax.vmap(partial(function, **how))(a, b)


def _primitive(name, plain, cpu):
    from jax.extend.core import Primitive

    primitive = Primitive(name)

    def everywhere(a, b, *, lanes, **how):
        return (_lanes(plain) if lanes else plain)(a, b, **how)

    def on_cpu(a, b, *, lanes, **how):
        form = cpu if a.size and b.size else plain
        return (_lanes_cpu(form) if lanes else form)(a, b, **how)

    def abstract(a, b, **how):
        (out,) = jax.make_jaxpr(partial(everywhere, **how))(a, b).out_avals
        # what varies in a `shard_map` is known of the operands only
        return a.update(shape=out.shape, dtype=out.dtype, weak_type=out.weak_type, sharding=out.sharding)

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("slide", "size", "lanes")))
    mlir.register_lowering(primitive, mlir.lower_fun(everywhere, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
    batching.primitive_batchers[primitive] = partial(_batch, primitive)
    return primitive


def _batch(primitive, operands, axes, *, lanes, **how):
    """What is mapped becomes more examples, or more features of the output, where the other operand is the same for all; else
    more lanes."""
    (a, b), (a_axis, b_axis) = operands, axes
    if not lanes and b_axis is None and primitive is not _products().to_w:
        a = jnp.moveaxis(a, a_axis, 0)
        out = primitive.bind(a.reshape(math.prod(a.shape[:2]), *a.shape[2:]), b, lanes=False, **how)
        return out.reshape(*a.shape[:2], *out.shape[1:]), 0
    if not lanes and a_axis is None and primitive is not _products().to_x and how["slide"].groups == 1:
        assert b_axis is not None  # one of them is mapped
        b = jnp.moveaxis(b, b_axis, -2)
        out = primitive.bind(a, b.reshape(*b.shape[:-2], math.prod(b.shape[-2:])), lanes=False, **how)
        return out.reshape(*out.shape[:-1], *b.shape[-2:]), out.ndim - 1
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)

    def in_front(x, axis):
        x = jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        return x.reshape(math.prod(x.shape[:2]), *x.shape[2:]) if lanes else x

    out = primitive.bind(in_front(a, a_axis), in_front(b, b_axis), lanes=True, **how)
    return out.reshape(size, out.shape[0] // max(size, 1), *out.shape[1:]) if lanes else out, 0


def _spatial(like, lanes):
    return like.aval.shape[1 + lanes : -1]


def _window(like, lanes):
    return like.aval.shape[lanes:-2]


class _Products(NamedTuple):
    """The three primitives."""

    to_y: Any
    to_x: Any
    to_w: Any

    def y(self, x, w, slide, lanes):
        return self.to_y.bind(*_alike(x, w), slide=slide, size=None, lanes=lanes)

    def x(self, dy, w, x, slide, lanes):
        return self.to_x.bind(*_alike(dy, w), slide=slide, size=_spatial(x, lanes), lanes=lanes)

    def w(self, x, dy, w, slide, lanes):
        return self.to_w.bind(*_alike(x, dy), slide=slide, size=_window(w, lanes), lanes=lanes)


@cache
def _products() -> _Products:
    """Made when first used: jax.extend takes as long to import as half of jnn."""
    of = _Products(
        _primitive(CORRELATE, _y, _cpu_y),
        _primitive("correlate_to_x", _dx, _cpu_dx),
        _primitive("correlate_to_w", _dw, _cpu_dw),
    )
    # the derivative by one operand, of what is linear in each, is the product with the other taken backwards
    ad.defbilinear(
        of.to_y,
        lambda dy, x, w, *, slide, size, lanes: of.x(dy, w, x, slide, lanes),
        lambda dy, x, w, *, slide, size, lanes: of.w(x, dy, w, slide, lanes),
    )
    ad.defbilinear(
        of.to_x,
        lambda x, dy, w, *, slide, size, lanes: of.y(x, w, slide, lanes),
        lambda x, dy, w, *, slide, size, lanes: of.w(x, dy, w, slide, lanes),
    )
    ad.defbilinear(
        of.to_w,
        lambda w, x, dy, *, slide, size, lanes: of.x(dy, w, x, slide, lanes),
        lambda w, x, dy, *, slide, size, lanes: of.y(x, w, slide, lanes),
    )
    return of

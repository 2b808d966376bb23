"""Analytic gradients against numerical ones."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn.numbers import whole


class GradientEntry(NamedTuple):
    """One entry of a gradient, from both sides."""

    path: str  # of the array, from the arguments: "0/dense_0/w"
    index: tuple[int, ...]
    analytic: float
    numerical: float
    error: float  # |analytic - numerical|, relative to the larger, or to a thousandth of the largest entry of all

    def __str__(self) -> str:
        place = f"{self.path or 'argument'}[{', '.join(map(str, self.index))}]"
        return f"{place}: analytic {self.analytic:.9g}, numerical {self.numerical:.9g}, relative error {self.error:.2g}"


def check_gradients(
    f: Callable, args: tuple, *, rtol: float = 1e-6, h: float = 1e-5, entries: int | None = 50
) -> GradientEntry:
    """Compares jax.grad with centred differences [f(x + h) - f(x - h)] / 2h, in float64.

    f: a function of `*args` to an array or a pytree of arrays; what is not a scalar is weighted with fixed normal numbers
        and summed. It must compute in the dtype of its arguments: an array that it closes over stays as it is.
    args: the arguments, pytrees of arrays; floating-point ones are converted to float64, others held fixed.
    rtol: the error allowed, relative to the entry, or to a thousandth of the largest entry where that is more.
    h: the step, relative to each entry where that is larger than 1.
    entries: at most so many entries of each array, drawn with a fixed seed; None for all.

    Returns the worst entry. Raises AssertionError with its path where its error exceeds rtol, or a number is not finite;
    TypeError where arguments or results are complex. A function with a kink within h of the point (relu at 0) has no
    derivative there, and fails.
    """
    if not isinstance(args, tuple):
        raise TypeError(f"check_gradients: args must be a tuple of arguments, got {type(args).__name__}: write (args,)")
    if entries is not None:
        entries = whole("check_gradients", "entries", entries)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        leaves, structure = jax.tree_util.tree_flatten_with_path(args)
        paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
        values = [jnp.asarray(leaf) for _, leaf in leaves]
        _refuse_complex("arguments", values)
        moving = [i for i, value in enumerate(values) if value.size and jnp.issubdtype(value.dtype, jnp.floating)]
        points = [values[i].astype(jnp.float64) for i in moving]
        if not points:
            raise ValueError("check_gradients: no floating-point numbers among the arguments")

        def outputs(points):
            full = list(values)
            for i, point in zip(moving, points, strict=True):
                full[i] = point
            results = [jnp.asarray(y) for y in jax.tree.leaves(f(*jax.tree.unflatten(structure, full)))]
            _refuse_complex("results", results)
            return [y for y in results if jnp.issubdtype(y.dtype, jnp.floating)]

        try:
            shapes = jax.eval_shape(outputs, points)
        except Exception as error:
            error.add_note("check_gradients gives f its arguments in float64; an array that f closes over stays as it is")
            raise
        if not any(y.size for y in shapes):
            raise ValueError("check_gradients: no floating-point numbers among the results")
        towards = [jnp.asarray(rng.normal(size=y.shape) if y.shape else 1.0) for y in shapes]

        def value(points):
            terms = [jnp.sum(t * y.astype(jnp.float64)) for t, y in zip(towards, outputs(points), strict=True)]
            return jnp.sum(jnp.stack(terms))

        here, analytic = jax.jit(jax.value_and_grad(value))(points)
        if not jnp.isfinite(here):
            raise AssertionError(f"check_gradients: f itself is {here} at this point")
        chosen = []
        for n, point in enumerate(points):
            every = (
                np.arange(point.size) if entries is None or point.size <= entries else rng.choice(point.size, entries, False)
            )
            chosen += [(n, int(i)) for i in every]
        steps = [h * max(1.0, abs(float(points[n].reshape(-1)[i]))) for n, i in chosen]

        def moved(array_of, entry, step):
            flat = [
                p.reshape(-1).at[jnp.where(array_of == n, entry, p.size)].add(step, mode="drop") for n, p in enumerate(points)
            ]
            return value([a.reshape(p.shape) for a, p in zip(flat, points, strict=True)])

        def difference(which):
            array_of, entry, step = which
            return (moved(array_of, entry, step) - moved(array_of, entry, -step)) / (2 * step)

        # one after another and not side by side: under vmap a convolution would become another program
        where = jnp.asarray([n for n, _ in chosen]), jnp.asarray([i for _, i in chosen]), jnp.asarray(steps)
        numerical = np.asarray(jax.jit(lambda where: jax.lax.map(difference, where))(where))
        flat_analytic = np.asarray([float(analytic[n].reshape(-1)[i]) for n, i in chosen])

    both = np.stack([flat_analytic, numerical])
    finite = np.all(np.isfinite(both), axis=0)
    sizes = np.max(np.abs(both), axis=0, initial=0, where=finite)
    floor = max(1e-3 * float(np.max(sizes)), np.finfo(np.float64).tiny)
    gaps = np.abs(np.subtract(*both, where=finite, out=np.full(finite.shape, np.inf)))
    errors = gaps / np.maximum(sizes, floor)
    worst = int(np.argmax(errors))
    n, i = chosen[worst]
    index = tuple(int(k) for k in np.unravel_index(i, points[n].shape))
    entry = GradientEntry(paths[moving[n]], index, float(flat_analytic[worst]), float(numerical[worst]), float(errors[worst]))
    if not entry.error <= rtol:
        narrow = sorted({str(y.dtype) for y in shapes if y.dtype != jnp.float64})
        hint = f"; f returns {', '.join(narrow)} for float64 arguments, too coarse for differences" if narrow else ""
        raise AssertionError(f"gradients differ: {entry} (allowed {rtol:g}){hint}")
    return entry


def _refuse_complex(what: str, arrays) -> None:
    if any(jnp.issubdtype(a.dtype, jnp.complexfloating) for a in arrays):
        raise TypeError(f"check_gradients: complex numbers among the {what}: give real and imaginary parts apart")

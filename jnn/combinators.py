"""Layers made of layers."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn import tree
from jnn.activations import identity
from jnn.errors import LayerError
from jnn.layers.checks import describe
from jnn.numbers import require_one_of, shown, whole, wide
from jnn.pairs import (
    as_layer,
    call,
    check_children,
    forwarding,
    init_child,
    init_each,
    kind,
    named_children,
    shape_after,
    split,
)
from jnn.types import Graph, Layer


def serial(*layers, **named) -> Layer:
    """One layer after another: `serial(dense(64), jax.nn.relu, dense(10))`.

    layers: Layers, pairs of functions of the same form, or plain functions of one array.
    Parameters: one entry for each child that has some. A positional child is called by its factory and its position
    (`dense_0`, `dense_2`), a keyword child by its keyword. Errors inside a child begin with its path.
    """
    children = named_children("serial", layers, named)

    def init(key, x):
        params, state = {}, {}
        for (name, child), child_key in zip(children.items(), split(key, len(children)), strict=True):
            child_params, child_state = init_child(name, child, child_key, x)
            x = shape_after(name, child, child_params, child_state, x)
            if child_params:
                params[name] = child_params
            if child_state:
                state[name] = child_state
        return params, state

    def apply(params, state, x, *, key, train, extra):
        check_children("serial", params, state, children)
        new_state = {}
        for (name, child), child_key in zip(children.items(), split(key, len(children)), strict=True):
            x, child_state = call(
                name, child, params.get(name, {}), state.get(name, {}), x, key=child_key, train=train, extra=extra
            )
            if child_state:
                new_state[name] = child_state
        return x, new_state

    return Layer(init, forwarding("serial", children.values(), apply))


def parallel(*layers, **named) -> Layer:
    """(x_1, ..., x_n) -> (y_1, ..., y_n):  y_i = layer_i(x_i).

    A plain function after it gets the outputs as its arguments: `serial(parallel(dense(8), dense(8)), jnp.add)`.
    Parameters: one entry for each child that has some, called as in `serial`.
    Raises LayerError when the input is no tuple or list of n.
    """
    children = named_children("parallel", layers, named)

    def require_one_each(xs):
        if not isinstance(xs, tuple | list) or len(xs) != len(children):
            raise LayerError("parallel", f"expected a tuple of {len(children)} inputs, one for each layer, got {describe(xs)}")

    def init(key, xs):
        require_one_each(xs)
        return init_each(children, key, xs)

    def apply(params, state, xs, *, key, train, extra):
        require_one_each(xs)
        outputs, state = _call_each("parallel", children, params, state, xs, key=key, train=train, extra=extra)
        return tuple(outputs), state

    return Layer(init, forwarding("parallel", children.values(), apply))


def branch(*layers, merge: str = "concat", **named) -> Layer:
    """x -> merge(layer_1(x), ..., layer_n(x)).

    merge: "concat" on the last axis, "sum", or "tuple" for all of them as they are.
    Parameters: one entry for each child that has some, called as in `serial`.
    Raises LayerError when the outputs do not fit: other dtypes, or other shapes (but for the last axis under "concat").
    """
    require_one_of("branch", "merge", merge, "concat", "sum", "tuple")
    children = named_children("branch", layers, named)
    if not children:
        raise ValueError("branch: needs at least one layer")

    def init(key, x):
        return init_each(children, key, [x] * len(children))

    def apply(params, state, x, *, key, train, extra):
        inputs = [x] * len(children)
        outputs, state = _call_each("branch", children, params, state, inputs, key=key, train=train, extra=extra)
        if merge == "tuple":
            return tuple(outputs), state
        _require_fitting(merge, dict(zip(children, outputs, strict=True)))
        y = jnp.concatenate(outputs, axis=-1) if merge == "concat" else sum(outputs[1:], start=outputs[0])
        return y, state

    return Layer(init, forwarding("branch", children.values(), apply))


def _require_fitting(merge, outputs: dict[str, Any]):
    cut = -1 if merge == "concat" else None
    arrays = [y for y in outputs.values() if hasattr(y, "shape") and hasattr(y, "dtype")]
    forms = {(y.shape[:cut], y.dtype) for y in arrays}
    if len(arrays) < len(outputs) or len(forms) > 1 or (merge == "concat" and any(y.ndim == 0 for y in arrays)):
        got = ", ".join(f"{name} {describe(y)}" for name, y in outputs.items())
        wanted = "dtype and shape, but for the last axis," if merge == "concat" else "dtype and shape"
        raise LayerError("branch", f'expected outputs of one {wanted} for merge="{merge}", got {got}')


def residual(layer, shortcut=identity) -> Layer:
    """x -> layer(x) + shortcut(x), of Graphs the nodes, with the edges that layer returns. He et al. 2016.

    Parameters: `layer` and `shortcut`, each where it has some.
    Raises LayerError when the two have not the same shape and dtype: nothing is broadcast.
    """
    children = {"layer": as_layer(layer), "shortcut": as_layer(shortcut)}

    def init(key, x):
        return init_each(children, key, (x, x))

    def apply(params, state, x, *, key, train, extra):
        (y, short), state = _call_each("residual", children, params, state, (x, x), key=key, train=train, extra=extra)
        if isinstance(y, Graph) and isinstance(short, Graph):
            return y._replace(nodes=_sum(y.nodes, short.nodes, "on_nodes(dense({}))", " as nodes")), state
        return _sum(y, short, "dense({})"), state

    return Layer(init, forwarding("residual", children.values(), apply))


def _sum(y, short, shortcut, where=""):
    if not all(hasattr(a, "shape") and hasattr(a, "dtype") for a in (y, short)):
        layer_gives, shortcut_gives = (describe(a).partition(":")[0] for a in (y, short))
        raise LayerError("residual", f"expected arrays to add, layer gives {layer_gives}, shortcut {shortcut_gives}")
    if (y.shape, y.dtype) != (short.shape, short.dtype):
        hint = f": give a shortcut to {y.shape}, as in residual(layer, {shortcut.format(y.shape[-1])})" if y.ndim else ""
        raise LayerError("residual", f"cannot add: layer gives {describe(y)}{where}, shortcut {describe(short)}{hint}")
    return y + short


def repeat(layer, n: int) -> Layer:
    """x -> layer_n(... layer_1(x)):  n copies in a row, each with its own parameters, in a loop (`jax.lax.scan`).

    The time to compile does not grow with n. Up to four copies are written out, without a loop, which saves the copying of
    what each keeps for the gradient.

    Parameters and state: the layer's own tree, every array with one leading axis of n. Extra arguments go to every copy.
    Raises LayerError when an output has not the input's shape and dtype, or the leading axis of a parameter is not n.
    """
    child = as_layer(layer)
    n = whole("repeat", "n", n)

    def init(key, x):
        keys = None if key is None else jax.random.split(key, n)
        # axis_size and not the keys' axis: without a key there is none
        return jax.vmap(lambda key: child.init(key, x), in_axes=None if key is None else 0, axis_size=n)(keys)

    def apply(params, state, x, *, key, train, extra):
        for what, stack in (("parameters", params), ("state", state)):
            for path, leaf in tree.flatten(stack).items():
                if jnp.shape(leaf)[:1] != (n,):
                    raise LayerError(
                        "repeat", f"expected {what} of {n} layers along the first axis, got {path} {jnp.shape(leaf)}"
                    )

        def step(x, layer):
            params, state, key = layer
            y, state = child.apply(params, state, x, key=key, train=train, **extra)
            if _form(y) != _form(x):
                before, after = (str(jax.tree.map(describe, a)) for a in (x, y))
                raise LayerError("repeat", f"expected an output like the input, {before}, got {after}")
            return y, state

        keys = None if key is None else jax.random.split(key, n)
        return jax.lax.scan(step, jax.tree.map(jnp.asarray, x), (params, state, keys), length=n, unroll=n if n <= 4 else 1)

    return Layer(init, forwarding("repeat", [child], apply))


def _form(x):
    leaves, structure = jax.tree.flatten(x)
    return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]


def remat(layer) -> Layer:
    """The same layer, which keeps nothing but its input for the gradient, and computes the rest again (`jax.checkpoint`).

    Parameters, names and values are the layer's own. Griewank & Walther 2000; Chen et al. 2016.
    """
    child = as_layer(layer)

    def apply(params, state, x, *, key, train, extra):
        @jax.checkpoint
        def run(params, state, x, key):
            return child.apply(params, state, x, key=key, train=train, **extra)

        return run(params, state, x, key)

    return Layer(child.init, forwarding(kind(child), [child], apply))


def precision(layer, compute=jnp.bfloat16) -> Layer:
    """The same layer, computed in the dtype `compute`; its parameters, their gradients and its state stay as they are.

    Floating-point inputs, extra arguments and parameters are cast to `compute` on the way in, except the parameters called
    `scale` and `bias`, which belong to normalizations; floating-point outputs are cast to float32 on the way out (float64
    stays). Parameters and names are the layer's own. Micikevicius et al. 2018.
    """
    child = as_layer(layer)
    # numpy takes None for float64, an array for its dtype, and a text with commas for Python
    if not isinstance(compute, type(None) | np.generic | np.ndarray | jax.Array):
        with contextlib.suppress(TypeError, ValueError, SyntaxError):
            compute = jnp.dtype(compute)
    if not isinstance(compute, np.dtype) or not jnp.issubdtype(compute, jnp.floating):
        raise ValueError(f"precision: compute must be a floating-point dtype, got {shown(compute, str)}")

    def init(key, x):
        # what meets the float32 parameters while shapes travel must be float32, whatever the data are
        return child.init(key, jax.tree.map(lambda a: _as_float32(a) if _is_floating(a) else a, x))

    def apply(params, state, x, *, key, train, extra):
        params = jax.tree_util.tree_map_with_path(lambda path, p: p if _is_norm(path) else _cast(p, compute), params)
        x, extra = jax.tree.map(lambda a: _cast(a, compute), (x, extra))
        y, new_state = child.apply(params, state, x, key=key, train=train, **extra)
        y = jax.tree.map(lambda a: _cast(a, wide(a.dtype)) if _is_floating(a) else a, y)
        return y, jax.tree.map(lambda new, old: _cast(new, old.dtype), new_state, state)

    init.__qualname__ = getattr(child.init, "__qualname__", "layer")
    return Layer(init, forwarding(kind(child), [child], apply))


def _is_floating(a):
    return hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.floating)


def _is_norm(path):
    return bool(path) and jax.tree_util.keystr(path[-1:], simple=True) in ("scale", "bias")


def _cast(a, dtype):
    return jnp.asarray(a).astype(dtype) if _is_floating(a) else a


def _as_float32(a):
    return jax.ShapeDtypeStruct(a.shape, jnp.float32)


def _call_each(owner, children, params, state, inputs, *, key, train, extra):
    check_children(owner, params, state, children)
    outputs, new_state = [], {}
    for (name, child), child_key, x in zip(children.items(), split(key, len(children)), inputs, strict=True):
        y, child_state = call(
            name, child, params.get(name, {}), state.get(name, {}), x, key=child_key, train=train, extra=extra
        )
        outputs.append(y)
        if child_state:
            new_state[name] = child_state
    return outputs, new_state

"""Layers made of layers."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax

from jnn.errors import LayerError, at
from jnn.types import Layer, is_pair


def serial(*layers, **named) -> Layer:
    """One layer after another: `serial(dense(64), jax.nn.relu, dense(10))`.

    layers: Layers, pairs of functions of the same form, or plain functions of one array.
    Parameters: one entry for each child that has some. A positional child is called by its factory and its position
    (`dense_0`, `dense_2`), a keyword child by its keyword. Errors inside a child begin with its path.
    """
    children = [(f"{_kind(layer)}_{i}", as_layer(layer)) for i, layer in enumerate(layers)]
    children += [(name, as_layer(layer)) for name, layer in named.items()]
    names = [name for name, _ in children]
    if len(set(names)) < len(names):
        raise ValueError(f"serial: two children have one name, {names}: choose another keyword")

    def init(key, x):
        params, state = {}, {}
        for (name, child), child_key in zip(children, _split(key, len(children)), strict=True):
            with at(name):
                child_params, child_state = child.init(child_key, x)
                x = _shape_after(child, child_params, child_state, x)
            if child_params:
                params[name] = child_params
            if child_state:
                state[name] = child_state
        return params, state

    def apply(params, state, x, *, key=None, train=False):
        if not isinstance(params, Mapping):
            raise LayerError("serial", f"expected a dict of parameters, got {type(params).__name__}")
        foreign = sorted(set(params) - set(names))
        if foreign:
            raise LayerError("serial", f"parameters for {', '.join(foreign)}, but its children are {', '.join(names)}")
        new_state = {}
        for (name, child), child_key in zip(children, _split(key, len(children)), strict=True):
            with at(name):
                x, child_state = child.apply(params.get(name, {}), state.get(name, {}), x, key=child_key, train=train)
            if child_state:
                new_state[name] = child_state
        return x, new_state

    return Layer(init, apply)


def as_layer(layer: Any) -> Layer:
    """A Layer from a Layer, a pair of functions, or a plain function. Raises TypeError for anything else."""
    if is_pair(layer):
        return Layer(*layer)
    _refuse_what_is_no_function(layer)

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        y = layer(x)
        if is_pair(y):
            raise TypeError(f"{_kind(layer)} is a factory that returns a Layer: call it, as in {_kind(layer)}(...)")
        return y, state

    return Layer(init, apply)


def _refuse_what_is_no_function(layer):
    if inspect.isclass(layer):
        raise TypeError(f"{layer.__name__} is a class, not a layer: give a Layer or a function of one array")
    if isinstance(layer, list | tuple):
        raise TypeError(
            f"expected a Layer or a function of one array, got {type(layer).__name__} of {len(layer)}: write serial(*layers)"
        )
    library = {base.__module__.partition(".")[0] for base in type(layer).__mro__} & {"flax", "equinox", "haiku"}
    # a callable that is a pytree of arrays holds parameters that nothing would train
    if library or any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(layer)):
        raise TypeError(
            f"{type(layer).__name__} is a module that holds its own parameters: give a pair instead, "
            "jnn.Layer(init, apply) with init(key, x) -> (params, state) and "
            "apply(params, state, x, *, key=None, train=False) -> (y, state)"
        )
    if not callable(layer):
        raise TypeError(f"expected a Layer or a function of one array, got {type(layer).__name__} {layer!r}")
    if getattr(layer, "__module__", "").startswith(("jnn.layers", "jnn.combinators")):
        raise TypeError(f"{layer.__name__} is a factory that returns a Layer: call it, as in {layer.__name__}(...)")


def _kind(layer: Any) -> str:
    """The factory's name for a Layer, read off its `init` ("dense.<locals>.init"), or the function's own name."""
    if not is_pair(layer):
        return getattr(layer, "__name__", type(layer).__name__).strip("<>")
    scopes = getattr(layer[0], "__qualname__", "layer").split(".<locals>.")
    return scopes[-2].rpartition(".")[2] if len(scopes) > 1 else "layer"


def _split(key, n):
    return [None] * n if key is None else list(jax.random.split(key, n)) if n else []


def _shape_after(layer, params, state, x):
    return jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, train=False)[0], params, state, x)

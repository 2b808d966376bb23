"""Layers made of layers."""

from jnn.pairs import call, check_children, forwarding, init_child, named_children, shape_after, split
from jnn.types import Layer


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
        check_children("serial", params, children)
        new_state = {}
        for (name, child), child_key in zip(children.items(), split(key, len(children)), strict=True):
            x, child_state = call(
                name, child, params.get(name, {}), state.get(name, {}), x, key=child_key, train=train, extra=extra
            )
            if child_state:
                new_state[name] = child_state
        return x, new_state

    return Layer(init, forwarding("serial", children.values(), apply))

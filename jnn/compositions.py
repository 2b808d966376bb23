"""Layers whose children are called as one likes: shared, in any order, under any control flow."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from jnn.errors import LayerError, at
from jnn.pairs import call, check_children, extra_arguments, forwarding, init_child, init_each, kind, named_children, watch
from jnn.types import Layer, is_pair


def compose(forward: Callable, **layers) -> Layer:
    """x -> forward(net, x):  a layer written as a function that calls its children.

        def forward(net, pair):
            left, right = pair
            return net.head(net.encoder(left) - net.encoder(right))  # one encoder, called twice

        model = compose(forward, encoder=dense(64), head=dense(1))

    forward: a function of net and the input, to the output. Its own keyword-only arguments become extra arguments of apply,
        and need defaults, as `init` runs it without them.
    layers: the children, by name: Layers, pairs of functions, or plain functions.

    `net.encoder(x)` applies a child, as often as wanted: each call gets another key, and the state that the call before it
    left; further keyword arguments (`lengths=`, `mask=`) go to its apply. Beside the children there are

        net.params   the parameters, {"encoder": {...}, ...}; while `init` runs, those of the children called so far
        net.train    whether it is being trained
        net.key()    another key at each call, while training

    Parameters: one entry for each child that has some. A child is initialised for the input of its first call: `init` runs
    forward with train=False, on shapes alone.
    Raises LayerError when a child is never called while `init` runs, and when one with state or randomness (or `net.key`) is
    called inside a `scan`, a `vmap` or another transformation within forward: its state would be lost, and its noise the same
    at every turn. `repeat` keeps both.
    """
    children = named_children("compose", (), layers)
    if is_pair(forward) or not callable(forward):
        raise TypeError(f"compose: forward must be a function of net and the input, got {type(forward).__name__}")
    if {"key", "train"} & set(inspect.signature(forward).parameters):
        raise ValueError("compose: forward has net.key() and net.train, and takes no arguments key and train")
    for name in children:
        if hasattr(_Net, name):
            raise ValueError(f"compose: the name {name} is taken by net.{name}: choose another for the child")

    def init(key, x):
        inputs = {}  # of the first call of each child, as shapes

        def run(x):
            made = {}
            trace = _trace_state()

            def own(name):
                if name in made:
                    return made[name]
                pair = init_child(name, children[name], key, inputs[name])
                if _trace_state() == trace:  # what a scan's body makes is of no use outside it
                    made[name] = pair
                return pair

            def own_for(name, x):
                inputs.setdefault(name, _shapes(x))
                return own(name)

            def params():
                pairs = {name: own(name) for name in inputs}
                return {name: child_params for name, (child_params, _) in pairs.items() if child_params}

            return forward(_Net(children, params, own_for, key=None, train=False), x)

        jax.eval_shape(run, x)
        never = [name for name in children if name not in inputs]
        if never:
            are = "child {} was" if len(never) == 1 else "children {} were"
            raise LayerError("compose", f"the {are.format(', '.join(never))} never called by forward while init ran it")
        return init_each(children, key, [inputs[name] for name in children])

    def apply(params, state, x, *, key, train, extra):
        check_children("compose", params, state, children)

        def own(name, x):
            return params.get(name, {}), state.get(name, {})

        net = _Net(children, lambda: params, own, key, train)
        y = forward(net, x, **extra)
        left = {name: net._state.get(name, state.get(name)) for name in children}
        return y, {name: child_state for name, child_state in left.items() if child_state}

    return Layer(init, forwarding("compose", [Layer(init, forward)], apply))


class _Net:
    """What forward is given: the children as its attributes."""

    # params: () -> the parameters of all; own: (name, x) -> params and state of the child called so, before its first call
    __slots__ = ("_calls", "_children", "_key", "_own", "_params", "_state", "_trace", "train")

    def __init__(self, children, params, own, key, train):
        self._children, self._params, self._own, self._key, self.train = children, params, own, key, train
        self._state: dict[str, Any] = {}  # of the children called so far
        self._calls = 0
        self._trace = _trace_state()

    @property
    def params(self):
        return self._params()

    def key(self):
        if not self.train:
            raise LayerError("compose", "net.key() is for training: ask net.train before")
        if self._key is None:
            raise LayerError("compose", "needs a key when train=True")
        if self._is_inside():
            raise LayerError("compose", f"net.key() is called inside {_INSIDE}: call it before, and split what it gives")
        return self._next_key()

    def __getattr__(self, name):
        if name not in self._children:
            near = difflib.get_close_matches(name, [*self._children, "params", "train", "key"], n=1)
            hint = f"did you mean {near[0]}?" if near else f"its children are {', '.join(self._children) or 'none'}"
            raise AttributeError(f"compose: no child is called {name}; {hint}")

        def apply_child(x, /, **extra):
            return self._call(name, x, extra)

        return apply_child

    def _call(self, name, x, extra):
        child = self._children[name]
        params, state = self._own(name, x)
        state = self._state.get(name, state)
        inside = self._is_inside()
        with at(name):
            _require_taken(child, extra)
            if inside:
                _require_pure(child, params, state, x, extra)
        # inside, nothing is drawn from it: so counts do not depend on how often a transformation traces its function
        key = self._key if inside else self._next_key()
        y, state = call(name, child, params, state, x, key=key, train=self.train, extra=extra)
        if not inside:
            self._state[name] = state
        return y

    def _is_inside(self):
        return _trace_state() != self._trace

    def _next_key(self):
        self._calls += 1
        return None if self._key is None else jax.random.fold_in(self._key, self._calls)


_INSIDE = "a scan, a vmap or another transformation within forward"


def _require_taken(child, extra):
    takes = extra_arguments(child)
    unknown = [name for name in extra if name not in takes]
    if unknown:
        what = f"it takes {', '.join(takes)}" if takes else "it takes none"
        raise LayerError(kind(child), f"does not take the argument {', '.join(unknown)}; {what}")


def _require_pure(child, params, state, x, extra):
    if state:
        raise LayerError(kind(child), f"has state, which would be lost inside {_INSIDE}: call it outside, or use repeat")
    if _uses_key(child, params, state, x, extra):
        raise LayerError(
            kind(child), f"is random, and would draw the same inside {_INSIDE} at every turn: call it outside, or use repeat"
        )


def _uses_key(child, params, state, x, extra) -> bool:
    """Whether anything that the child returns while training depends on its key. Many layers split a key for nothing."""
    with watch(None):
        program = jax.make_jaxpr(lambda key: child.apply(params, state, x, key=key, train=True, **extra))(
            jax.eval_shape(jax.random.key, 0)
        ).jaxpr
    _, (used,) = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    return used


def _shapes(x):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), x)


def _trace_state():
    from jax.extend.core import get_opaque_trace_state  # takes as long to import as half of jnn

    return get_opaque_trace_state()

"""What every layer made of layers needs: one form for its children, their names, and the call that knows where it is."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax

from jnn.errors import LayerError, at
from jnn.numbers import shown
from jnn.types import Layer, factory, is_pair


def as_layer(layer: Any) -> Layer:
    """A Layer from a Layer, a pair of functions, or a plain function. Raises TypeError for anything else.

    A plain function receives what the layer before it returned; a tuple (of `parallel`, say) as several arguments."""
    if is_pair(layer):
        return Layer(*layer)
    _refuse_what_is_no_function(layer)

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        if params:
            raise LayerError(kind(layer), f"is a plain function, but got parameters {', '.join(map(str, params))}")
        y = layer(*x) if type(x) is tuple else layer(x)
        if is_pair(y):
            raise TypeError(f"{kind(layer)} is a factory that returns a Layer: call it, as in {kind(layer)}(...)")
        return y, state

    init.__qualname__ = f"{kind(layer)}.<locals>.init"
    return Layer(init, apply)


def _refuse_what_is_no_function(layer):
    if inspect.isclass(layer):
        raise TypeError(f"{layer.__name__} is a class, not a layer: give a Layer or a function of one array")
    if isinstance(layer, list | tuple):
        raise TypeError(
            f"expected a Layer or a function of one array, got {type(layer).__name__} of {len(layer)}: write serial(*layers)"
        )
    name = type(layer).__name__
    library = {base.__module__.partition(".")[0] for base in type(layer).__mro__}
    if library & {"flax", "equinox", "haiku"} or any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(layer)):
        # a callable that is a pytree of arrays holds parameters that nothing would train
        hint = (
            "give a pair instead, jnn.Layer(init, apply) with init(key, x) -> (params, state) and "
            "apply(params, state, x, *, key=None, train=False) -> (y, state)"
        )
        if "equinox" in library:
            hint = f"wrap what makes it, as in jnn.interop.equinox(lambda key: {name}(..., key=key))"
        elif "flax" in library and any("nnx" in base.__module__.split(".") for base in type(layer).__mro__):
            hint = f"wrap what makes it, as in jnn.interop.nnx(lambda rngs: {name}(..., rngs=rngs))"
        elif "flax" in library:
            hint = "wrap it, as in jnn.interop.linen(module)"
        raise TypeError(f"{name} is a module that holds its own parameters: {hint}")
    if not callable(layer):
        raise TypeError(f"expected a Layer or a function of one array, got {type(layer).__name__} {shown(layer)}")
    factories = ("jnn.layers", "jnn.combinators", "jnn.compositions", "jnn.models")
    is_public = not getattr(layer, "__name__", "_").startswith("_")
    if is_public and (getattr(layer, "__module__", None) or "").startswith(factories):
        raise TypeError(f"{layer.__name__} is a factory that returns a Layer: call it, as in {layer.__name__}(...)")


def kind(layer: Any) -> str:
    """The factory's name for a Layer, read off its `init` ("dense.<locals>.init"), or the function's own name."""
    if not is_pair(layer):
        return getattr(layer, "__name__", type(layer).__name__).strip("<>")
    return factory(layer[0]) or "layer"


def named_children(owner: str, layers: tuple, named: Mapping[str, Any]) -> dict[str, Layer]:
    """-> {name: Layer}: a positional child is called by its kind and its position, a keyword child by its keyword."""
    children = [(f"{kind(layer)}_{i}", as_layer(layer)) for i, layer in enumerate(layers)]
    children += [(name, as_layer(layer)) for name, layer in named.items()]
    names = [name for name, _ in children]
    if len(set(names)) < len(names):
        raise ValueError(f"{owner}: two children have one name, {names}: choose another keyword")
    return dict(children)


class Call(NamedTuple):
    """One application of a child, as `watch` reports it."""

    path: tuple[str, ...]
    layer: Layer
    params: Any
    state: Any
    x: Any
    extra: dict[str, Any]
    y: Any


_path: ContextVar[tuple[str, ...]] = ContextVar("path", default=())
_watcher: ContextVar[Callable[[Call], None] | None] = ContextVar("watcher", default=None)


def call(name: str, layer: Layer, params, state, x, *, key=None, train=False, extra: Mapping[str, Any] = {}):
    """`layer.apply`, given those of `extra` that it takes; errors inside it begin with `name`, and so do the names of its
    operations in a profile. -> (y, state)"""
    taken = {k: v for k, v in extra.items() if k in extra_arguments(layer)}
    token = _path.set((*_path.get(), name))
    try:
        with at(name), jax.named_scope(name):
            y, new_state = layer.apply(params, state, x, key=key, train=train, **taken)
        watcher = _watcher.get()
        if watcher is not None:
            watcher(Call(_path.get(), layer, params, state, x, taken, y))
    finally:
        _path.reset(token)
    return y, new_state


def init_child(name: str, layer: Layer, key, x):
    """`layer.init`, whose errors begin with `name`. -> (params, state)"""
    with at(name):
        return layer.init(key, x)


def init_each(children: Mapping[str, Layer], key, inputs) -> tuple[dict[str, Any], dict[str, Any]]:
    """`init` of each child for its own one of `inputs`. -> (params, state), without entries for what is empty"""
    params, state = {}, {}
    for (name, child), child_key, x in zip(children.items(), split(key, len(children)), inputs, strict=True):
        child_params, child_state = init_child(name, child, child_key, x)
        if child_params:
            params[name] = child_params
        if child_state:
            state[name] = child_state
    return params, state


@contextmanager
def watch(watcher: Callable[[Call], None] | None) -> Iterator[None]:
    """Hands every Call of a child, innermost first, to `watcher`, while a model is traced inside; None for nobody."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def shape_after(name: str, layer: Layer, params, state, x):
    """The shapes that `layer` returns, with train=False; nothing is computed."""
    return jax.eval_shape(lambda p, s, x: call(name, layer, p, s, x)[0], params, state, x)


def extra_arguments(layer: Layer) -> tuple[str, ...]:
    """The keyword arguments of `layer.apply` beyond key and train (`lengths`, `mask`), by signature."""
    parameters = inspect.signature(layer.apply).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("key", "train"))


def say_taken(apply: Callable, names) -> None:
    """Gives an apply function a signature with the extra keyword arguments `names`, where `extra_arguments` reads them."""
    own = list(inspect.signature(lambda params, state, x, *, key=None, train=False: None).parameters.values())
    given = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    signature = inspect.Signature([*own, *given])
    apply.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]  # read by inspect, declared by none


def forwarding(owner: str, children, apply: Callable, *, but: tuple[str, ...] = ()) -> Callable:
    """`apply(params, state, x, *, key, train, extra)` of a layer made of `children`, as a Layer's apply function: it takes
    the extra keyword arguments that any child takes, `but` for those that it gives itself, and says so in its signature."""
    names = sorted({name for child in children for name in extra_arguments(child)} - set(but))

    def outer(params, state, x, *, key=None, train=False, **extra):
        unknown = sorted(set(extra) - set(names))
        if unknown:
            takes = f"they take {', '.join(names)}" if names else "none of them takes any"
            raise LayerError(owner, f"no layer inside takes the argument {', '.join(unknown)}; {takes}")
        return apply(params, state, x, key=key, train=train, extra=extra)

    say_taken(outer, names)
    outer.__qualname__ = f"{owner}.<locals>.apply"
    return outer


def check_children(owner: str, params: Any, state: Any, names) -> None:
    """Raises LayerError when `params` or `state` is no dict, or has an entry for a child that there is not."""
    for what, tree in (("parameters", params), ("state", state)):
        if not isinstance(tree, Mapping):
            raise LayerError(owner, f"expected a dict of {what}, got {type(tree).__name__}")
        foreign = sorted(str(name) for name in set(tree) - set(names))
        if foreign:
            raise LayerError(owner, f"{what} for {', '.join(foreign)}, but its children are {', '.join(names) or 'none'}")


def split(key, n: int) -> list:
    """n keys, or n times None."""
    return [None] * n if key is None else list(jax.random.split(key, n)) if n else []

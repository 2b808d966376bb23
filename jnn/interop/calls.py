"""How a module of another library wants to be called: read off its signature."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jnn.errors import LayerError
from jnn.pairs import say_taken

_WHILE_TRAINING = ("train", "training", "is_training")
_OTHERWISE = ("deterministic", "use_running_average", "inference", "eval", "is_eval")
# set by the adapters themselves
_OWN = ("self", "key", "rng", "rngs", "dropout_rng", "state")


def library(name: str, package: str):
    """The module `name`. Raises ImportError that says what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"jnn.interop needs {package} for this: pip install {package}") from error


def arguments(function: Callable) -> dict[str, inspect.Parameter]:
    """The named parameters of a function or a method, without those that take whatever comes."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {n: p for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def train_mode(call: Callable, chosen: Callable[[bool], dict[str, Any]] | None) -> Callable[[bool], dict[str, Any]]:
    """train -> the keyword arguments that say so: what the user chose, or those that the signature has."""
    if chosen is not None:
        return chosen
    names = arguments(call)

    def mode(train):
        on = {name: train for name in _WHILE_TRAINING if name in names}
        return on | {name: not train for name in _OTHERWISE if name in names}

    return mode


def optional_arrays(call: Callable, mode: Callable[[bool], dict[str, Any]]) -> tuple[str, ...]:
    """What else may be given with each call (`mask`): the parameters whose default is None."""
    taken = {*_OWN, *_WHILE_TRAINING, *_OTHERWISE, *mode(True)}
    return tuple(
        name
        for name, p in arguments(call).items()
        if p.default is None and p.kind is not p.POSITIONAL_ONLY and name not in taken
    )


def taking(names: tuple[str, ...], apply: Callable) -> Callable:
    """`apply(params, state, x, *, key, train, extra)` as a Layer's apply function, which takes the extra keyword arguments
    `names` and says so in its signature."""

    def outer(params, state, x, *, key=None, train=False, **extra):
        unknown = sorted(set(extra) - set(names))
        if unknown:
            raise TypeError(f"got arguments {', '.join(unknown)}; beside key and train it takes {', '.join(names) or 'none'}")
        return apply(params, state, x, key=key, train=train, extra={k: v for k, v in extra.items() if v is not None})

    say_taken(outer, names)
    return outer


def inputs_of(x) -> tuple:
    """The positional arguments: a tuple is several."""
    return x if type(x) is tuple else (x,)


def make(kind: str, argument: str, constructor: Callable, value, base: type):
    """`constructor(value)`, by the name `argument` where it has a parameter called so. Raises TypeError for no module."""
    module = constructor(**{argument: value}) if argument in arguments(constructor) else constructor(value)
    if not isinstance(module, base):
        wanted = "flax.nnx" if kind == "nnx" else kind
        raise TypeError(f"{kind}: expected the constructor to return a module of {wanted}, got {type(module).__name__}")
    return module


def require_constructor(kind: str, argument: str, constructor, base: type) -> None:
    """Raises TypeError for a module that is already made: its numbers would be the same for every key."""
    if isinstance(constructor, base):
        name = type(constructor).__name__
        raise TypeError(
            f"{kind}: expected a constructor ({argument} -> module), got the module {name}: "
            f"write {kind}(lambda {argument}: {name}(..., {argument}={argument}))"
        )
    if not callable(constructor):
        raise TypeError(f"{kind}: expected a constructor ({argument} -> module), got {type(constructor).__name__}")


def typed_key(kind: str, key):
    """A key of the new style. Raises LayerError where there is none."""
    if key is None:
        raise LayerError(kind, "init needs a key")
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def some_key():
    """A key where only its form matters."""
    return jax.eval_shape(lambda: jax.random.key(0))

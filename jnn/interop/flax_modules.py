"""Modules of flax as Layers."""

import functools
import operator
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jnn import tree
from jnn.errors import LayerError
from jnn.interop.calls import (
    arguments,
    inputs_of,
    library,
    make,
    optional_arrays,
    require_constructor,
    some_key,
    taking,
    train_mode,
    typed_key,
)
from jnn.interop.renaming import Names, as_made, carried, names_in, names_of, renamed
from jnn.types import Layer


def linen(module, *, train_arguments: Callable[[bool], dict[str, Any]] | None = None) -> Layer:
    """A flax.linen module as a Layer:  y = module(x, **train_arguments(train)).

    x: what the module's `__call__` takes; a tuple is several arguments. Those with the default None (`mask`) are keyword
        arguments of `apply`.
    train_arguments: train -> keyword arguments that say so. Without it, those of these that `__call__` takes: `train`,
        `training`, `is_training` get train; `deterministic`, `use_running_average`, `inference`, `eval`, `is_eval` not train.
    Randomness: while training each stream of random numbers comes from `key`, the stream `dropout` and any other.
    Parameters: the collection `params`, boxes of partitioned ones removed. `kernel` becomes `w`, `embedding` `table`, `bias`
    `b` (it stays `bias` next to a `scale`), `Dense_0` `dense_0`; shapes stay.
    State: all other collections, `batch_stats/batch_norm_0/mean`; train=False changes `cache` alone. What `sow` puts into
    `intermediates` is dropped.
    A real hyperparameter may be traced where flax allows it: an epsilon, a momentum, but not the rate of its Dropout.
    Raises TypeError for anything but a module, LayerError where a random number is drawn without a key, or by train=False,
    and where a call changes the form of the state (a `sow` into another collection).
    """
    nn, flax = library("flax.linen", "flax"), library("flax", "flax")
    if not isinstance(module, nn.Module):
        raise TypeError(f"linen: expected a flax.linen module, made, got {_described(module)}")
    mode = train_mode(module.__call__, train_arguments)

    def streams(key):
        # a module that asks for a stream by another name gets the numbers of "params"
        return dict(zip(("params", "dropout"), jax.random.split(key), strict=True))

    @functools.lru_cache(maxsize=32)
    def form(treedef, leaves):
        """(shapes of x) -> the function that makes the variables, and their names."""

        def variables(key):
            x = jax.tree.unflatten(treedef, [jnp.zeros(shape, dtype) for shape, dtype in leaves])
            with jax.numpy_dtype_promotion("standard"):
                made = module.init(streams(key), *inputs_of(x), **mode(False))
            made = jax.tree.map(as_made, flax.core.unfreeze(flax.core.meta.unbox(made)))
            return made.pop("params", {}), made

        variables = jax.jit(variables)  # computes the parameters and not the output
        params, state = jax.eval_shape(variables, some_key())
        return variables, names_of("linen", "parameters", params), names_of("linen", "state", state)

    def form_at(x):
        leaves, treedef = jax.tree.flatten(x)
        return form(treedef, tuple((jnp.shape(leaf), jnp.dtype(leaf.dtype)) for leaf in leaves))

    def init(key, x):
        key = typed_key("linen", key)
        variables, params_names, state_names = form_at(x)
        params, state = variables(key)
        return params_names.to_dict(params), state_names.to_dict(state)

    def apply(params, state, x, *, key, train, extra):
        _, params_names, state_names = form_at(x)
        old = state_names.to_foreign(state)
        rngs = streams(key) if train and key is not None else {}
        mutable = [name for name in old if train or name == "cache"]
        try:
            with jax.numpy_dtype_promotion("standard"):
                variables = {"params": params_names.to_foreign(params), **old}
                result = module.apply(variables, *inputs_of(x), rngs=rngs, mutable=mutable or False, **mode(train), **extra)
        except flax.errors.InvalidRngError as error:
            problem = "needs a key when train=True" if train else f"draws random numbers when train=False: {error}"
            raise LayerError("linen", problem) from error
        if not mutable:
            return result, state
        y, changed = result
        new = {**old, **flax.core.unfreeze(flax.core.meta.unbox(changed))}
        return y, carried("linen", state, names_of("linen", "state", new).to_dict(new))

    return Layer(init, taking(optional_arrays(module.__call__, mode), apply))


def nnx(constructor, *, train_arguments: Callable[[bool], dict[str, Any]] | None = None) -> Layer:
    """An NNX constructor (rngs -> module) as a Layer:  y = module(x, **train_arguments(train)).

    constructor: `lambda rngs: Net(64, rngs=rngs)`; it is called by each `init`, and once here for the structure.
    x, train_arguments, traced hyperparameters: as in `linen`; before the call, `module.train()` or `module.eval()` sets the
        attributes `deterministic` and `use_running_average` of all modules inside.
    Randomness: while training all `Rngs` inside, and the argument `rngs` of `__call__`, come from `key`. A module that
    draws in evaluation too gets the same numbers each time.
    Parameters: all `nnx.Param`. `kernel` becomes `w`, `embedding` `table`, `bias` `b` (it stays `bias` next to a `scale`), the
    items of a list are called by their position, `layers/0/w`; shapes stay.
    State: all other variables and arrays (`BatchStat`); train=False changes `nnx.Cache` alone. Intermediates are dropped.
    Raises TypeError for anything but a constructor, LayerError where a random number is drawn while training without a key.
    """
    flax_nnx = library("flax.nnx", "flax")
    require_constructor("nnx", "rngs", constructor, flax_nnx.Module)

    def is_variable(leaf):
        return isinstance(leaf, flax_nnx.Variable)

    def split_up(module):
        """-> graph, (params, rngs, state)"""
        flax_nnx.pop(module, flax_nnx.Intermediate)
        graph, *parts = flax_nnx.split(module, flax_nnx.Param, flax_nnx.RngState, ...)
        return graph, tuple(parts)

    def create(key):
        with jax.numpy_dtype_promotion("standard"):
            return make("nnx", "rngs", constructor, flax_nnx.Rngs(key), flax_nnx.Module)

    fixed = []

    def arrays(key):
        module = create(key)
        graph, parts = split_up(module)
        fixed.extend((graph, type(module).__call__))
        return parts

    params_form, rngs_form, state_form = jax.eval_shape(arrays, some_key())
    graph, call = fixed
    mode = train_mode(call, train_arguments)
    params_names = _names("parameters", params_form, is_variable)
    state_names = _names("state", state_form, is_variable)
    variables = jax.tree.leaves(state_form, is_leaf=is_variable)
    cached = [isinstance(v, flax_nnx.Cache) for v in variables for _ in jax.tree.leaves(v)]
    caches = {path for path, is_cache in zip(state_names.paths, cached, strict=True) if is_cache}

    def init(key, x):
        _, (params, _, state) = split_up(create(typed_key("nnx", key)))
        params, state = jax.tree.map(as_made, (params, state))
        return params_names.to_dict(params), state_names.to_dict(state)

    def apply(params, state, x, *, key, train, extra):
        key = typed_key("nnx", key) if train and key is not None else None
        # without training nothing should draw; what does all the same gets the same numbers each time
        streams_key, call_key = jax.random.split(jax.random.key(0) if key is None else key)
        streams = _streams(rngs_form, streams_key)
        undrawn = jax.tree.leaves(streams)
        given = {"rngs": flax_nnx.Rngs(call_key)} if key is not None and "rngs" in arguments(call) else {}
        with jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
            # what is sown is dropped below; flax would have it captured
            warnings.filterwarnings("ignore", r"Using 'Module\.sow\(\)' outside", DeprecationWarning)
            module = flax_nnx.merge(graph, params_names.to_foreign(params), streams, state_names.to_foreign(state))
            module.train() if train else module.eval()
            y = module(*inputs_of(x), **mode(train), **given, **extra)
        _, (_, streams_after, new) = split_up(module)
        if train and key is None and any(map(operator.is_not, jax.tree.leaves(streams_after), undrawn)):
            raise LayerError("nnx", "needs a key when train=True")
        if not (train or caches):
            return y, state
        new = carried("nnx", state, _names("state", new, is_variable).to_dict(new))
        return y, new if train else tree.merge(state, tree.select(new, lambda path, _: path in caches))

    return Layer(init, taking(optional_arrays(call, mode), apply))


def _names(what, state, is_variable):
    """Names whose paths end with the variable, not with its attribute `value`."""
    paths = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state, is_leaf=is_variable)[0]:
        inside = jax.tree_util.tree_flatten_with_path(leaf)[0]
        paths += [names_in(path) + names_in(rest)[1:] for rest, _ in inside]
    return Names("nnx", what, jax.tree.structure(state), renamed(paths))


def _streams(rngs_form, key):
    """The state of all streams of random numbers: fresh keys, counters at zero."""
    forms, structure = jax.tree.flatten(rngs_form)

    def fresh(form, key):
        is_key = jnp.issubdtype(form.dtype, jax.dtypes.prng_key)
        return jax.random.split(key, form.shape) if is_key else jnp.zeros(form.shape, form.dtype)

    return jax.tree.unflatten(structure, [fresh(form, jax.random.fold_in(key, i)) for i, form in enumerate(forms)])


def _described(module) -> str:
    return f"the class {module.__name__}: call it" if isinstance(module, type) else f"{type(module).__name__}"

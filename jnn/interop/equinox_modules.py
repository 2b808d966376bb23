"""Modules of Equinox as Layers."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

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
from jnn.interop.renaming import Names, as_made, carried, names_in, renamed
from jnn.layers.checks import describe
from jnn.numbers import whole
from jnn.types import Layer


def equinox(
    constructor, *, axes: int | tuple[int, ...] = 1, train_arguments: Callable[[bool], dict[str, Any]] | None = None
) -> Layer:
    """An Equinox constructor (key -> module) as a Layer: the module is called on each example by itself.

    constructor: `lambda key: eqx.nn.MLP(4, 3, 64, 2, key=key)`; it is called by each `init`, and once here for the structure.
    axes: the number of axes of one example: 1 for (features,), 3 for an image; a tuple of them where x is a tuple, which is
        several arguments of `__call__`. Over all leading axes the module is mapped by one `vmap` called "batch":
        `eqx.nn.BatchNorm(channels, axis_name="batch")` has its statistics over all of them.
    train_arguments: train -> keyword arguments that say so, for a `__call__` that has other words for it than `linen` knows;
        `eqx.nn.inference_mode` is set before each call.
    Further arguments of `__call__` whose default is None (`mask`) are keyword arguments of `apply`, with x's leading axes.
    Randomness: while training each example has its own key, given to a `__call__` that takes `key`.
    Parameters: all floating-point arrays, by their attributes: `layers/0/w`. `weight` becomes `w`, `bias` `b`; in Equinox's own
    normalizations `scale` and `bias`, in its Embedding `table`. Shapes stay: the `w` of a Linear is (out, in). A real
    hyperparameter that is traced (the rate of a Dropout) is no parameter.
    State: what `eqx.nn.State` holds (`norm/batch_counter`), for a `__call__` that takes `state` and returns (y, state), and all
    other arrays, integers and such.
    Raises TypeError for anything but a constructor; LayerError where x has too few axes, and where a random number is drawn
    without a key.
    """
    eqx = library("equinox", "equinox")
    require_constructor("equinox", "key", constructor, eqx.Module)
    axes = tuple(whole("equinox", "axes", n, 0) for n in axes) if isinstance(axes, tuple) else whole("equinox", "axes", axes, 0)

    def create(key):
        """-> the module without its initial state, and the state"""
        with jax.numpy_dtype_promotion("standard"):
            return eqx.nn.make_with_state(lambda: make("equinox", "key", constructor, key, eqx.Module))()

    parts = _parts_of(eqx, create)
    call = parts.call
    takes = arguments(call)
    words = train_mode(call, train_arguments)

    def mode(train):
        # None leaves it to the attributes, which inference_mode sets
        return {n: on for n, on in words(train).items() if train_arguments or takes[n].default is not None}

    def init(key, x):
        module, carry = create(typed_key("equinox", key))
        leaves = jax.tree.leaves(module)
        params = [as_made(leaves[i]) for i in parts.trained]
        state = [as_made(leaf) for leaf in (*(leaves[i] for i in parts.carried), *jax.tree.leaves(carry))]
        return parts.params_names.to_dict(params), parts.state_names.to_dict(state)

    def apply(params, state, x, *, key, train, extra):
        module, carry = parts.put_together(params, state)
        module = eqx.nn.inference_mode(module, not train)
        inputs = inputs_of(x)
        leading = _leading(inputs, axes, extra)
        count = math.prod(leading)
        flat_inputs, flat_extra = jax.tree.map(lambda a: a.reshape(count, *a.shape[len(leading) :]), (inputs, extra))
        keys = jax.random.split(key, count) if train and key is not None and "key" in takes else None

        def one(inputs, extra, key, carry):
            given = {"key": key} if "key" in takes else {}
            if "state" in takes:
                return module(*inputs, state=carry, **given, **mode(train), **extra)
            return module(*inputs, **given, **mode(train), **extra), carry

        each = jax.vmap(one, in_axes=(0, 0, 0, None), out_axes=(0, None), axis_name="batch")
        try:
            with jax.numpy_dtype_promotion("standard"):
                y, carry = each(flat_inputs, flat_extra, keys, carry)
        except (RuntimeError, TypeError) as error:
            if keys is None and "key" in takes and "key" in str(error).lower():
                problem = "needs a key when train=True" if train else f"draws random numbers when train=False: {error}"
                raise LayerError("equinox", problem) from error
            raise
        y = jax.tree.map(lambda a: a.reshape(*leading, *a.shape[1:]), y)
        if not train:
            return y, state
        kept = parts.state_names.to_foreign(state)[: len(parts.carried)]
        return y, carried("equinox", state, parts.state_names.to_dict([*kept, *jax.tree.leaves(carry)]))

    return Layer(init, taking(optional_arrays(call, mode), apply))


class _Parts(NamedTuple):
    """What an Equinox module is made of."""

    call: Callable  # of the module's class
    structure: Any  # of the module
    fixed: list  # its leaves, None where an array comes in
    trained: list[int]  # which leaves are parameters
    carried: list[int]  # and which are other arrays
    carry_structure: Any  # of its eqx.nn.State
    params_names: Names
    state_names: Names  # of the other arrays, then of the State

    def put_together(self, params, state):
        """-> the module and its State"""
        leaves = list(self.fixed)
        arrays = self.state_names.to_foreign(state)
        for i, array in zip(self.trained, self.params_names.to_foreign(params), strict=True):
            leaves[i] = array
        for i, array in zip(self.carried, arrays[: len(self.carried)], strict=True):
            leaves[i] = array
        carry = jax.tree.unflatten(self.carry_structure, arrays[len(self.carried) :])
        return jax.tree.unflatten(self.structure, leaves), carry


def _parts_of(eqx, create) -> _Parts:
    made = []

    def arrays(key):
        made.extend(create(key))
        return jax.tree.leaves(eqx.filter(made, eqx.is_array))

    constants = jax.make_jaxpr(arrays)(some_key()).consts
    module, carry = made
    entries, structure = jax.tree_util.tree_flatten_with_path(module)
    # numbers that came into the constructor from outside, under a vmap over hyperparameters
    hyperparameters = {id(c) for c in constants if isinstance(c, Tracer) and c.ndim == 0}
    is_made = [eqx.is_array(leaf) and id(leaf) not in hyperparameters for _, leaf in entries]
    trained = [i for i, (_, leaf) in enumerate(entries) if is_made[i] and eqx.is_inexact_array(leaf)]
    carried = [i for i in range(len(entries)) if is_made[i] and i not in trained]

    is_index = lambda leaf: isinstance(leaf, eqx.nn.StateIndex)
    carry_paths = [
        (*names_in(path), *names_in(inside))
        for path, index in jax.tree_util.tree_flatten_with_path(module, is_leaf=is_index)[0]
        if is_index(index)
        for inside, _ in jax.tree_util.tree_flatten_with_path(carry.get(index))[0]
    ]
    carried_paths = [_flax_words(eqx, module, entries[i][0]) for i in carried] + carry_paths
    return _Parts(
        call=type(module).__call__,
        structure=structure,
        fixed=[None if is_made[i] else leaf for i, (_, leaf) in enumerate(entries)],
        trained=trained,
        carried=carried,
        carry_structure=jax.tree.structure(carry),
        params_names=_names("parameters", [_flax_words(eqx, module, entries[i][0]) for i in trained]),
        state_names=_names("state", carried_paths),
    )


def _names(what, paths) -> Names:
    return Names("equinox", what, jax.tree.structure([0] * len(paths)), renamed(paths))


def _flax_words(eqx, module, path) -> tuple[str, ...]:
    """The names on the way to an array, the last in the words that `renamed` knows."""
    names = names_in(path)
    if names[-1] != "weight":
        return names
    owner = module
    for part in path[:-1]:
        if isinstance(part, jax.tree_util.GetAttrKey):
            owner = getattr(owner, part.name)
        elif isinstance(part, jax.tree_util.SequenceKey | jax.tree_util.DictKey):
            owner = owner[part.idx if isinstance(part, jax.tree_util.SequenceKey) else part.key]
    if isinstance(owner, eqx.nn.BatchNorm | eqx.nn.GroupNorm | eqx.nn.LayerNorm | eqx.nn.RMSNorm):
        return (*names[:-1], "scale")
    return (*names[:-1], "embedding" if isinstance(owner, eqx.nn.Embedding) else "kernel")


def _leading(inputs, axes, extra) -> tuple[int, ...]:
    """The axes that all inputs have before those of one example. Raises LayerError where they differ."""
    each = axes if isinstance(axes, tuple) else (axes,) * len(inputs)
    if len(each) != len(inputs):
        raise LayerError("equinox", f"expected {len(each)} inputs, one for each entry of axes {each}, got {len(inputs)}")
    seen = []
    for value, count in zip(inputs, each, strict=True):
        for leaf in jax.tree.leaves(value):
            if jnp.ndim(leaf) < count:
                raise LayerError("equinox", f"expected arrays of {count} axes or more (axes={axes}), got {describe(leaf)}")
            seen.append(jnp.shape(leaf)[: jnp.ndim(leaf) - count])
    leading = seen[0] if seen else ()
    for name, value in extra.items():
        for leaf in jax.tree.leaves(value):
            if jnp.shape(leaf)[: len(leading)] != leading:
                problem = f"expected {name} to begin with the leading axes {leading} of x, got {describe(leaf)}"
                raise LayerError("equinox", problem)
    if len(set(seen)) > 1:
        raise LayerError("equinox", f"expected inputs of the same leading axes, got {' and '.join(map(str, seen))}")
    return leading

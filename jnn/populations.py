"""Many training runs in one compiled program."""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jnn.layers.correlations import CORRELATE


def sweep(train: Callable, hparams, *, seeds: int, seed: int = 0, data=None, mesh=None):
    """Every combination of trial and seed of `train(hparams, key)`, or `train(hparams, key, data)`, in one program.

    train: a pure function of one trial's hyperparameters and a key, to any pytree of arrays. Keep it and give the same one
        again: a new function is compiled anew. Data belong in the argument: closed over, they are copied into the program.
    hparams: a pytree of arrays with one leading axis (trials,).
    seeds: how many keys, split from `jax.random.key(seed)`; every trial sees the same ones.
    mesh: devices (`jnn.sharding.mesh`) over which the runs are spread, each on one of them; None for one device.

    Returns the results of `train` with two leading axes (trials, seeds). A run that diverges does not touch the others.
    On an accelerator the runs are one, by `vmap`. On a CPU they are cut into one part for each core, run side by side, as XLA
    does not spread small operations over cores; within a part they are one by `vmap` while most of their products are so
    small that calling them is what costs, below about a million operations, and otherwise follow each other in a loop
    (`lax.map`).
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(hparams)]
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes or shapes[0][0] == 0:
        raise ValueError(
            f"sweep: hparams need one leading axis of at least one trial, got {', '.join(map(str, shapes)) or 'none'}"
        )
    if seeds < 1:
        raise ValueError(f"sweep: seeds must be at least 1, got {seeds}")
    trials = shapes[0][0]
    keys = jax.random.split(jax.random.key(seed), seeds)
    lanes = jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a), seeds, axis=0), hparams), jnp.tile(keys, trials)
    shared = () if data is None else (jax.tree.map(jnp.asarray, data),)
    if mesh is not None:
        filled = next(chunks(lanes, -(-trials * seeds // mesh.size) * mesh.size))
        results = jax.tree.map(lambda a: a[: trials * seeds], _over_devices(train, mesh, filled, shared))
        return jax.tree.map(lambda a: a.reshape(trials, seeds, *a.shape[1:]), results)

    from jax.extend.core import get_opaque_trace_state  # takes as long to import as half of jnn

    with ThreadPoolExecutor(workers()) as pool:
        # arguments or what `train` closes over may be traced, and belong to this thread's trace
        traced = get_opaque_trace_state() != pool.submit(get_opaque_trace_state).result()
        if traced:
            results = over_lanes(train, lanes, shared)
        elif workers() == 1:
            results = _over_lanes(train, lanes, shared)
        else:
            parts = list(chunks(lanes, -(-trials * seeds // workers())))
            # compiled once, before the threads start; jax keeps it for the next call
            compiled = _over_lanes.lower(train, parts[0], shared).compile()
            pieces = list(pool.map(lambda part: jax.block_until_ready(compiled(part, shared)), parts))
            results = join(pieces, trials * seeds)
    return jax.tree.map(lambda a: a.reshape(trials, seeds, *a.shape[1:]), results)


def over_lanes(train: Callable, lanes: tuple, shared: tuple = ()):
    """`train(*lane, *shared)` for each entry of the leading axis of `lanes`, as one program in the form that is quickest here:
    see `sweep`."""
    from jax.extend.core import jaxpr_as_fun

    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype, weak_type=jax.typeof(a).weak_type), lanes)
    # a new function each time: jax would keep the program of one that closes over a tracer
    program, form = jax.make_jaxpr(lambda *arguments: train(*arguments), return_shape=True)(*first, *shared)
    structure = jax.tree.structure(form)

    def run(lane):
        return structure.unflatten(jaxpr_as_fun(program)(*jax.tree.leaves((*lane, *shared))))

    if jax.default_backend() == "cpu" and _is_of_large_products(program.jaxpr):
        return jax.lax.map(run, lanes)
    return jax.vmap(run)(lanes)


_over_lanes = partial(jax.jit, static_argnums=0)(over_lanes)


@partial(jax.jit, static_argnums=(0, 1))
def _over_devices(train, mesh, lanes, shared):
    """Each device its own part of the lanes, with nothing to say to the others."""
    cut, whole = jax.sharding.PartitionSpec(tuple(mesh.shape)), jax.sharding.PartitionSpec()
    own = partial(over_lanes, train)
    return jax.shard_map(own, mesh=mesh, in_specs=(cut, whole), out_specs=cut, check_vma=False)(lanes, shared)


# operations; where both ways took the same time on the 2 cores that they were measured on
_WORTH_A_PROCESSOR = 2**20


def _is_of_large_products(jaxpr) -> bool:
    """Whether most of a program's operations in products of matrices, and in convolutions, are done in large ones."""
    products = list(_products(jaxpr, 1))
    large = sum(operations * times for operations, times in products if operations >= _WORTH_A_PROCESSOR)
    return 2 * large > sum(operations * times for operations, times in products)


def _products(jaxpr, times: int) -> Iterator[tuple[int, int]]:
    """The floating-point operations of each product, and how often a program makes it, a `while` counted as one turn."""
    from jax.extend.core import jaxprs_in_params

    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        for inner in jaxprs_in_params(params):
            yield from _products(inner, times * params["length"] if name == "scan" else times)
        if name == "dot_general":
            contracted = params["dimension_numbers"][0][0]
            yield 2 * eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted), times
        elif name in ("conv_general_dilated", CORRELATE):
            w = eqn.invars[1].aval
            yield 2 * eqn.outvars[0].aval.size * (w.size // max(w.shape[-1], 1)), times


def chunks(lanes, size: int) -> Iterator:
    """Cuts a pytree of arrays along its leading axis into pieces of exactly `size`, the last filled up with its last entry."""
    count = jax.tree.leaves(lanes)[0].shape[0]
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        yield jax.tree.map(lambda a, rows=rows: a[rows], lanes)


def join(pieces: list, count: int):
    """Puts results of `chunks` together again, without what the last was filled up with."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:count], *pieces)


def workers() -> int:
    """How many programs are best run side by side: one on each core of a CPU, one on an accelerator."""
    return cores() if jax.default_backend() == "cpu" else 1


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

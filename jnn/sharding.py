"""Arrays over many devices: a mesh, and rules from paths to the axes along which parameters are cut.

XLA divides the work by where the arrays lie and adds the communication: the program stays that of one device, so batch norm,
clipping by the global norm and every loss are over the whole batch."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jnn import tree as trees
from jnn.types import Training


def mesh(**axes: int) -> Mesh:
    """The devices of all processes as a grid with named axes: `mesh(data=-1)`, `mesh(data=4, model=2)`; -1 for what is left.

    Raises ValueError where the devices do not fill it."""
    devices = jax.devices()
    if not axes or sum(size == -1 for size in axes.values()) > 1 or any(size < 1 and size != -1 for size in axes.values()):
        raise ValueError(f"mesh: axes want a length of at least 1, and -1 once at most, got {axes or 'none'}")
    known = math.prod(size for size in axes.values() if size != -1)
    sizes = {name: len(devices) // known if size == -1 else size for name, size in axes.items()}
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(f"mesh: {axes} does not fill the {len(devices)} devices: {', '.join(map(str, devices[:8]))}")
    # neighbours in the grid are neighbours in the network, where that matters
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def fully(*axes: str, least: int = 2**12) -> Callable[[str, Any], Callable[[Mesh], PartitionSpec]]:
    """A rule for fully sharded parameters (Rajbhandari et al. 2020): the longest of an array's axes that the mesh's `axes`
    together divide is cut along them. Arrays of fewer than `least` numbers stay whole, as cutting them costs more."""

    def rule(path: str, array):
        def spec(mesh: Mesh) -> PartitionSpec:
            parts = math.prod(mesh.shape[axis] for axis in axes)
            fitting = [i for i, length in enumerate(array.shape) if length % parts == 0]
            if not fitting or math.prod(array.shape) < least:
                return PartitionSpec()
            longest = max(fitting, key=lambda i: array.shape[i])
            return PartitionSpec(*(axes if i == longest else None for i in range(len(array.shape))))

        return spec

    return rule


def shardings(tree, mesh: Mesh, rules: Mapping[str, Any]):
    """-> a tree of NamedSharding: how each array of `tree`, arrays or shapes, lies on the mesh.

    rules: patterns of paths (see `jnn.tree`) to PartitionSpecs, or to `fully("data")`; the first that takes a path counts,
    and what none takes is on every device whole. As the optimizer's averages carry the paths of their parameters, one rule
    does for both. A spec shorter than an array's rank leaves its last axes whole; one that is longer is for a larger array
    of that name, such as the parameter beside a scalar statistic, and leaves this one whole.

    Raises ValueError for a pattern that takes nothing, an axis that the mesh has not, and lengths that do not divide."""
    flat = trees.flatten(tree)
    used: set[str] = set()

    def of(path, leaf):
        for pattern, rule in rules.items():
            if trees.matches(path, pattern):
                used.add(pattern)
                spec = rule if isinstance(rule, PartitionSpec) else rule(path, leaf)(mesh)
                return NamedSharding(mesh, _fitting(path, leaf, spec, mesh))
        return NamedSharding(mesh, PartitionSpec())

    found = [of(path, leaf) for path, leaf in flat.items()]
    unused = [pattern for pattern in rules if pattern not in used]
    if unused:
        raise ValueError(f"shardings: no path contains {unused[0]!r}; there are {', '.join(list(flat)[:8])}")
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def _fitting(path: str, leaf, spec: PartitionSpec, mesh: Mesh) -> PartitionSpec:
    shape = tuple(leaf.shape)
    if len(spec) > len(shape):
        return PartitionSpec()
    for length, entry in zip(shape, spec, strict=False):
        names = _names(entry)
        unknown = [name for name in names if name not in mesh.shape]
        if unknown:
            raise ValueError(f"shardings: {path}: the mesh has no axis {unknown[0]!r}, but {', '.join(mesh.shape)}")
        parts = math.prod(mesh.shape[name] for name in names)
        if length % parts:
            raise ValueError(f"shardings: {path} {shape}: {parts} devices do not divide its axis of {length}")
    return spec


def _names(entry) -> tuple[str, ...]:
    """Of the axes of the mesh, of one entry of a PartitionSpec."""
    return (entry,) if isinstance(entry, str) else entry or ()


def shard(training: Training, mesh: Mesh, rules: Mapping[str, Any] = {}, *, batch: PartitionSpec | None = None) -> Training:
    """A training whose state lies on the mesh by `rules` (see `shardings`) and whose batches are cut along their leading axis:
    data parallel without rules, fully sharded by {"*": fully("data")}, tensor parallel by rules such as
    {"up/w": PartitionSpec(None, "model"), "down/w": PartitionSpec("model")}. It goes wherever a training goes.

    batch: how a batch is cut; by default its leading axis along all axes of the mesh that no rule names, or along the first.
        Data for evaluation that the devices do not divide stay whole. Raises ValueError for a batch for training that they do
        not divide."""
    named = {name for rule in rules.values() if isinstance(rule, PartitionSpec) for name in jax.tree.leaves(tuple(rule))}
    free = tuple(name for name in mesh.shape if name not in named) or tuple(mesh.shape)[:1]
    cut = NamedSharding(mesh, PartitionSpec(free) if batch is None else batch)
    laid = partial(_laid, mesh=mesh, rules=rules)

    def init(key, batch):
        return laid(training.init(key, batch))

    def step(train_state, batch, *, train=True):
        batch = jax.tree.map(partial(_divided, cut=cut, train=train), batch)
        # before as well as behind: else XLA may cut further what a loop over steps carries, and what it returns
        train_state, metrics = training.step(laid(train_state), batch, train=train)
        return laid(train_state), jax.lax.with_sharding_constraint(metrics, NamedSharding(mesh, PartitionSpec()))

    return Training(init, step)


def _divided(array, *, cut, train):
    parts = math.prod(cut.mesh.shape[name] for entry in cut.spec[:1] for name in _names(entry))
    if len(array) % parts == 0:
        return jax.lax.with_sharding_constraint(array, cut)
    if train:
        raise ValueError(f"shard: {parts} devices do not divide a batch of {len(array)} examples")
    return array


def _laid(train_state, *, mesh, rules):
    placed = shardings(train_state, mesh, rules)
    return jax.lax.with_sharding_constraint(train_state, placed)

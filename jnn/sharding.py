"""Arrays over many devices: a mesh, and rules from paths to the axes along which parameters are cut.

XLA divides the work by where the arrays lie and adds the communication: the program stays that of one device, so batch norm,
clipping by the global norm and every loss are over the whole batch."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jnn import tree as trees
from jnn.types import Training, TrainState


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


def fully(*axes: str, least: int = 2**12) -> Callable[[str, Any, Mesh], PartitionSpec]:
    """A rule for fully sharded parameters (Rajbhandari et al. 2020): the longest of an array's axes that the mesh's `axes`
    together divide is cut along them. Arrays of fewer than `least` numbers stay whole, as cutting them costs more."""

    def rule(path: str, array, mesh: Mesh) -> PartitionSpec:
        parts = _parts(path, axes, mesh)
        fitting = [i for i, length in enumerate(array.shape) if length % parts == 0]
        if not fitting or math.prod(array.shape) < least:
            return PartitionSpec()
        longest = max(fitting, key=lambda i: array.shape[i])
        return PartitionSpec(*(axes if i == longest else None for i in range(len(array.shape))))

    return rule


def shardings(tree, mesh: Mesh, rules: Mapping[str, Any]):
    """-> a tree of NamedSharding: how each array of `tree`, arrays or shapes, lies on the mesh.

    rules: patterns of paths (see `jnn.tree`) to PartitionSpecs, or to `fully("data")`; the first that takes a path counts,
    and what none takes is on every device whole. As the optimizer's averages carry the paths of their parameters, one rule
    does for both; of a TrainState, a spec leaves whole what carries a parameter's path and has another shape, such as the
    memory of L-BFGS. A spec shorter than an array's rank leaves its last axes whole; one that is longer is for a larger array
    of that name, and leaves this one whole.

    Raises ValueError for a pattern that takes nothing or cuts nothing of what it takes, an axis that the mesh has not or that
    is named twice, and lengths that do not divide; TypeError for what is no pattern or no spec."""
    for pattern, rule in rules.items():
        if not isinstance(pattern, str) or not (isinstance(rule, PartitionSpec) or callable(rule)):
            raise TypeError(f"shardings: rules are patterns to PartitionSpecs or `fully`, got {pattern!r}: {rule!r}")
    flat = trees.flatten(tree)
    params = trees.flatten(tree.params) if isinstance(tree, TrainState) else {}
    taken: dict[str, dict[str, PartitionSpec]] = {pattern: {} for pattern in rules}

    def of(path, leaf):
        for pattern, rule in rules.items():
            if trees.matches(path, pattern):
                spec = rule if isinstance(rule, PartitionSpec) else rule(path, leaf, mesh)
                taken[pattern][path] = _fitting(path, leaf, spec, mesh, params if spec is rule else {})
                return NamedSharding(mesh, taken[pattern][path])
        return NamedSharding(mesh, PartitionSpec())

    found = [of(path, leaf) for path, leaf in flat.items()]
    for pattern, rule in rules.items():
        _require_use(pattern, rule, flat, taken)
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def _require_use(pattern: str, rule, flat, taken) -> None:
    specs = taken[pattern].values()
    if any(map(_named, specs)) or (specs and isinstance(rule, PartitionSpec) and not _named(rule)):
        return
    if specs:
        path = max(taken[pattern], key=lambda path: np.size(flat[path]))
        why = "the devices divide none of its axes, or it has too few numbers"
        if isinstance(rule, PartitionSpec):
            why = f"{rule} is for more axes, or for the shape of a parameter"
        largest = f"{path} {np.shape(flat[path])}"
        raise ValueError(f"shardings: {pattern!r} cuts nothing; the largest of what it takes is {largest}: {why}")
    for path in flat:
        if trees.matches(path, pattern):
            earlier = next(other for other, specs in taken.items() if path in specs)
            raise ValueError(f"shardings: {pattern!r} takes nothing: {earlier!r}, which comes first, has taken {path}")
    raise ValueError(f"shardings: no path contains {pattern!r}; there are {', '.join(list(flat)[:8]) or 'no arrays'}")


def _fitting(path: str, leaf, spec: PartitionSpec, mesh: Mesh, params: Mapping[str, Any]) -> PartitionSpec:
    shape, named = np.shape(leaf), _named(spec)
    for name in named:
        if named.count(name) > 1:
            raise ValueError(f"shardings: {path}: {spec} names the axis {name!r} twice")
    parts = [_parts(path, _names(entry), mesh) for entry in spec]
    names = path.split("/")
    within = ("/".join(names[i:j]) for i in reversed(range(len(names))) for j in range(i + 1, len(names) + 1))
    owner = max((name for name in within if name in params), key=len, default=None)
    if len(spec) > len(shape) or (owner is not None and shape != np.shape(params[owner])):
        return PartitionSpec()
    for length, n in zip(shape, parts, strict=False):
        if length % n:
            raise ValueError(f"shardings: {path} {shape}: {n} devices do not divide its axis of {length}")
    return spec


def _parts(path: str, names: tuple[str, ...], mesh: Mesh) -> int:
    """Into how many an axis is cut along these axes of the mesh."""
    for name in names:
        if name not in mesh.shape:
            raise ValueError(f"shardings: {path}: the mesh has no axis {name!r}, but {', '.join(mesh.shape)}")
    return math.prod(mesh.shape[name] for name in names)


def _named(spec: PartitionSpec) -> list[str]:
    """The axes of the mesh in a spec."""
    return [name for entry in spec for name in _names(entry)]


def _names(entry) -> tuple[str, ...]:
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


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

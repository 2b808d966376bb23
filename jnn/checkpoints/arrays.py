"""Trees of arrays in a folder, by Orbax: each under its path, random keys as the numbers that they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jnn import tree as trees
from jnn.checkpoints import manifests
from jnn.checkpoints.manifests import CheckpointError, DamagedError

_NUMBERS = bool, int, float, complex


def described(tree) -> dict[str, dict]:
    """-> {path: {"shape": [...], "dtype": "...", "key": "threefry2x32"}}, "key" for random keys alone, whose shape and dtype
    are those of their numbers. `tree` holds arrays or shapes. Raises TypeError for what is neither, ValueError for paths that
    Orbax, which joins keys by dots, would take for one: `{"a": {"b": x}, "a.b": y}`."""
    flat, names = trees.flatten(tree), {}
    for path in flat:
        other = names.setdefault(path.replace("/", "."), path)
        if other != path:
            raise ValueError(f"checkpoints: {other} and {path} would be stored as one array: rename one of them")
    return {path: _described(path, leaf) for path, leaf in flat.items()}


def _described(path: str, leaf) -> dict:
    shape, dtype = np.shape(leaf), getattr(leaf, "dtype", None)
    if dtype is None:
        dtype = np.asarray(leaf).dtype
    if jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        kinds = []  # asked of a traced key, as a shape has no answer
        numbers = jax.eval_shape(lambda key: kinds.append(str(jax.random.key_impl(key))) or jax.random.key_data(key), leaf)
        return {"shape": list(numbers.shape), "dtype": numbers.dtype.name, "key": kinds[0]}
    if dtype.name not in manifests.DTYPES:
        raise TypeError(f"checkpoints: {path} cannot be stored: {type(leaf).__name__} of {dtype}")
    return {"shape": list(shape), "dtype": dtype.name}


def write(checkpointer, folder: Path, tree) -> None:
    """Begins to write all arrays of `tree`; `checkpointer` (an `orbax.checkpoint.AsyncCheckpointer`) ends it by itself. What
    has no numbers in it, an array of shape (0, 3), is in its manifest alone."""
    import orbax.checkpoint as ocp

    flat = {path: _numbers(leaf) for path, leaf in trees.flatten(tree).items() if np.size(leaf)}
    if flat:
        checkpointer.save(folder.absolute(), ocp.args.PyTreeSave(trees.unflatten(flat)))


def read(folder: Path, like: Mapping[str, Any], entries: Mapping[str, dict]) -> dict[str, Any]:
    """{path: an array or a shape, or None} -> {path: array}, placed where the array in `like` is (its sharding), of numpy for
    None and where jax has no such dtype, a number for a number; `entries` are those of the manifest. Raises CheckpointError
    where the files hold something else."""
    import orbax.checkpoint as ocp

    args = {}
    for path, leaf in like.items():
        if 0 not in entries[path]["shape"]:
            host = ocp.RestoreArgs(restore_type=np.ndarray)
            args[path] = host if _on_host(leaf, entries[path]) else ocp.ArrayRestoreArgs(sharding=_sharding(leaf))
    found: dict[str, Any] = {}
    if args:
        names = trees.unflatten(dict.fromkeys(args, 0))
        restore = ocp.args.PyTreeRestore(names, restore_args=trees.unflatten(args), partial_restore=True)
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                flat = trees.flatten(checkpointer.restore(folder.absolute(), restore))
            found = {path: flat[path] for path in args}
        except Exception as error:  # Orbax has no class of its own for what is not there
            raise CheckpointError(f"{folder} could not be read: {type(error).__name__}: {error}") from error
        for path, numbers in found.items():
            if not isinstance(numbers, np.ndarray | jax.Array):  # what was given in its place
                raise CheckpointError(f"{folder} has no {path}, which the manifest names")
    return {path: _array(folder, path, found.get(path), leaf, entries[path]) for path, leaf in like.items()}


def _array(folder: Path, path: str, numbers, leaf, entry: dict):
    dtype = jax.numpy.dtype(entry["dtype"])
    if numbers is None:
        numbers = np.zeros(entry["shape"], dtype)
        numbers = numbers if _on_host(leaf, entry) else jax.device_put(numbers, _sharding(leaf))
    if list(numbers.shape) != entry["shape"] or numbers.dtype != dtype:
        raise DamagedError(f"{folder}: {path} is {numbers.dtype} {numbers.shape} where the manifest names {entry}")
    if "key" in entry:
        return jax.random.wrap_key_data(jax.numpy.asarray(numbers), impl=entry["key"])
    return numbers.item() if type(leaf) in _NUMBERS else numbers


def _numbers(leaf):
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return np.asarray(leaf)


def _on_host(leaf, entry: dict) -> bool:
    dtype = jax.numpy.dtype(entry["dtype"])
    by_kind = leaf is None or isinstance(leaf, np.ndarray | np.generic) or type(leaf) in _NUMBERS
    return by_kind or jax.dtypes.canonicalize_dtype(dtype) != dtype


def _sharding(leaf):
    return getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

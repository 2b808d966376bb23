"""The names of another library's arrays, in jnn's words and back.

- `kernel` is `w`, `embedding` is `table`, and `bias` is `b`, except next to a `scale`, where it stays: a normalization.
- All names are lower snake case: `Dense_0` is `dense_0`, `BatchNorm_1` is `batch_norm_1`; a "/" in a name is a ".".
- Items of a list are called by their position: `layers/0/w`.
- Where two names of one branch would become the same, that branch keeps its own names.

Shapes and layouts stay as they are. The way back is by the structure of the foreign tree, so every name has one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jnn import tree
from jnn.errors import LayerError

_LEAVES = {"kernel": "w", "embedding": "table"}
_WORD_STARTS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])")


class Names(NamedTuple):
    """A foreign tree's structure, and what jnn calls each of its leaves, in their order."""

    kind: str
    what: str  # "parameters" or "state", for errors
    structure: Any
    paths: tuple[str, ...]

    def to_dict(self, foreign) -> dict[str, Any]:
        """The leaves of a foreign tree as a nested dict."""
        return tree.unflatten(dict(zip(self.paths, jax.tree.leaves(foreign), strict=True)))

    def to_foreign(self, nested) -> Any:
        """The foreign tree of a nested dict. Raises LayerError where an array is missing, or one too many."""
        flat = tree.flatten(nested)
        missing, foreign = [p for p in self.paths if p not in flat], sorted(set(flat) - set(self.paths))
        if missing or foreign:
            parts = [f"{_listed(missing)} missing"] * bool(missing) + [f"{_listed(foreign)} not known"] * bool(foreign)
            raise LayerError(self.kind, f"these are not its {self.what}: {'; '.join(parts)}")
        return jax.tree.unflatten(self.structure, [flat[path] for path in self.paths])


def names_of(kind: str, what: str, foreign) -> Names:
    """The Names of a tree of arrays or shapes."""
    paths, structure = jax.tree_util.tree_flatten_with_path(foreign)
    return Names(kind, what, structure, renamed([names_in(path) for path, _ in paths]))


def names_in(path) -> tuple[str, ...]:
    """The components of a `jax.tree_util` key path."""
    return tuple(jax.tree_util.keystr((part,), simple=True) for part in path)


def renamed(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The jnn path of each foreign path."""
    branches: dict[tuple[str, ...], set[str]] = {}
    for path in paths:
        for depth, name in enumerate(path):
            branches.setdefault(path[:depth], set()).add(name)
    leaves = set(paths)
    words = {branch: _words(names, {n for n in names if (*branch, n) in leaves}) for branch, names in branches.items()}
    return tuple("/".join(words[path[:depth]][name] for depth, name in enumerate(path)) for path in paths)


def _words(names: set[str], leaves: set[str]) -> Mapping[str, str]:
    """{foreign name: jnn's} for the names of one branch."""
    special = _LEAVES if "scale" in leaves else {**_LEAVES, "bias": "b"}
    words = {name: special[name] if name in leaves and name in special else _word(name) for name in names}
    distinct = len(set(words.values())) == len(words)
    return words if distinct else {name: name.replace("/", ".") for name in names}


def _word(name: str) -> str:
    return _WORD_STARTS.sub("_", name).lower().replace("/", ".")


def as_made(leaf):
    """An array without the weak type of a Python number: the next call would be compiled anew."""
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else lax.convert_element_type(leaf, leaf.dtype)


def carried(kind: str, old: dict, new: dict) -> dict[str, Any]:
    """The new state in the dtypes of the old. Raises LayerError where names or shapes are others."""
    before, after = tree.flatten(old), tree.flatten(new)
    if set(before) != set(after):
        appeared, gone = sorted(set(after) - set(before)), sorted(set(before) - set(after))
        parts = [f"{_listed(appeared)} appeared"] * bool(appeared) + [f"{_listed(gone)} disappeared"] * bool(gone)
        raise LayerError(kind, f"a call must leave the form of its state as it was: {'; '.join(parts)}")
    for path, array in before.items():
        if after[path].shape != array.shape:
            raise LayerError(kind, f"expected the state {path} to stay {array.shape}, got {after[path].shape}")
    return tree.unflatten({path: _as(after[path], array.dtype) for path, array in before.items()})


def _as(array, dtype):
    return array if jnp.issubdtype(dtype, jax.dtypes.extended) else lax.convert_element_type(array, dtype)


def _listed(paths) -> str:
    rest = f" and {len(paths) - 6} more" if len(paths) > 6 else ""
    return ", ".join(paths[:6]) + rest

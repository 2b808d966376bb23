"""Parameters by path: flat views, selection by pattern, surgery.

A path is the keys from the root, joined by "/": `encoder/dense_0/w`. `where`, wherever jnn takes one, is

- a pattern: globs of path components joined by "/". It takes every array whose path contains these components in a row, so
  `"w"` takes every `.../w`, `"conv_*/w"` every convolution's weights at any depth, `"encoder"` all that is in the encoder;
  a "/" in front ties it to the root: `"/dense_0"`;
- several patterns in a tuple or list: what any of them takes;
- a function (path, array) -> bool.

A pattern that takes nothing raises ValueError: it is misspelt more often than meant.
"""

import difflib
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jnn.types import PyTree

Where = str | tuple[str, ...] | list[str] | Callable[[str, Any], bool]


def flatten(tree: PyTree) -> dict[str, Any]:
    """{"a": {"b": x}} -> {"a/b": x}, in the tree's order. Raises ValueError for a key with a "/" in it, and for two keys of
    one name, such as 0 and "0"."""
    flat = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names = [jax.tree_util.keystr((part,), simple=True) for part in path]
        for name in names:
            if "/" in name:
                raise ValueError(f"tree: the key {name!r} has a '/' in it, which separates the keys of a path")
        name = "/".join(names)
        if name in flat:
            raise ValueError(f"tree: two arrays have the path {name!r}")
        flat[name] = leaf
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}. Raises ValueError where a path is also the beginning of another."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"tree: {path} goes on where another path ends")
        if name in node:
            raise ValueError(f"tree: {path} ends where another path goes on")
        node[name] = leaf
    return tree


def mask(tree: PyTree, where: Where) -> PyTree:
    """The same tree with True where `where` takes the array and False elsewhere: what `optax.masked` wants."""
    flat = flatten(tree)
    taken = _taken(flat, where)
    return jax.tree.unflatten(jax.tree.structure(tree), [path in taken for path in flat])


def select(params: Mapping, where: Where) -> dict[str, Any]:
    """The part of a nested dict that `where` takes; branches that are or become empty are left out."""
    return split(params, where)[0]


def split(params: Mapping, where: Where) -> tuple[dict[str, Any], dict[str, Any]]:
    """A nested dict in two: what `where` takes, and the rest. `merge` puts them together again."""
    flat = _flat_dict(params)
    taken = _taken(flat, where)
    inside = {path: leaf for path, leaf in flat.items() if path in taken}
    outside = {path: leaf for path, leaf in flat.items() if path not in taken}
    return unflatten(inside), unflatten(outside)


def merge(*parts: Mapping) -> dict[str, Any]:
    """Nested dicts as one; a later part replaces arrays of the same path: `merge(params, {"head": new_head})`.

    Raises ValueError where an array of one part is a branch of another."""
    flat: dict[str, Any] = {}
    for part in parts:
        flat.update(_flat_dict(part))
    return unflatten(flat)


def _flat_dict(params: Mapping) -> dict[str, Any]:
    """`flatten`, of what `unflatten` gives back as it was"""
    for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not path or not all(isinstance(part, jax.tree_util.DictKey) and isinstance(part.key, str) for part in path):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise TypeError(f"tree: expected a dict of dicts with names for keys, got an array at {where or 'the root'!r}")
    return flatten(params)


def rank(path: str, array: Any) -> int:
    """The number of axes of a parameter, not counting those along which `repeat` has stacked its layers: one for each path
    component `repeat` or `repeat_*`, so call a child of `repeat` so when you give it a name of your own."""
    return jnp.ndim(array) - sum(name == "repeat" or name.startswith("repeat_") for name in path.split("/"))


def is_weight(path: str, array: Any) -> bool:
    """Whether a parameter is a matrix, a kernel or a table, and not a bias or a scale: of rank 2 at least, and not called
    `b`, `bias`, `bh`, `by`, `scale` or `slope`, as what is no weight is called in jnn, stacked or not."""
    return path.rpartition("/")[2] not in ("b", "bias", "bh", "by", "scale", "slope") and rank(path, array) >= 2


def _taken(flat: Mapping[str, Any], where: Where) -> set[str]:
    if callable(where):
        return {path for path, leaf in flat.items() if where(path, leaf)}
    patterns = tuple(where) if isinstance(where, tuple | list) else (where,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"tree: where must be a pattern, several, or a function (path, array) -> bool, got {where!r}")
    taken: set[str] = set()
    for pattern in patterns:
        found = {path for path in flat if matches(path, pattern)}
        if not found:
            near = difflib.get_close_matches(pattern.strip("/"), _windows(flat, pattern), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(list(flat)[:8]) or 'no parameters'}"
            raise ValueError(f"tree: no path contains {pattern!r}; {hint}")
        taken |= found
    return taken


def _windows(flat: Mapping[str, Any], pattern: str) -> list[str]:
    """All that a pattern of as many components can mean"""
    width = pattern.strip("/").count("/") + 1
    paths = [path.split("/") for path in flat]
    return sorted({"/".join(names[i : i + width]) for names in paths for i in range(len(names) - width + 1)})


def matches(path: str, pattern: str) -> bool:
    """Whether a path contains the pattern's components in a row; at its beginning, where the pattern begins with "/"."""
    names = path.split("/")
    globs = pattern.strip("/").split("/")
    starts = range(1) if pattern.startswith("/") else range(len(names) - len(globs) + 1)
    return any(
        len(names) - start >= len(globs)
        and all(fnmatch.fnmatchcase(name, glob) for name, glob in zip(names[start:], globs, strict=False))
        for start in starts
    )

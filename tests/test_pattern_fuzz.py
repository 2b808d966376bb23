"""Whatever the pattern and the tree: an error of jnn's own that names one of them, or what the pattern says, found by force."""

import math
from collections import OrderedDict
from typing import NamedTuple

import jax
import numpy as np
import optax
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, PartitionSpec

from jnn import sharding, tree
from jnn.optim import freeze


def glob(pattern: str, name: str) -> bool:
    """As in a shell: * is anything, ? one character, [ab-d] one of these, [!ab-d] one that is not, [ alone is itself."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(glob(pattern[1:], name[at:]) for at in range(len(name) + 1))
    close = pattern.find("]", 3 if pattern[1:2] == "!" else 2)  # "]" right behind "[" is one of the characters
    if pattern[0] == "[" and close > 0:
        chosen = pattern[1:close]
        is_one = any(name[:1] == one for one in members(chosen.removeprefix("!")))
        return name != "" and is_one != chosen.startswith("!") and glob(pattern[close + 1 :], name[1:])
    return name != "" and pattern[0] in ("?", name[0]) and glob(pattern[1:], name[1:])


def members(chosen: str) -> list[str]:
    if len(chosen) >= 3 and chosen[1] == "-":
        return [chr(code) for code in range(ord(chosen[0]), ord(chosen[2]) + 1)] + members(chosen[3:])
    return [chosen[0], *members(chosen[1:])] if chosen else []


def is_taken(keys: tuple[str, ...], pattern: str) -> bool:
    """Whether a path contains the pattern's components in a row."""
    keys, globs = keys or ("",), pattern.strip("/").split("/")
    ends = [at + len(globs) for at in range(1 if pattern.startswith("/") else len(keys))]
    return any(
        end <= len(keys) and all(glob(one, key) for one, key in zip(globs, keys[end - len(globs) : end], strict=True))
        for end in ends
    )


class Pair(NamedTuple):
    a: object
    w: object


def by_keys(params):
    """{("a", "0"): array}, in the order of dicts that are sorted; None holds nothing."""
    if params is None:
        return {}
    if isinstance(params, Pair):
        parts = params._asdict().items()
    elif isinstance(params, OrderedDict):
        parts = params.items()
    elif isinstance(params, dict):
        parts = sorted(params.items())
    elif isinstance(params, list | tuple):
        parts = enumerate(params)
    else:
        return {(): params}
    return {(str(name), *keys): leaf for name, part in parts for keys, leaf in by_keys(part).items()}


KEYS = ["a", "b", "w", "dense_0", "dense_1", "conv_2", "A", "[a]", "a*", "a-b", "", ".", "!", "ä", "\n", "0", "1"]
keys = st.sampled_from(KEYS) | st.text("ab0-]", min_size=1, max_size=3) | st.text("ab", max_size=40)
odd_keys = keys | st.sampled_from([0, 1, 2.5, None, True, b"a", "a/b", "/"])
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12]), max_size=3)
arrays = shapes.map(lambda shape: np.ones(shape, np.float32))
nested = st.recursive(
    st.dictionaries(keys, arrays, max_size=4),
    lambda inner: st.dictionaries(keys, inner | arrays, max_size=4),
    max_leaves=5,
)
trees = nested | st.recursive(
    arrays,
    lambda inner: (
        st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(odd_keys, inner | st.none(), max_size=3).map(OrderedDict)
        | st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=5,
)
GLOBS = ["*", "dense_*", "*_?", "[!a]*", "[a-w]", "[]a]", "[z-a]", "[", "**"]
globs = keys | st.text("ab0*?[]!-^\\ä_.", max_size=6) | st.sampled_from(GLOBS)
globs |= st.integers(1, 300).map(lambda times: "*a" * times)
patterns = st.builds(
    lambda front, parts, back: front + "/".join(parts) + back,
    st.sampled_from(["", "", "", "/", "//"]),
    st.lists(globs, min_size=1, max_size=3),
    st.sampled_from(["", "", "", "/"]),
)


def alike(key: str):
    """Globs that take it."""
    return st.sampled_from([key, key, "*", key[:1] + "*", "?" * len(key), f"[{key[:1]}]{key[1:]}"])


@st.composite
def with_patterns(draw, trees=trees):
    """A tree and patterns, many of which are made of its own paths."""
    params = draw(trees)
    own = [[key for key in path if "/" not in key] for path in by_keys(params) if path]
    several = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 0]))):
        if not own or draw(st.integers(0, 3)) == 0:
            several.append(draw(patterns))
            continue
        parts = draw(st.sampled_from(own))
        low = draw(st.integers(0, max(len(parts) - 1, 0)))
        parts = [draw(alike(part)) for part in parts[low : draw(st.integers(low, len(parts))) + 1]]
        several.append(draw(st.sampled_from(["", "", "/"])) + "/".join(parts))
    return params, several


def have_paths(flat) -> bool:
    """Whether each array has a path of its own, which can be written."""
    paths = ["/".join(keys) for keys in flat]
    return len(set(paths)) == len(paths) and not any("/" in key for keys in flat for key in keys)


def no_twins(params) -> bool:
    """Whether no array has the keys of another: those of 0 and "0"."""
    return len(by_keys(params)) == len(jax.tree.leaves(params))


def or_error(function, *named):
    """What it gives, or None where it raises an error of jnn's that names one of these"""
    try:
        return function()
    except (ValueError, TypeError) as error:
        assert str(error).startswith(("tree: ", "shardings: ", "freeze: "))
        assert not named or any(repr(one) in str(error) or str(one) in str(error) for one in named)
        return None


@given(st.text("ab0*?[]!-^\\/", max_size=8), st.lists(st.text("ab0-]![*^\\", max_size=5), min_size=1, max_size=4))
def test_patterns_mean_what_globs_mean(pattern, names):
    assert tree.matches("/".join(names), pattern) == is_taken(tuple(names), pattern)


@given(with_patterns())
def test_mask(case):
    params, several = case
    flat = by_keys(params)
    where = several[0] if len(several) == 1 else several
    mask = or_error(lambda: tree.mask(params, where), *several, "the key", "the path")
    taken = [[keys for keys in flat if is_taken(keys, pattern)] for pattern in several]
    assert (mask is not None) == (have_paths(flat) and no_twins(params) and all(taken))
    if mask is not None:
        assert jax.tree.structure(mask) == jax.tree.structure(params)
        assert jax.tree.leaves(mask) == [any(keys in found for found in taken) for keys in flat]


@given(with_patterns(nested))
def test_split_and_merge(case):
    params, several = case
    flat, parts = by_keys(params), or_error(lambda: tree.split(params, several), *several)
    taken = [[keys for keys in flat if is_taken(keys, pattern)] for pattern in several]
    assert (parts is not None) == all(taken)
    if parts is not None:
        inside, outside = (by_keys(part) for part in parts)
        assert inside.keys() == set().union(*taken)
        assert outside.keys() == flat.keys() - inside.keys()
        assert all(leaf is flat[keys] for part in (inside, outside) for keys, leaf in part.items())
        assert by_keys(tree.select(params, tuple(several))) == inside
        merged = by_keys(tree.merge(*parts))
        assert merged.keys() == flat.keys()
        assert all(leaf is flat[keys] for keys, leaf in merged.items())


@given(trees, trees)
def test_merge_of_any_two(one, other):
    merged = or_error(lambda: tree.merge(one, other), "the key", "ends where", "goes on where", "expected a dict of dicts")
    flat = by_keys(one) | by_keys(other)
    fits = not any(one != two and two[: len(one)] == one for one in flat for two in flat)
    plain = not any("/" in key for keys in flat for key in keys)
    assert (merged is not None) == (is_of_dicts(one) and is_of_dicts(other) and fits and plain)
    if merged is not None:
        found = by_keys(merged)
        assert found.keys() == flat.keys()
        assert all(leaf is flat[keys] for keys, leaf in found.items())


def is_of_dicts(params) -> bool:
    """Whether all arrays are below nothing but dicts, with names for keys."""
    full = {key: part for key, part in params.items() if by_keys(part)} if isinstance(params, dict) else None
    if full is None:
        return not by_keys(params)
    return all(isinstance(key, str) and (() in by_keys(part) or is_of_dicts(part)) for key, part in full.items())


@given(st.dictionaries(st.lists(keys, min_size=1, max_size=3).map("/".join), st.integers(), max_size=5))
def test_unflatten(flat):
    found = or_error(lambda: tree.unflatten(flat), *flat)
    parts = [tuple(path.split("/")) for path in flat]
    assert (found is None) == any(one != two and two[: len(one)] == one for one in parts for two in parts)
    if found is not None:
        assert by_keys(found) == {tuple(path.split("/")): leaf for path, leaf in flat.items()}


@given(trees, st.sampled_from([None, 3, b"a", {"a": 1}, ("a", None), [3], [["a"]], {"a"}, np.ones(2)]))
def test_what_is_no_pattern(params, where):
    if have_paths(by_keys(params)) and no_twins(params):
        assert or_error(lambda: tree.mask(params, where), "where must be a pattern") is None


@given(with_patterns())
def test_freeze(case):
    params, several = case
    flat = by_keys(params)
    optimizer = freeze(optax.sgd(0.5), several)
    state = or_error(lambda: optimizer.init(params), *several, "the key", "the path", "so nothing would be")
    frozen = [any(is_taken(keys, pattern) for pattern in several) for keys in flat]
    used = all(any(is_taken(keys, pattern) for keys in flat) for pattern in several)
    assert (state is not None) == (have_paths(flat) and no_twins(params) and used and any(frozen) and not all(frozen))
    if state is not None:
        updates, _ = optimizer.update(params, state, params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        for leaf, still in zip(jax.tree.leaves(updates), frozen, strict=True):
            assert (np.asarray(leaf) == (0 if still else -0.5)).all()


AXES = ["data", "model", "expert"]
SIZES = [(1,), (2,), (8,), (1, 2), (4, 2), (2, 3), (1, 1)]
meshes = st.sampled_from(SIZES).map(lambda sizes: AbstractMesh(sizes, tuple(AXES[: len(sizes)])))
axis = st.sampled_from(["data", "data", "model", "model", "expert"])
spec_entries = st.none() | axis | st.lists(axis, max_size=2).map(tuple) | st.sampled_from([PartitionSpec.UNCONSTRAINED, 3])
specs = st.lists(spec_entries, max_size=4).map(lambda entries: PartitionSpec(*entries))
fulls = st.tuples(st.lists(axis, max_size=2).map(tuple), st.integers(0, 30))  # the axes of `fully`, and `least`


def sizes_of(mesh):
    return dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))


def axes_of(spec):
    """The axes of the mesh that each axis of the array is cut along."""
    return [() if entry is None else entry if isinstance(entry, tuple) else (entry,) for entry in spec]


def trimmed(spec):
    """Without the axes at the end that are whole."""
    axes = axes_of(spec)
    while axes and not axes[-1]:
        axes.pop()
    return axes


def cut(shape, spec, mesh):
    """-> the shape of a part, or None where the spec fits no array on this mesh, or not this one."""
    axes = axes_of(spec)
    named = [name for names in axes for name in names]
    if not set(named) <= set(mesh.axis_names) or len(set(named)) < len(named):
        return None
    if len(axes) > len(shape):
        return tuple(shape)
    parts = [math.prod(sizes_of(mesh)[name] for name in names) for names in axes]
    parts += [1] * (len(shape) - len(parts))
    if any(length % count for length, count in zip(shape, parts, strict=True)):
        return None
    return tuple(length // count for length, count in zip(shape, parts, strict=True))


def longest(shape, axes, least, mesh):
    """What `fully` says."""
    parts = math.prod(sizes_of(mesh).get(name, 1) for name in axes)
    fitting = [length for length in shape if length % parts == 0]
    if not fitting or math.prod(shape) < least:
        return PartitionSpec()
    at = shape.index(max(fitting))
    return PartitionSpec(*[axes if i == at else None for i in range(len(shape))])


@given(with_patterns(), st.lists(specs | specs | fulls, min_size=3, max_size=3), meshes, st.booleans())
def test_shardings(case, chosen, mesh, abstract):
    params, several = case
    flat, told = by_keys(params), dict(zip(several, chosen, strict=False))
    given = {one: sharding.fully(*rule[0], least=rule[1]) if isinstance(rule, tuple) else rule for one, rule in told.items()}
    if abstract:
        params = jax.eval_shape(lambda: params)
    paths = ["/".join(keys) for keys in flat]
    found = or_error(lambda: sharding.shardings(params, mesh, given), *told, *paths, "the key", "the path")
    first = {keys: next((one for one in told if is_taken(keys, one)), None) for keys in flat}
    expected = []
    for leaf, one in zip(flat.values(), first.values(), strict=True):
        rule = PartitionSpec() if one is None else told[one]
        spec = longest(leaf.shape, *rule, mesh) if isinstance(rule, tuple) else rule
        known = not isinstance(rule, tuple) or set(rule[0]) <= set(mesh.axis_names)
        expected.append((cut(leaf.shape, spec, mesh) if known else None, trimmed(spec) if len(spec) <= leaf.ndim else []))
    cutting = {one for one, (_, axes) in zip(first.values(), expected, strict=True) if axes}
    cutting |= {one for one, rule in told.items() if isinstance(rule, PartitionSpec) and not trimmed(rule)}
    sound = (
        have_paths(flat)
        and no_twins(params)
        and set(told) <= set(first.values())
        and all(part is not None for part, _ in expected)
        and set(told) <= cutting
    )
    assert (found is not None) == sound
    if found is not None:
        placed = jax.tree.leaves(found)
        assert jax.tree.structure(found) == jax.tree.structure(params)
        pairs = zip(placed, flat.values(), strict=True)
        assert [(one.shard_shape(leaf.shape), trimmed(one.spec)) for one, leaf in pairs] == expected
        assert all(one.mesh == mesh for one in placed)


@given(with_patterns(), st.sampled_from([None, "data", ("data",), 3, ["data"], {"data": 0}]), meshes)
def test_what_is_no_rule(case, rule, mesh):
    params, several = case
    if several and have_paths(by_keys(params)) and no_twins(params):
        assert or_error(lambda: sharding.shardings(params, mesh, {several[-1]: rule}), rule) is None


@given(trees, st.sampled_from([None, 3, ("data",), b"w"]), meshes)
def test_what_is_no_pattern_of_a_rule(params, pattern, mesh):
    if have_paths(by_keys(params)) and no_twins(params):
        assert or_error(lambda: sharding.shardings(params, mesh, {pattern: PartitionSpec()}), pattern) is None

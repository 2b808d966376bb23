"""Whatever a manifest says: a CheckpointError, or what was saved. And whatever tree is saved comes back."""

import copy
import hashlib
import json
import re
import shutil
import warnings
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jnn import checkpoints
from jnn.checkpoints import CheckpointError, manifests
from jnn.checkpoints.series import Checkpoints, Writer
from jnn.runs import record

SAVED = {
    "half": jnp.ones(3, jnp.bfloat16),
    "pair": (np.int32(4), np.zeros((0, 3), bool)),
    "params": {"key": jax.random.key(7), "w": np.arange(6, dtype=np.float32).reshape(2, 3)},
}
OTHER = {
    "half": jnp.zeros(3, jnp.bfloat16),
    "pair": (np.int32(5), np.zeros((0, 3), bool)),
    "params": {"key": jax.random.key(8), "w": np.zeros((2, 3), np.float32)},
}
RUN = {
    "train_state": {"w": np.arange(6, dtype=np.float32), "b": np.float32(2)},
    "steps": {"loss": np.array([0.5, np.nan], np.float32)},
    "skipped": np.zeros(0, np.int64),
}
ABOUT = {"run": {"steps": 3}, "position": 0}


def bits(leaf):
    """-> its entry in a manifest, and its bytes."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    numbers = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    kind = {"key": str(jax.random.key_impl(leaf))} if is_key else {}
    return {"shape": list(numbers.shape), "dtype": numbers.dtype.name, **kind}, numbers.tobytes()


def by_keys(tree):
    """{("pair", "0"): array}, of dicts, lists and tuples."""
    if not isinstance(tree, dict | list | tuple):
        return {(): tree}
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {(str(name), *keys): leaf for name, part in parts for keys, leaf in by_keys(part).items()}


def by_path(tree):
    return {"/".join(keys): leaf for keys, leaf in by_keys(tree).items()}


def same(one, other):
    """As JSON: 1 is not True, and NaN is NaN."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


class Forger:
    """A whole checkpoint, whose manifest is written anew."""

    def __init__(self, folder, tree):
        self.folder, self.saved = folder, by_path(tree)
        checkpoints.save(folder, tree, ABOUT)
        self.path = folder / manifests.NAME
        self.text = self.path.read_bytes()
        self.body = self.text.split(b"\n", 1)[1]
        self.said = json.loads(self.body)
        (folder.parent / "secret").write_bytes(b"secret")

    def seal(self, body: bytes):
        self.path.write_bytes(b"jnn checkpoint 1 sha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        return self.folder

    def require_saved(self, path, leaf, entry):
        described, content = bits(leaf)
        assert same(described, entry)
        assert 0 in entry["shape"] or content == bits(self.saved[path])[1]

    def require_right(self, said, loaded):
        """Without a form, it is all that the manifest names, as it was saved."""
        assert all(self.said["files"].get(name) == file for name, file in said["files"].items())
        assert same(loaded.about, said["about"])
        found = by_path(loaded.tree)
        assert found.keys() == said["arrays"].keys()
        for path, leaf in found.items():
            self.require_saved(path, leaf, said["arrays"][path])

    def is_sound(self, said):
        """Whether a manifest says what it said, or less: then it must be read."""
        if not isinstance(said, dict) or said.keys() != self.said.keys():
            return False
        if not all(same(said[name], self.said[name]) for name in ("about", "versions")):
            return False
        parts = ((said[name], self.said[name]) for name in ("arrays", "files"))
        return all(isinstance(part, dict) and same(part, {key: was[key] for key in part if key in was}) for part, was in parts)


@pytest.fixture(scope="module")
def forger(tmp_path_factory):
    return Forger(tmp_path_factory.mktemp("fuzz") / "one", SAVED)


@pytest.fixture(autouse=True)
def within(monkeypatch, tmp_path_factory):
    """No file outside the checkpoints is looked at."""
    summed, folder = manifests._summed, tmp_path_factory.getbasetemp().resolve()

    def watched(path, sync=False):
        assert path.name != "secret"
        assert path.resolve().is_relative_to(folder)
        return summed(path, sync)

    monkeypatch.setattr(manifests, "_summed", watched)


SECRET = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
DTYPES = (
    *("float32", "int32", "uint32", "bool", "bfloat16", "float8_e4m3fn", "int4", "complex64", "float128", "uint7", "float32\n"),
    *("<f4", "f4", "f4,f4", "(2,)f4", "object", "str", "V8", "a5", "datetime64[s]", "float٣٢", "key<fry>", ""),
)
NAMES = (
    *(*by_path(SAVED), *by_path(RUN), "arrays/_METADATA", "arrays", "half/x", "half.x", "params", "pair/2", "steps/new", "new"),
    *("../secret", "/etc/hostname", "", "/", "//", ".", "..", "a//b", "\0", "\ud800", "ä" * 300, "a/" * 2000),
    *("shape", "dtype", "key", "bytes", "sha256", "run", "position", "about", "versions", "files"),
)
names = st.sampled_from(NAMES) | st.text(max_size=4)
LENGTHS = [2**31, 2**40, 2**62, 2**63, 2**64, 10**30, -1, True, 2.0, "2", None]
lengths = st.integers(0, 4) | st.sampled_from(LENGTHS)
shapes = st.lists(st.integers(0, 3), max_size=3) | st.lists(lengths, max_size=3) | st.sampled_from([[2], [1] * 70])
dtypes = st.sampled_from(DTYPES)
impls = st.sampled_from(["threefry2x32", "rbg", "unsafe_rbg", "", "foo", None, 3])
entries = st.fixed_dictionaries({"shape": shapes, "dtype": dtypes}, optional={"key": impls})
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | lengths | names | entries,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
FITTING = {"shape": shapes, "dtype": dtypes, "key": impls, "bytes": lengths, "arrays": entries, "files": st.just(SECRET)}


@st.composite
def edited(draw, valid):
    """A manifest with values, names and elements that are changed, left out, added or moved; or as it was."""
    said = copy.deepcopy(valid)
    for _ in range(draw(st.integers(0, 3))):
        part, inside = said, ""
        for _ in range(draw(st.sampled_from([0, *[1] * 4, *[2] * 4, 3]))):
            below = [name for name in part if isinstance(part[name], dict) and part[name]] if isinstance(part, dict) else []
            if below:
                inside = draw(st.sampled_from([name for name in below if name == "arrays"] * 3 + below))
                part = part[inside]
        name = draw(st.sampled_from(sorted(part))) if part else ""
        how = draw(st.sampled_from(["set", "set", "lose", "add", "rename", "copy", "swap"]))
        fitting = FITTING.get(name if how == "set" else inside, values)
        new = copy.deepcopy(draw(draw(st.sampled_from([values, fitting, fitting, fitting]))))
        match how if part else "add":
            case "set":
                part[name] = new
            case "lose":
                del part[name]
            case "add":
                part[draw(names)] = new
            case "rename":
                part[draw(names)] = part.pop(name)
            case "copy":
                part[draw(names)] = copy.deepcopy(part[name])
            case "swap":
                other = draw(st.sampled_from(sorted(part)))
                part[name], part[other] = part[other], part[name]
    return said


plausible = st.builds(
    lambda shape, dtype: {"shape": shape, "dtype": dtype},
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(sorted(manifests.DTYPES)),
)
PATHS = ["new", "half/x", "half.x", "params.w", "params", "steps/new", "train_state/new"]


@st.composite
def relisted(draw, valid):
    """A manifest of the right form, some of whose arrays are others."""
    said, own = copy.deepcopy(valid), list(valid["arrays"].values())
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([*valid["arrays"], *valid["arrays"], *PATHS]))
        if draw(st.booleans()):
            said["arrays"].pop(path, None)
        else:
            said["arrays"][path] = draw(plausible | st.sampled_from(own))
    return said


PIECES = [b"0", b"-", b"e9", b".5", b'"', b"{", b"]", b",", b"null", b"NaN", b"9" * 5000]


@st.composite
def damaged(draw, valid: bytes) -> bytes:
    """JSON as bytes, flipped, cut out, moved and repeated; what stands twice in an object counts where it stands last."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        piece = content[at : at + draw(st.sampled_from([1, 1, 8, 60, 300]))]
        match draw(st.sampled_from(["flip", "lose", "copy", "insert", "nest"])):
            case "flip" if at < len(content):
                content[at] ^= draw(st.integers(1, 255))
            case "lose":
                del content[at : at + len(piece)]
            case "copy":
                to = draw(st.integers(0, len(content)))
                content[to:to] = piece
            case "insert":
                content[at:at] = draw(st.sampled_from(PIECES))
            case "nest":
                content[at:at] = draw(st.sampled_from([b"[", b'{"a":'])) * draw(st.integers(1, 100_000))
    return bytes(content)


def or_error(load, about):
    """What is loaded, or None where a CheckpointError names the folder"""
    try:
        return load()
    except CheckpointError as error:
        assert str(about) in str(error)
        return None


def parsed(body: bytes):
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


@given(st.data())
def test_a_manifest_that_nobody_sealed(forger, data):
    text = data.draw(damaged(forger.text) | st.binary(max_size=90))
    forger.path.write_bytes(text)
    loaded = or_error(lambda: checkpoints.load(forger.folder), forger.path)
    assert (loaded is not None) == (text == forger.text)


anything = (
    st.binary(max_size=40)
    | st.text(max_size=40).map(lambda text: text.encode("utf-8"))
    | values.map(lambda value: json.dumps(value).encode())
    | st.builds(lambda text, times: text * times, st.sampled_from([b"[", b'{"arrays":', b"1", b"-"]), st.integers(1, 200_000))
)


@given(anything)
def test_a_sealed_manifest_of_anything(forger, body):
    assert or_error(lambda: checkpoints.load(forger.seal(body)), forger.path) is None


@given(st.data())
def test_a_forged_manifest(forger, data):
    forged = relisted(forger.said) | edited(forger.said)
    body = data.draw(damaged(forger.body) | forged.map(lambda said: json.dumps(said).encode()))
    said = parsed(body)
    loaded = or_error(lambda: checkpoints.load(forger.seal(body)), forger.folder)
    if loaded is not None:
        forger.require_right(said, loaded)
    assert loaded is not None or not forger.is_sound(said)


@given(st.data(), st.sampled_from(["host", "device", "shapes"]), st.booleans())
def test_a_forged_manifest_and_a_tree(forger, data, kind, partial):
    like = {"host": OTHER, "device": jax.device_put(OTHER), "shapes": jax.eval_shape(lambda: OTHER)}[kind]
    said = data.draw(relisted(forger.said) | edited(forger.said))
    loaded = or_error(lambda: checkpoints.load(forger.seal(json.dumps(said).encode()), like, partial=partial), forger.folder)
    if loaded is None:
        assert not (forger.is_sound(said) and same(said["arrays"], forger.said["arrays"]))
        assert not (forger.is_sound(said) and partial and kind != "shapes")
        return
    there, own = said["arrays"], {path: bits(leaf) for path, leaf in by_path(OTHER).items()}
    assert loaded.report.missing == [path for path in there if path not in own]
    assert [row.partition(" (")[0] for row in loaded.report.added] == [path for path in own if path not in there]
    changed = [path for path in own if path in there and not same(there[path], own[path][0])]
    assert [row.partition(": ")[0] for row in loaded.report.changed] == changed
    assert partial or not any(loaded.report)
    assert jax.tree.structure(loaded.tree) == jax.tree.structure(like)
    for path, leaf in by_path(loaded.tree).items():
        if path in there and path not in changed:
            forger.require_saved(path, leaf, own[path][0])
            assert isinstance(leaf, jax.Array) == isinstance(by_path(OTHER)[path], jax.Array) or kind != "host"
        else:
            assert bits(leaf) == own[path]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole checkpoint of step 1, and one of step 2 that is forged."""
    folder = tmp_path_factory.mktemp("run")
    return Forger(checkpoints.at(folder, 1), RUN), Forger(checkpoints.at(folder, 2), RUN)


@given(st.data())
def test_a_run_goes_on_from_a_forged_manifest_or_from_the_one_before_or_not(run, data):
    before, last = run
    forged = relisted(last.said) | edited(last.said)
    body = data.draw(damaged(last.body) | forged.map(lambda said: json.dumps(said).encode()))
    folder = last.seal(body).parent

    def asked(manifest):
        record.require_same(manifest, ABOUT["run"], folder)
        return record.like(manifest, RUN["train_state"])

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = or_error(lambda: checkpoints.latest(folder, asked), folder)
    if found is None:
        assert not (last.is_sound(said := parsed(body)) and same(said["arrays"], last.said["arrays"]))
    else:
        step, loaded = found
        assert any("going back" in str(warning.message) for warning in warned) == (step == 1)
        assert loaded.about["run"] == ABOUT["run"]
        if step == 1:
            before.require_right(before.said, loaded)
        else:
            last.require_right(parsed(body), loaded)


keys = st.text(max_size=3) | st.sampled_from(["a", "b", "a.b", "", ".", "..", "0", "\0", "%2E", "('a',)", "ä" * 200, 0, 1])
kinds = st.sampled_from(sorted(manifests.DTYPES - {"float8_e8m0fnu"}))  # whose numbers are positive
small = st.lists(st.integers(0, 3), max_size=3)
arrays = st.builds(
    lambda seed, shape, dtype: np.random.default_rng(seed).normal(0, 2, shape).astype(dtype), st.integers(0, 99), small, kinds
)
random_keys = st.builds(
    lambda seed, shape, kind: jax.random.split(jax.random.key(seed, impl=kind), shape),
    st.integers(0, 99),
    small.map(tuple),
    st.sampled_from(["threefry2x32", "rbg"]),
)
UNSTORED = [np.longdouble(1), np.zeros(2, "M8[s]"), np.zeros(2, "V3"), "text", b"text", np.array(["text"]), {1, 2}]
trees = st.recursive(
    arrays
    | arrays.map(jnp.asarray)
    | random_keys
    | st.integers(-9, 9).map(np.int64)
    | st.just(np.float32(2))
    | st.sampled_from(UNSTORED),
    lambda inner: (
        st.dictionaries(keys, inner, max_size=3).map(OrderedDict)  # a dict would want keys of one type
        | st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=6,
)


def is_storable(tree):
    """Whether all arrays have paths of their own, for files and in a tree, and dtypes that Orbax knows."""
    flat = by_keys(tree)
    own = len({".".join(path) for path in flat}) == len(list(leaves(tree)))
    no_branch = not any(path != other and other[: len(path)] == path for path in flat for other in flat)
    plain = not any("/" in key for path in flat for key in path)
    return own and no_branch and plain and all(is_number(leaf) for leaf in flat.values())


def leaves(tree):
    if isinstance(tree, dict | list | tuple):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(part)
    else:
        yield tree


def is_number(leaf):
    return isinstance(leaf, jax.Array) or getattr(getattr(leaf, "dtype", None), "name", "") in manifests.DTYPES


@settings(max_examples=settings.default.max_examples // 4)  # each is written to the disk
@given(trees)
def test_any_tree_comes_back_or_is_refused(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("any") / "one"
    try:
        checkpoints.save(folder, tree)
    except (TypeError, ValueError) as error:
        assert str(error).startswith(("checkpoints: ", "tree: "))
        assert not is_storable(tree)
        return
    assert is_storable(tree)
    for loaded in (checkpoints.load(folder).tree, checkpoints.load(folder, tree).tree):
        flat = by_path(loaded)
        assert flat.keys() == by_path(tree).keys()
        for path, leaf in by_path(tree).items():
            assert bits(flat[path]) == bits(leaf)
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    shutil.rmtree(folder)


FOLDERS = ["000000003", "000000007", "0000000003", "1234567890", "٣" * 9, "00000000²", "3", "2024", "000000003.damaged"]
folders = st.text("0123456789٣²_+-. ", min_size=1, max_size=11).filter(lambda name: name not in (".", ".."))


@given(st.dictionaries(st.sampled_from(FOLDERS) | folders, st.sampled_from(["sealed", "killed", "file"]), max_size=4))
def test_folders_of_any_name(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    for name, kind in names.items():
        if kind == "file":
            (folder / name).touch()
        else:
            (folder / name).mkdir()
        if kind == "sealed":
            (folder / name / manifests.NAME).touch()
    steps = {name for name in names if re.fullmatch("[0-9]{9}|[1-9][0-9]{9,}", name)}
    assert checkpoints.steps(folder) == sorted(int(name) for name in steps if names[name] == "sealed")
    assert all((checkpoints.at(folder, step) / manifests.NAME).exists() for step in checkpoints.steps(folder))
    Writer(Checkpoints(folder)).close()
    left = {path.name for path in folder.iterdir()} - {".lock"}
    assert left == {name for name, kind in names.items() if not (name in steps and kind == "killed")}
    shutil.rmtree(folder)

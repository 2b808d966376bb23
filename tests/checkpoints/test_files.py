"""One checkpoint: what is saved comes back, bit by bit, or is refused with its file's name."""

import hashlib
import json
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnn import checkpoints
from jnn.checkpoints import CheckpointError, Checkpoints, DamagedError
from jnn.checkpoints.series import Writer

TREE = {
    "params": {"dense_0": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}},
    "key": jax.random.key(7),
    "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3),
    "pair": (jnp.int32(4), np.arange(3, dtype=np.int64)),
    "none": jnp.zeros((0, 3)),
    "flag": jnp.array([True, False]),
    "nan": jnp.array([jnp.nan, -0.0, jnp.inf]),
}


def numbers(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(numbers(one)).tobytes() == np.asarray(numbers(other)).tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "one"
    checkpoints.save(folder, TREE, {"step": 3, "note": "ä"})
    return folder


def test_a_tree_comes_back_bit_by_bit_with_what_was_said_about_it(saved):
    loaded = checkpoints.load(saved, TREE)
    assert_same_bits(loaded.tree, TREE)
    assert loaded.about == {"step": 3, "note": "ä"}
    assert str(loaded.report) == "  no difference"
    assert str(jax.random.key_impl(loaded.tree["keys"])) == "rbg"


def test_shapes_are_enough_to_load_into(saved):
    shapes = jax.eval_shape(lambda: {**TREE, "pair": (TREE["pair"][0],)})
    loaded = checkpoints.load(saved, shapes, partial=True)
    assert_same_bits(loaded.tree["params"], TREE["params"])
    assert loaded.report.missing == ["pair/1"]


def test_without_a_form_it_is_a_nested_dict_of_numpy_arrays(saved):
    tree = checkpoints.load(saved).tree
    assert isinstance(tree["params"]["dense_0"]["w"], np.ndarray)
    assert tree["pair"]["1"].dtype == np.int64
    assert tree["none"].shape == (0, 3)


def test_a_changed_model_is_refused_by_all_its_paths(saved):
    changed = {**TREE, "params": {"dense_0": {"w": jnp.zeros((2, 4)), "bias": jnp.ones(3)}}, "flag": jnp.zeros(2)}
    with pytest.raises(CheckpointError) as error:
        checkpoints.load(saved, changed)
    assert str(error.value) == (
        f"{saved} is the checkpoint of another model (partial=True loads what fits):\n"
        "  not in the checkpoint: params/dense_0/bias (the checkpoint has params/dense_0/b)\n"
        "  in the checkpoint alone: params/dense_0/b\n"
        "  changed: flag: float32 (2) here, bool (2) in the checkpoint\n"
        "  changed: params/dense_0/w: float32 (2, 4) here, float32 (2, 3) in the checkpoint"
    )


def test_partial_loads_what_fits_and_says_what_does_not(saved):
    own = {"params": {"dense_0": {"w": jnp.zeros((2, 4)), "b": jnp.zeros(3, jnp.bfloat16)}}, "new": jnp.full(2, 5.0)}
    loaded = checkpoints.load(saved, own, partial=True)
    assert_same_bits(loaded.tree["params"]["dense_0"]["b"], TREE["params"]["dense_0"]["b"])
    assert_same_bits(loaded.tree["new"], own["new"])
    assert loaded.report.added == ["new"]
    assert [line.partition(":")[0] for line in loaded.report.changed] == ["params/dense_0/w"]


def test_what_is_missing_wants_an_array_and_not_its_shape(saved):
    with pytest.raises(CheckpointError, match="has no new that fits, and `like` holds its shape alone"):
        checkpoints.load(saved, {"new": jax.ShapeDtypeStruct((2,), jnp.float32)}, partial=True)


def test_a_folder_that_is_not_empty_is_not_written_to(saved, raises):
    with raises(CheckpointError, f"{saved} exists: a checkpoint wants a folder of its own"):
        checkpoints.save(saved, TREE)


def test_what_is_no_array_is_refused(tmp_path):
    with pytest.raises(TypeError, match="checkpoints: a/b cannot be stored: str of <U4"):
        checkpoints.save(tmp_path / "x", {"a": {"b": "text"}})


def test_paths_that_would_be_one_in_the_files_are_refused(tmp_path, raises):
    with raises(ValueError, "checkpoints: a/w and a.w would be stored as one array: rename one of them"):
        checkpoints.save(tmp_path / "x", {"a": {"w": jnp.ones(2)}, "a.w": jnp.zeros(2)})


@pytest.mark.parametrize("tree", [{}, {"a": jnp.zeros((0, 3)), "b": None}, {"a": jax.random.split(jax.random.key(0), 0)}])
def test_a_tree_without_any_number_comes_back(tmp_path, tree):
    checkpoints.save(tmp_path / "one", tree)
    assert_same_bits(checkpoints.load(tmp_path / "one", tree).tree, tree)


def test_numbers_of_python_are_arrays_of_numpy_where_nothing_else_is_asked_for(tmp_path):
    tree = {"a": 3, "b": 2.5, "c": True}
    checkpoints.save(tmp_path / "one", tree)
    assert_same_bits(checkpoints.load(tmp_path / "one").tree, jax.tree.map(np.asarray, tree))


def test_between_large_models_the_first_differences_alone_have_hints(saved):
    own = {f"block_{i}": {"w": np.zeros(1)} for i in range(1000)}
    there = {f"blocks_{i}/w": {"shape": [1], "dtype": "float64"} for i in range(1000)}
    report = checkpoints.files.compared(checkpoints.files.arrays.described(own), there)
    assert [" (the checkpoint has " in row for row in report.added] == [i < 20 for i in range(1000)]


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ("3", "arrays is no object"),
        ('{"a": 3}', "a wants shape, dtype"),
        ('{"a": {"shape": [-1], "dtype": "int8"}}', "negative dimensions are not allowed"),
        ('{"a": {"shape": [], "dtype": "object"}}', "a has the dtype object"),
        ('{"%s": {"shape": [], "dtype": "int8"}}' % ("a/" * 100), f"{'a/' * 20}... has more than 100 keys"),
    ],
)
def test_a_manifest_of_another_form_is_refused(tmp_path, raises, arrays, problem):
    path, body = tmp_path / "manifest.json", f'{{"arrays": {arrays}, "about": {{}}, "versions": {{}}, "files": {{}}}}'
    path.write_text(f"jnn checkpoint 1 sha256 {hashlib.sha256(body.encode()).hexdigest()}\n{body}")
    with raises(CheckpointError, f"{path} does not have the form of a manifest: {problem}"):
        checkpoints.load(tmp_path)


def test_a_manifest_leads_to_no_file_outside_and_to_no_array_that_is_not_there(tmp_path, raises):
    checkpoints.save(tmp_path / "one", {"a": jnp.ones(2)})
    path = tmp_path / "one" / "manifest.json"
    said = json.loads(path.read_text().split("\n", 1)[1])
    for part, message in (
        ({"files": {"../one/manifest.json": {"bytes": 1, "sha256": ""}}}, f"{tmp_path}/one/../one/manifest.json is missing"),
        ({"arrays": {"b": said["arrays"]["a"]}}, f"{tmp_path}/one/arrays has no b, which the manifest names"),
    ):
        body = json.dumps({**said, **part})
        path.write_text(f"jnn checkpoint 1 sha256 {hashlib.sha256(body.encode()).hexdigest()}\n{body}")
        with raises(CheckpointError, message):
            checkpoints.load(tmp_path / "one")


def test_without_a_manifest_it_is_no_checkpoint(saved, tmp_path, raises):
    with raises(CheckpointError, f"{tmp_path} is no complete checkpoint: it has no manifest.json"):
        checkpoints.load(tmp_path)


def test_every_flipped_byte_of_the_manifest_is_noticed(tmp_path):
    checkpoints.save(tmp_path / "one", {"a": jnp.ones(2)})
    path = tmp_path / "one" / "manifest.json"
    text = path.read_bytes()
    for at in range(len(text)):
        for bit in (1, 128):
            damaged = bytearray(text)
            damaged[at] ^= bit
            path.write_bytes(damaged)
            with pytest.raises(DamagedError, match="is damaged: its text does not have the checksum"):
                checkpoints.verify(tmp_path / "one")


def test_flipped_bits_of_any_file_are_noticed_and_the_file_is_named(tmp_path):
    rng = np.random.default_rng(0)
    checkpoints.save(tmp_path / "one", {"a": jnp.asarray(rng.normal(size=500), jnp.float32), "b": jnp.ones(2)})
    files = [path for path in (tmp_path / "one" / "arrays").rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 3
    for _ in range(300):
        path = files[rng.integers(len(files))]
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedError) as error:
            checkpoints.load(tmp_path / "one")
        assert str(error.value) == f"{path} is damaged: its bytes do not have the checksum that manifest.json names"
        path.write_bytes(content)
    assert_same_bits(checkpoints.load(tmp_path / "one").tree["b"], np.ones(2, np.float32))


def test_a_file_that_is_missing_or_cut_off_is_named(tmp_path):
    checkpoints.save(tmp_path / "one", {"a": jnp.ones(2)})
    path = tmp_path / "one" / "arrays" / "_METADATA"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DamagedError, match=f"{path} is damaged: it has {len(content) - 1} bytes and had {len(content)}"):
        checkpoints.load(tmp_path / "one")
    path.unlink()
    with pytest.raises(DamagedError, match=f"{path} is missing"):
        checkpoints.load(tmp_path / "one")


def test_the_manifest_is_plain_json_behind_its_first_line(saved):
    head, body = (saved / "manifest.json").read_text().split("\n", 1)
    assert head.startswith("jnn checkpoint 1 sha256 ")
    said = json.loads(body)
    assert said["arrays"]["params/dense_0/w"] == {"shape": [2, 3], "dtype": "float32"}
    assert said["arrays"]["key"] == {"shape": [2], "dtype": "uint32", "key": str(jax.random.key_impl(TREE["key"]))}


def test_nothing_in_a_checkpoint_is_a_pickle(saved):
    for path in saved.rglob("*"):
        assert not path.is_file() or not path.read_bytes().startswith(b"\x80\x04")


def test_numbers_of_python_and_of_64_bits_come_back_as_they_are(tmp_path):
    numbers = {"whole": 3, "large": 2**62 + 1, "real": 0.1, "flag": True, "complex": 1 + 2j, "none": {}}
    checkpoints.save(tmp_path / "one", {**numbers, "wide": np.float64(0.1), "array": np.array([0.1])})
    like = {"whole": 0, "large": 0, "real": 0.0, "flag": False, "complex": 0j, "none": {}}
    shape = jax.ShapeDtypeStruct((1,), np.float64)
    loaded = checkpoints.load(tmp_path / "one", {**like, "wide": np.float64(0), "array": shape}).tree
    assert {name: loaded[name] for name in numbers} == numbers
    assert [type(loaded[name]) for name in numbers] == [int, int, float, bool, complex, dict]
    assert loaded["wide"].dtype == loaded["array"].dtype == np.float64
    assert (loaded["wide"], *loaded["array"]) == (0.1, 0.1)


@pytest.mark.parametrize("tree", [{}, {"state": {}}, {"none": jnp.zeros((0, 3))}])
def test_a_tree_without_numbers_is_a_checkpoint_too(tmp_path, tree):
    checkpoints.save(tmp_path / "one", tree, {"step": 1})
    loaded = checkpoints.load(tmp_path / "one", tree)
    assert_same_bits(loaded.tree, tree)
    assert loaded.about == {"step": 1}
    with closing(Writer(Checkpoints(tmp_path / "run"))) as writer:
        writer.save(2, tree, {})
    assert checkpoints.steps(tmp_path / "run") == [2]


@pytest.mark.parametrize(
    ("about", "cause"),
    [
        ({"x": float("nan")}, "Out of range float values are not JSON compliant"),
        ({"x": np.float32(1)}, "Object of type float32 is not JSON serializable"),
    ],
)
def test_what_is_no_json_is_refused_before_anything_is_written(tmp_path, about, cause):
    with pytest.raises(ValueError, match=f"checkpoints: what is said about a checkpoint is to be JSON: {cause}"):
        checkpoints.save(tmp_path / "one", {"a": jnp.ones(2)}, about)
    assert not (tmp_path / "one").exists()

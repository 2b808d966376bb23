import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jnn

DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "bfloat16", "float32", "complex64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)], ids=str)
def test_what_is_saved_comes_back(dtype, shape, tmp_path):
    array = jnp.asarray(np.random.default_rng(0).integers(0, 2, shape)).astype(dtype)
    jnn.interop.save(tmp_path / "file.safetensors", {"a": {"b": array}, "c": array})
    loaded = jnn.interop.load(tmp_path / "file.safetensors")
    assert set(loaded) == {"a", "c"}
    for back in (loaded["a"]["b"], loaded["c"]):
        assert isinstance(back, jax.Array)
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


def test_a_models_parameters_are_found_under_their_paths_by_others(key, tmp_path):
    params, _ = jnn.serial(jnn.dense(3), jax.nn.relu, jnn.dense(2)).init(key, jnp.ones((1, 4)))
    params["dense_0"]["w"] = np.asfortranarray(params["dense_0"]["w"])
    jnn.interop.save(tmp_path / "file.safetensors", params)
    flat = safetensors.numpy.load_file(tmp_path / "file.safetensors")
    assert set(flat) == {"dense_0/b", "dense_0/w", "dense_2/b", "dense_2/w"}
    np.testing.assert_array_equal(flat["dense_0/w"], params["dense_0"]["w"])


def test_metadata(tmp_path):
    path = tmp_path / "file.safetensors"
    jnn.interop.save(path, {"a": jnp.ones(2)}, {"model": "mlp"})
    assert jnn.interop.metadata(path) == {"model": "mlp"}
    jnn.interop.save(path, {"a": jnp.ones(2)})
    assert jnn.interop.metadata(path) == {}


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.safetensors"
    jnn.interop.save(path, {"a": jnp.ones(2)})

    def full(arrays, part, metadata=None):
        part.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        jnn.interop.save(path, {"a": jnp.zeros(2)})
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(jnn.interop.load(path)["a"], 1)


def test_numbers_of_64_bits_are_not_cut_in_silence(tmp_path):
    path = tmp_path / "file.safetensors"
    jnn.interop.save(path, {"layer": {"w": np.full(2, 1 / 3)}})
    with pytest.raises(ValueError, match="layer/w have 64 bits, which jax would cut to 32: load them under"):
        jnn.interop.load(path)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(jnn.interop.load(path)["layer"]["w"], 1 / 3)


@pytest.mark.parametrize("content", [b"", b"\x08", b"not a safetensors file at all", b"\xff" * 64], ids=len)
@pytest.mark.parametrize("read", [jnn.interop.load, jnn.interop.metadata], ids=["load", "metadata"])
def test_damaged_files_are_named(read, content, tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.safetensors: not a safetensors file, or a damaged one: "):
        read(path)


def test_a_file_cut_short_is_named(tmp_path):
    path = tmp_path / "file.safetensors"
    jnn.interop.save(path, {"a": jnp.ones(100)})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="or a damaged one"):
        jnn.interop.load(path)


@pytest.mark.parametrize("read", [jnn.interop.load, jnn.interop.metadata], ids=["load", "metadata"])
def test_a_missing_file_is_named(read, tmp_path, raises):
    with raises(FileNotFoundError, f"there is no file {tmp_path / 'none'}"):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": {"b": 1.5}}, "save: expected an array at a/b, got float 1.5"),
        ({"a": jax.random.key(0)}, "save: a is a random key, which has no form in a file: save jax.random.key_data of it"),
        ({"a": np.ones(2, complex)}, "save: a has the dtype complex128, for which a safetensors file has no form"),
        (jnp.ones(2), "save: expected a nested dict of arrays, got ArrayImpl"),
    ],
    ids=["number", "key", "dtype", "array"],
)
def test_what_has_no_form_in_a_file_is_refused(params, message, tmp_path, raises):
    with raises(TypeError, message):
        jnn.interop.save(tmp_path / "file.safetensors", params)
    assert not list(tmp_path.iterdir())

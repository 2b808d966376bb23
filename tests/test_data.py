import functools
import gzip
import hashlib
import io
import os
import struct
import types
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest
import requests
import scipy.stats
import sklearn.datasets

from jnn import data
from jnn.data import datasets


@functools.cache
def permutations(size):
    """-> (keys, size), one permutation for each of many keys"""
    keys = jax.random.split(jax.random.key(0), 12000 if size < 64 else 20)
    return np.asarray(jax.jit(jax.vmap(lambda key: data.shuffled(key, jnp.arange(size), size)))(keys))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 10, 97, 100, 1197, 4096])
def test_shuffled_is_a_permutation_of_any_size(size):
    orders = np.sort(permutations(size), axis=-1)
    np.testing.assert_array_equal(orders, np.broadcast_to(np.arange(size), orders.shape))


@pytest.mark.parametrize("size", [97, 1197])
def test_different_keys_give_different_permutations_and_none_is_left_in_place(size):
    orders = permutations(size)
    assert len(np.unique(orders, axis=0)) == 20
    # a random permutation has one fixed point on average, two of them agree in one place
    assert np.mean(orders == np.arange(size)) < 5 / size
    assert np.mean(orders[1:] == orders[:-1]) < 5 / size


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_permutation_of_a_few_is_equally_likely(size):
    _, counts = np.unique(permutations(size), axis=0, return_counts=True)
    assert len(counts) == np.prod(np.arange(1, size + 1))
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("size", [7, 10, 33])
def test_every_place_holds_every_example_equally_often(size):
    orders = permutations(size)
    counts = np.stack([np.bincount(column, minlength=size) for column in orders.T])
    expected = len(orders) / size
    # rows and columns of the table have given sums: Anderson 1959 gives the factor and the degrees of freedom
    statistic = (size - 1) / size * np.sum((counts - expected) ** 2) / expected
    assert 1e-3 < scipy.stats.chi2.sf(statistic, (size - 1) ** 2) < 1 - 1e-3


@pytest.mark.parametrize("size", [6, 10, 14, 23])
def test_neighbours_are_every_pair_equally_often(size):
    keys = jax.random.split(jax.random.key(0), 500_000)
    first = np.asarray(jax.jit(jax.vmap(lambda key: data.shuffled(key, jnp.arange(min(size, 9)), size)))(keys))
    for place in range(first.shape[1] - 1):
        pairs = np.bincount(first[:, place] * size + first[:, place + 1], minlength=size**2).reshape(size, size)
        assert np.all(np.diag(pairs) == 0)
        assert scipy.stats.chisquare(pairs[~np.eye(size, dtype=bool)]).pvalue > 1e-4


def test_neighbours_of_a_large_permutation_are_as_far_apart_as_at_random():
    size = 4096
    steps = (np.diff(permutations(size)) % size).ravel()
    assert scipy.stats.kstest(steps / size, "uniform").pvalue > 1e-3


def test_positions_of_any_shape_read_the_same_permutation(key):
    whole = data.shuffled(key, jnp.arange(100), 100)
    assert whole.dtype == jnp.int32
    positions = jnp.array([[3, 99, 0], [50, 3, 7]])
    np.testing.assert_array_equal(data.shuffled(key, positions, 100), whole[positions])
    np.testing.assert_array_equal(data.shuffled(key, jnp.uint8(42), 100), whole[42])
    one_by_one = jax.jit(jax.vmap(lambda position: data.shuffled(key, position, 100)))
    np.testing.assert_array_equal(one_by_one(jnp.arange(100)), whole)


def test_positions_of_a_large_range_stay_inside_and_are_distinct(key):
    size = 2**31 - 1
    some = np.asarray(data.shuffled(key, jnp.arange(size - 1000, size), size))
    assert len(np.unique(some)) == 1000
    assert some.min() >= 0
    assert scipy.stats.kstest(some / size, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("size", [0, -1, 2**31])
def test_shuffled_refuses_sizes_that_it_cannot_count(size, key, raises):
    with raises(ValueError, f"shuffled: size must lie in [1, 2**31), got {size}"):
        data.shuffled(key, jnp.arange(1), size)


@pytest.mark.parametrize(("examples", "batch_size"), [(12, 4), (13, 4), (5, 5)])
def test_batch_order_is_a_fresh_permutation_each_epoch_less_what_fills_no_batch(examples, batch_size, key):
    per_epoch = examples // batch_size
    order = data.batch_order(key, 0, 40 * per_epoch, examples, batch_size)
    assert (order.shape, order.dtype) == ((40 * per_epoch, batch_size), jnp.int32)
    epochs = np.reshape(order, (40, per_epoch * batch_size))
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs.tolist())
    assert set(np.ravel(epochs)) == set(range(examples))
    assert len(np.unique(epochs, axis=0)) > 3


def test_a_batch_is_a_function_of_key_and_step(key):
    order = data.batch_order(key, 0, 20, 13, 4)
    later = jax.jit(lambda first: data.batch_order(key, first, 6, 13, 4))
    for first in (0, 1, 5, 14):
        np.testing.assert_array_equal(later(jnp.int32(first)), order[first : first + 6])
    assert np.any(order != data.batch_order(jax.random.fold_in(key, 1), 0, 20, 13, 4))


def test_the_key_may_be_of_the_kind_that_is_usual_on_tpus():
    order = jax.jit(lambda first: data.batch_order(jax.random.key(0, impl="rbg"), first, 9, 13, 4))
    first, later = order(jnp.int32(0)), order(jnp.int32(2))
    np.testing.assert_array_equal(first[2:], later[:7])
    assert all(len(set(epoch)) == 12 for epoch in np.reshape(first, (3, 12)).tolist())


@pytest.mark.parametrize(("n", "k"), [(10, 5), (13, 4), (6, 6), (7, 2)])
def test_folds_hold_disjoint_parts_out_and_train_on_all_others(n, k, key):
    train, held = (np.asarray(part) for part in data.folds(n, k, key=key))
    assert (train.shape, held.shape, train.dtype, held.dtype) == ((k, n - n // k), (k, n // k), np.int32, np.int32)
    assert len(set(held.ravel())) == k * (n // k)
    for inside, outside in zip(train, held, strict=True):
        assert sorted([*inside, *outside]) == list(range(n))
    assert np.any(held != data.folds(n, k, key=jax.random.fold_in(key, 1))[1])


@pytest.mark.parametrize("k", [1, 8])
def test_folds_refuse_what_cannot_be_held_out(k, key, raises):
    with raises(ValueError, f"folds: k must lie between 2 and the 7 examples, got {k}"):
        data.folds(7, k, key=key)


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_no_steps_have_no_batches(kind):
    assert data.batch_order(jax.random.key(0, impl=kind), 0, 0, 13, 4).shape == (0, 4)


def test_digits_are_scikit_learns():
    images, labels = data.digits()
    bunch = sklearn.datasets.load_digits()
    assert (images.shape, images.dtype, labels.dtype) == ((1797, 8, 8, 1), np.float32, np.int32)
    np.testing.assert_array_equal(images.reshape(1797, 64) * 16, bunch.data)
    np.testing.assert_array_equal(labels, bunch.target)
    assert (images.min(), images.max()) == (0, 1)


TRAIN_IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 4), np.uint8)
TRAIN_LABELS = np.array([3, 1, 4, 1, 5, 9], np.uint8)


def idx(array) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def small_fashion(monkeypatch):
    """Files in the format of the real ones, with a few small pictures, and no network. -> name: content"""
    files = dict(
        zip(
            datasets.FASHION_MNIST,
            map(idx, (TRAIN_IMAGES, TRAIN_LABELS, TRAIN_IMAGES[::-2], TRAIN_LABELS[::-2])),
            strict=True,
        )
    )
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(datasets, "FASHION_MNIST", hashes)
    return files


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    def download(self, url, output_file, pooch):
        raise requests.exceptions.ConnectionError("[Errno 101] Network is unreachable")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", download)
    monkeypatch.setattr(pooch.core, "time", types.SimpleNamespace(sleep=lambda seconds: None))  # between attempts
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)


@pytest.fixture
def without_folder(monkeypatch):
    monkeypatch.delenv("JNN_DATA_DIR", raising=False)


def write(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("where", ["own", "cache/jnn"])
def test_fashion_mnist_reads_both_parts_from_the_folder_or_the_cache(where, small_fashion, tmp_path, monkeypatch):
    monkeypatch.setenv("JNN_DATA_DIR", str(tmp_path / "own"))
    write(tmp_path / where / "fashion-mnist", small_fashion)
    (images, labels), (test_images, test_labels) = data.fashion_mnist()
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(images, TRAIN_IMAGES[..., None])
    np.testing.assert_array_equal(labels, TRAIN_LABELS)
    np.testing.assert_array_equal(test_images, TRAIN_IMAGES[::-2, ..., None])
    np.testing.assert_array_equal(test_labels, TRAIN_LABELS[::-2])


def test_fashion_mnist_is_fetched_once_where_there_is_a_network(small_fashion, tmp_path, monkeypatch, without_folder):
    fetched = []

    def download(self, url, output_file, pooch):
        fetched.append(url)
        Path(output_file).write_bytes(small_fashion[url.rpartition("/")[2]])

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", download)
    first = data.fashion_mnist()
    np.testing.assert_array_equal(first[0][1], data.fashion_mnist()[0][1])
    assert fetched == [f"{datasets.FASHION_MNIST_ADDRESS}/{name}" for name in small_fashion]


def test_missing_data_say_what_where_and_what_to_set(tmp_path, without_folder):
    with pytest.raises(data.DataError) as error:
        data.fashion_mnist()
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("fashion-mnist is missing: train-images-idx3-ubyte.gz is neither in ")
    assert str(tmp_path / "cache" / "jnn" / "fashion-mnist") in text
    assert datasets.FASHION_MNIST_ADDRESS in text
    assert "ConnectionError" in text
    assert "set JNN_DATA_DIR to a folder that holds fashion-mnist/train-images-idx3-ubyte.gz" in text


def test_missing_data_name_the_folder_that_was_set(tmp_path, monkeypatch):
    monkeypatch.setenv("JNN_DATA_DIR", str(tmp_path / "own"))
    with pytest.raises(data.DataError) as error:
        data.fashion_mnist()
    assert f"{tmp_path / 'own' / 'fashion-mnist'} (JNN_DATA_DIR), " in str(error.value)


@pytest.mark.parametrize("where", ["own", "cache/jnn"])
def test_a_corrupted_file_is_named(where, small_fashion, tmp_path, monkeypatch):
    monkeypatch.setenv("JNN_DATA_DIR", str(tmp_path / "own"))
    name = "train-labels-idx1-ubyte.gz"
    write(tmp_path / where / "fashion-mnist", {**small_fashion, name: small_fashion[name][:-1]})
    with pytest.raises(data.DataError) as error:
        data.fashion_mnist()
    text = str(error.value)
    assert text.startswith(f"{tmp_path / where / 'fashion-mnist' / name} is corrupted: its SHA-256 is ")
    assert hashlib.sha256(small_fashion[name]).hexdigest() in text
    assert ("take it away" if where == "own" else "delete it") in text


def test_a_file_fetched_with_another_hash_is_refused(monkeypatch, without_folder):
    def download(self, url, output_file, pooch):
        Path(output_file).write_bytes(b"something else")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", download)
    with pytest.raises(data.DataError, match=r"^train-images-idx3-ubyte.gz as fetched from http://.* is not the file"):
        data.fashion_mnist()


# other sets, as small files in the format of the real ones


def pinned(monkeypatch, tmp_path, folder, name, content) -> str:
    """Writes a file to a folder that JNN_DATA_DIR names, and returns its SHA-256."""
    monkeypatch.setenv("JNN_DATA_DIR", str(tmp_path / "own"))
    write(tmp_path / "own" / folder, {name: content})
    return hashlib.sha256(content).hexdigest()


def test_tiny_shakespeare_numbers_its_symbols_in_order(monkeypatch, tmp_path):
    text = "To be,\nor not to be"
    found = pinned(monkeypatch, tmp_path, "tinyshakespeare", "input.txt", text.encode())
    monkeypatch.setattr(datasets, "TINY_SHAKESPEARE", found)
    tokens, symbols = data.tiny_shakespeare()
    assert tokens.dtype == np.int32
    assert symbols == "".join(sorted(set(text)))
    assert "".join(symbols[token] for token in tokens) == text


def test_cora_has_edges_both_ways_and_words_as_ones(monkeypatch, tmp_path):
    arrays = {
        "features_nonzero": np.array([[0, 1], [2, 3], [2, 0]], np.uint16),
        "labels": np.array([6, 0, 1], np.uint8),
        "edges": np.array([[0, 1], [1, 2]], np.int32),
        "n_nodes": np.int32(3),
        "n_features": np.int32(4),
    }
    arrays |= {f"{part}_idx": np.array([i], np.int32) for i, part in enumerate(("train", "val", "test"))}
    file = io.BytesIO()
    np.savez(file, **arrays)
    monkeypatch.setattr(datasets, "CORA", pinned(monkeypatch, tmp_path, "cora", "cora.npz", file.getvalue()))
    graph, labels, split = data.cora()
    np.testing.assert_array_equal(graph.nodes, np.float32([[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]))
    assert sorted(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True)) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert (graph.nodes.dtype, graph.senders.dtype, labels.dtype) == (np.float32, np.int32, np.int32)
    np.testing.assert_array_equal(labels, [6, 0, 1])
    assert [part.tolist() for part in split] == [[0], [1], [2]]


def test_missing_cora_cannot_be_fetched_and_says_so(tmp_path, without_folder):
    with pytest.raises(data.MissingDataError) as error:
        data.cora()
    assert str(error.value) == (
        f"cora is missing: cora.npz is not in {tmp_path / 'cache' / 'jnn' / 'cora'}, and cannot be fetched; "
        "set JNN_DATA_DIR to a folder that holds cora/cora.npz"
    )


def test_missing_cora_names_both_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("JNN_DATA_DIR", str(tmp_path / "own"))
    with pytest.raises(data.MissingDataError) as error:
        data.cora()
    own, cache = tmp_path / "own" / "cora", tmp_path / "cache" / "jnn" / "cora"
    assert f"cora.npz is neither in {own} (JNN_DATA_DIR) nor in {cache}, and cannot be fetched; " in str(error.value)


@pytest.mark.parametrize("where", ["own", "cache/jnn"])
def test_a_corrupted_cora_is_not_to_be_fetched_again(where, tmp_path, monkeypatch):
    monkeypatch.setenv("JNN_DATA_DIR", str(tmp_path / "own"))
    write(tmp_path / where / "cora", {"cora.npz": b"no archive"})
    with pytest.raises(data.DataError, match=r"cora.npz is corrupted: its SHA-256 is [0-9a-f]{64}, not .*; replace it$"):
        data.cora()


def test_time_series_have_their_dates_and_gaps(monkeypatch, tmp_path):
    sunspots = b'"YEAR","SUNACTIVITY"\n1700,5\n1701,11.5\n'
    co2 = b"date,co2\n19580329,316.1\n19580405,\n19580412,317.6\n"
    found = {"sunspots": pinned(monkeypatch, tmp_path, "timeseries", "statsmodels_sunspots.csv", sunspots)}
    (tmp_path / "own" / "timeseries" / "statsmodels_co2.csv").write_bytes(co2)
    monkeypatch.setattr(datasets, "TIME_SERIES", found | {"co2": hashlib.sha256(co2).hexdigest()})
    years, numbers = data.sunspots()
    assert (years.dtype, numbers.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(years, [1700, 1701])
    np.testing.assert_array_equal(numbers, [5, 11.5])
    days, parts = data.co2()
    np.testing.assert_array_equal(days, np.array(["1958-03-29", "1958-04-05", "1958-04-12"], "datetime64[D]"))
    np.testing.assert_array_equal(parts, np.float32([316.1, np.nan, 317.6]))


def png(array) -> bytes:
    """uint8 (height, width, 3) in the format of PNG, without its filters (ISO/IEC 15948)."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = array.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_picture_is_read_as_its_pixels(monkeypatch, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    found = pinned(monkeypatch, tmp_path, "pictures", "chelsea.png", png(pixels))
    monkeypatch.setitem(datasets.PICTURES, "chelsea", ("chelsea.png", found))
    picture = data.picture("chelsea")
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, pixels)


def test_a_picture_that_there_is_not_is_refused(raises):
    with raises(ValueError, "picture: name must be one of astronaut, chelsea, coffee, starry_night, got 'cat'"):
        data.picture("cat")


def test_a_painting_without_a_sure_address_is_not_fetched(without_folder):
    with pytest.raises(data.MissingDataError) as error:
        data.picture("starry_night")
    assert str(error.value).startswith("pictures is missing: starry_night_google.jpg is not in ")
    assert "and cannot be fetched; set JNN_DATA_DIR to a folder that holds pictures/" in str(error.value)


@pytest.mark.parametrize(
    ("read", "folder", "name", "address"),
    [
        (data.tiny_shakespeare, "tinyshakespeare", "input.txt", "tinyshakespeare/input.txt"),
        (data.sunspots, "timeseries", "statsmodels_sunspots.csv", "statsmodels/datasets/sunspots/sunspots.csv"),
        (data.co2, "timeseries", "statsmodels_co2.csv", "statsmodels/datasets/co2/co2.csv"),
        (lambda: data.picture("coffee"), "pictures", "coffee.png", "v0.25.2/skimage/data/coffee.png"),
    ],
)
def test_other_sets_are_fetched_by_their_address_and_hash(read, folder, name, address, monkeypatch, tmp_path, without_folder):
    asked = set()

    def download(self, url, output_file, pooch):
        asked.add((url, Path(output_file).parent))
        raise requests.exceptions.ConnectionError

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", download)
    with pytest.raises(data.MissingDataError, match=f"set JNN_DATA_DIR to a folder that holds {folder}/{name}, or connect"):
        read()
    ((url, path),) = asked
    assert url.startswith("https://raw.githubusercontent.com/")
    assert url.endswith(f"/{address}")
    assert path == tmp_path / "cache" / "jnn" / folder


needs_files = pytest.mark.skipif("JNN_DATA_DIR" not in os.environ, reason="JNN_DATA_DIR is not set: needs the real files")


@needs_files
def test_the_real_tiny_shakespeare_is_what_is_known_of_it():
    tokens, symbols = data.tiny_shakespeare()
    assert (len(tokens), len(symbols)) == (1_115_394, 65)
    assert "".join(symbols[token] for token in tokens[:14]) == "First Citizen:"


@needs_files
def test_the_real_cora_has_the_published_counts():
    graph, labels, split = data.cora()
    assert (graph.nodes.shape, graph.senders.shape) == ((2708, 1433), (10556,))
    assert [len(part) for part in split] == [140, 500, 1000]
    # twenty of each topic are trained on: Yang, Cohen & Salakhutdinov 2016, section 5.2
    np.testing.assert_array_equal(np.bincount(labels[split[0]]), np.full(7, 20))
    np.testing.assert_array_equal(np.bincount(labels), [351, 217, 418, 818, 426, 298, 180])
    assert len(np.unique(np.concatenate(split))) == 1640
    assert not np.any(graph.senders == graph.receivers)


@needs_files
def test_the_real_series_are_what_is_known_of_them():
    years, numbers = data.sunspots()
    np.testing.assert_array_equal(years, np.arange(1700, 2009))
    assert years[numbers.argmax()] == 1957  # the highest maximum on record
    days, parts = data.co2()
    assert (len(days), np.isnan(parts).sum()) == (2284, 59)
    assert set(np.diff(days).astype(int)) == {7}
    np.testing.assert_allclose(np.nanmean(parts[-52:]), 371, atol=1)  # 2001, as NOAA gives it


@needs_files
def test_the_real_pictures_have_their_sizes():
    # as scikit-image documents them, and as the painting's copy is
    sizes = {"astronaut": (512, 512), "chelsea": (300, 451), "coffee": (400, 600), "starry_night": (1014, 1280)}
    for name, size in sizes.items():
        picture = data.picture(name)
        assert picture.shape == (*size, 3)
        assert np.ptp(picture) > 200
    red, _, blue = data.picture("starry_night").reshape(-1, 3).mean(axis=0)
    assert blue > red + 10


@pytest.mark.slow
@needs_files
def test_the_real_fashion_mnist_is_what_its_authors_published():
    (images, labels), (test_images, test_labels) = data.fashion_mnist()
    assert (images.shape, test_images.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 6000))
    np.testing.assert_array_equal(np.bincount(test_labels), np.full(10, 1000))
    # the published mean and deviation of the training pixels, and the first labels
    np.testing.assert_allclose([images.mean() / 255, images.std() / 255], [0.2860, 0.3530], atol=5e-5)
    np.testing.assert_array_equal(labels[:10], [9, 0, 0, 3, 0, 2, 7, 2, 5, 5])
    np.testing.assert_array_equal(test_labels[:10], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7])

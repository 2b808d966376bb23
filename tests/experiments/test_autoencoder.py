import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from experiments import autoencoder, codes

pytestmark = pytest.mark.slow


MEAN = jnp.linspace(0.0, 1.0, 784)


def pixels(*leading):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (*leading, 28, 28, 1)), jnp.uint8)


def test_what_each_kind_is_trained_for_shows(quick):
    results = quick("autoencoder", ["reconstructions", "codes", "robustness"])
    at = {level: i for i, level in enumerate(results["levels"])}
    plain, denoising, sparse = (results[kind] for kind in autoencoder.KINDS)
    error = {name: np.mean(results[name]["error"], axis=0) for name in autoencoder.KINDS}
    assert error["denoising"][at[0.4]] < error["plain"][at[0.4]]
    assert error["denoising"][at[0.4]] < 0.16 / 3  # the noise itself
    assert np.all(np.diff(error["plain"]) > 0)
    assert error["sparse"][0] > error["plain"][0]
    assert set(plain["used"]) == {64} and min(sparse["used"]) >= 16
    assert np.min(plain["accuracy"], axis=0)[0] > 60
    assert np.min(denoising["accuracy"]) > 10


def test_principal_components_are_scikit_learns():
    x = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32) @ np.diag(np.arange(1, 13)).astype(np.float32)
    encode, decode = codes.components(x, 3)
    theirs = PCA(3).fit(x)
    np.testing.assert_allclose(decode(encode(x)), theirs.inverse_transform(theirs.transform(x)), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(abs(encode(x)), abs(theirs.transform(x)), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_largest_keeps_so_many_numbers(count):
    numbers = np.random.default_rng(0).normal(size=(5, 4, 7)).astype(np.float32)
    found = jax.jit(codes.largest)(numbers, count)
    for code, kept in zip(numbers.reshape(-1, 7), np.asarray(found).reshape(-1, 7), strict=True):
        expected = np.zeros(7, np.float32)
        chosen = np.argsort(-abs(code))[:count]
        expected[chosen] = code[chosen]
        np.testing.assert_array_equal(kept, expected)


def test_noise_counts_in_training_only():
    objective = codes.objective_of(MEAN, jnp.array(0.4), 64)
    key, batch = jax.random.key(0), pixels(5)
    params, _ = objective.init(key, batch)
    x = np.asarray(batch, np.float32).reshape(5, 784) / 255
    y = codes.NETWORK.apply(params, {}, x - MEAN)[0] + MEAN
    quiet, _ = objective.loss(params, {}, batch)
    np.testing.assert_allclose(quiet, np.mean((y - x) ** 2), rtol=1e-4)
    trained, _ = objective.loss(params, {}, batch, key=key, train=True)
    assert abs(trained / quiet - 1) > 0.01
    without, _ = codes.objective_of(MEAN, jnp.array(0.0), 64).loss(params, {}, batch, key=key, train=True)
    np.testing.assert_allclose(without, quiet, rtol=1e-5)

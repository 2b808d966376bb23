import jax.numpy as jnp
import numpy as np
import pytest

from experiments import approximants, universal_approximation

pytestmark = pytest.mark.slow


def test_what_is_built_gets_closer_than_what_is_trained(quick):
    results = quick("universal_approximation", ["approximation"])
    np.testing.assert_allclose(results["powers"]["built"], -2, atol=0.1)
    for name, of in results["errors"].items():
        for part in ("train", "test"):  # it is the training that fails, not the interpolation
            built, trained = of["built"][part][-1][0], np.array(of["trained"][part][-1])
            assert built < trained.min(), (name, part)
            assert np.all(np.array(of["trained"][part]) < 1.1)
    # more units help where there is little to follow, and not where the function swings
    smooth, oscillating = (np.mean(results["errors"][name]["trained"]["test"], axis=1) for name in ("smooth", "oscillating"))
    assert smooth[-1] < 0.1 * smooth[0]
    assert oscillating[-1] > 0.1


@pytest.mark.parametrize("name", ["smooth", "oscillating"])
def test_equal_pieces_have_the_error_of_splines(name):
    width = 128
    predicted = (2 / width) ** 2 * approximants.CURVATURES[name] / np.sqrt(720)
    f = approximants.FUNCTIONS[name]
    np.testing.assert_allclose(
        approximants.error(approximants.built(name, width)[1], f(approximants.TEST)), predicted, rtol=0.1
    )


def test_the_step_that_is_built_has_the_error_of_its_ramp():
    f = approximants.FUNCTIONS["step"]
    found = approximants.error(approximants.built("step", 2)[1], f(approximants.TEST))
    np.testing.assert_allclose(found, np.sqrt(approximants.RAMP / 6), rtol=0.3)


def test_what_is_built_is_the_network_with_these_weights():
    width, rng = 5, np.random.default_rng(0)
    hidden = {"w": rng.normal(size=(1, width)), "b": rng.uniform(-1, 1, width)}
    f = lambda x: np.maximum(x * hidden["w"] + hidden["b"], 0) @ np.arange(1.0, 6)[:, None] - 2
    params = {"dense_0": hidden, "dense_2": {"w": np.arange(1.0, 6)[:, None], "b": np.full(1, -2.0)}}
    params = {name: {k: jnp.asarray(v, jnp.float32) for k, v in of.items()} for name, of in params.items()}
    network, _ = universal_approximation.model(width).apply(params, {}, jnp.asarray(approximants.TEST, jnp.float32))
    np.testing.assert_allclose(approximants.with_best_output(hidden["w"][0], hidden["b"], f)[1], network, atol=1e-5)


def test_seeds_at_once_are_seeds_one_by_one():
    rng, f = np.random.default_rng(0), approximants.FUNCTIONS["smooth"]
    w, b = rng.normal(size=(2, 3, 8))
    for together, alone in zip(approximants.with_best_output(w, b, f), zip(
        *(approximants.with_best_output(w[i], b[i], f) for i in range(3)), strict=True), strict=True):  # fmt: skip
        np.testing.assert_allclose(together, alone, atol=1e-9)

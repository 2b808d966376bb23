import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from experiments import initialization, mean_squares

pytestmark = pytest.mark.slow


def test_variances_are_as_predicted_and_batch_norm_trains_what_small_weights_do_not(quick):
    results = quick("initialization", ["variances"])
    for name, most in (("tanh", 1.15), ("relu", 1.6)):  # relu's spread over networks is wide, and 16 are few
        for one in results["variances"][name].values():
            shares = np.divide(one["measured"], one["predicted"])
            assert np.all((shares > 1 / most) & (shares < most))
    deepest = {title: np.array(values)[-1].mean(axis=1) for title, values in results["training_accuracy"].items()}
    small = list(initialization.VARIANCES).index("small")
    assert deepest["without"][small] < 20
    assert deepest["with"][small] > deepest["without"][small] + 10


@pytest.mark.parametrize("variance", [1e-4, 0.3, 5.0])
def test_mean_square_is_the_integral(variance):
    def integrand(z):
        return np.tanh(np.sqrt(variance) * z) ** 2 * stats.norm.pdf(z)

    expected, _ = integrate.quad(integrand, -12, 12)
    np.testing.assert_allclose(mean_squares.mean_square(jnp.tanh, variance), expected, rtol=1e-5)
    np.testing.assert_allclose(mean_squares.mean_square(jax.nn.relu, variance), variance / 2, rtol=1e-5)


def test_kaiming_keeps_the_mean_square_of_relu_and_xavier_halves_it():
    np.testing.assert_allclose(mean_squares.predicted(jax.nn.relu, 2.0, 5, 3.0), np.full(5, 3.0))
    np.testing.assert_allclose(mean_squares.predicted(jax.nn.relu, 1.0, 3), [0.5, 0.25, 0.125])

import jax
import numpy as np
import pytest
from sklearn.svm import SVC

from experiments import perceptron, separation
from experiments.findings import Interval

pytestmark = pytest.mark.slow


def test_mistakes_stay_below_their_bound_and_two_layers_solve_what_one_cannot(quick):
    results = quick("perceptron", ["perceptron"])
    *ratios, exact = (np.ravel(r) for r in results["ratios"].values())
    assert max(r.max() for r in ratios) < 1
    np.testing.assert_allclose(exact, 1, rtol=1e-6)
    assert results["separable_pairs"] == 45
    for name, bounds in results["bounds"].items():
        np.testing.assert_allclose(np.divide(results["mistakes"][name], bounds), results["ratios"][name], rtol=1e-6)
    # as many mistakes as passes at least, to the last
    assert results["xor"]["mistakes"] >= results["xor"]["passes"] == 10_000
    assert results["xor"]["by_hand"] == [0, 1, 1, 0]
    assert results["xor"]["slope"] == 0
    by_width = dict(zip(results["widths"], results["solved"]["tanh"], strict=True))
    assert by_width[1] == 0 < by_width[2] < by_width[16] == results["networks"]


def test_the_perceptron_is_rosenblatts():
    """Against a loop in numpy."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3)).astype(np.float32)
    target = (x @ [1.0, -2.0, 0.5] >= 0).astype(np.float32)
    w, mistakes, passes = np.zeros(3, np.float32), 0, 0
    while True:
        before, passes = mistakes, passes + 1
        for example, wanted in zip(x, target, strict=True):
            if (example @ w >= 0) != wanted:
                w, mistakes = w + (1 if wanted else -1) * example, mistakes + 1
        if mistakes == before:
            break
    found = separation.perceptron(x, target)
    np.testing.assert_allclose(found[0], w, rtol=1e-5)
    assert (int(found[1]), int(found[2])) == (mistakes, passes)
    assert mistakes > 0


def test_the_bound_is_of_the_largest_margin():
    """Against a support vector machine on points and their mirror images, whose plane goes through zero."""
    x, target = map(np.asarray, separation.separable(0.2, jax.random.key(1), 40, 4))
    z = x * (2 * target - 1)[:, None]
    machine = SVC(kernel="linear", C=1e8, tol=1e-8).fit(np.concatenate([z, -z]), np.repeat([1, -1], len(z)))
    margin = 1 / np.linalg.norm(machine.coef_)
    np.testing.assert_allclose(separation.bound(x, target), np.max(np.sum(x**2, axis=1)) / margin**2, rtol=1e-4)
    assert separation.bound(separation.with_constant(perceptron.CORNERS), perceptron.XOR[:, 0]) == np.inf


def test_a_share_is_said_with_its_exact_interval():
    """Where all of n are right, its lower end is the share for which that has a chance of 2.5 %: 0.025 ** (1 / n)."""
    share = Interval.of_share(20, 20)
    np.testing.assert_allclose(share, (1, 0.025 ** (1 / 20), 1), rtol=1e-6)
    assert f"{share:.0%}" == "100% (83% to 100%)"

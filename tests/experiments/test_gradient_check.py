import numpy as np
import pytest

import jnn
from experiments import differences, every_layer, gradient_check

pytestmark = pytest.mark.slow


def test_every_layer_passes_a_planted_error_is_found_and_errors_go_as_predicted(quick):
    results = quick("gradient_check", ["steps", "layers"])
    assert max(results["errors"].values()) < 1e-6
    # what lies before the function has the error; what lies behind it or beside it has not
    assert {path.split("/")[0] for path in results["planted"]} == {"pictures", "maxout"}
    assert (
        max(
            results["errors_planted"][path]
            for path in ("head/parallel_0/dense_0/w", "graphs/graph_conv_0/w", "series/lstm_4/wh")
        )
        < 1e-6
    )
    assert max(results["missed"].values()) < 1e-12
    for kind in ("forward", "centred"):  # float32 holds no weight moved by 1e-15, so that the difference is 0 and the error 1
        np.testing.assert_allclose(results["log10_errors"]["float32"][kind][-1], 0, atol=1e-6)
    np.testing.assert_allclose([results["errors_planted"][f"maxout/{name}"] for name in "wb"], 1 - 1 / 1.01, rtol=1e-4)
    for name, slope in {
        "forward truncation": 1,
        "centred truncation": 2,
        "forward rounding": -1,
        "centred rounding": -1,
    }.items():
        np.testing.assert_allclose(results["slopes"][name][0], slope, atol=0.15)
    for name, step in results["best"].items():
        assert 0.1 < step["measured"] / step["predicted"] < 10, name
    assert max(of["closed_form"] for of in results["worked"].values()) < 1e-15
    assert max(of["check_gradients"] for of in results["worked"].values()) < 1e-6


def test_the_network_has_every_layer_and_combinator_of_jnn(monkeypatch):
    made = set()

    def seen(name, factory):
        return lambda *args, **options: (made.add(name), factory(*args, **options))[1]

    combinators = [name for name, one in vars(jnn.combinators).items() if getattr(one, "__module__", "") == "jnn.combinators"]
    names = {name for name in (*jnn.layers.__all__, *combinators, "compose") if not name.startswith("_")}
    for name in names:
        monkeypatch.setattr(jnn, name, seen(name, getattr(jnn, name)))
    every_layer.network()
    assert made == names


def test_examples_have_the_numbers_of_the_lecture():
    examples = gradient_check.worked()
    _, _, (d_w, d_x) = examples["sigmoid neuron"]
    np.testing.assert_allclose(d_w, [-0.20, -0.39, 0.20], atol=0.005)
    np.testing.assert_allclose(d_x, [0.39, -0.59], atol=0.005)
    function, arguments, (d_w, d_x) = examples["|W x|²"]
    np.testing.assert_allclose(function(*arguments), 0.116, rtol=1e-6)
    np.testing.assert_allclose(d_w, [[0.088, 0.176], [0.104, 0.208]], rtol=1e-6)
    np.testing.assert_allclose(d_x, [-0.112, 0.636], rtol=1e-6)


def test_the_predicted_step_is_where_the_predicted_error_is_least():
    exact = np.array([[2.0, 1.0, 3.0, 5.0]])
    for dtype in ("float32", "float64"):
        for order in (1, 2):
            errors, step = differences.predicted(exact, dtype, order)
            least = differences.STEPS[errors[:, 0].argmin()]
            assert 1 / 1.4 < least / step[0] < 1.4

import jax
import numpy as np
import pytest
from PIL import Image

import jnn
from experiments import optimizers, surfaces
from jnn.comparison.errors import InputError

pytestmark = pytest.mark.slow


def test_the_report_the_paths_and_the_animation(quick, tmp_path):
    results = quick("optimizers", ["paths", "differences"])
    assert (tmp_path / "comparison" / "report.html").exists()
    assert (tmp_path / "paths.gif").stat().st_size < 1_000_000
    with Image.open(tmp_path / "paths.gif") as animation:
        assert animation.n_frames == 10
    assert {row["optimizer"] for row in results["verdicts"]} == {"sgd", "momentum"}
    for surface in ("quadratic", "rosenbrock"):
        steps = {name: np.mean(one["steps"]) for name, one in results["surfaces"][surface].items()}
        assert steps["momentum"] < steps["sgd"]


def test_a_descent_is_that_of_the_surface():
    starts = jax.numpy.asarray(surfaces.drawn_starts(0))
    train = surfaces.descent(jnn.optim.sgd)
    path, heights = train({"surface": 1, "rate": 0.05, "start": 0}, jax.random.key(0), {"starts": starts})
    x, y = np.asarray(path[0], float)
    for i in range(5):
        np.testing.assert_allclose(path[i], [x, y], rtol=1e-4)
        np.testing.assert_allclose(heights[i], (100 * (y - x**2) ** 2 + (1 - x) ** 2) / 100, rtol=1e-3)
        slope = np.array([-400 * x * (y - x**2) - 2 * (1 - x), 200 * (y - x**2)]) / 100
        x, y = np.array([x, y]) - 0.05 * slope


def test_minima_are_minima():
    for height, _, least, minima, _ in surfaces.SURFACES.values():
        for at in minima:
            np.testing.assert_allclose(height(*map(float, at)), least, atol=1e-12)


def test_steps_until_a_height_stays_low():
    heights = np.array([[1.0, 1e-4, 0.5, 1e-4, 1e-4], [1.0, 1e-4, 1e-4, 1e-4, 0.1], [1.0, np.nan, np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(surfaces.steps_to_stay(heights), [3, 5, 5])


def test_starts_lie_over_the_whole_window_but_for_the_first():
    for starts, (_, start, _, _, (left, right, low, high)) in zip(
        surfaces.drawn_starts(0), surfaces.SURFACES.values(), strict=True
    ):
        np.testing.assert_allclose(starts[0], start, rtol=1e-6)
        assert np.all((starts >= [left, low]) & (starts <= [right, high]))
        assert np.all(np.ptp(starts[1:], axis=0) > 0.7 * np.array([right - left, high - low]))


def test_a_task_that_is_not_there_is_refused_first(tmp_path):
    with pytest.raises(InputError, match="nonsense"):
        optimizers.main(["--quick", "--tasks", "nonsense", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from jnn import plots


@pytest.fixture
def axes():
    with plots.style():
        return Figure().subplots()


def test_a_band_is_the_interval_of_the_mean_at_each_point(axes):
    runs = np.random.default_rng(0).normal(size=(5, 3))
    runs[0, 1] = np.nan  # one run diverged there
    plots.band(axes, [1, 2, 4], runs, label="adam")
    points = axes.collections[0].get_paths()[0].vertices
    for x, column in zip([1, 2, 4], runs.T, strict=True):
        values = column[np.isfinite(column)]
        low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        ends = points[points[:, 0] == x][:, 1]
        np.testing.assert_allclose([ends.min(), ends.max()], [low, high], rtol=1e-6)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.nanmean(runs, axis=0))


def test_a_single_run_is_a_line_alone(axes):
    plots.band(axes, [1, 2], [3.0, 4.0])
    assert len(axes.lines) == 1 and not axes.collections


def test_values_of_another_length_are_refused(axes):
    with pytest.raises(ValueError, match=r"expected values \(runs, 2\) or \(2,\), got \(3,\)"):
        plots.band(axes, [1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"expected values \(1, 2\), as y and x are so long, got \(2, 2\)"):
        plots.heatmap(axes, np.eye(2), x="ab", y="a", xlabel="", ylabel="", label="")
    with pytest.raises(ValueError, match=r"got \(4, 4, 2\)"):
        plots.image(axes, np.zeros((4, 4, 2)))


def test_a_heatmap_writes_each_number_and_a_dash_for_nan(axes):
    plots.heatmap(axes, [[1.25, np.nan]], x=["a", "b"], y=["c"], xlabel="", ylabel="", label="", form="{:.1f}")
    assert [text.get_text() for text in axes.texts] == ["1.2", "\N{EN DASH}"]


def test_a_confusion_matrix_is_in_percent_of_the_true_class(axes):
    plots.confusion(axes, [[3, 1], [0, 2]], ["cat", "dog"])
    assert [text.get_text() for text in axes.texts] == ["75", "25", "0", "100"]


def test_weights_are_shown_symmetric_about_zero(axes):
    plots.image(axes, [[-1.0, 0.25]], symmetric=True)
    assert axes.images[0].get_clim() == (-1, 1)

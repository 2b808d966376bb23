import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from experiments import series
from experiments.autoregression import MODELS
from experiments.least_squares import LINE, fitted_line

pytestmark = pytest.mark.slow


def test_gradients_give_least_squares_and_the_line_beats_persistence(quick):
    results = quick("autoregression", ["forecasts", "errors"])
    for of in results.values():
        assert of["linear"]["from_least_squares"] < 1e-6
        for kind in ("one_step", "horizon"):
            assert of["linear"][kind][0] < 0.7 * of["persistence"][kind][0]
            for network in ("dense", "lstm"):
                assert np.mean(of[network][kind]) < of["persistence"][kind][0]
    years, spots = jnn.data.sunspots()
    # by hand: the baselines one step ahead on 1956 to 2008
    persistence, season = results["sunspots"]["persistence"], results["sunspots"]["season"]
    np.testing.assert_allclose(persistence["one_step"], np.sqrt(np.mean((spots[256:] - spots[255:-1]) ** 2)), rtol=1e-4)
    np.testing.assert_allclose(season["one_step"], np.sqrt(np.mean((spots[256:] - spots[245:-11]) ** 2)), rtol=1e-4)
    assert years[256] == 1956


@pytest.mark.parametrize("name", MODELS)
def test_every_network_makes_one_forecast_of_a_window(name):
    model = MODELS[name](4)
    x = jax.ShapeDtypeStruct((3, 12, 1), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    assert jax.eval_shape(model.apply, params, state, x)[0].shape == (3, 1)


def wave(differenced):
    """A sine of 12 steps a year, on a line where it is differenced."""
    times = np.arange(360) / 12
    levels = 5 * np.sin(2 * np.pi * times) + (3 * times if differenced else 0)
    return series.Series("wave", "m", times, levels, differenced, 2, 12, 24, 15.0, 20.0)


@pytest.mark.parametrize("differenced", [False, True])
def test_a_sine_is_a_line_of_two_taps_for_ever(differenced):
    one = wave(differenced)
    data = series.windows(one)
    train = data.times < one.validation
    params, difference = fitted_line(data.inputs[train], data.targets[train])
    assert difference < 1e-6

    def predict(x):
        return LINE.apply(params, {}, x)[0]

    np.testing.assert_allclose(series.errors(predict, one, data), [0, 0], atol=0.02)
    np.testing.assert_allclose(series.forecast(predict, one, data), one.levels[240:], atol=0.1)


def test_windows_hold_what_is_known_before_each_time():
    one = wave(True)
    data = series.windows(one)
    changes = np.diff(one.levels)
    np.testing.assert_allclose(data.inputs[7, :, 0] * data.scale + data.mean, changes[7:9], rtol=1e-5)
    np.testing.assert_allclose(data.targets[7] * data.scale + data.mean, changes[9:10], rtol=1e-5)
    assert data.times[7] == one.times[10]
    known = data.targets[data.times < one.validation]
    assert abs(known.mean()) < 0.05
    assert abs(known.std() - 1) < 0.05


def test_errors_far_ahead_of_a_change_are_summed_up():
    one = wave(True)._replace(levels=np.arange(360.0) + np.where(np.arange(360) < 100, np.sin(np.arange(360)), 0))
    data = series.windows(one)._replace(mean=1.0, scale=1.0, targets=np.zeros((357, 1), np.float32))
    always = lambda x: jnp.full((*x.shape[:-2], 1), 0.5, jnp.float32)
    near, far = series.errors(always, one, data)
    np.testing.assert_allclose(near, 0.5, rtol=1e-6)
    np.testing.assert_allclose(far, 0.5 * np.sqrt(np.mean(np.arange(1, 25) ** 2)), rtol=1e-5)


def test_free_running_feeds_back_what_it_said():
    fibonacci = lambda x: x[..., -1, :] + x[..., -2, :]
    np.testing.assert_array_equal(series.free_run(fibonacci, jnp.ones((2, 2, 1)), 5), [[2, 3, 5, 8, 13]] * 2)


def test_months_are_means_of_the_weeks_that_were_measured():
    days = np.array(["2000-01-01", "2000-01-08", "2000-02-05", "2000-03-04", "2000-03-11"], "datetime64[D]")
    times, means = series.monthly(days, np.array([1, 3, np.nan, 5, np.nan]))
    np.testing.assert_allclose(times, 2000 + (np.arange(3) + 0.5) / 12)
    np.testing.assert_allclose(means, [2, 3.5, 5])

"""Series in time: what is known before each moment, forecasts that run on, and their errors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn


class Series(NamedTuple):
    name: str
    unit: str
    times: np.ndarray  # (time,) years
    levels: np.ndarray  # (time,) in the unit
    differenced: bool  # whether the change from one to the next is what is foretold
    taps: int
    period: int
    horizon: int
    validation: float  # the first year of each part
    test: float


class Windows(NamedTuple):
    inputs: np.ndarray  # (time, taps, 1) the values before, standardised by the training part
    targets: np.ndarray  # (time, 1)
    times: np.ndarray
    mean: float
    scale: float


def monthly(days, values):
    """Weeks -> (months,) years, means of the weeks that were measured; months without one are interpolated."""
    month = days.astype("datetime64[M]").astype(int)
    months = np.arange(month[0], month[-1] + 1)
    weeks = [values[(month == m) & np.isfinite(values)] for m in months]
    seen = np.array([len(week) > 0 for week in weeks])
    means = np.array([week.mean() for week in weeks if len(week)])
    return 1970 + (months + 0.5) / 12, np.interp(months, months[seen], means)


def sunspots() -> Series:
    years, spots = jnn.data.sunspots()
    years, spots = years.astype(float), spots.astype(float)
    return Series("sunspots", "spots", years, spots, False, taps=12, period=11, horizon=22, validation=1921, test=1956)


def carbon_dioxide() -> Series:
    months, air = monthly(*jnn.data.co2())
    return Series("carbon dioxide", "ppm", months, air, True, taps=24, period=12, horizon=60, validation=1986, test=1991)


def windows(series: Series) -> Windows:
    values = np.diff(series.levels) if series.differenced else series.levels
    times = series.times[-len(values) :]
    known = values[times < series.validation]
    mean, scale = float(known.mean()), float(known.std())
    values = ((values - mean) / scale).astype(np.float32)[:, None]
    before = np.lib.stride_tricks.sliding_window_view(values, series.taps, axis=0)[:-1]
    return Windows(before.swapaxes(1, 2), values[series.taps :], times[series.taps :], mean, scale)


def free_run(predict, inputs, steps: int):
    """predict: (..., taps, 1) -> (..., 1). -> (..., steps), each forecast from those before it."""

    def step(window, _):
        value = predict(window)
        return jnp.concatenate([window[..., 1:, :], value[..., None, :]], axis=-2), value[..., 0]

    return jnp.moveaxis(jax.lax.scan(step, inputs, length=steps)[1], 0, -1)


def errors(predict, series: Series, data: Windows):
    """-> two root mean square errors in the unit on the test part: one step ahead, and over the horizon from every start."""
    first = int(np.argmax(data.times >= series.test))
    one = predict(data.inputs[first:]) - data.targets[first:]
    futures = np.lib.stride_tricks.sliding_window_view(data.targets[first:, 0], series.horizon)
    far = free_run(predict, data.inputs[first : first + len(futures)], series.horizon) - futures
    far = jnp.cumsum(far, axis=-1) if series.differenced else far
    return tuple(jnp.sqrt(jnp.mean(error**2)) * data.scale for error in (one, far))


def forecast(predict, series: Series, data: Windows):
    """The test part running freely from its first value, in the unit."""
    first = int(np.argmax(data.times >= series.test))
    values = free_run(predict, data.inputs[first], len(data.times) - first) * data.scale + data.mean
    start = series.levels[-(len(data.times) - first) - 1]
    return start + jnp.cumsum(values) if series.differenced else values

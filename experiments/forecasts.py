"""Forecasts and their errors in pictures."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

import jnn
from experiments.findings import Interval, interval_rows, picture

PLAIN = ("persistence", "season", "linear")


def best_on_validation(of) -> str:
    """The network of the least error one step ahead there."""
    return min((name for name in of if name not in PLAIN), key=lambda name: of[name]["validation_loss"])


def draw(out, all_series, results, forecasts):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 5))
        for axes, series in zip(figure.subplots(2, 1), all_series, strict=True):
            shown = series.times >= series.test - 12
            axes.plot(series.times[shown], series.levels[shown], color="black", label="measured", linewidth=1.2)
            methods = "season", "linear", best_on_validation(results[series.name])
            for name, color in zip(methods, (3, 1, 0), strict=True):
                runs = forecasts[series.name][name]
                jnn.plots.band(axes, series.times[-runs.shape[1] :], runs, label=name, color=jnn.plots.COLORS[color])
            axes.axvline(series.test, color="0.6", linewidth=0.8)
            axes.set(ylabel=series.unit, title=f"{series.name}: running freely from the grey line on", xlabel="year")
            axes.legend(ncols=4, loc="upper left")
            low, high = series.levels[shown].min(), series.levels[shown].max()
            axes.set_ylim(low - 0.2 * (high - low), high + 0.4 * (high - low))
        picture(out, "forecasts", figure)
        figure = Figure(figsize=(8, 3))
        for axes, series in zip(figure.subplots(1, 2, sharey=True), all_series, strict=True):
            of, kinds = results[series.name], (("one_step", "one step", "o"), ("horizon", f"{series.horizon} steps", "s"))
            for i, (kind, label, marker) in enumerate(kinds):
                of_persistence = {name: Interval.of(np.divide(of[name][kind], of["persistence"][kind][0]) * 100) for name in of}
                look = {"label": label, "marker": marker, "markersize": 4, "color": jnn.plots.COLORS[i]}
                interval_rows(axes, of_persistence, up=0.12 - 0.24 * i, **look)
            axes.set(xlabel="error, % of persistence's", title=series.name, xscale="log")
            axes.xaxis.set_major_locator(FixedLocator([20, 50, 100, 200, 500]))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.legend()
        picture(out, "errors", figure)

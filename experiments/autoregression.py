"""Can a network foretell a series from its own past better than a line, one step ahead and far ahead?

python -m experiments.autoregression [--quick] [--seed 0] [--out runs/autoregression]

Two series: the yearly number of sunspots from its last 12 values, trained up to 1920 and validated up to 1955 as in Weigend,
Huberman & Rumelhart 1990, tested up to 2008; and carbon dioxide at Mauna Loa, whose weeks are averaged to months (the five
months without a measurement, all before 1965 and so in the training part, are interpolated), the monthly change from the last
24 changes, trained up to 1985, validated up to 1990, tested up to 2001. Linear autoregression (Yule 1927) by gradients (L-BFGS)
against least squares by numpy; a dense network, causal convolutions, Elman, Jordan, LSTM and GRU networks. Learning rate and
weight decay of each are chosen by the error one step ahead on the validation part. Then each is tested once: one step ahead,
and running freely on its own forecasts, against persistence (nothing changes) and season (as 11 years, or 12 months, before).

Expected: L-BFGS equals least squares to 7 digits. Sunspots one step ahead: persistence 33.4, linear 20.3, networks about as the
line; 22 years ahead, running freely: season 36.9, linear 36.3. Carbon dioxide one month ahead: persistence 1.28 ppm, season
0.39, linear 0.33; five years ahead 5.80, 2.09 and 1.72; the best networks 0.32 (0.32 to 0.33) and 1.73 (1.69 to 1.77). The best
network on sunspots 21.0 (20.5 to 21.5), 22 years ahead 32.2 (31.5 to 32.8). Ten minutes on one core, --quick half a minute,
most of it compilation.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

import jnn
from experiments import commands
from experiments.findings import Interval, interval_rows, picture, record, stage
from experiments.least_squares import LINE, fitted_line
from experiments.series import Series, Windows, carbon_dioxide, errors, forecast, sunspots, windows

MODELS = {
    "dense": lambda width: jnn.serial(jnn.flatten(2), jnn.models.mlp((2 * width,), 1, activation=jnp.tanh)),
    "convolution": lambda width: jnn.serial(jnn.models.temporal_convolution((width,) * 4, 1), last),
    "elman": lambda width: jnn.serial(jnn.rnn(width), last, jnn.dense(1)),
    "jordan": lambda width: jnn.serial(jnn.jordan(width, 1), last),
    "lstm": lambda width: jnn.serial(jnn.lstm(width), last, jnn.dense(1)),
    "gru": lambda width: jnn.serial(jnn.gru(width), last, jnn.dense(1)),
}
PLAIN = ("persistence", "season", "linear")


def last(sequence):
    return sequence[..., -1, :]


def trained(model, train, validation, trials, steps: int, seeds: int, seed: int):
    """-> params (seeds, ...) of the trial (learning rate, weight decay) of the least mean loss on validation; it; its loss."""
    objective = jnn.supervised(model, jnn.losses.squared_error)

    def run(trial, key, data):
        optimizer = jnn.optim.adamw(jnn.schedules.cosine(trial[0], steps), weight_decay=trial[1])
        fitted = jnn.fit(jnn.training(objective, optimizer), data[0], key=key, steps=steps, batch_size=32)
        return fitted.train_state.params, jnn.evaluate(objective, fitted.train_state.params, {}, data[1])["loss"]

    params, loss = jnn.sweep(run, jnp.array(trials), seeds=seeds, seed=seed, data=(train, validation))
    best = int(np.nanargmin(loss.mean(axis=1)))
    return jax.tree.map(lambda a: a[best], params), trials[best], float(loss[best].mean())


def predictors(series: Series, data: Windows, networks, trials, steps: int, seeds: int, seed: int):
    """-> {name: (predict(params, inputs), params with leading axis (seeds,), what is to record)}."""
    known, early = data.times < series.test, data.times < series.validation
    train, validation = ((data.inputs[part], data.targets[part]) for part in (early, known & ~early))
    same = np.float32(-data.mean / data.scale)
    keep = (lambda params, x: jnp.full_like(last(x), same)) if series.differenced else (lambda params, x: last(x))
    season = lambda params, x: x[..., -series.period, :]
    found: dict[str, tuple] = {"persistence": (keep, jnp.zeros(1), {}), "season": (season, jnp.zeros(1), {})}
    params, difference = fitted_line(*train)
    apply = lambda model: lambda params, x: model.apply(params, {}, x)[0]
    found["linear"] = (apply(LINE), jax.tree.map(lambda a: a[None], params), {"from_least_squares": difference})
    for name in networks:
        model = MODELS[name](16)
        params, trial, loss = trained(model, train, validation, trials, steps, seeds, seed)
        found[name] = (apply(model), params, {"learning_rate": trial[0], "weight_decay": trial[1], "validation_loss": loss})
    return found


def draw(out, all_series, results, forecasts):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 5))
        for axes, series in zip(figure.subplots(2, 1), all_series, strict=True):
            shown = series.times >= series.test - 12
            axes.plot(series.times[shown], series.levels[shown], color="black", label="measured", linewidth=1.2)
            for name, color in zip(("season", "linear", "lstm"), (3, 1, 0), strict=True):
                runs = forecasts[series.name][name]
                jnn.plots.band(axes, series.times[-runs.shape[1] :], runs, label=name, color=jnn.plots.COLORS[color])
            axes.axvline(series.test, color="0.6", linewidth=0.8)
            axes.set(ylabel=series.unit, title=f"{series.name}: running freely from the line on", xlabel="year")
            axes.legend(ncols=4, loc="upper left")
            low, high = series.levels[shown].min(), series.levels[shown].max()
            axes.set_ylim(low - 0.2 * (high - low), high + 0.4 * (high - low))
        picture(out, "forecasts", figure)
        figure = Figure(figsize=(8, 3))
        for axes, series in zip(figure.subplots(1, 2, sharey=True), all_series, strict=True):
            of, kinds = results[series.name], (("one_step", "one step", "o"), ("horizon", f"{series.horizon} steps", "s"))
            for i, (kind, label, marker) in enumerate(kinds):
                shares = {name: Interval.of(np.divide(of[name][kind], of["persistence"][kind][0]) * 100) for name in of}
                look = {"label": label, "marker": marker, "markersize": 4, "color": jnn.plots.COLORS[i]}
                interval_rows(axes, shares, up=0.12 - 0.24 * i, **look)
            axes.set(xlabel="error, % of persistence's", title=series.name, xscale="log")
            axes.xaxis.set_major_locator(FixedLocator([20, 50, 100, 200, 500]))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.legend()
        picture(out, "errors", figure)


def described(series: Series, of) -> str:
    """A sentence on one series: baselines, and the network that was the best on the validation part."""
    networks = [name for name in of if name not in PLAIN]
    best = min(networks, key=lambda name: of[name]["validation_loss"])
    text = f"{series.name.capitalize()}, in {series.unit}"
    for kind, ahead in (("one_step", "one step"), ("horizon", f"{series.horizon} steps running freely")):
        line = of["linear"][kind][0]
        below = [name for name in networks if (Interval.of(of[name][kind])[2] or np.inf) < line]
        plain = ", ".join(f"{name} {of[name][kind][0]:.2f}" for name in PLAIN)
        text += f"; {ahead}: {plain}, {best} (the best network on validation) {Interval.of(of[best][kind]):.2f}, "
        text += f"and below the line with the whole interval: {', '.join(below) or 'no network'}"
    return text + ". "


def main(arguments=None):
    quick = "2 networks, 3 seeds, 2 trials, 300 steps"
    options = commands.parser(__doc__, "autoregression", quick=quick).parse_args(arguments)
    seeds, steps = (3, 300) if options.quick else (10, 1500)
    networks = ("dense", "lstm") if options.quick else tuple(MODELS)
    trials = [(rate, decay) for rate in (1e-3, 3e-3, 1e-2) for decay in (1e-3, 0.1, 1.0)]
    trials = trials[3::4] if options.quick else trials
    all_series = sunspots(), carbon_dioxide()
    results, forecasts = {}, {}
    for series in all_series:
        data = windows(series)
        with stage(f"{series.name}: {len(networks)} networks, {len(trials)} trials, {seeds} seeds, {steps} steps"):
            found = predictors(series, data, networks, trials, steps, seeds, options.seed)
        results[series.name], forecasts[series.name] = {}, {}
        for name, (predict, params, note) in found.items():

            def judged(params, predict=predict, series=series, data=data):
                of_inputs = lambda inputs: predict(params, inputs)
                return errors(of_inputs, series, data), forecast(of_inputs, series, data)

            (one, far), forecasts[series.name][name] = jax.tree.map(np.asarray, jax.jit(jax.vmap(judged))(params))
            results[series.name][name] = {"one_step": one.tolist(), "horizon": far.tolist(), **note}
    draw(options.out, all_series, results, forecasts)
    difference = max(of["linear"]["from_least_squares"] for of in results.values())
    finding = (
        f"Root mean square errors on years that were not trained on, with the 95 % interval over {seeds} seeds. "
        + "".join(described(series, results[series.name]) for series in all_series)
        + f"The linear coefficients found by L-BFGS differ from least squares by {difference:.0e} at most."
    )
    return record(options, finding, results)


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

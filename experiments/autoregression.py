"""Can a network foretell a series from its own past better than linear autoregression, one step ahead and far ahead?

python -m experiments.autoregression [--quick] [--seed 0] [--out runs/autoregression]

Two series: the yearly number of sunspots from its last 12 values, trained up to 1920 and validated up to 1955 as in Weigend,
Huberman & Rumelhart 1990, tested up to 2008; and carbon dioxide at Mauna Loa, whose weeks are averaged to months (the five
months without a measurement, all before 1965 and so in the training part, are interpolated), the monthly change from the last
24 changes, trained up to 1985, validated up to 1990, tested up to 2001. Linear autoregression (Yule 1927) by gradients (L-BFGS)
against least squares by numpy; a dense network, causal convolutions, Elman, Jordan, LSTM and GRU networks. Learning rate and
weight decay of each are chosen by the error one step ahead on the validation part. Then each is tested once: one step ahead,
and running freely on its own forecasts, against persistence (nothing changes) and season (as 11 years, or 12 months, before).

The intervals are over seeds of the networks, on one stretch of years: they are no test that one method foretells better.

Expected: L-BFGS equals least squares to 7 digits. Sunspots one step ahead: persistence 33.4, linear 20.3, the best network 21.0
(20.3 to 21.7); 22 years ahead, running freely: season 36.9, linear 36.3, the best network 32.1 (31.2 to 33.1). Carbon dioxide
one month ahead: persistence 1.28 ppm, season 0.39, linear 0.33, the best network 0.32; five years ahead 5.80, 2.09, 1.72 and
1.73 (1.67 to 1.78). "Best" is on the validation part. The Jordan network, whose context is its last output, one number, cannot
hold the season and runs away on carbon dioxide: 38 ppm. Sixteen minutes on one core, --quick half a minute, most of it
compilation.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from experiments import commands
from experiments.findings import Interval, record, stage
from experiments.forecasts import PLAIN, best_on_validation, draw
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
RATES, DECAYS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (0.0, 0.1, 1.0, 10.0)


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


def described(series: Series, of) -> str:
    """A sentence on one series: baselines, the network that was the best on the validation part, and where others lie."""
    networks, best = [name for name in of if name not in PLAIN], best_on_validation(of)
    text = f"{series.name.capitalize()}, in {series.unit}"
    for kind, ahead in (("one_step", "one step"), ("horizon", f"{series.horizon} steps running freely")):
        linear, intervals = of["linear"][kind][0], {name: Interval.of(of[name][kind]) for name in networks}
        below = [name for name, (_, _, high) in intervals.items() if high is not None and high < linear]
        above = [name for name, (_, low, _) in intervals.items() if low is not None and low > linear]
        plain = ", ".join(f"{name} {of[name][kind][0]:.2f}" for name in PLAIN)
        text += f"; {ahead}: {plain}, {best} (the best network on validation) {intervals[best]:.2f}, the whole interval "
        text += f"below linear autoregression for {', '.join(below) or 'none'}, above it for {', '.join(above) or 'none'}"
    if "jordan" in of:
        far = Interval.of(of["jordan"]["horizon"])
        text += f"; the Jordan network, whose context is its last output, one number, {far:.1f} running freely"
    return text + ". "


def shares(all_series, results) -> dict[str, float]:
    """What the best networks on validation have of linear autoregression's error, in percent."""
    found = {}
    for series in all_series:
        of, best = results[series.name], best_on_validation(results[series.name])
        for kind, steps in (("one_step", "one step"), ("horizon", f"{series.horizon} steps")):
            found[f"{series.name} {steps} ahead"] = float(100 * np.mean(of[best][kind]) / of["linear"][kind][0])
    return found


def main(arguments=None):
    quick = "2 networks, 3 seeds, 2 trials, 300 steps"
    options = commands.parser(__doc__, "autoregression", quick=quick).parse_args(arguments)
    seeds, steps = (3, 300) if options.quick else (7, 1500)
    networks = ("dense", "lstm") if options.quick else tuple(MODELS)
    trials = [(3e-3, 0.0), (1e-2, 0.1)] if options.quick else [(rate, decay) for rate in RATES for decay in DECAYS]
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
    difference = max(of["linear"]["from_least_squares"] for of in results.values())
    chosen = [of[name] for of in results.values() for name in networks]
    rates, decays = zip(*trials, strict=True)
    edges = sum(one["learning_rate"] in (min(rates), max(rates)) or one["weight_decay"] == max(decays) for one in chosen)
    ratios = shares(all_series, results)
    finding = (
        "The network that is best on validation foretells better than linear autoregression in "
        f"{sum(share < 100 for share in ratios.values())} of {len(ratios)} cases; of linear autoregression's error it has "
        f"{', '.join(f'{share:.0f} % ({case})' for case, share in ratios.items())}. Root mean square errors on years that were "
        f"not trained on, with the 95 % interval over {seeds} seeds, on one stretch of years, so that the intervals are no "
        "test of which method foretells better. "
        + "".join(described(series, results[series.name]) for series in all_series)
        + f"The learning rate or the weight decay lies at an edge of its grid in {edges} of {len(chosen)} choices. The linear "
        f"coefficients found by L-BFGS differ from least squares by {difference:.0e} at most."
    )
    recorded = record(options, finding, results)
    draw(options.out, all_series, results, forecasts)
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

"""What do 32 networks know together that one does not, and what do they cost in one program?

python -m experiments.ensembles [--quick] [--seed 0] [--out runs/ensembles]

32 LeNets (LeCun et al. 1998, with relu) on Fashion-MNIST, which differ in their seeds alone, in one `jnn.sweep`; the learning
rate is chosen on 6,000 examples held out. An ensemble's prediction is the mean of its members' probabilities
(Lakshminarayanan et al. 2017). Intervals are over disjoint ensembles of the 32. Calibration is the expected calibration error
with 15 bins (Guo et al. 2017). Seconds for 32 and for one are taken in turn, in medians; their ratio depends on the machine.

Expected: one network gets 90.1 % (90.0 to 90.2), 32 get 91.2 %, in one program in 0.99 (0.98 to 1.08) of 32 times the seconds
of one; the calibration error falls from 1.3 % to 0.6 % with two and rises again with more, which are too cautious. About
forty-five minutes on one core, --quick 15 seconds.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.benchmarks import records
from experiments.fashion import parts, scaled
from experiments.findings import Interval, is_at_edge, picture, record, stage

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
NETWORK = jnn.serial(scaled, lenet=jnn.models.lenet(10, activation=jax.nn.relu))
OBJECTIVE = jnn.supervised(NETWORK, jnn.losses.softmax_cross_entropy)


def member(steps):
    """-> train(rate, key, data) for `jnn.sweep`: the probabilities (examples, 10) of data["judged"]."""

    def train(rate, key, data):
        training = jnn.training(OBJECTIVE, jnn.optim.adam(jnn.schedules.cosine(rate, steps)))
        params = jnn.fit(training, data["train"], key=key, steps=steps, batch_size=64).train_state.params
        logits = jax.lax.map(lambda image: NETWORK.apply(params, {}, image)[0], data["judged"], batch_size=500)
        return jax.nn.softmax(logits)

    return train


def scores(probabilities, labels):
    """Of each prediction (..., n, classes): accuracy in percent, mean cross-entropy, calibration error in percent."""
    logits = jnp.log(jnp.maximum(probabilities, 1e-12))

    def one(logits):
        return {
            "accuracy": 100 * jnp.mean(jnn.metrics.accuracy(logits, labels)),
            "cross_entropy": jnp.mean(jnn.losses.softmax_cross_entropy(logits, labels)),
            "calibration_error": 100 * jnn.metrics.calibration_error(logits, labels),
        }

    return jax.tree.map(lambda a: a.tolist(), jax.lax.map(one, logits))


def ensembles(members, labels):
    """(count, n, classes) -> {k: {score: (count / k,)}}, over disjoint ensembles of k members, k = 1, 2, 4, ... count."""
    found, k = {}, 1
    while k <= len(members):
        found[k] = scores(members.reshape(-1, k, *members.shape[1:]).mean(axis=1), labels)
        k *= 2
    return found


def disagreement(members) -> float:
    """(count, n, classes) -> the share of examples in percent on which two members say different classes, over all pairs."""
    count = len(members)
    votes = np.eye(members.shape[-1])[members.argmax(axis=-1)].sum(axis=0)
    agreeing = (votes * (votes - 1)).sum(axis=-1) / (count * (count - 1))
    return 100 * float(1 - agreeing.mean())


def seconds(count, data, steps, repeats) -> dict[str, np.ndarray]:
    """Of a sweep of "all", `count` seeds, and of "one", in turn, (repeats,) each."""
    train, rate = member(steps), jnp.array([1e-3])
    few = data | {"judged": data["judged"][:500]}

    def swept(seeds):
        return lambda: jax.block_until_ready(jnn.sweep(train, rate, seeds=seeds, data=few))

    return records.in_turns({"all": swept(count), "one": swept(1)}, repeats)


def draw(out, found, members, labels):
    figure = Figure(figsize=(8, 2.8))
    accuracy, error, reliable = figure.subplots(1, 3)
    for axes, name, label in (
        (accuracy, "accuracy", "accuracy in percent"),
        (error, "calibration_error", "calibration error in percent"),
    ):
        for k, values in found.items():
            mean, low, high = Interval.of(values[name])
            ends = None if low is None or high is None else [[mean - low], [high - mean]]
            axes.errorbar([k], [mean], ends, color=jnn.plots.COLORS[0], marker="o", markersize=4, capsize=2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(found), list(found))
        axes.set(xlabel="networks in the ensemble", ylabel=label)
    reliable.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    for i, (name, probabilities) in enumerate({"one": members[0], f"mean of {len(members)}": members.mean(axis=0)}.items()):
        _, confidence, right = jnn.metrics.reliability(jnp.log(probabilities), labels)
        reliable.plot(confidence, right, color=jnn.plots.COLORS[i], marker="o", markersize=3, label=name)
    reliable.set(xlabel="confidence", ylabel="share right", title="Reliability")
    reliable.legend()
    picture(out, "ensembles", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "ensembles", quick="4 networks, 150 steps").parse_args(arguments)
    count, steps, timed_steps = (4, 150, 20) if options.quick else (32, 3400, 200)
    train, validation, (images, labels) = parts()
    images, labels = (a[: 2000 if options.quick else 10_000] for a in (images, labels))
    rate = RATES[0]
    if not options.quick:
        with stage(f"{len(RATES)} learning rates, 2 seeds"):
            held_out = {"train": train, "judged": validation[0]}
            said = jnn.sweep(member(steps), jnp.array(RATES), seeds=2, seed=options.seed, data=held_out)
            rate = RATES[int(jnp.mean(jnp.argmax(said, -1) == validation[1], axis=(1, 2)).argmax())]
    data = {"train": train, "judged": images}
    with stage(f"{count} networks, {steps} steps, in one program"):
        members = np.asarray(
            jnn.sweep(member(steps), jnp.array([rate]), seeds=count, seed=options.seed, data=data)[0], np.float64
        )
    with stage(f"seconds for {count} and for one, {timed_steps} steps, in turn"):
        times = seconds(count, data, timed_steps, repeats=3 if options.quick else 7)
    found = ensembles(members, labels)
    said = members.argmax(axis=-1)
    agreed = np.all(said == said[0], axis=0)
    results = {
        "learning_rate": rate,
        "ensembles": {str(k): values for k, values in found.items()},
        "disagreement": disagreement(members),
        "all_agree": {"share": 100 * float(agreed.mean()), "accuracy": 100 * float(np.mean(said[0][agreed] == labels[agreed]))},
        "turns": {name: values.tolist() for name, values in times.items()},
        "time_ratio": float(np.median(times["all"]) / (count * np.median(times["one"]))),
    }
    recorded = record(options, described(results, found, count), results)
    with jnn.plots.style():
        draw(options.out, found, members, labels)
    return recorded


def described(results, found, count) -> str:
    one, all_of_them = found[1], found[count]
    each = np.divide(results["turns"]["all"], results["turns"]["one"]) / count
    forms = {"accuracy": ".1f", "cross_entropy": ".3f", "calibration_error": ".1f"}
    goes = {name: f"from {Interval.of(one[name]):{form}} to {all_of_them[name][0]:{form}}" for name, form in forms.items()}
    at_end = ", an end of the grid" if is_at_edge(results["learning_rate"], RATES) else ""
    return (
        f"{count} LeNets together tell {all_of_them['accuracy'][0]:.1f} % of Fashion-MNIST's test pictures right where one "
        f"tells {np.mean(one['accuracy']):.1f} %, and cost in one program {results['time_ratio']:.2f} of {count} times the "
        f"seconds of one. From one network to the mean prediction of {count} the accuracy in percent goes {goes['accuracy']}, "
        f"the cross-entropy {goes['cross_entropy']}, the expected calibration error in percent {goes['calibration_error']} (of "
        f"one, mean and 95 % interval over {count} seeds; of {count} there is one), all at the learning rate "
        f"{results['learning_rate']}{at_end}. Two networks disagree on {results['disagreement']:.1f} % of the pictures; where "
        f"all agree, on {results['all_agree']['share']:.1f} %, they are right in {results['all_agree']['accuracy']:.1f} %. The "
        f"ratio of the seconds, on {jax.default_backend()}, is of medians of {len(each)} turns, in which it lay between "
        f"{each.min():.2f} and {each.max():.2f}."
    )


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

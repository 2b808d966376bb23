"""What closes the gap between training and test on a small training set?

python -m experiments.regularization [--quick] [--seed 0] [--out runs/regularization]

A network 784-128-10 with relu on 500 pictures of Fashion-MNIST, drawn anew for each of eight seeds, 800 steps of Adam in
batches of 50 at 0.003, decaying as a cosine: l1 (Tibshirani 1996), l2, elastic net (Zou & Hastie 2005), max-norm and dropout
(Srivastava et al. 2014), noise on the pixels (Bishop 1995), early stopping (Prechelt 1998). Strengths are numbers, so that
every strength of every method is a trial of one program; each method's strength is that of the least mean loss on 5,000
validation pictures, tested once on the test part. Early stopping trains until the least loss, in the history of a whole run,
on 1,000 of these. Sparsity is the share of weights within 0.001 of zero. Inverted dropout (scaled while training) is measured
against plain dropout (at test time).

Expected: the gap of the losses falls from 0.85 to between 0.34 (L1) and 0.61 (noise); accuracy hardly moves: max-norm gains 0.4
points (0.1 to 0.6), L1 loses 0.5. Inverted and plain dropout agree, 1.0 standard errors off the mean over masks.
About 6 minutes on 2 cores, --quick under a minute.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, towers
from experiments.findings import Interval, picture, record, stage

NONE = {"l1": 0.0, "l2": 0.0, "limit": np.inf, "rate": 0.0, "noise": 0.0}
METHODS = {
    "none": [{}],
    "l1": [{"l1": s} for s in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)],
    "l2": [{"l2": s} for s in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)],
    "elastic net": [{"l1": one, "l2": two} for one in (1e-5, 3e-5, 1e-4) for two in (3e-4, 3e-3)],
    "max-norm": [{"limit": s} for s in (0.25, 0.5, 1.0, 1.5, 2.0)],
    "dropout": [{"rate": s} for s in (0.1, 0.25, 0.5, 0.75)],
    "noise": [{"noise": s} for s in (0.1, 0.2, 0.4, 0.8)],
}
EXAMPLES, EVERY, ZERO = 500, 10, 1e-3


def network(rate, drop=jnn.dropout):
    """Pixels in [0, 255] -> 10 logits, with dropout behind the hidden layer."""
    grey = lambda x: x.astype(jnp.float32) / 255
    hidden = jnn.dense(128, w_init=jnn.initializers.kaiming_normal())
    return jnn.serial(grey, jnn.flatten(), hidden=hidden, relu=jax.nn.relu, dropout=drop(rate), head=jnn.dense(10))


def plain_dropout(rate):
    """Dropout as first published: while training x * mask with P(mask = 0) = rate, otherwise x * (1 - rate)."""

    def apply(params, state, x, *, key=None, train=False):
        kept = jnp.asarray(1 - rate, x.dtype)
        if train and key is not None:
            return x * jax.random.bernoulli(key, kept, x.shape).astype(x.dtype), state
        return x * kept, state

    return jnn.Layer(lambda key, x: ({}, {}), apply)


def run(hparams, key, examples, steps: int, stop=None, **options):
    """`fit` with these strengths. stop: the step from which on nothing is learned; may be traced."""
    penalty = jnn.regularizers.elastic_net(hparams["l1"], hparams["l2"])
    objective = jnn.supervised(
        network(hparams["rate"]),
        jnn.losses.softmax_cross_entropy,
        penalty=penalty,
        metrics={"accuracy": jnn.metrics.accuracy},
        augment=lambda key, x: x.astype(jnp.float32) + 255 * hparams["noise"] * jax.random.normal(key, x.shape),
    )
    decay = jnn.schedules.cosine(3e-3, steps)
    rate = decay if stop is None else lambda count: jnp.where(count < stop, decay(count), jnp.zeros_like(decay(count)))
    optimizer = jnn.optim.chain(jnn.optim.adam(rate), jnn.optim.max_norm(hparams["limit"]))
    return jnn.fit(jnn.training(objective, optimizer), examples, key=key, steps=steps, batch_size=50, **options)


def trainer(steps: int, stops_early: bool = False):
    """A function for `sweep`: the parameters, and loss and accuracy on its own training examples and on validation."""

    def train(hparams, key, data):
        draw_key, fit_key = jax.random.split(key)
        pool = len(data["pool"][0])
        mine = jax.random.choice(draw_key, pool, (EXAMPLES,), replace=False)
        examples = jax.tree.map(lambda a: a[mine], data["pool"])
        stop = jnp.asarray(steps)
        if stops_early:
            history = run(hparams, fit_key, examples, steps, eval_data=data["watched"], eval_every=EVERY).history
            stop = EVERY * (1 + jnp.argmin(history["eval"]["loss"]))
        params = run(hparams, fit_key, examples, steps, stop).train_state.params
        parts = {"train": examples, "validation": data["validation"]}
        return params, {part: scored(params, batch) for part, batch in parts.items()}, stop

    return train


def scored(params, part):
    return jnn.evaluate(towers.classifier(network(0.0)), params, {}, part, batch_size=500)


def all_methods(data, methods, steps: int, seeds: int, seed: int):
    """method -> its setting, parameters (seeds, ...), scores (seeds,) by part, and steps taken: one sweep for all but the
    last, early stopping."""
    trials = [(name, NONE | setting) for name, settings in methods.items() for setting in settings]
    grid = {key: jnp.array([setting[key] for _, setting in trials], jnp.float32) for key in NONE}
    with stage(f"{len(trials)} trials, {seeds} seeds, {steps} steps"):
        results = jnn.sweep(trainer(steps), grid, seeds=seeds, seed=seed, data=data)
    with stage("early stopping"):
        early = jnn.sweep(
            trainer(steps, True), {k: jnp.array([v], jnp.float32) for k, v in NONE.items()}, seeds=seeds, seed=seed, data=data
        )
    loss = np.asarray(results[1]["validation"]["loss"]).mean(axis=1)
    found = {}
    for name, settings in methods.items():
        mine = [i for i, (method, _) in enumerate(trials) if method == name]
        best = mine[int(np.argmin(loss[mine]))]
        found[name] = (settings[best - mine[0]], *jax.tree.map(lambda a, best=best: a[best], results))
    found["early stopping"] = ({}, *jax.tree.map(lambda a: a[0], early))
    return found


def sparsity(params):
    """The share of weights within ZERO of zero, (seeds,)."""
    weights = [np.abs(np.asarray(layer["w"])).reshape(len(layer["w"]), -1) for layer in params.values()]
    return np.mean(np.concatenate(weights, axis=1) < ZERO, axis=1)


def dropout_check(params, images, rate: float, masks: int, key) -> dict:
    """Inverted dropout against plain dropout whose next layer's weights are divided by 1 - rate: the largest difference of
    their logits in training with the same mask, and at test time; and by how many standard errors the logits at test time are
    off the mean over masks (root mean square: 1 where they agree in expectation)."""
    head = {"w": params["head"]["w"] / (1 - rate), "b": params["head"]["b"]}
    kinds = {"inverted": (jnn.dropout, params), "plain": (plain_dropout, jnn.tree.merge(params, {"head": head}))}
    trained, tested, errors = {}, {}, {}
    for name, (drop, params) in kinds.items():
        apply = network(rate, drop).apply
        tested[name], _ = apply(params, {}, images)
        sample = jax.jit(jax.vmap(lambda key, apply=apply, params=params: apply(params, {}, images, key=key, train=True)[0]))
        trained[name] = np.asarray(sample(jax.random.split(key, masks)), float)
        error = trained[name].std(axis=0, ddof=1) / np.sqrt(masks)
        errors[name] = float(np.sqrt(np.mean(((trained[name].mean(axis=0) - tested[name]) / error) ** 2)))
    difference = lambda one: float(np.max(np.abs(one["plain"] - one["inverted"])))
    share = lambda logits: np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))
    off = np.abs(share(trained["inverted"]).mean(axis=0) - share(tested["inverted"])).mean()
    return {"trained": difference(trained), "tested": difference(tested), "standard_errors": errors, "probability": float(off)}


def accuracies(out, found):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 3.4))
        left, right = figure.subplots(1, 2, sharey=True)
        for y, one in enumerate(found.values()):
            for axes, key in ((left, "accuracy"), (right, "loss")):
                for part, color, marker in (("train", jnn.plots.COLORS[1], "s"), ("test", jnn.plots.COLORS[0], "o")):
                    mean, low, high = one[part][key]
                    axes.plot([low, high], [y, y], color=color)
                    axes.plot(
                        mean, y, marker, color=color, label={"train": "training", "test": "test"}[part] if y == 0 else None
                    )
        left.set_yticks(range(len(found)), found)
        left.invert_yaxis()
        left.set_xlabel("accuracy, %")
        right.set_xlabel("loss (cross-entropy)")
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        picture(out, "gap", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "regularization", quick="one strength each, 2 seeds, 100 steps").parse_args(arguments)
    steps, seeds = (100, 2) if options.quick else (800, 8)
    methods = {name: settings[2:3] or settings for name, settings in METHODS.items()} if options.quick else METHODS
    (images, labels), test = jnn.data.fashion_mnist()
    parts = {"pool": slice(None, -5000), "validation": slice(-5000, None), "watched": slice(-1000, None)}
    data = {name: (images[part], labels[part]) for name, part in parts.items()}
    found = {}
    runs = all_methods(data, methods, steps, seeds, options.seed)
    with stage("test"):
        for name, (setting, params, scores, stop) in runs.items():
            scores["test"] = jax.vmap(partial(scored, part=test))(params)
            values = {
                part: {k: np.asarray(v) * (100 if k == "accuracy" else 1) for k, v in of.items()} for part, of in scores.items()
            }
            gap = values["test"]["loss"] - values["train"]["loss"]
            intervals = {part: {k: Interval.of(v) for k, v in values[part].items()} for part in ("train", "test")}
            found[name] = {
                "setting": setting,
                **intervals,
                "gap": Interval.of(gap),
                "sparsity": Interval.of(100 * sparsity(params)),
            }
            found[name] |= {"steps": np.asarray(stop).tolist(), "test_accuracy": values["test"]["accuracy"].tolist()}
    for one in found.values():
        one["gain"] = Interval.of(np.subtract(one["test_accuracy"], found["none"]["test_accuracy"]))
    pruned = jax.tree.map(lambda w: jnp.where(jnp.abs(w) < ZERO, 0.0, w), runs["l1"][1])
    pruned = Interval.of(100 * jax.vmap(partial(scored, part=test))(pruned)["accuracy"])
    setting, params, *_ = runs["dropout"]
    first = jax.tree.map(lambda a: a[0], params)
    check = dropout_check(first, test[0][:64], setting["rate"], 1000, jax.random.key(options.seed))
    accuracies(options.out, found)

    none = found["none"]
    others = "; ".join(f"{name} {one['gain']:+.1f}, gap {one['gap'][0]:.2f}" for name, one in found.items() if name != "none")
    finding = (
        f"Trained on {EXAMPLES} pictures without regularization, a network gets {none['train']['accuracy']:.1f %} of them "
        f"and {none['test']['accuracy']:.1f %} of the test pictures right, and its test loss is {none['gap']:.2f} above its "
        f"training loss (means and 95 % intervals over {seeds} seeds). Percent of test pictures gained, and the gap of the "
        f"losses: {others}. l1 leaves {found['l1']['sparsity']:.1f %} of the weights within {ZERO} of zero, against "
        f"{none['sparsity']:.1f %}; with those set to zero the test accuracy is {pruned:.1f %}, from "
        f"{found['l1']['test']['accuracy']:.1f %}. Inverted and plain dropout give logits that differ by "
        f"{check['tested']:.0e} at test time, and both agree with the mean over masks "
        f"({check['standard_errors']['inverted']:.2f} and {check['standard_errors']['plain']:.2f} standard errors off); "
        f"class probabilities, behind the softmax, are {check['probability']:.3f} off that mean."
    )
    return record(options, finding, {"methods": found, "pruned_l1": pruned, "dropout": check})


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

"""Which activation lets a deep network learn, and how fast?

python -m experiments.activations [--quick] [--seed 0] [--out runs/activations]

Networks of 2 to 32 hidden layers of 64 units on 1,297 digits (8x8), each activation with the initialization of its literature:
Glorot & Bengio 2010 for sigmoid and tanh, He et al. 2015 for relu and its kin, Klambauer et al. 2017 for selu, variance
1/n_in for maxout. Before training: the gradient's norm by layer, dead units (relu's that give 0 for every example) and
saturated outputs (within 2.5 % of the range from a bound, which is 5 % of the bound for elu and selu). Then the steps of
momentum (0.9, batches of 64) to a training loss of 0.2, the learning rate of each chosen on two seeds and measured on others: is
relu faster than tanh, as Krizhevsky et al. 2012, figure 1, found? With the identity, any depth is one affine map: its
matrix, its rank, and the loss of the best one by least squares. And sigmoid's zig-zag (LeCun et al. 1998, section 4.3): where
all inputs of a unit are positive, all its weight gradients for one example have one sign.

Expected, at depth 32: sigmoid's gradient shrinks by a factor of about 10 a layer and never learns. (to be recorded)
About 10 minutes on 2 cores, --quick under a minute.
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

WIDTH, BATCH, EVERY, TARGET = 64, 64, 10, 0.2
RATES = 10.0 ** np.arange(-4, 1, 0.5)
XAVIER, KAIMING = jnn.initializers.xavier_normal(), jnn.initializers.kaiming_normal()
LECUN = jnn.initializers.lecun_normal()


def dense(w_init, activation):
    return jnn.serial(jnn.dense(WIDTH, w_init=w_init), activation)


BLOCKS = {
    "sigmoid": dense(XAVIER, jax.nn.sigmoid),
    "tanh": dense(XAVIER, jnp.tanh),
    "relu": dense(KAIMING, jax.nn.relu),
    "leaky relu": dense(KAIMING, jax.nn.leaky_relu),
    "prelu": dense(KAIMING, jnn.prelu()),
    "elu": dense(KAIMING, jax.nn.elu),
    "selu": dense(LECUN, jax.nn.selu),
    "maxout": jnn.maxout(WIDTH, 2, w_init=LECUN),
}
IDENTITY = dense(XAVIER, jnn.activations.identity)
# where an output counts as saturated: below, above
SATURATED = {"sigmoid": (0.025, 0.975), "tanh": (-0.95, 0.95), "elu": (-0.95, np.inf), "selu": (-0.95 * 1.7581, np.inf)}


def seen(block, params, x, y, limits) -> dict:
    """Of a network: by layer, (depth,), the gradient's norm, the shares of dead units and of saturated outputs; and the share of
    units with one sign, for one example at a time and for a batch."""
    objective = towers.classifier(towers.tower(block, len(jax.tree.leaves(params["hidden"])[0])))
    outputs = towers.layer_outputs(block, params, x)
    gradient = jax.grad(lambda params, batch: objective.loss(params, {}, batch)[0])
    by_example = jax.vmap(gradient, (None, 0))(params, (x[:BATCH], y[:BATCH]))
    by_batch = jax.tree.map(lambda a: a[None], gradient(params, (x[:BATCH], y[:BATCH])))
    return {
        "gradient": towers.layer_norms(gradient(params, (x, y))),
        "dead": jnp.mean(jnp.all(outputs == 0, axis=1), axis=-1),
        "saturated": jnp.mean((outputs < limits[0]) | (outputs > limits[1]), axis=(1, 2)),
        "one_sign": [one_sign(jax.tree.leaves(g["hidden"])[-1]) for g in (by_example, by_batch)],
    }


def one_sign(w):
    """w (gradients, layers, ..., in, features) -> the share of units behind a hidden layer whose weights' gradients all have one
    sign. Zeros fit either sign; a unit without any gradient does not count."""
    w = w[:, 1:]
    has_any = jnp.any(w != 0, axis=-2)
    is_one = (jnp.all(w >= 0, axis=-2) | jnp.all(w <= 0, axis=-2)) & has_any
    return jnp.sum(is_one) / jnp.maximum(jnp.sum(has_any), 1)


def trainer(objective, steps: int, batch_size: int | None = BATCH):
    """A function for `sweep`: the loss on the probe every tenth step, and the parameters at the end."""

    def train(hparams, key, data):
        training = jnn.training(objective, jnn.optim.momentum(hparams["rate"]))
        key = jax.random.fold_in(key, hparams["run"])
        options = {"batch_size": batch_size, "eval_data": data["probe"], "eval_every": EVERY}
        fitted = jnn.fit(training, data["train"], key=key, steps=steps, **options)
        return fitted.history["eval"]["loss"], fitted.train_state.params

    return train


def steps_to(losses, target: float) -> np.ndarray:
    """(..., evaluations) -> (...): the step of the first loss at or below target; infinite where there is none."""
    reached = np.asarray(losses) <= target
    return np.where(reached.any(axis=-1), EVERY * (reached.argmax(axis=-1) + 1.0), np.inf)


def at_best_rate(train, data, rates, seed: int, score):
    """The learning rate of the least mean score of two runs, and the results of as many new runs with it as that search had:
    the same program twice."""
    runs = 2 * len(rates)

    def swept(rate, run):
        hparams = {"rate": jnp.asarray(rate, jnp.float32), "run": jnp.asarray(run)}
        return jax.tree.map(lambda a: np.asarray(a[:, 0]), jnn.sweep(train, hparams, seeds=1, seed=seed, data=data))

    losses, _ = swept(np.repeat(rates, 2), np.tile([0, 1], len(rates)))
    best = rates[int(score(losses).reshape(-1, 2).mean(axis=1).argmin())]
    return float(best), *swept(np.full(runs, best), 2 + np.arange(runs))


def beyond_affine(x, y, least: float = 1e-3) -> int:
    """The rank of what the best affine map of x leaves of y: 0 where y is an affine map of x. least: of the size of y counts."""
    inputs, outputs = np.column_stack([x, np.ones(len(x))]).astype(float), np.asarray(y, float)
    rest = outputs - inputs @ np.linalg.lstsq(inputs, outputs, rcond=None)[0]
    return int(np.linalg.matrix_rank(rest, tol=least * np.linalg.norm(outputs)))


def best_affine_loss(x, y) -> float:
    """The least mean squared error of any affine map."""
    inputs, targets = np.column_stack([x, np.ones(len(x))]).astype(float), np.asarray(y, float)
    return float(np.mean((targets - inputs @ np.linalg.lstsq(inputs, targets, rcond=None)[0]) ** 2))


def affine(data, depths, rates, steps: int, seed: int) -> dict:
    """Deep networks with the identity, and one with relu, trained to give the digits as one-hot vectors: loss, rank of the
    map, and how far it is from affine."""
    x, labels = (a[:500] for a in data["train"])
    parts = dict.fromkeys(("train", "probe"), (x, np.eye(10, dtype=np.float32)[labels]))
    found = {"best_affine_loss": best_affine_loss(*parts["train"]), "networks": {}}
    networks = [("identity", IDENTITY, depth) for depth in depths] + [("relu", BLOCKS["relu"], depths[0])]
    for name, block, depth in networks:
        model = towers.tower(block, depth)
        with stage(f"{name}, {depth} layers, squared error"):
            train = trainer(jnn.supervised(model, jnn.losses.squared_error), steps, None)
            _, losses, params = at_best_rate(train, parts, rates, seed, lambda losses: np.nan_to_num(losses[:, -1], nan=np.inf))
        first = jax.tree.map(lambda a: a[0], params)
        map_of = jax.jit(lambda x, model=model, params=first: model.apply(params, {}, x)[0])
        found["networks"][f"{name} {depth}"] = {
            "loss": losses[:, -1].tolist(),
            "rank": int(np.linalg.matrix_rank(jax.jacobian(map_of)(x[0]))),
            "rank_beyond_affine": beyond_affine(x, map_of(x)),
        }
    return found


def gradients(out, before, after):
    depth = max(len(one["gradient"][0]) for one in before.values())
    layers = np.arange(1, depth + 1)
    with jnn.plots.style():
        figure = Figure(figsize=(9, 3.6))
        left, right = figure.subplots(1, 2)
        for (name, values), color in zip(before.items(), jnn.plots.COLORS, strict=False):
            jnn.plots.band(left, layers, np.log10(values["gradient"]), label=name, color=color)
            kind = "dead" if name == "relu" else "saturated"
            if name in SATURATED or name == "relu":
                jnn.plots.band(right, layers, 100 * values[kind], label=f"{name}, {kind}", color=color)
                jnn.plots.band(right, layers, 100 * after[name][kind], color=color, linestyle="--")
        left.set(xlabel="layer", ylabel="log10 of the gradient's norm", title="Before training")
        right.set(xlabel="layer", ylabel="% of units or outputs", title="Before training; after it dashed", ylim=(-3, 103))
        left.legend(ncols=2)
        right.legend()
        picture(out, "gradients", figure)


def speed(out, steps_by_name, depths, most: int):
    with jnn.plots.style():
        figure = Figure(figsize=(7, 3.6))
        axes = figure.subplots()
        for (name, steps), color in zip(steps_by_name.items(), jnn.plots.COLORS, strict=False):
            values = np.minimum(np.array(steps).T, most)  # (runs, depths)
            jnn.plots.band(axes, depths, values, label=name, color=color, marker="o", markersize=3)
        axes.axhline(most, color="black", linestyle=":", linewidth=1)
        axes.text(depths[0], most, "not within the run", va="bottom", fontsize=8)
        axes.set(xscale="log", yscale="log", xlabel="hidden layers", ylabel=f"steps to a training loss of {TARGET}")
        axes.set_xticks(depths, depths)
        axes.minorticks_off()
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        picture(out, "speed", figure)


def finding(before, after, times, depths, steps: int, linear) -> str:
    deep = depths[-1]

    def slope(name):
        layers = np.arange(deep)
        return Interval.of([10 ** np.polyfit(layers, np.log10(one), 1)[0] for one in before[name]["gradient"]])

    def ratio(tanh, relu):
        return Interval(np.exp(end) for end in Interval.of(np.log(np.minimum(tanh, steps) / np.minimum(relu, steps))))

    both = [np.isfinite(times["tanh"][i]).all() and np.isfinite(times["relu"][i]).all() for i in range(len(depths))]
    ratios = [
        f"{ratio(times['tanh'][i], times['relu'][i]):.2f} at {depth} layers{'' if both[i] else ' (runs that did not arrive cut off)'}"
        for i, depth in enumerate(depths)
    ]
    lost = [
        f"{name} {int(np.sum(~np.isfinite(times[name][i])))} of {len(times[name][i])} at {depth}"
        for name in times
        for i, depth in enumerate(depths)
        if not np.isfinite(times[name][i]).all()
    ]
    slopes = ", ".join(f"{name} {slope(name):.2f}" for name in before)
    signs = ", ".join(f"{name} {100 * one[0].mean():.0f} %" for name, one in ((n, v["one_sign"]) for n, v in before.items()))
    mean_signs = ", ".join(f"{name} {100 * v['one_sign'][1].mean():.0f} %" for name, v in before.items())
    dead = [Interval.of(100 * one["relu"]["dead"].mean(axis=1)) for one in (before, after)]
    flat = [Interval.of(100 * before[name]["saturated"].mean(axis=1)) for name in ("tanh", "sigmoid")]
    least = linear["best_affine_loss"]
    networks = "; ".join(
        f"{name} layers {Interval.of(one['loss']):.4f}, rank {one['rank']}, rank beyond affine {one['rank_beyond_affine']}"
        for name, one in linear["networks"].items()
    )
    return (
        f"In {deep} layers before training, the gradient's norm changes from a layer to the next by a factor of {slopes}. To a "
        f"training loss of {TARGET} tanh takes so many times relu's steps, each at its own learning rate: {', '.join(ratios)}. "
        f"Runs that did not arrive within {steps} steps: {'; '.join(lost) or 'none'}. In {deep} layers {dead[0]:.1f} % of relu's "
        f"units are dead before training and {dead[1]:.1f} % after; {flat[0]:.1f} % of tanh's outputs are saturated before it "
        f"and {flat[1]:.1f} % of sigmoid's. All weight gradients of a unit have one sign for one example in {signs} of the "
        f"units, and in the mean over {BATCH} examples in {mean_signs}. With one-hot targets the best affine map has the squared "
        f"error {least:.4f}; trained, {networks}."
    )


def main(arguments=None):
    options = commands.parser(__doc__, "activations", quick="3 activations, 2 and 8 layers").parse_args(arguments)
    depths, steps = ((2, 8), 200) if options.quick else ((2, 4, 8, 16, 32), 600)
    names, rates = (("sigmoid", "tanh", "relu"), RATES[3:7]) if options.quick else (tuple(BLOCKS), RATES)
    data = towers.digits()
    data["probe"] = x, y = tuple(a[:512] for a in data["train"])
    keys = jax.random.split(jax.random.key(options.seed), 2 * len(rates))
    before, after, chosen, times = {}, {}, {}, {name: [] for name in names}

    def score(losses):
        reached, last = steps_to(losses, TARGET), np.nan_to_num(losses[:, -1], nan=np.inf)
        return np.where(np.isfinite(reached), reached, steps * (1 + last))

    for name in names:
        look = jax.jit(jax.vmap(partial(seen, BLOCKS[name]), (0, None, None, None)))
        for depth in depths:
            model = towers.tower(BLOCKS[name], depth)
            with stage(f"{name}, {depth} layers: {len(rates)} learning rates, {steps} steps"):
                train = trainer(towers.classifier(model), steps)
                chosen[f"{name} {depth}"], losses, params = at_best_rate(train, data, rates, options.seed, score)
            times[name].append(steps_to(losses, TARGET))
        start = jax.jit(jax.vmap(lambda key, model=model: model.init(key, x)[0]))(keys)
        limits = jnp.array(SATURATED.get(name, (-np.inf, np.inf)))
        before[name], after[name] = (jax.tree.map(np.asarray, look(params, x, y, limits)) for params in (start, params))
    linear = affine(data, depths[1::2], RATES[4::2][:3], 2 * steps, options.seed)
    gradients(options.out, before, after)
    speed(options.out, times, depths, steps)
    results = {
        "depths": depths,
        "steps": {name: [[t if np.isfinite(t) else None for t in one] for one in values] for name, values in times.items()},
        "learning_rate": chosen,
        "gradient": {name: values["gradient"].tolist() for name, values in before.items()},
        "dead": [one["relu"]["dead"][:, -1].tolist() for one in (before, after)],
        "saturated": {
            name: [one[name]["saturated"].tolist() for one in (before, after)] for name in SATURATED if name in names
        },
        "one_sign": {name: [part.tolist() for part in values["one_sign"]] for name, values in before.items()},
        "affine": linear,
    }
    return record(options, finding(before, after, times, depths, steps, linear), results)


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

"""Which activation lets a deep network learn, and how fast?

python -m experiments.activations [--quick] [--seed 0] [--out runs/activations]

Networks of 2 to 32 hidden layers of 64 units on 1,297 digits (8x8), each activation with the initialization of its literature:
Glorot & Bengio 2010 for sigmoid and tanh, He et al. 2015 for relu and its kin, Klambauer et al. 2017 for selu, variance 1/n_in
for maxout, which has twice the parameters. Before training: the gradient's norm by layer, dead units (relu's that give 0 for
every example) and saturated outputs (within 2.5 % of the range from a bound, which is 5 % of the bound for elu and selu). Then
the steps of momentum (0.9, batches of 64) to a loss of 0.2 on 512 of the training examples: is relu faster than tanh, as
Krizhevsky et al. 2012, figure 1, found? The learning rate of each, of half decades, is chosen on two seeds, the steps are
measured on others and counted in tens: factors of less than about 1.3 may come from that. With the identity any depth is one
affine map: the rank of what is not affine in it, and its loss beside that of the best affine map, by least squares. And
sigmoid's zig-zag (LeCun et al. 1998, section 4.3): where all inputs of a unit are positive, all its weight gradients for one
example have one sign.

Expected: sigmoid's gradient shrinks by a factor of 4.26 (its largest slope is 1 / 4) with each layer away from the output, and
8 layers do not learn; tanh's and relu's stays within a few percent; in 2 to 16 layers tanh is *faster* than relu here, 0.6 to
0.7 of its steps, and 0.4 in 32, where relu takes a rate of 1e-3. About 16 minutes on one core, --quick under a minute.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from experiments import affine_maps, commands, tower_pictures, towers
from experiments.findings import Interval, edges, record, stage

WIDTH, BATCH, TARGET = 64, 64, 0.2
RATES = 10.0 ** np.arange(-3.5, 0.5, 0.5)
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


def finding(before, after, times, depths, steps: int, linear, at_edge: str) -> str:
    def slope(name):
        return Interval.of([10 ** np.polyfit(range(depths[-1]), np.log10(one), 1)[0] for one in before[name]["gradient"]])

    def ratio(i):
        logs = np.log(np.minimum(times["tanh"][i], steps) / np.minimum(times["relu"][i], steps))
        return Interval(np.exp(end) for end in Interval.of(logs))

    def each(number):
        return ", ".join(f"{name} {number(name)}" for name in times)

    def one_sign(i):
        shares = {name: round(100 * np.mean(before[name]["one_sign"][i])) for name in times}
        return ", ".join(f"{share} % of {name}'s" for name, share in shares.items() if share) + ", none of the others'"

    def median(name, i):
        steps = np.median(times[name][i])
        return f"{steps:.0f}" if np.isfinite(steps) else "never"

    medians = ", ".join(f"{name} {median(name, 0)} and {median(name, -1)}" for name in times)
    missed = [
        f"{name} {count} at {depth}"
        for name in times
        for i, depth in enumerate(depths)
        if (count := np.sum(np.isinf(times[name][i])))
    ]
    dead = [Interval.of(100 * one["relu"]["dead"].mean(axis=1)) for one in (before, after)]
    beyond = lambda rank: f"{f'a rank of {rank}' if rank else 'nothing'} beyond an affine map"
    networks = "; ".join(
        f"{name} layers {Interval.of(one['loss']):.4f}, {beyond(one['rank_beyond_affine'])}"
        for name, one in linear["networks"].items()
    )
    return (
        f"In {depths[-1]} layers before training, the gradient's norm grows from a layer to the next, towards the output, by "
        f"a factor of {each(lambda name: format(slope(name), '.2f'))}. Median steps to a loss of {TARGET} on 512 of the "
        f"training examples, each at its own learning rate, at {depths[0]} and {depths[-1]} layers: {medians}. Tanh takes "
        f"{', '.join(f'{ratio(i):.2f} at {depth}' for i, depth in enumerate(depths))} layers times relu's steps; rates are "
        f"half decades apart, so that small differences say little.{at_edge} Runs of {len(times['relu'][0])} that did not "
        f"reach it in {steps} steps: {', '.join(missed)} layers, none of the others. In {depths[-1]} layers "
        f"{dead[0]:.1f %} of relu's units are dead before training, {dead[1]:.1f %} "
        "after. All weight gradients of a unit behind a hidden layer have one sign for one example in "
        f"{one_sign(0)}, and in the mean over {BATCH} examples in {one_sign(1)}. The best affine map of the "
        f"pixels to one-hot digits has the squared error {linear['best_affine_loss']:.4f}; trained, "
        f"not to the end, {networks}."
    )


def main(arguments=None):
    options = commands.parser(__doc__, "activations", quick="3 activations, 2 and 8 layers").parse_args(arguments)
    depths, steps = ((2, 8), 200) if options.quick else ((2, 4, 8, 16, 32), 600)
    names, rates = (("sigmoid", "tanh", "relu"), RATES[2:6]) if options.quick else (tuple(BLOCKS), RATES)
    data = towers.digits()
    x, y = (a[:512] for a in data["train"])
    data["probe"] = x, y
    keys = jax.random.split(jax.random.key(options.seed), 2 * len(rates))
    score = partial(towers.steps_to_or_beyond, target=TARGET)
    before, after, chosen, times = {}, {}, {}, {name: [] for name in names}
    for name in names:
        limits = jnp.array(SATURATED.get(name, (-np.inf, np.inf)))
        look = jax.jit(partial(jax.lax.map, partial(towers.seen, BLOCKS[name], x=x, y=y, limits=limits, batch=BATCH)))
        for depth in depths:
            model = towers.tower(BLOCKS[name], depth)
            with stage(f"{name}, {depth} layers: {len(rates)} learning rates, {steps} steps"):
                train = towers.trainer(towers.classifier(model), steps)
                chosen[f"{name} {depth}"], losses, params = towers.at_best_rate(train, data, rates, options.seed, score)
            times[name].append(towers.steps_to(losses, TARGET))
        start = jax.jit(jax.vmap(lambda key, model=model: model.init(key, x)[0]))(keys)
        before[name], after[name] = (jax.tree.map(np.asarray, look(params)) for params in (start, params))
    blocks = {f"identity {depth}": (IDENTITY, depth) for depth in depths[:4:2]}
    blocks[f"relu {depths[0]}"] = BLOCKS["relu"], depths[0]
    one_hot = x[:256], np.eye(10, dtype=np.float32)[y[:256]]
    linear = affine_maps.trained(blocks, one_hot, RATES[2:5], steps if options.quick else 2 * steps, options.seed)
    both = before, after
    reached = {
        f"{name} {depth}": chosen[f"{name} {depth}"]
        for name in names
        for depth, of in zip(depths, times[name], strict=True)
        if np.isfinite(of).any()
    }
    dead = [one["relu"]["dead"] for one in both]
    results = {
        "depths": depths,
        "steps": {name: [[t if np.isfinite(t) else None for t in one] for one in values] for name, values in times.items()},
        "learning_rate": chosen,
        "gradient": {name: values["gradient"].tolist() for name, values in before.items()},
        "dead": [{"by_layer": of.mean(axis=0).tolist(), "by_network": of.mean(axis=1).tolist()} for of in dead],
        "saturated": {name: [one[name]["saturated"].tolist() for one in both] for name in SATURATED if name in names},
        "one_sign": {name: [part.tolist() for part in values["one_sign"]] for name, values in before.items()},
        "affine": linear,
    }
    recorded = record(options, finding(before, after, times, depths, steps, linear, edges(reached, rates)), results)
    tower_pictures.gradients(options.out, before, after, tuple(SATURATED))
    tower_pictures.speed(options.out, times, depths, steps, TARGET)
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

"""How much faster are 64 digits networks in one `jnn.sweep` than one after another?

python -m experiments.benchmarks.sweep [--quick] [--rounds 7] [--seed 0] [--out runs/benchmarks]

A network 64-HIDDEN-10, 300 steps of 32 with Adam, for hidden 32 and 128. In one process and in turns:
  sweep    64 runs in one `jnn.sweep`: 8 learning rates x 8 seeds
  loop     a Python loop over one jitted step of optax's adam, batches shuffled and cut with numpy
  scanned  one jitted `jnn.fit` after another
Each counts the same: initial parameters, a fresh permutation each epoch, the steps, and the losses of all steps as an array.
The peers run 4 of the 64 runs in each round. Ratios are per run, round by round. About a minute on 2 cores.
Expected on 2 cores: the sweep at 12 to 16 times the loop's throughput with hidden 32.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jnn
from experiments.benchmarks import records

EXAMPLES, STEPS, BATCH, PEERS_RUN = 1200, 300, 32, 4


def contestants(hidden: int, seed: int):
    """name -> a function that does its share of the runs; and how many runs each does."""
    images, labels = jnn.data.digits()
    images, labels = images[:EXAMPLES], labels[:EXAMPLES]
    data = jnp.asarray(images), jnp.asarray(labels)
    model = jnn.serial(jnn.flatten(), jnn.dense(hidden), jax.nn.relu, jnn.dense(10))
    objective = jnn.supervised(model, jnn.losses.softmax_cross_entropy)
    rates = jnp.logspace(-4, -1, 8)

    def train(learning_rate, key, data):
        training = jnn.training(objective, jnn.optim.adam(learning_rate))
        return jnn.fit(training, data, key=key, steps=STEPS, batch_size=BATCH).history["loss"]

    def sweep():
        jax.block_until_ready(jnn.sweep(train, rates, seeds=8, seed=seed, data=data))

    one_run = jax.jit(train)

    def scanned():
        for i in range(PEERS_RUN):
            jax.block_until_ready(one_run(rates[i], jax.random.key(seed + i), data))

    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, opt_state, batch):
        loss, grads = jax.value_and_grad(lambda p: objective.loss(p, {}, batch, train=True)[0])(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    initial = jax.jit(lambda key: objective.init(key, data)[0])

    def loop():
        for i in range(PEERS_RUN):
            rng, params = np.random.default_rng(seed + i), initial(jax.random.key(seed + i))
            opt_state, losses = optimizer.init(params), []
            while len(losses) < STEPS:
                for indices in rng.permutation(EXAMPLES)[: EXAMPLES // BATCH * BATCH].reshape(-1, BATCH)[: STEPS - len(losses)]:
                    params, opt_state, loss = step(params, opt_state, (images[indices], labels[indices]))
                    losses.append(loss)
            np.array(losses)

    return {"sweep": sweep, "loop": loop, "scanned": scanned}, {"sweep": 64, "loop": PEERS_RUN, "scanned": PEERS_RUN}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args(arguments)
    results = {}
    columns = ("hidden", "ms per run: sweep", "loop", "scanned", "sweep against loop", "sweep against scanned")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for hidden in (32, 128):
        functions, runs = contestants(hidden, options.seed)
        seconds = records.in_turns(functions, 3 if options.quick else options.rounds)
        per_run = {name: seconds[name] / runs[name] for name in functions}
        found = {
            "ms_per_run": {name: records.spread(1e3 * values) for name, values in per_run.items()},
            "speedup": {peer: records.spread(per_run[peer] / per_run["sweep"]) for peer in ("loop", "scanned")},
        }
        results[f"hidden_{hidden}"] = found
        ms, speedup = found["ms_per_run"], found["speedup"]
        cells = [f"{ms[name]['median']:.2f}" for name in functions]
        cells += [f"{s['median']:.1f} ({s['least']:.1f} to {s['most']:.1f})" for s in speedup.values()]
        print(f"| {hidden} | {' | '.join(cells)} |", flush=True)
    records.write(options.out, "sweep", results)


if __name__ == "__main__":
    main()

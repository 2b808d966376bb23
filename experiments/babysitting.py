"""Do the checks before training find what is broken, and nothing else?

python -m experiments.babysitting [--quick] [--seed 0] [--out runs/babysitting]

One call, `jnn.diagnose`, on a healthy network (64 pixels of a digit, two layers of 64 relus, ten classes, Adam at 1e-3, 900
examples to train on and 600 to validate) and on the same with one of twelve things broken. A diagnosis is right where it
finds the break, by the check that is for it, and flags nothing but the break and what follows from it. What may follow is
written down beside each break. Each set-up is diagnosed with several seeds: of the split, the initial weights, the batches,
the damage.

The checks are those of Karpathy's CS231n notes ("Neural networks 3: babysitting the learning process"), with confident
learning for the labels (Northcutt, Jiang & Chuang 2021) and gradients between examples.

Expected: 98 % right (94 to 100), every break found; what is flagged beside it is a class that 40 examples happen to lack.
A minute and a half on one core, --quick half a minute, mostly of compiling.
"""

import sys
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.stats import binomtest

import jnn
from experiments import commands
from experiments.findings import picture, record, stage

FIRST = 100  # thresholds were set with the seeds below
RATE = 1e-3
TRAIN, VALIDATION = 900, 600


def network(hidden=(64, 64), *, front=lambda x: x, head=jnn.initializers.lecun_normal(), penalty=None, **options):
    """An Objective: pixels -> ten classes by dense layers. options: of each hidden layer."""
    options = {"w_init": jnn.initializers.kaiming_normal(), **options}
    layers = [layer for width in hidden for layer in (jnn.dense(width, **options), jax.nn.relu)]
    model = jnn.serial(jnn.flatten(), front, *layers, head=jnn.dense(10, w_init=head))
    return jnn.supervised(model, jnn.losses.softmax_cross_entropy, penalty=penalty)


def mixed(x):
    """The axes of examples and features exchanged by a reshape, where a transpose was meant."""
    return x.T.reshape(x.shape)


def healthy(rng, train, validation):
    return train, validation


def pixels(rng, *parts):
    return [(255 * images, labels) for images, labels in parts]


def mislabelled(rng, train, validation):
    """A fifth of the labels are another class."""
    images, labels = train
    moved = np.zeros_like(labels)
    moved[rng.permutation(len(labels))[: len(labels) // 5]] = rng.integers(1, 10, len(labels) // 5)
    return (images, (labels + moved) % 10), validation


def leaked(rng, train, validation):
    """A quarter of the validation examples are copies of training examples."""
    n = len(validation[1]) // 4
    return train, tuple(np.concatenate([a[:n], b[n:]]) for a, b in zip(train, validation, strict=True))


def unbalanced(rng, train, validation):
    """Of the eights and nines one in twenty is left; so that shapes stay, zeros take their place."""
    images, labels = train
    lost = np.flatnonzero((labels >= 8) & (rng.random(len(labels)) < 0.95))
    place = np.arange(len(labels))
    place[lost] = rng.choice(np.flatnonzero(labels < 8), len(lost))
    # moved by less than a grey level, so that they are no copies
    noise = np.where(np.isin(np.arange(len(labels)), lost)[:, None, None, None], rng.uniform(0, 0.05, images.shape), 0)
    return (images[place] + noise.astype(np.float32), labels[place]), validation


def few(rng, train, validation):
    return tuple(a[:40] for a in train), validation


class Setup(NamedTuple):
    breaks: str
    found: str  # the check that is for it
    follows: tuple[str, ...] = ()  # what may be flagged as well
    objective: Any = network()
    rate: float = RATE
    data: Any = healthy


TRAINING = ("learning rate", "loss curve", "update ratio", "dead units", "validation gap")
SETUPS = {
    "healthy": Setup("nothing", ""),
    "rate too low": Setup("Adam at 1e-6", "learning rate", ("loss curve", "update ratio"), rate=1e-6),
    "rate too high": Setup("Adam at 1", "learning rate", TRAINING, rate=1.0),
    "zero weights": Setup(
        "all weights begin at zero",
        "gradients by layer",
        ("tiny set", *TRAINING),
        network(w_init=jnn.initializers.zeros, head=jnn.initializers.zeros),
    ),
    "small weights": Setup(
        "six layers, standard deviation 0.02",
        "loss curve",
        ("gradients by layer", "tiny set", *TRAINING),
        network((64,) * 6, w_init=jnn.initializers.normal(0.02)),
    ),
    "raw pixels": Setup(
        "inputs in [0, 255]", "inputs", ("loss at init", "gradients by layer", *TRAINING), data=pixels
    ),
    "mixed examples": Setup(
        "a reshape for a transpose", "separate examples", ("tiny set", *TRAINING), network(front=mixed)
    ),
    "wrong labels": Setup("a fifth of the labels wrong", "labels", ("loss curve", "validation gap"), data=mislabelled),
    "dead relus": Setup(
        "biases begin at -3",
        "dead units",
        ("tiny set", "gradients by layer", *TRAINING),
        network(b_init=jnn.initializers.constant(-3.0)),
    ),
    "leaked examples": Setup("a quarter of the validation set is trained on", "shared examples", data=leaked),
    "unbalanced": Setup("of two classes one in twenty is left", "class balance", ("validation gap",), data=unbalanced),
    "few examples": Setup("40 examples to train on", "validation gap", data=few),
    "heavy penalty": Setup(
        "l2 of strength 1", "penalty", ("loss curve", "learning rate", "update ratio", "dead units"),
        network(penalty=jnn.regularizers.l2(1.0)),
    ),
}  # fmt: skip


def diagnosed(setup: Setup, seed: int, steps: int):
    images, labels = jnn.data.digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    parts = order[:TRAIN], order[TRAIN : TRAIN + VALIDATION]
    train, validation = setup.data(rng, *((images[part], labels[part]) for part in parts))
    return jnn.diagnose(
        setup.objective,
        train,
        key=jax.random.key(seed),
        validation=validation,
        optimizer=OPTIMIZERS[setup.rate],
        steps=steps,
    )


SLOW = ("small weights", "few examples", "heavy penalty")  # programs of their own, that take long to compile
# one object for each rate, so that what is compiled for one set-up serves the others
OPTIMIZERS = {setup.rate: jnn.optim.adam(setup.rate) for setup in SETUPS.values()}


def judged(setup: Setup, diagnosis) -> dict:
    flagged, skipped = ({f.name for f in diagnosis.findings if f.ok is ok} for ok in (False, None))
    foreign = flagged - {setup.found, *setup.follows}
    is_right = not foreign and (not setup.found or setup.found in flagged)
    return {"flagged": sorted(flagged), "foreign": sorted(foreign), "skipped": sorted(skipped), "right": is_right}


def draw(out, results, checks):
    """How often each check was flagged for each set-up; a frame where it should be."""

    def share(check, several):
        made = [check in one["flagged"] for one in several if check not in one["skipped"]]
        return 100 * np.mean(made) if made else np.nan

    with jnn.plots.style():
        figure = Figure(figsize=(8.5, 5))
        axes = figure.subplots()
        jnn.plots.heatmap(
            axes, [[share(check, several) for check in checks] for several in results.values()], x=checks, y=list(results),
            xlabel="check", ylabel="what is broken", vmin=0, vmax=100, label="% of diagnoses that flag it",
        )  # fmt: skip
        for row, name in enumerate(results):
            if SETUPS[name].found:
                place = checks.index(SETUPS[name].found) - 0.5, row - 0.5
                axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=jnn.plots.COLORS[1], linewidth=2))
        for tick in axes.get_xticklabels():
            tick.set(rotation=45, ha="right", rotation_mode="anchor")
        axes.set_title("What is flagged; framed: the check that is for the break; a dash: it could not be made")
        picture(out, "diagnoses", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "babysitting", quick="1 seed, 9 of 12 breaks").parse_args(arguments)
    seeds, steps = (1 if options.quick else 10), 300
    chosen = {name: setup for name, setup in SETUPS.items() if not (options.quick and name in SLOW)}
    results, tables = {}, {}
    for name, setup in chosen.items():
        with stage(f"{name}: {setup.breaks}"):
            found = [diagnosed(setup, FIRST + options.seed + i, steps) for i in range(seeds)]
        results[name] = [judged(setup, diagnosis) for diagnosis in found]
        tables[name] = str(found[0])
    print(tables["healthy"])
    checks = [finding.name for finding in found[0].findings]
    draw(options.out, results, checks)
    broken = [one["right"] for name, several in results.items() if name != "healthy" for one in several]
    foreign = sum(bool(one["foreign"]) for several in results.values() for one in several)
    low, high = binomtest(sum(broken), len(broken)).proportion_ci(method="exact")
    finding = (
        f"Of {len(broken)} diagnoses of {len(chosen) - 1} broken set-ups with {seeds} seed{'s' * (seeds > 1)}, {sum(broken)} "
        f"were right: {100 * np.mean(broken):.1f} % (exact 95 % interval {100 * low:.1f} to {100 * high:.1f}, as if they were "
        f"independent). {foreign} flagged something that does not follow from the break. Of {seeds} diagnoses of the healthy "
        f"set-up, {sum(one['right'] for one in results['healthy'])} flagged nothing. The breaks are coarse ones, thresholds "
        "were set while looking at them with other seeds, and what may follow from a break is this script's list."
    )
    return record(options, finding, {"setups": results, "checks": checks, "tables": tables})


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

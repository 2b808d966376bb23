"""Do the checks before training find what is broken, and nothing else?

python -m experiments.babysitting [--quick] [--seed 0] [--out runs/babysitting]

One call, `jnn.diagnose`, on a healthy network (64 pixels of a digit, two layers of 64 relus, ten classes, Adam at 1e-3, 900
examples to train on and 600 to validate) and on the same with one of thirteen things broken. A diagnosis is right where it
finds the break, by the check that is for it, and flags nothing but the break and what follows from it. What may follow is
written down beside each break, in `experiments/faults.py`. Each set-up is diagnosed with several seeds: of the split, the
initial weights, the batches, the damage.

The checks are those of Karpathy's CS231n notes ("Neural networks 3: babysitting the learning process"), with confident
learning for the labels (Northcutt, Jiang & Chuang 2021) and gradients between examples.

Expected: 99 % right, every break found; what is flagged beside it is a class of which 40 examples happen to have none or hardly
any. Two minutes on one core, --quick half a minute, mostly of compiling.
"""

import sys

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import jnn
from experiments import commands
from experiments.faults import SETUPS, Setup
from experiments.findings import Interval, picture, record, stage

FIRST = 100  # thresholds were set with the seeds below
TRAIN, VALIDATION = 900, 600
SLOW = ("small weights", "few examples", "heavy penalty")  # programs of their own, that take long to compile
# one object for each rate, so that what is compiled for one set-up serves the others
OPTIMIZERS = {setup.rate: jnn.optim.adam(setup.rate) for setup in SETUPS.values()}


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
    options = commands.parser(__doc__, "babysitting", quick="1 seed, 10 of 13 breaks").parse_args(arguments)
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
    broken = [one["right"] for name, several in results.items() if name != "healthy" for one in several]
    beside = [f"{', '.join(one['foreign'])} ({name})" for name, several in results.items() for one in several if one["foreign"]]
    share = Interval(100 * value for value in Interval.of_share(sum(broken), len(broken)))
    finding = (
        f"Of {len(broken)} diagnoses of {len(chosen) - 1} broken set-ups with {seeds} seed{'s' * (seeds > 1)}, {sum(broken)} "
        f"were right: {share:.1f %}, exact 95 % interval as if they were independent. {len(beside) or 'None'} flagged what "
        f"does not follow from the break{': ' * bool(beside)}{'; '.join(beside)}. Of {seeds} diagnoses of the healthy set-up, "
        f"{sum(one['right'] for one in results['healthy'])} flagged nothing. The breaks are coarse ones, thresholds were set "
        "while looking at them with other seeds, and what may follow from a break is a list written down by hand."
    )
    recorded = record(options, finding, {"setups": results, "checks": checks, "tables": tables})
    draw(options.out, results, checks)
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

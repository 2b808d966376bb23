"""Where do the best learning rates of every optimizer lie?

python -m experiments.learning_rates [--quick] [--optimizers NAMES] [--tasks NAMES] [--seed 0] [--out runs/learning_rates]

Every optimizer that `jnn compare` can run, on the digits tasks and fashion-mlp at their horizons and schedule, with 25 learning
rates from 1e-6 to 1e2, two seeds each. For each task the rate of the least validation loss; around their geometric mean lie the
three decades that `jnn.comparison.spaces` gives the optimizer. Stopped, the same command goes on where it was.

Expected: spaces from 2e-4 to 0.2 (lion) over 1e-3 to 1 (adam) to 0.05 to 50 (sgd). About 25 minutes on 2 cores.
"""

import json
import math
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from experiments import commands
from experiments.benchmarks import records
from jnn.comparison import plans, studies
from jnn.comparison.catalogue import catalogue
from jnn.comparison.entrants import find_factory
from jnn.comparison.progress import Progress
from jnn.comparison.spaces import log_uniform
from jnn.comparison.suite import DEFAULT_TASKS
from jnn.populations import workers

TASKS = (*DEFAULT_TASKS, "fashion-mlp")
RATES = np.logspace(-6, 2, 25)


def best_rates(name: str, tasks, seed: int, advance) -> dict[str, float]:
    """task -> the learning rate of the least validation loss."""
    factory = find_factory(name)
    pair = {"reference": find_factory("adam"), name: factory}
    plan = plans.make_plan(pair, tasks, "reference", {}, 1, 2, 0.01, seed)._replace(target_studies=0)
    entrant = next(entrant for entrant in plan.entrants if entrant.name == name)
    rate = next(iter(entrant.space))
    entrant = entrant._replace(space={rate: log_uniform(RATES[0], RATES[-1])}, trials=len(RATES))
    found = {}
    for task in plan.tasks:
        setup = studies.Setup(task, plan)
        runs = studies.Runs(plan._replace(lanes=2 * len(RATES)), setup, entrant, advance)
        result = runs({rate: np.repeat(RATES, 2)}, np.tile(np.arange(2), len(RATES)), studies.TUNE)
        loss = result["final"]["validation"]["loss"].reshape(len(RATES), 2)
        loss = np.where(np.isfinite(loss) & result["finite"].reshape(loss.shape), loss, np.inf).mean(axis=1)
        found[task.name] = float(RATES[np.argmin(loss)])
    return found


def space(rates) -> tuple[float, float]:
    """Three decades around the geometric mean, their lower end the nearest of 1, 2 and 5 times a power of ten."""
    low = float(np.mean(np.log10(list(rates)))) - 1.5
    ends = [float(f"{digit}e{power}") for power in range(-12, 9) for digit in (1, 2, 5)]
    nearest = min(ends, key=lambda end: abs(math.log10(end) - low))
    return nearest, 1000 * nearest


def contestants() -> list[str]:
    """All that can be compared, but Newton's, whose rate is 1 by theory."""
    return [one.name for one in catalogue() if not one.problem and one.name not in ("newton", "newton_cg")]


def _kept(out, seed: int) -> dict[str, dict[str, float]]:
    """optimizer -> task -> best rate, of a run before this one that was stopped."""
    file = out / "results.json"
    before = json.loads(file.read_text())["results"] if file.exists() else {}
    return {name: of["best"] for name, of in before.get("optimizers", {}).items()} if before.get("seed") == seed else {}


def main(arguments=None):
    parser = commands.parser(__doc__, "learning_rates", quick="adam, sgd and lion on digits-linear")
    parser.add_argument("--optimizers", help="with commas (default: all)")
    parser.add_argument("--tasks", default=",".join(TASKS))
    options = parser.parse_args(arguments)
    if options.quick:
        options.optimizers, options.tasks = "adam,sgd,optax:lion", "digits-linear"
    tasks = options.tasks.split(",")
    names = options.optimizers.split(",") if options.optimizers else contestants()
    kept = _kept(options.out, options.seed)
    missing = {name: [task for task in tasks if task not in kept.get(name, {})] for name in names}
    found = {}
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(sum(map(len, missing.values())) * 2 * len(RATES)))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of what optax will change

        def best_of(name):
            new = (
                best_rates(name, missing[name], options.seed, lambda runs: progress.advance(runs, name))
                if missing[name]
                else {}
            )
            best = kept.get(name, {}) | new
            return name, {task: best[task] for task in tasks}

        pool = stack.enter_context(ThreadPoolExecutor(workers()))
        for name, best in pool.map(best_of, names):
            low, high = space(best.values())
            found[name] = {"best": best, "space": [low, high]}
            rates = ", ".join(f"{rate:.2g}" for rate in best.values())
            print(f"{name}: {rates} -> {low:g} to {high:g}", flush=True)
            records.write(options.out, "results", {"tasks": tasks, "seed": options.seed, "optimizers": found})
    return found


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

"""How often does `jnn compare` see a difference where there is none, and does it see one where there is?

python -m experiments.benchmarks.false_verdicts [--quick] [--tasks NAMES] [--comparisons 200] [--out runs/benchmarks]

Adam against itself through the whole pipeline, each arm with its own search points and tuning seeds, 200 comparisons on
each task: the share that the paired t calls different at 5 %, and the share of verdicts `better` or `worse`, each with its
exact 95 % interval (Clopper & Pearson 1934). Then a planted loser, Adam with its updates scaled by 1e-6, against Adam.
Expected: shares whose intervals contain or lie under 5 %; the loser `worse` on every task. About 25 minutes on 2 cores.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from scipy import stats

import jnn
from experiments.benchmarks import records
from jnn.comparison import plans, statistics, studies
from jnn.comparison.progress import Progress
from jnn.comparison.suite import DEFAULT_TASKS


def loser(learning_rate):
    """Adam, whose updates are scaled by 1e-6: no learning rate of its space makes up for that."""
    init, update = jnn.optim.adam(learning_rate)

    def tiny_update(grads, opt_state, params=None):
        updates, opt_state = update(grads, opt_state, params)
        return jax.tree.map(lambda u: 1e-6 * u, updates), opt_state

    return init, tiny_update


def against_itself(task: str, comparisons: int, per_comparison: int, trials: int, seed: int) -> dict:
    """Shares of false verdicts of Adam against Adam, from comparisons * per_comparison studies of two arms."""
    pair = {"adam": jnn.optim.adam, "again": jnn.optim.adam}
    plan = plans.make_plan(pair, [task], "adam", {}, trials, comparisons * per_comparison, 0.01, seed)
    plan = plan._replace(lanes=32)
    setup = studies.Setup(plan.tasks[0], plan)
    with Progress(2 * (trials + 1) * plan.studies) as progress, ThreadPoolExecutor(2) as pool:

        def cell(arm):
            return studies.run_cell(plan, setup, plan.entrants[0], arm=arm, advance=lambda n: progress.advance(n, task))

        arms = list(pool.map(cell, (0, 1)))
    first, second = (arm.final["test"]["loss"].astype(float).reshape(comparisons, per_comparison) for arm in arms)
    paired = [statistics.paired_t(a, b) for a, b in zip(first, second, strict=True)]
    verdicts = [statistics.verdict(p, p.p_value, 0.01 * b.mean()) for p, b in zip(paired, second, strict=True)]
    false = sum(verdict in ("better", "worse") for verdict in verdicts)
    found: dict = {"comparisons": comparisons, "studies": per_comparison, "trials": trials}
    for name, hits in (("p_under_0.05", sum(p.p_value < 0.05 for p in paired)), ("false_verdicts", false)):
        interval = stats.binomtest(int(hits), comparisons).proportion_ci(0.95, "exact")
        found[name] = {
            "count": int(hits),
            "share": hits / comparisons,
            "low": float(interval.low),
            "high": float(interval.high),
        }
    found["mean_difference_percent"] = float(100 * np.mean([p.difference for p in paired]) / second.mean())
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(DEFAULT_TASKS))
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--studies", type=int, default=32)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="20 comparisons on digits-linear, the loser with 8 studies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args(arguments)
    if options.quick:
        options.tasks, options.comparisons = "digits-linear", 20
    tasks = options.tasks.split(",")

    results: dict = {"adam_against_itself": {}, "loser": {}}
    for task in tasks:
        found = against_itself(task, options.comparisons, options.studies, options.trials, options.seed)
        results["adam_against_itself"][task] = found
        print(task, {name: f"{found[name]['share']:.1%}" for name in ("p_under_0.05", "false_verdicts")}, flush=True)
        records.write(options.out, "false_verdicts", results)
    planted = {"adam": jnn.optim.adam, "loser": loser}
    comparison = jnn.compare(planted, tasks, studies=8 if options.quick else options.studies, trials=options.trials)
    results["loser"] = dict(zip(comparison.verdicts.task, comparison.verdicts.verdict, strict=True))
    print("the planted loser:", results["loser"])
    records.write(options.out, "false_verdicts", results)


if __name__ == "__main__":
    main()

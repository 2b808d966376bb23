"""How often the comparison calls an optimizer different from itself."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jnn.comparison import statistics
from jnn.comparison.plans import make_plan, require_whole
from jnn.comparison.progress import Progress
from jnn.comparison.studies import Setup, run_cell
from jnn.comparison.suite import DEFAULT_TASKS
from jnn.comparison.tasks import Task
from jnn.populations import workers


def calibrate(
    factory: Callable,
    tasks: Sequence[str | Task] = DEFAULT_TASKS,
    *,
    space: Mapping[str, Any] = {},
    comparisons: int = 100,
    trials: int = 8,
    studies: int = 32,
    margin: float = 0.01,
    seed: int = 0,
    size: str = "quick",
):
    """Sends an optimizer against itself through the whole pipeline, so many comparisons of so many studies on each task, each
    arm with its own search points and tuning seeds.

    Returns a DataFrame with a row for each task: `comparisons`; `p_under_0.05` and `false_verdicts` (`better` or `worse`), how
    many of them, each with its `_share` and the exact 95 % interval `_low` to `_high` (Clopper & Pearson 1934). The share of
    false verdicts should be 5 % or less: `sound` says whether the interval contains or lies under that."""
    import pandas as pd

    require_whole("comparisons", comparisons, 1)
    require_whole("studies", studies, 2)
    total = comparisons * studies
    plan = make_plan({"one": factory, "other": factory}, tasks, "one", {"one": space}, trials, total, margin, seed, size=size)
    plan = plan._replace(target_studies=0)
    rows = []
    with Progress(2 * (trials + 1) * total * len(plan.tasks)) as progress, ThreadPoolExecutor(workers()) as pool:
        for task in plan.tasks:
            setup = Setup(task, plan)

            def cell(arm, setup=setup):
                return run_cell(plan, setup, plan.entrants[0], arm=arm, advance=lambda n: progress.advance(n, setup.task.name))

            arms = [cell.final["test"]["loss"].astype(float) for cell in pool.map(cell, (0, 1))]
            first, second = (losses.reshape(comparisons, studies) for losses in arms)
            paired = [statistics.paired_t(a, b) for a, b in zip(first, second, strict=True)]
            verdicts = [statistics.verdict(p, p.p_value, margin * abs(b.mean())) for p, b in zip(paired, second, strict=True)]
            row: dict[str, Any] = {"task": task.name, "comparisons": comparisons, "studies": studies, "trials": trials}
            counts = {
                "p_under_0.05": sum(p.p_value < statistics.LEVEL for p in paired),
                "false_verdicts": sum(verdict in ("better", "worse") for verdict in verdicts),
            }
            for name, count in counts.items():
                low, high = statistics.exact_interval(count, comparisons)
                row |= {name: int(count), f"{name}_share": count / comparisons, f"{name}_low": low, f"{name}_high": high}
            row["mean_difference_percent"] = float(100 * np.mean([p.difference for p in paired]) / second.mean())
            row["sound"] = row["false_verdicts_low"] <= statistics.LEVEL
            rows.append(row)
    return pd.DataFrame(rows)

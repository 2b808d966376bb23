"""The same comparison over a grid of settings: where an optimizer wins, where it loses, and where nothing is shown."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jnn.comparison import statistics
from jnn.comparison.errors import InputError
from jnn.comparison.plans import make_plan
from jnn.comparison.protocol import run_plan
from jnn.comparison.results import Comparison, DataFrame
from jnn.comparison.suite import DEFAULT_TASKS, find_task
from jnn.comparison.tasks import Task

BUDGETS = ("trials", "studies")  # what is varied without changing the task


@dataclass(frozen=True)
class VerdictMap:
    """The verdicts of a grid of comparisons."""

    verdicts: DataFrame  # the columns of `Comparison.verdicts`, and one for each setting; p values adjusted over the grid
    comparisons: dict[tuple, Comparison]  # values of the settings, in their order -> comparison
    settings: dict[str, list]
    folder: Path | None = None


def verdict_map(
    optimizers: Mapping[str, Callable],
    tasks: Sequence[str | Task] = DEFAULT_TASKS,
    *,
    vary: Mapping[str, Sequence],
    reference: str = "adam",
    spaces: Mapping[str, Mapping[str, Any]] = {},
    wide: bool = False,
    trials: int = 8,
    studies: int = 32,
    margin: float = 0.01,
    seed: int = 0,
    size: str = "quick",
    out=None,
    overwrite: bool = False,
) -> VerdictMap:
    """`compare` at every point of a grid: rankings flip with horizon, batch, scale and tuning budget, and one number hides it.

    vary: setting -> values: `steps`, `batch_size`, `width`, `label_noise` and what else the tasks can vary, and `trials`.
    out: a folder for the map, with a folder for the report of each comparison; the same call again goes on where it was
        stopped.
    All else is as in `compare`. P values are adjusted over all comparisons of the grid (Holm 1979), and the verdicts follow
    from them, so that one cell in the map that is called different by chance is as rare as in one comparison.

    Raises InputError before anything runs, also where only one point of the grid cannot run.
    """
    settings = {name: list(values) for name, values in vary.items()}
    for name, values in settings.items():
        if not values or len(set(values)) < len(values):
            raise InputError(f"vary: {name} needs values, each once, got {values}")
    if not settings:
        raise InputError("vary: give at least one setting with its values")
    plans = {}
    for point in itertools.product(*settings.values()):
        chosen = dict(zip(settings, point, strict=True))
        budgets = {"trials": trials, "studies": studies} | {name: chosen.pop(name) for name in BUDGETS if name in chosen}
        varied = [find_task(task, size).vary(**chosen) for task in tasks]
        plans[point] = make_plan(
            optimizers, varied, reference, spaces, budgets["trials"], budgets["studies"], margin, seed, wide=wide
        )
    comparisons = {}
    for point, plan in plans.items():
        folder = None if out is None else Path(out) / _name(dict(zip(settings, point, strict=True)))
        comparisons[point] = run_plan(plan, folder, overwrite)
    found = VerdictMap(judge(comparisons, settings, margin), comparisons, settings)
    if out is None:
        return found
    from jnn.comparison.report import write_map

    return write_map(found, Path(out))


def judge(comparisons: Mapping[tuple, Comparison], settings: Mapping[str, list], margin: float) -> DataFrame:
    """The verdicts of all comparisons in one table, p values adjusted over all of them."""
    import pandas as pd

    tables = [
        comparison.verdicts.assign(**dict(zip(settings, point, strict=True))) for point, comparison in comparisons.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    table["p_adjusted"] = statistics.holm(table.p_value)
    verdicts = {}
    for point, comparison in comparisons.items():
        finals = comparison.finals().groupby(["task", "optimizer"])
        losses, diverged = finals.test_loss.mean(), finals.diverged.all()
        for index, row in table[(table[list(settings)] == list(point)).all(axis=1)].to_dict("index").items():
            ours, theirs = (row["task"], row["optimizer"]), (row["task"], row["reference"])
            paired = statistics.Paired(*(row[name] for name in statistics.Paired._fields))
            verdicts[index] = statistics.verdict(paired, row["p_adjusted"], margin * abs(losses[theirs]))
            if diverged[ours] and diverged[theirs]:
                verdicts[index] = "no difference shown"  # between two that never trained, equal losses mean nothing
    table["verdict"] = pd.Series(verdicts)
    return table[[*settings, *(name for name in table.columns if name not in settings)]]


def _name(point: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in point.items())

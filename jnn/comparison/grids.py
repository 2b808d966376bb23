"""The same comparison over a grid of settings: where an optimizer wins, where it loses, and where nothing is shown."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jnn.comparison.errors import InputError
from jnn.comparison.maps import map_rows, write_map
from jnn.comparison.plans import make_plan
from jnn.comparison.protocol import run_plan
from jnn.comparison.results import Comparison, DataFrame
from jnn.comparison.suite import DEFAULT_TASKS, find_task
from jnn.comparison.tasks import Task

BUDGETS = ("trials", "studies")  # what is varied without changing the task


@dataclass(frozen=True)
class VerdictMap:
    """The verdicts of a grid of comparisons."""

    verdicts: DataFrame  # one column for each setting, those of `Comparison.verdicts` adjusted over the grid, reference_loss
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
    verdicts = map_rows([(dict(zip(settings, point, strict=True)), found) for point, found in comparisons.items()])
    if out is not None:
        write_map(verdicts, Path(out), *list(settings)[:2])
    return VerdictMap(verdicts, comparisons, settings, None if out is None else Path(out))


def _name(point: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in point.items())

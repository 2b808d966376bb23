"""Comparisons whose losses are made up, for tests of what is made of them."""

import numpy as np

import jnn
from jnn.comparison.plans import make_plan
from jnn.comparison.results import collect
from jnn.comparison.studies import Cell, search_points

from tiny import tiny_task

EFFECTS = {"adam": 0.0, "worse": 0.5, "b%_<b>": -0.3, "same": 0.0}  # on the logarithm of the loss


def synthetic(tasks=("one", "two"), names=tuple(EFFECTS), *, trials=4, studies=8, measured=True, seed=0):
    """Losses depend on task and optimizer only, whatever else takes part."""
    factories = {name: lambda learning_rate: jnn.optim.adam(learning_rate) for name in names}
    plan = make_plan(factories, [tiny_task(name) for name in tasks], names[0], {}, trials, studies, 0.01, seed)
    cells = {(task, name): _cell(task, name, plan) for task in tasks for name in names}
    if not measured:
        cells = {key: cell._replace(target_losses=np.zeros(0, np.float32)) for key, cell in cells.items()}
        return collect(plan, cells, {}, 12.3)
    timed = {"seconds": [2e-4, 1e-4, 3e-4], "reference_seconds": [1e-4, 1e-4, 1e-4], "state_bytes": 1234}
    return collect(plan, cells, {task: dict.fromkeys(names, timed) for task in tasks}, 12.3)


def _cell(task, name, plan):
    rng = np.random.default_rng([*task.encode(), *name.encode()])
    entrant = next(entrant for entrant in plan.entrants if entrant.name == name)
    studies, trials, space = plan.studies, entrant.trials, entrant.space
    values = search_points(plan.seed, 0, studies, trials, space)
    initial = np.full(studies, 2.0, np.float32)
    losses = np.exp(EFFECTS[name] - 1 + 0.1 * rng.standard_normal((studies, trials))).astype(np.float32)
    diverged = np.log10(values["learning_rate"]) > -0.2
    losses = np.where(diverged, initial[:, None], losses)
    winner = np.argmin(losses, axis=1)
    final = losses[np.arange(studies), winner]
    decay = np.exp(-np.arange(1, 5, dtype=np.float32))
    curve = final[:, None] + (initial - final)[:, None] * decay * (decay > decay[-1])
    scores = {"loss": final, "accuracy": 1 - final / 4}
    return Cell(
        hyperparameters=values,
        tune_validation=losses,
        tune_diverged=diverged,
        winner=winner,
        final={"validation": scores, "test": {"loss": 1.01 * final, "accuracy": 1 - final / 4}},
        final_diverged=np.zeros(studies, bool),
        curves={"step": 5 * np.arange(1, 5), "training": curve, "validation": curve, "initial": initial},
        target_losses=final,  # of these very studies: a quarter of the reference's own runs does not get there
        lanes=np.asarray(plan.lanes),
    )

"""What the runs of a comparison say beside the verdicts: scores, times to a target, costs, sensitivity."""

import math

import numpy as np

from jnn.comparison.aggregates import normalised_scores
from jnn.comparison.results import Comparison, DataFrame
from jnn.comparison.statistics import steps_to_target


def measures(comparison: Comparison) -> DataFrame:
    """One row for each task and optimizer:

    test_*, test_*_sd: mean and standard deviation of the final runs' scores over studies.
    diverged_trials: the share of tuning runs. diverged_finals: the number of final runs.
    steps_to_target, seconds_to_target: the median over studies, inf unless more than half arrive; not_reached: the share that
    never does, by last_step. seconds_per_step: the median over rounds; step_time_ratio: to the reference's in the same
    round. state_bytes: of the optimizer's state.

    What was not measured is NaN."""
    import pandas as pd

    steps = times_to_target(comparison, "steps")
    trials = comparison.trials
    scores = [column for column in trials.columns if column.startswith("test_")]
    found = []
    for (task, name), rows in trials.groupby(["task", "optimizer"], sort=False):
        final, tuned = rows[rows.phase == "final"], rows[rows.phase == "tune"]
        row = {"task": task, "optimizer": name}
        for score in scores:
            row |= {score: final[score].mean(), f"{score}_sd": final[score].std()}
        row |= {"diverged_trials": tuned.diverged.mean(), "diverged_finals": int(final.diverged.sum())}
        taken = steps.get((task, name), np.full(1, np.nan))
        row |= {
            "steps_to_target": np.median(taken),
            "not_reached": np.isinf(taken).mean() if (task, name) in steps else math.nan,
        }
        row["last_step"] = int(comparison.curves[task, name]["step"][-1])
        timed = comparison.timing.get((task, name), {})
        row["seconds_per_step"] = _median(timed.get("seconds"))
        row["seconds_to_target"] = row["steps_to_target"] * row["seconds_per_step"]
        row["step_time_ratio"] = _median(_ratios(timed.get("seconds"), timed.get("reference_seconds")))
        row["state_bytes"] = timed.get("state_bytes", math.nan)
        found.append(row)
    return pd.DataFrame(found)


def times_to_target(comparison: Comparison, unit: str) -> dict[tuple[str, str], np.ndarray]:
    """(task, optimizer) -> (studies,):  `steps` or `seconds` until the validation loss of the final run is first seen at or
    under the task's target, inf where it never is. Seconds are steps times the median time of a step, measured apart."""
    found = {}
    for (task, name), curve in comparison.curves.items():
        second = 1.0 if unit == "steps" else _median(comparison.timing.get((task, name), {}).get("seconds"))
        if comparison.targets.get(task) is not None and not math.isnan(second):
            found[task, name] = second * steps_to_target(curve["step"], curve["validation"], comparison.targets[task])
    return found


def task_scores(comparison: Comparison) -> dict[str, np.ndarray]:
    """optimizer -> (tasks, studies):  normalised scores of the final test losses, of the optimizers that ran on every task, on
    those on which the reference learned anything. The initial loss is the validation loss before training."""
    reference = comparison.protocol["reference"]
    losses = comparison.finals().pivot(index=["task", "optimizer"], columns="study", values="test_loss")
    tasks = [task for task in comparison.protocol["tasks"] if not np.isnan(_scale(comparison, losses, task)).any()]
    names = [name for name in comparison.protocol["optimizers"] if all((task, name) in losses.index for task in tasks)]
    return {
        name: np.array([normalised_scores(losses.loc[(task, name)], *_scale(comparison, losses, task)) for task in tasks])
        for name in sorted(names, key=lambda name: name != reference)
        if tasks
    }


def _scale(comparison: Comparison, losses, task: str) -> tuple[float, float]:
    """The mean losses of the reference at the start and at the end; NaN where it learned nothing."""
    reference = comparison.protocol["reference"]
    initial, final = float(np.mean(comparison.curves[task, reference]["initial"])), float(losses.loc[(task, reference)].mean())
    return (initial, final) if final < initial else (math.nan, math.nan)


def _median(values) -> float:
    return float(np.median(values)) if values is not None and len(values) else math.nan


def _ratios(seconds, reference_seconds):
    return None if seconds is None or reference_seconds is None else np.divide(seconds, reference_seconds)

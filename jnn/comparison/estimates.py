"""What a comparison would run, and how long that would take here."""

import time
from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from jnn.comparison.entrants import Entrant
from jnn.comparison.plans import Plan, count_trainings, for_entrant
from jnn.comparison.studies import FINAL, Runs, Setup
from jnn.populations import workers

SPAN = 30  # steps


class Estimate(NamedTuple):
    """Of one optimizer on one task."""

    trainings: int
    steps: int  # of each training
    seconds: float  # of all its trainings and programs, on one of the workers


def estimate(plan: Plan, kept: Set[tuple[str, str]] = frozenset()) -> dict[tuple[str, str], Estimate]:
    """(task, optimizer) -> what it would take, from timed programs of a few steps. `kept` are those that need not run.

    Each is timed with as many runs at a time as the comparison would take, over its first two evaluated spans of steps, of
    long ones over their first `SPAN` steps; what is paid once for a call of the program, and an evaluation where the span was
    cut, is counted more often than it comes, so that the estimate is rather too long."""
    counts = count_trainings(plan)
    setups: dict[tuple[str, int], Setup] = {}  # shared by the optimizers of a task, as in the comparison
    for task in plan.tasks:
        for steps in {for_entrant(task, entrant).steps for entrant in plan.entrants}:
            points = min(task.points, 2)
            short = task._replace(steps=points * min(steps // task.points, SPAN), points=points)
            setups[task.name, steps] = Setup(short, plan)

    def one(task, entrant):
        task = for_entrant(task, entrant)
        runs = counts[task.name, entrant.name]
        if (task.name, entrant.name) in kept:
            return (task.name, entrant.name), Estimate(runs, task.steps, 0.0)
        setup = setups[task.name, task.steps]
        lanes, compiling, call = _timed(Runs(plan, setup, entrant), entrant)
        traced = plan.traced[task.name, entrant.name]
        calls = -(-runs // lanes)
        programs = 1 if traced else plan.studies * entrant.trials
        seconds = programs * compiling + calls * call * task.steps / setup.task.steps
        return (task.name, entrant.name), Estimate(runs, task.steps, seconds)

    with ThreadPoolExecutor(workers()) as pool:  # as the comparison itself runs
        pairs = [(task, entrant) for task in plan.tasks for entrant in plan.entrants]
        return dict(pool.map(lambda pair: one(*pair), pairs))


def total_seconds(estimates: Mapping[tuple[str, str], Estimate]) -> float:
    """From start to end."""
    return sum(found.seconds for found in estimates.values()) / workers()


def _timed(runs: Runs, entrant: Entrant) -> tuple[int, float, float]:
    """How many runs there are at a time, seconds to compile, and of a call."""
    values = {name: np.full(runs.lanes, space.value(0.5)) for name, space in entrant.space.items()}
    began = time.perf_counter()
    runs(values, np.arange(runs.lanes), FINAL)
    first = time.perf_counter() - began
    began = time.perf_counter()
    runs(values, np.arange(runs.lanes), FINAL)
    again = time.perf_counter() - began
    return runs.lanes, max(first - again, 0.0), again

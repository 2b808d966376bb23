"""Comparing optimizers in one call."""

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from typing import Any

from jnn.comparison.plans import Plan, make_plan
from jnn.comparison.studies import Cell, Setup, run_cell
from jnn.comparison.suite import DEFAULT_TASKS
from jnn.comparison.tasks import Task
from jnn.populations import cores


def compare(
    optimizers: Mapping[str, Callable],
    tasks: Sequence[str | Task] = DEFAULT_TASKS,
    *,
    reference: str = "adam",
    spaces: Mapping[str, Mapping[str, Any]] = {},
    trials: int = 8,
    studies: int = 32,
    margin: float = 0.01,
    seed: int = 0,
    out=None,
    overwrite: bool = False,
):
    """Tunes every optimizer on every task with the same budget, and judges it against the reference.

    optimizers: name -> factory, a function of keyword hyperparameters (at least `learning_rate`) that returns a pair
        (init, update), jnn's, optax's or your own. A factory that takes `steps` is told the horizon and brings its own
        schedule; the updates of the others are scaled by the task's.
    tasks: names, or Task objects.
    reference: the name of the optimizer that the others are judged against.
    spaces: name -> hyperparameter -> `jnn.log_uniform(low, high)`, `jnn.uniform(low, high)` or a number. A learning rate
        that is not named gets the default of `jnn.comparison.spaces`.
    trials: search points per study. studies: complete replications, the unit of every interval.
    margin: the share of the reference's loss under which a difference does not matter.
    out: a folder for the report, the figures and the results; refused where it holds results, unless `overwrite`.

    Returns a Comparison: `.verdicts`, `.trials` (DataFrames), `.curves`; it prints as its table of verdicts.
    Raises InputError, a ValueError, before anything runs, and DataError where a data file is corrupted. A task whose data
    cannot be had is left out with a note, and raises only where no other is left. ReportError, which holds the Comparison,
    where the report cannot be written.
    """
    from jnn.comparison.report import claim_folder, write_report
    from jnn.comparison.results import collect

    plan = make_plan(optimizers, tasks, reference, spaces, trials, studies, margin, seed)
    folder = None if out is None else claim_folder(out, overwrite)
    began = time.monotonic()
    try:
        cells = run(plan)
    except BaseException:
        if folder is not None and not any(folder.iterdir()):
            folder.rmdir()
        raise
    comparison = collect(plan, cells, time.monotonic() - began)
    return comparison if folder is None else write_report(comparison, folder, overwrite)


def run(plan: Plan) -> dict[tuple[str, str], Cell]:
    """Runs all cells of a plan, one on each core at a time, and shows the progress."""
    from jnn.comparison.progress import Progress

    stop = threading.Event()
    # tasks take turns, so that workers do not wait for the same task's program of starts
    cells = [(task, entrant) for entrant in plan.entrants for task in plan.tasks]
    setups = {task.name: Setup(task, plan) for task in plan.tasks}
    for name in sorted({name for (_, name), traced in plan.traced.items() if not traced}):
        programs = f"{plan.trials * plan.studies} programs are compiled for each task"
        print(f"{name} needs its hyperparameters as plain numbers: {programs}, a second or so each", file=sys.stderr)
    with Progress(len(cells) * (plan.trials + 1) * plan.studies) as progress:

        def work(task, entrant):
            def advance(runs):
                if stop.is_set():
                    raise CancelledError
                progress.advance(runs, f"{task.name} with {entrant.name}")

            return run_cell(plan, setups[task.name], entrant, advance=advance)

        with ThreadPoolExecutor(cores()) as pool:
            futures = {(task.name, entrant.name): pool.submit(work, task, entrant) for task, entrant in cells}
            try:
                done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:  # nothing is left to stop, unless a cell failed or the user interrupted
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
    names = [(task.name, entrant.name) for task in plan.tasks for entrant in plan.entrants]
    return {name: futures[name].result() for name in names}

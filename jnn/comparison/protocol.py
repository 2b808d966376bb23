"""Comparing optimizers in one call."""

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from typing import Any

from jnn.comparison import store
from jnn.comparison.plans import Plan, count_trainings, for_entrant, make_plan
from jnn.comparison.studies import Cell, Setup, run_cell
from jnn.comparison.suite import DEFAULT_TASKS
from jnn.comparison.tasks import Task
from jnn.comparison.timing import measure
from jnn.populations import workers


def compare(
    optimizers: Mapping[str, Callable],
    tasks: Sequence[str | Task] = DEFAULT_TASKS,
    *,
    reference: str = "adam",
    spaces: Mapping[str, Mapping[str, Any]] = {},
    wide: bool = False,
    trials: int | Mapping[str, int] = 8,
    steps: int | Mapping[str, int] | None = None,
    unequal: bool = False,
    studies: int = 32,
    margin: float = 0.01,
    seed: int = 0,
    size: str = "quick",
    out=None,
    overwrite: bool = False,
):
    """Tunes every optimizer on every task with the same budget, and judges it against the reference.

    optimizers: name -> factory, a function of keyword hyperparameters (at least `learning_rate`) that returns a pair
        (init, update), jnn's, optax's or your own. A factory that takes `steps` is told the horizon and brings its own
        schedule; the updates of the others are scaled by the task's, except where an optimizer is judged by other
        parameters than it trains, as averages and `lbfgs` are (`jnn.optim.eval_params`): it follows none.
    tasks: names, or Task objects.
    reference: the name of the optimizer that the others are judged against.
    spaces: name -> hyperparameter -> `jnn.log_uniform(low, high)`, `jnn.uniform(low, high)`,
        `jnn.complement_log_uniform(low, high)` or a number. A learning rate that is not named gets the default of
        `jnn.comparison.spaces`. `warmup`, a share of the steps, may be searched for every optimizer without a schedule of
        its own.
    wide: search all hyperparameters that the table of default spaces has for an optimizer, not its learning rate alone.
    trials: search points per study. steps: instead of each task's. One number for all; a dict with a number for each optimizer
        makes budgets unequal, which is refused unless `unequal` says so, and the report says so too.
    studies: complete replications, the unit of every interval.
    margin: the share of the reference's loss under which a difference does not matter.
    size: "quick", which a CPU runs in minutes, or "full", for an accelerator: of the tasks that are given by name.
    out: a folder for the report, the figures and the results. What is finished is kept there: the same call again goes on
        where it was stopped. A folder that holds another comparison is refused, unless `overwrite`.

    Returns a Comparison: `.verdicts`, `.trials` (DataFrames), `.curves`; it prints as its table of verdicts.
    Raises InputError, a ValueError, before anything runs, and DataError where a data file is corrupted. A task whose data
    cannot be had is left out with a note, and raises only where no other is left. ReportError, which holds the Comparison,
    where the report cannot be written.
    """
    plan = make_plan(
        optimizers,
        tasks,
        reference,
        spaces,
        trials,
        studies,
        margin,
        seed,
        steps=steps,
        unequal=unequal,
        wide=wide,
        size=size,
    )
    return run_plan(plan, out, overwrite)


def run_plan(plan: Plan, out=None, overwrite: bool = False, about: Mapping[str, Any] | None = None):
    """`compare` from a plan on. about: its identity, where it is known, as it takes a second."""
    from jnn.comparison.report import write_report

    if out is None:
        return _compared(plan)
    with store.held(out):
        kept = store.Store.claim(out, store.identity(plan) if about is None else about, overwrite)
        return write_report(_compared(plan, kept), kept.folder)


def _compared(plan: Plan, kept: "store.Store | None" = None):
    from jnn.comparison.results import collect

    began = time.monotonic()
    cells = run(plan, kept)
    timing = kept.load_timing() if kept else None
    if timing is None:
        timing = measure(plan, cells)
        if kept:
            kept.save_timing(timing)
    return collect(plan, cells, timing, kept.seconds() if kept else time.monotonic() - began)


def run(plan: Plan, kept: "store.Store | None" = None) -> dict[tuple[str, str], Cell]:
    """Runs all cells of a plan, one on each core at a time, and shows the progress. Cells that are kept are not run again."""
    from jnn.comparison.progress import Progress

    stop = threading.Event()
    counts = count_trainings(plan)
    found = {}
    if kept:
        found = {name: cell for name in counts if (cell := kept.load(*name)) is not None}
    # tasks take turns, so that workers do not wait for the same task's program of starts
    cells = [(task, entrant) for entrant in plan.entrants for task in plan.tasks if (task.name, entrant.name) not in found]
    setups = {}
    for task, entrant in cells:
        given = for_entrant(task, entrant)
        setups.setdefault((task.name, given.steps), Setup(given, plan))
    for entrant in plan.entrants:
        if not all(plan.traced[task.name, entrant.name] for task in plan.tasks):
            programs = f"{entrant.trials * plan.studies} programs are compiled for each task"
            print(
                f"{entrant.name} needs its hyperparameters as plain numbers: {programs}, a second or so each", file=sys.stderr
            )
    with Progress(sum(counts.values())) as progress:
        if kept and found:
            trainings = sum(counts[name] for name in found)
            print(f"{trainings:,} trainings are kept in {kept.folder} from before", file=sys.stderr)
            progress.advance(trainings, "kept from before")

        def work(task, entrant):
            def advance(runs):
                if stop.is_set():
                    raise CancelledError
                progress.advance(runs, f"{task.name} with {entrant.name}")

            cell = run_cell(plan, setups[task.name, for_entrant(task, entrant).steps], entrant, advance=advance)
            if kept:
                kept.save(task.name, entrant.name, cell)
                cell = kept.load(task.name, entrant.name) or cell  # as it will come back, to the order of its names
            return cell

        with ThreadPoolExecutor(workers()) as pool:
            futures = {(task.name, entrant.name): pool.submit(work, task, entrant) for task, entrant in cells}
            try:
                done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:  # nothing is left to stop, unless a cell failed or the user interrupted
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
    found |= {name: future.result() for name, future in futures.items()}
    return {(task.name, entrant.name): found[task.name, entrant.name] for task in plan.tasks for entrant in plan.entrants}

"""What a comparison will run, checked before anything runs."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from jnn.comparison.entrants import Entrant, enter, evaluates_within_a_step, schedule_of, takes_traced
from jnn.comparison.errors import InputError
from jnn.comparison.suite import find_task
from jnn.comparison.tasks import Examples, Task, bound, count_pool
from jnn.data.datasets import MissingDataError
from jnn.numbers import LARGEST, shown


class Plan(NamedTuple):
    """A comparison that has been checked and can run."""

    tasks: list[Task]
    entrants: list[Entrant]
    reference: str
    studies: int
    margin: float
    seed: int
    lanes: int  # runs at a time in one program, at most: fewer where the device's memory asks for it
    target_studies: int  # separate studies of the reference, whose final losses set the target of steps-to-target
    traced: dict[tuple[str, str], bool]  # (task, optimizer) -> hyperparameters are arguments of the program
    schedules: dict[str, str]  # optimizer -> "its own", "the task's" or "none"
    examples: dict[str, Examples]
    notes: list[str]  # what was asked for and cannot run, and what makes steps unequal


def make_plan(
    optimizers,
    tasks,
    reference,
    spaces,
    trials,
    studies,
    margin,
    seed,
    *,
    steps=None,
    unequal: bool = False,
    wide: bool = False,
    size: str = "quick",
) -> Plan:
    """Checks everything that can be checked without training. Raises InputError or DataError."""
    for argument, value in (("optimizers", optimizers), ("spaces", spaces)):
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise InputError(f"{argument} must be a dict with names as keys, got {shown(value)}")
    require_whole("studies", studies, 2)
    trials = _budgets("trials", trials, optimizers, unequal)
    steps = _budgets("steps", steps, optimizers, unequal)
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise InputError(f"seed must be a whole number in [0, 2**32), got {shown(seed)}")
    if not isinstance(margin, int | float) or not 0 <= margin < 1:
        raise InputError(f"margin is a share of the reference's loss and lies in [0, 1), got {shown(margin, str)}")
    for name, space in spaces.items():
        if not isinstance(space, Mapping):
            raise InputError(f"spaces[{name!r}] must be a dict from hyperparameters to spaces, got {shown(space)}")
    try:
        given = [] if isinstance(tasks, str) else list(tasks)
    except TypeError:
        given = []
    if not given:
        raise InputError(f"tasks must be a list of at least one name, got {shown(tasks)}")
    found = [find_task(task, size) for task in given]
    if None not in steps.values() and len(set(steps.values())) == 1:
        same = next(iter(steps.values()))
        found = [task._replace(steps=same, points=min(task.points, same)) for task in found]
        steps = dict.fromkeys(optimizers)
    names = [task.name for task in found]
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"a task's name is made of letters, digits, '.', '_' and '-', as it names files; got {name!r}")
    if len(set(names)) < len(names):
        raise InputError(f"a task is named twice: {', '.join(names)}")
    if not isinstance(reference, str) or reference not in optimizers:
        raise InputError(f"the reference {shown(reference)} is not among the optimizers {', '.join(optimizers) or '(none)'}")
    if len(optimizers) < 2:
        raise InputError(f"there is nothing to compare {reference} with: give at least one other optimizer")
    for name in spaces:
        if name not in optimizers:
            raise InputError(f"a space is given for {name!r}, which is not among the optimizers {', '.join(optimizers)}")
    entrants = [
        enter(name, factory, spaces.get(name, {}), wide=wide)._replace(trials=trials[name], steps=steps[name])
        for name, factory in optimizers.items()
    ]

    examples, missing = {}, []
    for task in found:
        try:
            examples[task.name] = Examples(*task.load())
        except MissingDataError as error:
            missing.append((task.name, error))
    if not examples:
        raise missing[0][1]
    found = [task for task in found if task.name in examples]

    traced, schedules = {}, {}
    for task in found:
        of_task = examples[task.name]
        total, held_out = count_pool(task, of_task), count_held_out(task, of_task)
        for horizon in (for_entrant(task, entrant).steps for entrant in entrants):
            if not 1 <= task.points <= horizon:
                raise InputError(f"{task.name}: a run of {horizon} steps has no {task.points} points to be evaluated at")
        if total and (task.validation < 1 or (task.test < 1 and of_task.test is None)):
            raise InputError(f"{task.name}: {task.validation} validation and {task.test} test examples of {total}")
        if total and total - held_out < (task.batch_size or 1):
            batch = f"a batch of {task.batch_size}" if task.batch_size else "a batch"
            raise InputError(f"{task.name}: {total} examples less {held_out} held out do not fill {batch}")
        batch = a_batch(task, of_task)
        for entrant in entrants:
            given = for_entrant(task, entrant)._replace(objective=bound(task, of_task))
            traced[task.name, entrant.name] = takes_traced(entrant, given, batch)
            schedules[entrant.name] = schedule_of(entrant, given, batch)
            if schedules[entrant.name] == "none" and "warmup" in entrant.space:
                raise InputError(
                    f"{entrant.name} follows no schedule, as its state holds the parameters it is judged by: no warmup"
                )
    # On a CPU a program over the studies of one trial (in equal parts, where they are many) serves the final runs too, and no
    # lane is idle. An accelerator takes all trials at once in the time of one.
    on_cpu = jax.default_backend() == "cpu"
    lanes = math.ceil(studies / math.ceil(studies / 64)) if on_cpu else min(studies * max(trials.values()), 1024)
    notes = [f"{name} was left out: {error}" for name, error in missing]
    first = found[0]._replace(objective=bound(found[0], examples[found[0].name]))
    notes += [
        f"{entrant.name} evaluates the loss within its steps: judge it by seconds too, equal steps are not equal work"
        for entrant in entrants
        if evaluates_within_a_step(entrant, for_entrant(first, entrant), a_batch(first, examples[first.name]))
    ]
    targets = max(2, studies // 4)
    return Plan(found, entrants, reference, studies, margin, int(seed), lanes, targets, traced, schedules, examples, notes)


def require_whole(name: str, value, least: int):
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        why = ": an interval needs at least two" if name == "studies" and isinstance(value, int) and value == 1 else ""
        raise InputError(f"{name} must be a whole number of at least {least}, got {shown(value, str)}{why}")
    if value > LARGEST:
        raise InputError(f"{name} must be at most {LARGEST}, got {shown(value, str)}")


def _budgets(name: str, given, optimizers: Mapping, unequal: bool) -> dict:
    """optimizer -> trials or steps, from one number for all, or from a dict with a number for each."""
    if given is None and name == "steps":
        return dict.fromkeys(optimizers)
    found = dict(given) if isinstance(given, Mapping) else dict.fromkeys(optimizers, given)
    for optimizer in {**found, **optimizers}:
        if optimizer not in optimizers or optimizer not in found:
            known = ", ".join(optimizers)
            raise InputError(f"{name} must be one number, or one for each of {known}: {optimizer!r} is not in both")
        require_whole(name, found[optimizer], 1)
    if len(set(found.values())) > 1 and not unequal:
        each = ", ".join(f"{optimizer} {number}" for optimizer, number in found.items())
        raise InputError(
            f"unequal budgets make a comparison unfair: {name} {each}; say that they shall be unequal, "
            "and the report will say so too"
        )
    return found


def for_entrant(task: Task, entrant: Entrant) -> Task:
    """The task with the steps that the optimizer is given."""
    return task if entrant.steps is None else task._replace(steps=entrant.steps)


def count_trainings(plan: Plan) -> dict[tuple[str, str], int]:
    """(task, optimizer) -> runs: every trial and a final run of each study, the reference's separate studies included."""
    studies = {entrant.name: plan.studies + plan.target_studies * (entrant.name == plan.reference) for entrant in plan.entrants}
    return {
        (task.name, entrant.name): (entrant.trials + 1) * studies[entrant.name]
        for task in plan.tasks
        for entrant in plan.entrants
    }


def count_held_out(task: Task, examples: Examples) -> int:
    """How many examples of the pool a study does not train on."""
    if count_pool(task, examples) == 0:
        return 0
    return task.validation + (task.test if examples.test is None else 0)


def a_batch(task: Task, examples: Examples):
    """The shapes and dtypes of a batch."""
    size = task.batch_size or count_pool(task, examples) - count_held_out(task, examples)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), examples.pool)

"""Tasks: data, an objective, a horizon, and the score that a tuned optimizer must reach for the task to count as real."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from jnn import schedules
from jnn.comparison.errors import InputError, did_you_mean
from jnn.numbers import whole
from jnn.trainings import count_examples
from jnn.types import Objective


class Examples(NamedTuple):
    """The data of a task. Every study draws its own validation part from the pool, and its own test part where there is no
    official one."""

    pool: Any  # a batch of all examples that a study may divide up; () where the objective needs none
    test: Any = None  # the official test part, or None
    shared: Any = None  # what belongs to every batch, as a graph to its nodes: the objective then takes (shared, batch)


class Task(NamedTuple):
    """What an optimizer is judged on: `objective.loss` with train=True is minimised, with train=False it is the score."""

    name: str  # it names files: letters, digits, '.', '_' and '-'
    about: str
    objective: Objective
    load: Callable[[], Examples] = lambda: Examples(())
    validation: int = 0  # examples
    test: int = 0  # examples; counts where there is no official test part
    steps: int = 1000
    batch_size: int | None = None  # None: all examples that are not held out, in every step
    floor: tuple[str, float] | None = None  # the mean test score that tuned adam reaches: accuracy at least, loss at most
    schedule: Callable[[int], Callable] = lambda steps: schedules.cosine(1.0, steps)  # of factors of the updates
    points: int = 20  # evaluations of the validation loss along a run
    make: Callable[..., "Task"] | None = None  # keyword settings -> the task with them

    def vary(self, **settings) -> "Task":
        """The task with other settings: its whole numbers `steps` and, where it has examples, `batch_size`, `validation` and
        `test`, and whatever `make` takes. The name stays; the floor, which holds for the settings that it was found with, does
        not.

        Raises InputError for a setting that the task does not have, naming those that it has, and for an impossible value."""
        own = () if self.make is None else tuple(inspect.signature(self.make).parameters)
        # without examples, nothing would follow from the numbers of a batch and of parts held out
        usual = NUMBERS if self.load is not Task._field_defaults["load"] else ("steps",)
        known = (*usual, *(name for name in own if name not in usual))
        for name in settings:
            if name not in known:
                hint = did_you_mean(name, known)
                raise InputError(f"{self.name} has no setting {name!r}{hint}; it has {', '.join(known)}")
        task = self
        try:
            numbers = {name: whole(self.name, name, value) for name, value in settings.items() if name in NUMBERS}
            made = {name: value for name, value in settings.items() if name in own}
            if self.make is not None and made:
                make = partial(self.make, **made)
                kept = {name: getattr(self, name) for name in ("name", *NUMBERS, "schedule", "points") if name not in own}
                task = make()._replace(**kept, make=make)
        except (TypeError, ValueError) as error:
            problem = str(error).removeprefix(f"{self.name}: ")
            raise InputError(f"{self.name} with {_listed(settings)}: {problem}") from error
        task = task._replace(**{name: number for name, number in numbers.items() if name not in own})
        return task._replace(points=min(task.points, task.steps), floor=None if settings else task.floor)


NUMBERS = ("steps", "batch_size", "validation", "test")


def _listed(settings):
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def count_pool(task: Task, examples: Examples) -> int:
    """How many examples a study divides up; 0 where the task needs none."""
    return count_examples(examples.pool, task.name) if jax.tree.leaves(examples.pool) else 0


def bound(task: Task, examples: Examples) -> Objective:
    """The objective as a function of a batch alone."""
    if examples.shared is None:
        return task.objective
    objective = task.objective

    def init(key, batch):
        return objective.init(key, (examples.shared, batch))

    def loss(params, state, batch, **options):
        return objective.loss(params, state, (examples.shared, batch), **options)

    return Objective(init, loss)

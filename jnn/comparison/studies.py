"""The unit of a comparison: the study, a complete replication.

A study has its own split of the data, its own search points, one tuning seed, its own winner by validation loss, and one
final run of the winner on a fresh seed, judged on a test part that tuning never saw. Everything but the optimizer is the same
for every optimizer of a study: the split, the points of the unit cube, the initial parameters, the batches. So the luck of
tuning, of initialisation, and of which examples of the data set are trained and tested on is inside every interval
(Bouthillier et al. 2021, arXiv:2103.03098), and a difference is a difference between optimizers on this data set: studies
divide up the same examples, so nothing is said of other data (Nadeau & Bengio 2003). An official test part is the same in
every study.

All runs of a (task, optimizer) go through one compiled program over `lanes` runs at a time, the final runs as well.
Initialisation, split and order of batches are a program of their own, shared by all optimizers of a task.
"""

import threading
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn.comparison.devices import memory_per_program
from jnn.comparison.entrants import Entrant, build
from jnn.comparison.errors import InputError
from jnn.comparison.plans import Plan, a_batch, count_held_out
from jnn.comparison.spaces import Space
from jnn.comparison.tasks import Examples, Task, bound, count_pool
from jnn.data.orders import batch_order, shuffled
from jnn.optim import eval_params
from jnn.populations import chunks, over_lanes
from jnn.trainings import count_examples, evaluate, fit, take, training
from jnn.types import TrainState

AT_ONCE = 1000  # examples evaluated at once, in each lane
SPLIT, FINAL, TUNE = 0, 1, 2  # what a study's keys are for; TUNE + arm where an optimizer is compared with itself


class Start(NamedTuple):
    """What a run of a study starts from, the same for every optimizer."""

    params: Any
    state: Any
    key: Any
    order: Any  # int32 (steps, batch), indices into the pool; (batch,) where all steps have the same batch, the full one
    validation: Any  # int32 (validation,), indices into the pool
    test: Any  # int32 (test,), indices into the pool; () where the task has an official test part
    initial: Any  # {"validation": scores, "test": scores} before training


class Setup:
    """A task's data on the device and its program of starts, shared by all its optimizers."""

    def __init__(self, task: Task, plan: Plan):
        self.task = task
        self.data = jax.tree.map(jnp.asarray, plan.examples[task.name])
        self._key = jax.random.key(plan.seed)
        # a program that runs for milliseconds: at the usual level of optimization it compiled in 2.6 s, at this in 1.1 s
        options = {"xla_backend_optimization_level": 1}
        self._program = jax.jit(jax.vmap(partial(_start, task), in_axes=(None, 0, None, None)), compiler_options=options)
        self._compiled: dict[int, Any] = {}
        self._lock = threading.Lock()  # compiled by one thread, not by each
        self._recent = lru_cache(maxsize=4)(self._make)

    def starts(self, studies: tuple[int, ...], purpose: int) -> "Start":
        """The starts of one run in each of `studies`, with leading axis (studies,)."""
        with self._lock:
            return self._recent(studies, purpose)

    def fitting_lanes(self, lanes: int) -> int:
        """How many starts at once fit into the device's memory."""
        if lanes == 1:
            return 1
        with self._lock:
            return _fitting_lanes(self._of(lanes), lanes, self.data)

    def _make(self, studies, purpose):
        # two lanes for one: XLA of jaxlib 0.11 does not come back from compiling the starts of a single one
        lanes = studies if len(studies) > 1 else studies * 2
        starts = self._of(len(lanes))(self._key, np.asarray(lanes, np.int32), np.int32(purpose), self.data)
        return jax.tree.map(lambda a: a[: len(studies)], starts) if len(lanes) > len(studies) else starts

    def _of(self, lanes: int):
        if lanes not in self._compiled:
            lowered = self._program.lower(self._key, np.zeros(lanes, np.int32), np.int32(0), self.data)
            self._compiled[lanes] = lowered.compile()
        return self._compiled[lanes]


def _start(task: Task, key, study, purpose, data: Examples) -> Start:
    """The start of one run of a study: its split from one key, all else from the key of its purpose."""
    study_key = jax.random.fold_in(key, study)
    init_key, order_key, noise_key = jax.random.split(jax.random.fold_in(study_key, purpose), 3)

    examples, held_out = count_pool(task, data), count_held_out(task, data)
    split = jnp.zeros(0, jnp.int32)
    if examples:
        split = shuffled(jax.random.fold_in(study_key, SPLIT), jnp.arange(examples), examples)
    validation, test, train = split[: task.validation], split[task.validation : held_out], split[held_out:]
    params, state = bound(task, data).init(init_key, a_batch(task, data))
    order = train
    if examples and task.batch_size:
        order = train[batch_order(order_key, jnp.int32(0), task.steps, examples - held_out, task.batch_size)]
    initial = _scores(task, params, state, data, validation, test)
    return Start(params, state, noise_key, order, validation, test, initial)


def _scores(task, params, state, data: Examples, validation, test):
    held_out = take(data.pool, test) if data.test is None else data.test
    parts = {"validation": take(data.pool, validation), "test": held_out}
    return {name: _evaluate(bound(task, data), params, state, part) for name, part in parts.items()}


def _evaluate(objective, params, state, part):
    large = bool(jax.tree.leaves(part)) and count_examples(part, "evaluate") > AT_ONCE
    return evaluate(objective, params, state, part, batch_size=AT_ONCE if large else None)


def _run(task: Task, entrant: Entrant, hyperparameters, start: Start, data: Examples):
    """One training run: final scores, curves, and whether every validation loss was finite."""
    optimizer = build(entrant, task, hyperparameters)
    opened = TrainState(start.params, start.state, optimizer.init(start.params), start.key, jnp.zeros([], jnp.int32))
    every = task.steps // task.points
    full = start.order.ndim == 1
    fitted = fit(
        training(bound(task, data), optimizer),
        take(data.pool, start.order) if full else data.pool,
        key=start.key,
        steps=task.steps,
        order=None if full else start.order,
        start=opened,
        eval_data=take(data.pool, start.validation),
        eval_every=every,
    )
    losses, validation = fitted.history["loss"], fitted.history["eval"]
    end = fitted.train_state
    params = eval_params(end.opt_state, end.params)
    return {
        "training": jnp.mean(losses[: task.points * every].reshape(task.points, every), axis=1),
        "validation": validation["loss"],
        # a trial point of a line search may be infinite, and harms nothing
        "finite": jnp.all(jnp.isfinite(validation["loss"])),
        "final": _scores(task, params, end.state, data, start.validation, start.test),
        "initial": start.initial,
    }


class Cell(NamedTuple):
    """All runs of one optimizer on one task. Losses of diverged runs are those at initialisation."""

    hyperparameters: dict[str, np.ndarray]  # (studies, trials)
    tune_validation: np.ndarray  # (studies, trials)
    tune_diverged: np.ndarray  # bool (studies, trials)
    winner: np.ndarray  # int (studies,), index of the trial
    final: dict[str, dict[str, np.ndarray]]  # "validation" | "test" -> score -> (studies,)
    final_diverged: np.ndarray  # bool (studies,)
    curves: dict[str, np.ndarray]  # "step" (points,); "training", "validation" (studies, points); "initial" (studies,)
    target_losses: np.ndarray  # (target studies,), final validation losses of separate studies; of the reference only
    lanes: np.ndarray  # int [], runs at a time in one program


def run_cell(plan: Plan, setup: Setup, entrant: Entrant, *, arm: int = 0, advance=lambda runs: None) -> Cell:
    """Tunes an optimizer in every study, and runs the winners anew.

    arm: another number gives other search points and tuning seeds in the same studies, to compare an optimizer with itself.
    """
    separate = plan.target_studies if entrant.name == plan.reference else 0
    total, trials = plan.studies + separate, entrant.trials
    studies = np.arange(total)
    values = search_points(plan.seed, arm, total, trials, entrant.space)
    runs = Runs(plan, setup, entrant, advance)

    # one trial of all studies after another
    tuned = runs({name: a.T.ravel() for name, a in values.items()}, np.tile(studies, trials), TUNE + arm)
    tuned = jax.tree.map(lambda a: a.reshape(trials, total, *a.shape[1:]).swapaxes(0, 1), tuned)
    loss, initial = tuned["final"]["validation"]["loss"], tuned["initial"]["validation"]["loss"]
    if not np.isfinite(initial).all():
        raise InputError(f"{setup.task.name}: the loss at initialisation is not finite, so nothing can be judged by it")
    diverged = ~tuned["finite"] | ~_no_worse(loss, initial)
    winner = np.argmin(np.where(diverged, np.inf, loss), axis=1)

    final = runs({name: a[studies, winner] for name, a in values.items()}, studies, FINAL)
    scores, at_start = final["final"], final["initial"]
    final_diverged = ~final["finite"] | ~_no_worse(scores["validation"]["loss"], at_start["validation"]["loss"])
    # a run that blows up on the test part alone must not weigh more than one that blows up on all
    final_diverged |= ~_no_worse(scores["test"]["loss"], at_start["test"]["loss"])
    every = setup.task.steps // setup.task.points
    results = {
        "hyperparameters": values,
        "tune_validation": np.where(diverged, initial, loss),
        "tune_diverged": diverged,
        "winner": winner,
        "final": jax.tree.map(lambda end, start: np.where(final_diverged, start, end), scores, at_start),
        "final_diverged": final_diverged,
        "curves": {
            "training": final["training"],
            "validation": final["validation"][:, : setup.task.points],  # one more where the points do not divide the steps
            "initial": at_start["validation"]["loss"],
        },
    }
    target_losses = results["final"]["validation"]["loss"][plan.studies :]
    results = jax.tree.map(lambda a: a[: plan.studies], results)
    results["curves"] = {"step": every * np.arange(1, setup.task.points + 1), **results["curves"]}
    return Cell(**results, target_losses=target_losses, lanes=np.asarray(runs.lanes))


def _no_worse(loss, initial):
    """Whether a run ends no higher than it began. Both come from different programs, and agree to rounding at best."""
    return loss <= initial + 1e-5 * np.abs(initial)


class Runs:
    """A function (hyperparameters of each run, study of each run, purpose) -> what `_run` returns, stacked."""

    def __init__(self, plan: Plan, setup: Setup, entrant: Entrant, advance=lambda runs: None):
        self.setup, self.advance = setup, advance
        self.one_run = partial(_run, setup.task, entrant)
        self.traced = plan.traced[setup.task.name, entrant.name]
        self.lanes = plan.lanes if self.traced else 1
        self._programs: dict = {}

    def __call__(self, hyperparameters, studies, purpose):
        results, done = [], 0
        while done < len(studies):
            some = slice(done, done + self.lanes)  # fewer lanes after the first program, where memory asks for it
            chunk = next(chunks((jax.tree.map(lambda a, some=some: a[some], hyperparameters), studies[some]), self.lanes))
            result = (self._chunk if self.traced else self._one)(chunk[0], chunk[1], purpose)
            count = min(self.lanes, len(studies) - done)
            if result is None:
                continue
            results.append(jax.tree.map(lambda a, count=count: a[:count], jax.device_get(result)))
            done += count
            self.advance(count)
        return jax.tree.map(lambda *parts: np.concatenate(parts), *results)

    def _chunk(self, values, studies, purpose):
        """None where the program of so many lanes would not fit: there are fewer now."""
        if self.lanes not in self._programs and (fitting := self.setup.fitting_lanes(self.lanes)) < self.lanes:
            self.lanes = fitting
            return None
        lanes = {name: a.astype(np.float32) for name, a in values.items()}, self.setup.starts(tuple(studies.tolist()), purpose)
        if self.lanes not in self._programs:
            program = jax.jit(partial(over_lanes, self.one_run)).lower(lanes, (self.setup.data,)).compile()
            fitting = _fitting_lanes(program, self.lanes, self.setup.data)
            if fitting < self.lanes:
                self.lanes = fitting
                return None
            self._programs[self.lanes] = program
        return self._programs[self.lanes](lanes, (self.setup.data,))

    def _one(self, values, studies, purpose):
        """The factory needs numbers: a program for each trial, of one lane."""
        start = jax.tree.map(lambda a: a[0], self.setup.starts((int(studies[0]),), purpose))
        items = tuple((name, float(a[0])) for name, a in values.items())
        if items not in self._programs:
            self._programs[items] = jax.jit(lambda start, data: self.one_run(dict(items), start, data))
        return jax.tree.map(lambda a: a[None], self._programs[items](start, self.setup.data))


def _fitting_lanes(program, lanes: int, data) -> int:
    """How many lanes of a compiled program fit into the device's memory, by the program's own account."""
    account = program.memory_analysis()
    if account is None:  # a backend that keeps none
        return lanes
    shared = sum(a.nbytes for a in jax.tree.leaves(data))
    needed = account.temp_size_in_bytes + account.output_size_in_bytes + account.argument_size_in_bytes
    per_lane = max(needed - shared, 1) / lanes
    return min(lanes, max(1, int((memory_per_program() - shared) / per_lane)))


def search_points(seed: int, arm: int, studies: int, trials: int, space: Mapping[str, Space]) -> dict[str, np.ndarray]:
    """-> name -> (studies, trials):  a Latin hypercube for each study, the same points of the unit cube for every optimizer.

    Each hyperparameter, in the order of the space, has one point in each of `trials` equal parts of its interval, at a random
    place in it. McKay, Beckman & Conover 1979."""
    points = np.empty((len(space), studies, trials))
    for j, study in np.ndindex(len(space), studies):
        random = np.random.default_rng([seed, arm, study, j])  # so that adding a dimension or a study changes no other
        points[j, study] = (random.permutation(trials) + random.random(trials)) / trials
    return {name: interval.value(points[j]) for j, (name, interval) in enumerate(space.items())}

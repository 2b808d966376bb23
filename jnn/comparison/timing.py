"""Seconds per step of each optimizer, measured apart from the trainings and in turn with the reference, on this machine."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.comparison.entrants import Entrant, build
from jnn.comparison.plans import Plan, a_batch, for_entrant
from jnn.comparison.studies import Cell
from jnn.comparison.tasks import Examples, Task, bound
from jnn.populations import workers
from jnn.trainings import training

ROUNDS = 5
SECONDS = 0.02  # of each turn, at least


def measure(plan: Plan, cells: Mapping[tuple[str, str], Cell]) -> dict[str, Any]:
    """task -> optimizer -> {"seconds": a step's in each turn, "reference_seconds": the reference's in the same turns,
    "state_bytes": of the optimizer's state}.

    A step is one of a loop over one batch, alone and not under `vmap`, with the medians of the hyperparameters that won. The
    optimizer and the reference take turns, the first of a turn drawn by lot."""
    random = np.random.default_rng(0)
    names = [entrant.name for entrant in plan.entrants]

    def timed(task, entrant):
        return _Timed(for_entrant(task, entrant), entrant, cells[task.name, entrant.name], plan.examples[task.name])

    found: dict[str, Any] = {}
    for task in plan.tasks:
        with ThreadPoolExecutor(workers()) as pool:  # to compile
            loops = dict(zip(names, pool.map(partial(timed, task), plan.entrants), strict=True))
        theirs = loops[plan.reference]
        theirs.fill_a_turn()
        found[task.name] = {}
        for name, ours in loops.items():
            if ours is not theirs:
                ours.fill_a_turn()
            seconds, reference_seconds = [], []
            for _ in range(ROUNDS):
                turn = list({ours, theirs})
                random.shuffle(turn)
                taken = {loop: loop() for loop in turn}
                seconds.append(taken[ours])
                reference_seconds.append(taken[theirs])
            found[task.name][name] = {
                "seconds": seconds,
                "reference_seconds": reference_seconds,
                "state_bytes": ours.state_bytes,
            }
    return found


class _Timed:
    """A compiled loop of training steps that says what one of them took."""

    def __init__(self, task: Task, entrant: Entrant, cell: Cell, examples: Examples):
        batch = jax.tree.map(lambda a, like: jnp.asarray(a[: like.shape[0]]), examples.pool, a_batch(task, examples))
        studies = np.arange(len(cell.winner))
        chosen = {name: float(np.median(a[studies, cell.winner])) for name, a in cell.hyperparameters.items()}
        optimizer = build(entrant, task, chosen)

        def train(shared):
            return training(bound(task, Examples((), shared=shared)), optimizer)

        shared = jax.tree.map(jnp.asarray, examples.shared)
        quickly = {"xla_backend_optimization_level": 1}  # compiled: it runs once
        start = jax.jit(lambda shared: train(shared).init(jax.random.key(0), batch), compiler_options=quickly)(shared)
        self.state_bytes = int(sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(start.opt_state) if a.ndim))
        self.arguments = shared, start, batch
        self.program = jax.jit(lambda shared, start, batch, steps: _loop(train(shared), start, batch, steps))
        self.steps = 1
        self()  # compiles

    def fill_a_turn(self):
        """Takes as many steps from now on as fill a turn, so that what a call costs does not count."""
        while self() * self.steps < SECONDS and self.steps < 10_000:
            self.steps *= 2

    def __call__(self) -> float:
        began = time.perf_counter()
        jax.block_until_ready(self.program(*self.arguments, jnp.int32(self.steps)))
        return (time.perf_counter() - began) / self.steps


def _loop(train, start, batch, steps):
    def step(_, carry):
        train_state, metrics = train.step(carry[0], batch)
        return train_state, metrics["loss"]  # kept, or XLA would leave out what only the loss needs

    loss = jax.eval_shape(train.step, start, batch)[1]["loss"]
    return jax.lax.fori_loop(0, steps, step, (start, jnp.zeros(loss.shape, loss.dtype)))

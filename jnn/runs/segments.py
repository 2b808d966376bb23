"""Some hundred steps in one compiled program."""

from functools import partial

import jax
import jax.numpy as jnp

from jnn import tree
from jnn.data.orders import batch_order
from jnn.trainings import count_examples, take_within
from jnn.types import Training, TrainState


@partial(jax.jit, static_argnames=("training", "rows", "batch_size", "skip"), donate_argnames="train_state")
def advance(training: Training, data, key, train_state, limit, steps, *, rows: int, batch_size: int | None, skip: bool):
    """-> TrainState, metrics (rows,), whether each step was good (rows,): its loss finite and not above the limit; and whether
    the parameters and the state are as finite as they were.

    On arrays held in memory, on the batches that `jnn.fit` with this key takes. steps: at most `rows`; a number that is traced,
    so that one program takes every step of a run: wherever it is stopped and goes on, the same instructions round alike.
    skip: a step that is not good changes nothing but the count of steps; its TrainState must be finite as well.
    """
    order = _order(data, key, train_state.step, rows, batch_size)
    batch = (lambda i: data) if order is None else (lambda i: take_within(data, order[i]))
    return _repeated(training, limit, skip, batch, train_state, rows, steps)


@partial(jax.jit, static_argnames=("training", "skip"), donate_argnames="train_state")
def advance_on(training: Training, batches, train_state, limit, steps, *, skip: bool):
    """`advance`, on batches with a leading axis (rows,)."""
    rows = count_examples(batches, "run")
    return _repeated(training, limit, skip, lambda i: jax.tree.map(lambda a: a[i], batches), train_state, rows, steps)


def _repeated(training, limit, skip, batch, train_state, rows, steps):
    step = partial(_skipping if skip else _judging, training, limit)
    shapes = jax.eval_shape(lambda state: step(state, batch(0))[1], train_state)
    bad = not_finite(train_state)

    def body(i, both):
        train_state, found = both
        train_state, one = step(train_state, batch(i))
        return train_state, jax.tree.map(lambda all, value: all.at[i].set(value), found, one)

    found = jax.tree.map(lambda a: jnp.zeros((rows, *a.shape), a.dtype), shapes)
    train_state, (metrics, *good) = jax.lax.fori_loop(0, steps, body, (train_state, found))
    # judged behind the loop: within it, another use of the loss can change how XLA fuses a step, and so its last bits
    good = good[0] if skip else _is_good(metrics["loss"], limit)
    return train_state, metrics, good, not_finite(train_state) <= bad


def _is_good(loss, limit):
    return jnp.isfinite(loss) & (loss <= limit)


def not_finite(train_state):
    """How many numbers of the parameters and the state are not finite."""
    leaves = [a for a in jax.tree.leaves((train_state.params, train_state.state)) if jnp.issubdtype(a.dtype, jnp.inexact)]
    return sum((jnp.sum(~jnp.isfinite(a)) for a in leaves), jnp.int32(0))


def _judging(training, limit, before, batch):
    after, metrics = training.step(before, batch)
    return after, (metrics,)


def _skipping(training, limit, before, batch):
    after, metrics = training.step(before, batch)
    # judged behind a barrier, and taken or left as a whole: fused with either, the step would round otherwise
    judged, loss = jax.lax.optimization_barrier((after, metrics["loss"]))
    good = _is_good(loss, limit) & _stays_finite(before, judged)
    kept = jax.lax.cond(good, lambda: after, lambda: before._replace(step=after.step))
    return kept, (metrics, good)


def _stays_finite(before, after):
    """Whether each number that was finite is so still. An optimizer may begin with an infinite one, as for the best loss."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    kept = [jnp.all(jnp.isfinite(b) | ~jnp.isfinite(a)) for a, b in pairs if jnp.issubdtype(a.dtype, jnp.inexact)]
    return jnp.all(jnp.stack(kept)) if kept else jnp.bool_(True)


@partial(jax.jit, static_argnames="training")
def evaluate(training: Training, train_state: TrainState, data) -> dict:
    return training.step(train_state, data, train=False)[1]


@partial(jax.jit, static_argnames="batch_size")
def batch_at(data, key, step, *, batch_size: int | None):
    """What the step `step` is given."""
    order = _order(data, key, step, 1, batch_size)
    return data if order is None else take_within(data, order[0])


def _order(data, key, first_step, steps, batch_size):
    if batch_size is None:
        return None
    _, order_key = jax.random.split(key)
    return batch_order(order_key, first_step, steps, count_examples(data, "run"), batch_size)


def first_bad(training: Training, train_state: TrainState, batch) -> tuple[str, TrainState]:
    """-> the path of the first array that is not finite, in the order in which a step meets them: the batch, the parameters,
    the state, the optimizer's state, the metrics, the parameters and the state after the step; "" where all are finite. And
    the TrainState after the step."""
    after, metrics = jax.jit(training.step)(train_state, batch)
    met = {"batch": batch, **train_state._asdict(), "metrics": metrics}
    met |= {"after the step": after.params, "state after the step": after.state}
    for name, part in met.items():
        for path, leaf in tree.flatten(part).items():
            if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact) and not bool(jnp.all(jnp.isfinite(leaf))):
                return f"{name}/{path}" if path else name, after
    return "", after

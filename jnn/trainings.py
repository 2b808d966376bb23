"""Training as a pure function: a step, a whole run, an evaluation."""

import inspect
import operator
from functools import partial

import jax
import jax.numpy as jnp

from jnn.closures import holds_tracer
from jnn.data.orders import batch_order
from jnn.optim.averages import eval_params
from jnn.optim.numerics import cast
from jnn.optim.updates import apply_updates, call_update
from jnn.types import Fitted, Objective, Optimizer, Training, TrainState


def training(objective: Objective, optimizer: Optimizer) -> Training:
    """An objective and an optimizer (jnn's, optax's, or any pair) as Training(init, step).

    init(key, batch) -> TrainState; of the batch only shapes and dtypes are read.
    step(train_state, batch) -> (TrainState, metrics): one update; metrics are {"loss": ..., **those of the objective},
        before the update. With train=False the TrainState comes back as it was, and the metrics are those of evaluation, of
        `jnn.optim.eval_params`.

    An optimizer whose `update` takes `value`, `grad` or `value_fn` is given them: the loss, its gradient, and the loss as a
    function of the parameters on this batch.
    """
    objective_init, loss = objective
    optimizer_init, _ = optimizer

    def init(key, batch):
        init_key, run_key = jax.random.split(key)
        params, state = objective_init(init_key, batch)
        return TrainState(params, state, optimizer_init(params), run_key, jnp.zeros([], jnp.int32))

    def step(train_state, batch, *, train=True):
        params, state, opt_state, run_key, count = train_state
        if not train:
            value, aux = loss(eval_params(opt_state, params), state, batch, train=False)
            return train_state, {"loss": value, **aux.metrics}
        key = jax.random.fold_in(run_key, count)
        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params, state, batch, key=key, train=True)
        updates, opt_state = call_update(
            optimizer,
            grads,
            opt_state,
            params,
            value=value,
            grad=grads,
            # with x64 on, optax's line search hands over float64 whatever it was given
            value_fn=lambda p: loss(jax.tree.map(cast, p, params), state, batch, key=key, train=True)[0],
        )
        params = apply_updates(params, updates)
        return TrainState(params, aux.state, opt_state, run_key, count + 1), {"loss": value, **aux.metrics}

    return Training(init, step)


def fit(
    training: Training,
    data,
    *,
    key,
    steps: int,
    batch_size: int | None = None,
    order=None,
    start: TrainState | None = None,
    eval_data=None,
    eval_every: int | None = None,
) -> Fitted:
    """A whole training run as one pure, compiled function: works inside `jit`, `vmap` and `grad`.

    Compiled once for each `training`: keep it and give the same one again, as a new one is compiled anew.

    data: a pytree of arrays with one leading axis of examples.
    key: picks the initial parameters, the noise of training and the order of batches. The batch at a step is a function of
        key and step: a fresh permutation each epoch, what is left and fills no batch dropped.
    batch_size: examples per step; None for the full batch, the data untouched.
    order: the examples of each batch ready-made, integers (steps, batch); an index out of range gives NaN.
    start: a TrainState to go on from. `fit` of 60 steps equals `fit` of 30, and 30 more from its TrainState with the same key.
    eval_data: evaluated whole, with train=False, after every `eval_every` steps (default: once, at the end).

    Returns Fitted(train_state, history): history["loss"] (steps,) and the objective's metrics likewise, before each update;
    history["eval"] the same over evaluations (steps // eval_every,).
    Raises ValueError for leading axes that differ, a batch larger than the data, an order of another length.
    """
    training = Training(*training)
    steps = operator.index(steps)
    if steps < 0:
        raise ValueError(f"fit: steps must not be negative, got {steps}")
    if order is not None:
        order = jnp.asarray(order)
        if batch_size is not None:
            raise ValueError("fit: give batch_size or order, not both: an order has its own batches")
        if order.ndim != 2 or order.shape[0] != steps or not jnp.issubdtype(order.dtype, jnp.integer):
            raise ValueError(f"fit: order must be integers of shape ({steps}, batch), got {order.dtype} {order.shape}")
        count_examples(data, "fit")
    if batch_size is not None:
        batch_size = operator.index(batch_size)
        examples = count_examples(data, "fit")
        if not 1 <= batch_size <= examples:
            raise ValueError(f"fit: batch_size must lie between 1 and the {examples} examples, got {batch_size}")
    if eval_data is None and eval_every is not None:
        raise ValueError("fit: eval_every without eval_data")
    if eval_data is not None:
        eval_every = steps if eval_every is None else operator.index(eval_every)
        if not 1 <= eval_every <= steps:
            raise ValueError(f"fit: eval_every must lie between 1 and the {steps} steps, got {eval_every}")
    compiled = inspect.unwrap(_fit) if holds_tracer(training) else _fit
    return compiled(training, data, key, order, start, eval_data, steps=steps, batch_size=batch_size, eval_every=eval_every)


@partial(jax.jit, static_argnames=("training", "steps", "batch_size", "eval_every"))
def _fit(training, data, key, order, start, eval_data, *, steps, batch_size, eval_every):
    init_key, order_key = jax.random.split(key)
    size = batch_size if order is None else order.shape[1]
    train_state = start
    if train_state is None:
        train_state = training.init(init_key, data if size is None else jax.eval_shape(partial(_first, n=size), data))
    choose = take
    if order is None and size is not None:
        choose = take_within  # a permutation has no index out of range
        order = batch_order(order_key, train_state.step, steps, count_examples(data, "fit"), size)

    def step(train_state, indices):
        return training.step(train_state, data if indices is None else choose(data, indices))

    def span(train_state, indices, length):
        return jax.lax.scan(step, train_state, indices, length=length)

    if eval_data is None:
        train_state, history = span(train_state, order, steps)
        return Fitted(train_state, history)

    def span_and_evaluation(train_state, indices):
        train_state, metrics = span(train_state, indices, eval_every)
        return train_state, (metrics, training.step(train_state, eval_data, train=False)[1])

    spans = steps // eval_every
    whole = spans * eval_every
    cut = None if order is None else order[:whole].reshape(spans, eval_every, -1)
    train_state, (history, evaluations) = jax.lax.scan(span_and_evaluation, train_state, cut, length=spans)
    history = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), history)
    if whole < steps:
        train_state, rest = span(train_state, None if order is None else order[whole:], steps - whole)
        history = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), history, rest)
    return Fitted(train_state, {**history, "eval": evaluations})


def evaluate(objective: Objective, params, state, data, *, batch_size: int | None = None) -> dict:
    """-> {"loss": scalar, **the objective's metrics}:  means over all of `data`, with train=False.

    batch_size: at most so many examples at once; None for all at once. The mean is that of the whole, the last and smaller
    batch included; batches count by their examples, or by the metric "weight" where an objective reports one.
    """
    if batch_size is not None:
        batch_size = operator.index(batch_size)
        examples = count_examples(data, "evaluate")
        if batch_size < 1 or examples < 1:
            raise ValueError(f"evaluate: batch_size {batch_size} of {examples} examples")
        batch_size = min(batch_size, examples)
    objective = Objective(*objective)
    compiled = inspect.unwrap(_evaluate) if holds_tracer(objective) else _evaluate
    return compiled(objective, params, state, data, batch_size=batch_size)


@partial(jax.jit, static_argnames=("objective", "batch_size"))
def _evaluate(objective, params, state, data, *, batch_size):
    def scores(batch):
        value, aux = objective.loss(params, state, batch, train=False)
        return jax.tree.map(jnp.asarray, {"loss": value, **aux.metrics})

    if batch_size is None:
        means = scores(data)
        means.pop("weight", None)
        return means
    examples = count_examples(data, "evaluate")
    whole = examples // batch_size * batch_size

    def weighted(batch, count):
        means = scores(batch)
        weight = means.pop("weight", None)
        weight = jnp.asarray(count, means["loss"].dtype) if weight is None else weight
        return jax.tree.map(lambda m: m * weight.astype(m.dtype), means), weight

    def add(a, b):
        return jax.tree.map(jnp.add, a, b)

    batches = jax.tree.map(lambda a: a[:whole].reshape(-1, batch_size, *a.shape[1:]), data)
    totals = weighted(jax.tree.map(lambda a: a[0], batches), batch_size)
    rest = jax.tree.map(lambda a: a[1:], batches)
    totals, _ = jax.lax.scan(lambda totals, batch: (add(totals, weighted(batch, batch_size)), None), totals, rest)
    if whole < examples:
        totals = add(totals, weighted(jax.tree.map(lambda a: a[whole:], data), examples - whole))
    sums, weight = totals
    weight = jnp.where(weight == 0, jnp.ones_like(weight), weight)  # all is masked: 0, as without batches
    return jax.tree.map(lambda s: s / weight.astype(s.dtype), sums)


def count_examples(data, caller: str) -> int:
    """The length of the one leading axis of all arrays in `data`. Raises ValueError where they differ."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data)]
    lengths = {shape[0] if shape else -1 for shape in shapes}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(
            f"{caller}: data need one leading axis of examples, got shapes {', '.join(map(str, shapes)) or 'none'}"
        )
    return lengths.pop()


def take(data, indices):
    """The examples at `indices`. Out of range gives NaN (the smallest integer, for integers), never another example."""
    return jax.tree.map(lambda a: jnp.asarray(a).at[indices].get(mode="fill", wrap_negative_indices=False), data)


def take_within(data, indices):
    return jax.tree.map(lambda a: jnp.asarray(a).at[indices].get(mode="promise_in_bounds"), data)


def _first(data, n):
    return jax.tree.map(lambda a: jnp.asarray(a)[:n], data)

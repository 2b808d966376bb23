"""Recurrent networks with an output at each step, and the gradient of the last output's loss by the state before each."""

import jax
import jax.numpy as jnp

import jnn
from experiments.recall import Task

WIDTH = 32


def forget_less(key, shape, dtype):
    return jnp.repeat(jnp.array([0, 1, 0, 0], dtype), shape[0] // 4)


CELLS = {
    "rnn": lambda **options: jnn.rnn(WIDTH, **options),
    "lstm": lambda **options: jnn.lstm(WIDTH, b_init=forget_less, **options),
    "gru": lambda **options: jnn.gru(WIDTH, **options),
}


def network(task: Task, cell: str, stateful: bool = False):
    """-> a Layer from (..., time, in) to the outputs (..., time, outputs); the stateful twin has the same parameters."""
    make = CELLS[cell]
    return jnn.serial(cell=jnn.stateful(make(return_state=True)) if stateful else make(), head=jnn.dense(task.outputs))


def state_gradients(task: Task, cell: str, params, inputs, targets):
    """-> (time,): the norm of the gradient of a sequence's loss with respect to the state before each step, mean over
    sequences."""
    model = network(task, cell, stateful=True)
    _, state = model.init(jax.random.key(0), inputs)

    def loss(nudges):
        def step(state, now):
            x, nudge = now
            y, state = model.apply(params, jax.tree.map(jnp.add, state, nudge), x[:, None])
            return state, y

        _, outputs = jax.lax.scan(step, state, (jnp.moveaxis(inputs, 1, 0), nudges))
        return jnp.sum(task.loss(outputs[-1], targets[:, -1:]))

    none = jax.tree.map(lambda a: jnp.zeros((inputs.shape[1], *a.shape), a.dtype), state)
    squares = [jnp.sum(jnp.square(g), axis=-1) for g in jax.tree.leaves(jax.grad(loss)(none))]
    return jnp.mean(jnp.sqrt(sum(squares[1:], start=squares[0])), axis=1)

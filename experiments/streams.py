"""Training on examples that are drawn as they are needed, where there are more than would be kept."""

import jax

from jnn.types import Fitted, Training, TrainState


def fit(training: Training, draw, start: TrainState, *, key, steps: int) -> Fitted:
    """So many steps from `start`, each on a fresh batch `draw(key)`: a function of the key and the step, so that 30 steps and
    30 more are 60. Pure: works inside `jit` and `jnn.sweep`."""

    def step(train_state, _):
        return training.step(train_state, draw(jax.random.fold_in(key, train_state.step)))

    return Fitted(*jax.lax.scan(step, start, length=steps))

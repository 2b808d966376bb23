"""jnn."""

from functools import partial

import jax
import jax.numpy as jnp

import jnn
from experiments.benchmarks.workloads import LEARNING_RATE, WORKLOADS

MODELS = {
    "mlp": jnn.models.mlp((512, 512), 10),
    "cnn": jnn.serial(
        jnn.conv(32, 3),
        jax.nn.relu,
        jnn.max_pool(2),
        jnn.conv(64, 3),
        jax.nn.relu,
        jnn.max_pool(2),
        jnn.flatten(),
        jnn.dense(128),
        jax.nn.relu,
        jnn.dense(10),
    ),
    "lstm": jnn.models.language_model(65, cell=jnn.lstm, width=64, features=256),
    "gru": jnn.models.language_model(65, cell=lambda features: jnn.gru(features, reset_after=True), width=64, features=256),
    "gpt": jnn.models.gpt(65, 128, layers=4, width=128, heads=4),
    "gpt_48": jnn.models.gpt(65, 128, layers=48, width=128, heads=4),
    "resnet": jnn.models.resnet(18, 10, small=True),
}


def training_of(name: str, learning_rate=LEARNING_RATE) -> jnn.Training:
    objective = jnn.supervised(MODELS[name], jnn.losses.softmax_cross_entropy)
    return jnn.training(objective, jnn.optim.adam(learning_rate))


def _input(name: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(WORKLOADS[name].inputs, jnp.int32 if WORKLOADS[name].is_text else jnp.float32)


def weights_of(name: str, seed: int = 0) -> dict:
    """Initial parameters, path -> array."""
    params, _ = jax.jit(lambda key: MODELS[name].init(key, _input(name)))(jax.random.key(seed))
    return jnn.tree.flatten(params)


def start_of(name: str, weights) -> jnn.TrainState:
    """The TrainState whose parameters are `weights`."""
    start = jax.jit(lambda key: training_of(name).init(key, (_input(name),)))(jax.random.key(0))
    return start._replace(params=jnn.tree.unflatten({path: jnp.asarray(w) for path, w in weights.items()}))


def _build(name):
    def build(weights):
        training = training_of(name)

        @partial(jax.jit, donate_argnums=0)
        def step(train_state, batch):
            train_state, metrics = training.step(train_state, batch)
            return train_state, metrics["loss"]

        return start_of(name, weights), step

    return build


NETWORKS = {name: _build(name) for name in MODELS}
prepare = jax.device_put
wait = float
COMPILES = True

"""fit, sweep and compare on modules of flax and Equinox: each with running statistics and dropout."""

import sys

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jnn
from jnn.comparison.tasks import Examples, Task


class LinenNet(nn.Module):
    features: int
    classes: int

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(self.features)(x)))
        return nn.Dense(self.classes)(nn.Dropout(0.1)(x, deterministic=not train))


class NNXNet(nnx.Module):
    def __init__(self, width, features, classes, rngs):
        self.hidden = nnx.Linear(width, features, rngs=rngs)
        self.norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(features, classes, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


class EquinoxNet(eqx.Module):
    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, width, features, classes, key):
        hidden_key, out_key = jax.random.split(key)
        self.hidden = eqx.nn.Linear(width, features, key=hidden_key)
        self.norm = eqx.nn.BatchNorm(features, "batch", momentum=0.9, mode="batch")
        self.dropout = eqx.nn.Dropout(0.1)
        self.out = eqx.nn.Linear(features, classes, key=out_key)

    def __call__(self, x, state, *, key):
        x, state = self.norm(self.hidden(x), state)
        return self.out(self.dropout(jax.nn.relu(x), key=key)), state


MAKERS = {
    "linen": lambda width, *sizes: jnn.interop.linen(LinenNet(*sizes)),
    "nnx": lambda *sizes: jnn.interop.nnx(lambda rngs: NNXNet(*sizes, rngs)),
    "equinox": lambda *sizes: jnn.interop.equinox(lambda key: EquinoxNet(*sizes, key)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_fit_and_sweep_train_it(make):
    images, labels = jnn.data.digits()
    data = images[:300], labels[:300]
    model = jnn.serial(jnn.flatten(), make(64, 16, 10))
    objective = jnn.supervised(model, jnn.losses.softmax_cross_entropy, metrics={"accuracy": jnn.metrics.accuracy})

    def train(hparams, key, data):
        training = jnn.training(objective, jnn.optim.adam(hparams["learning_rate"]))
        end = jnn.fit(training, data, key=key, steps=60, batch_size=32).train_state
        return jnn.evaluate(objective, end.params, end.state, data), end.state

    scores, state = jnn.sweep(train, {"learning_rate": jnp.array([1e-6, 0.01])}, seeds=2, data=data)
    assert np.all(scores["accuracy"][1] > 0.85)
    assert np.all(scores["accuracy"][0] < 0.5)
    for leaf in jax.tree.leaves(state):
        assert leaf.shape[:2] == (2, 2)
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize(
    "make", [pytest.param(make, marks=[pytest.mark.slow] * (name != "linen"), id=name) for name, make in MAKERS.items()]
)
def test_compare_judges_optimizers_on_it(make):
    labels = np.arange(120, dtype=np.int32) % 3
    centres = np.array([[0, 2], [2, -1], [-2, -1]])
    points = (centres[labels] + np.random.default_rng(0).normal(size=(120, 2))).astype(np.float32)
    objective = jnn.supervised(make(2, 4, 3), jnn.losses.softmax_cross_entropy, metrics={"accuracy": jnn.metrics.accuracy})
    task = Task(
        "blobs",
        "three blobs",
        objective,
        lambda: Examples((points, labels)),
        validation=30,
        test=30,
        steps=20,
        batch_size=10,
        floor=("accuracy", 0.6),
        points=2,
    )
    optimizers = {"adam": jnn.optim.adam, "frozen": lambda learning_rate: jnn.optim.sgd(1e-6 * learning_rate)}
    comparison = jnn.compare(optimizers, tasks=[task], reference="adam", trials=2, studies=4, margin=0.01)
    (verdict,) = comparison.verdicts.itertuples()
    assert (verdict.optimizer, verdict.verdict) == ("frozen", "worse")


@pytest.mark.parametrize(
    ("package", "module", "use"),
    [
        ("flax", "flax.linen", lambda: jnn.interop.linen(None)),
        ("flax", "flax.nnx", lambda: jnn.interop.nnx(lambda rngs: None)),
        ("equinox", "equinox", lambda: jnn.interop.equinox(lambda key: None)),
    ],
    ids=["linen", "nnx", "equinox"],
)
def test_a_library_that_is_not_installed_is_named(package, module, use, monkeypatch, raises):
    monkeypatch.setitem(sys.modules, module, None)
    with raises(ImportError, f"jnn.interop needs {package} for this: pip install {package}"):
        use()

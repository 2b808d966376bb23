"""Set-ups to learn the digits, a healthy one and others with one thing broken: what is broken, and which check is for it."""

from typing import Any, NamedTuple

import jax
import numpy as np

import jnn


def network(hidden=(64, 64), *, front=lambda x: x, head=jnn.initializers.lecun_normal(), penalty=None, **options):
    """An Objective: pixels -> ten classes by dense layers. options: of each hidden layer."""
    options = {"w_init": jnn.initializers.kaiming_normal(), **options}
    layers = [layer for width in hidden for layer in (jnn.dense(width, **options), jax.nn.relu)]
    model = jnn.serial(jnn.flatten(), front, *layers, head=jnn.dense(10, w_init=head))
    return jnn.supervised(model, jnn.losses.softmax_cross_entropy, penalty=penalty)


def mixed(x):
    """The axes of examples and features exchanged by a reshape, where a transpose was meant."""
    return x.T.reshape(x.shape)


def healthy(rng, train, validation):
    return train, validation


def pixels(rng, *parts):
    return [(255 * images, labels) for images, labels in parts]


def mislabelled(rng, train, validation):
    """A fifth of the labels are another class."""
    images, labels = train
    moved = np.zeros_like(labels)
    moved[rng.permutation(len(labels))[: len(labels) // 5]] = rng.integers(1, 10, len(labels) // 5)
    return (images, (labels + moved) % 10), validation


def leaked(rng, train, validation):
    """A quarter of the validation examples are copies of training examples."""
    n = len(validation[1]) // 4
    return train, tuple(np.concatenate([a[:n], b[n:]]) for a, b in zip(train, validation, strict=True))


def repeated(rng, train, validation):
    """A tenth of the training examples are copies of others."""
    place = np.arange(len(train[1]))
    copies = rng.permutation(len(place))[: len(place) // 10]
    place[copies] = rng.choice(np.setdiff1d(place, copies), len(copies))
    return tuple(a[place] for a in train), validation


def unbalanced(rng, train, validation):
    """Of the eights and nines one in twenty is left; so that shapes stay, copies of others take their place."""
    images, labels = train
    lost = np.flatnonzero((labels >= 8) & (rng.random(len(labels)) < 0.95))
    place = np.arange(len(labels))
    place[lost] = rng.choice(np.flatnonzero(labels < 8), len(lost))
    # moved by less than a grey level, so that they are no copies
    noise = np.where(np.isin(np.arange(len(labels)), lost)[:, None, None, None], rng.uniform(0, 0.05, images.shape), 0)
    return (images[place] + noise.astype(np.float32), labels[place]), validation


def few(rng, train, validation):
    return tuple(a[:40] for a in train), validation


class Setup(NamedTuple):
    breaks: str
    found: str  # the check that is for it
    follows: tuple[str, ...] = ()  # what may be flagged as well
    objective: Any = network()
    rate: float = 1e-3  # of Adam
    data: Any = healthy  # rng, train, validation -> train, validation


TRAINING = ("learning rate", "loss curve", "update ratio", "dead units", "validation gap")
SETUPS = {
    "healthy": Setup("nothing", ""),
    "rate too low": Setup("Adam at 1e-6", "learning rate", ("loss curve", "update ratio"), rate=1e-6),
    "rate too high": Setup("Adam at 1", "learning rate", TRAINING, rate=1.0),
    "zero weights": Setup(
        "all weights begin at zero",
        "gradients by layer",
        ("tiny set", *TRAINING),
        network(w_init=jnn.initializers.zeros, head=jnn.initializers.zeros),
    ),
    "small weights": Setup(
        "six layers, standard deviation 0.02",
        "loss curve",
        ("gradients by layer", "tiny set", *TRAINING),
        network((64,) * 6, w_init=jnn.initializers.normal(0.02)),
    ),
    "raw pixels": Setup(
        "inputs in [0, 255]", "inputs", ("loss at init", "gradients by layer", *TRAINING), data=pixels
    ),
    "mixed examples": Setup(
        "a reshape for a transpose", "separate examples", ("tiny set", *TRAINING), network(front=mixed)
    ),
    "wrong labels": Setup("a fifth of the labels wrong", "labels", ("loss curve", "validation gap"), data=mislabelled),
    "dead relus": Setup(
        "biases begin at -3",
        "dead units",
        ("tiny set", "gradients by layer", *TRAINING),
        network(b_init=jnn.initializers.constant(-3.0)),
    ),
    "leaked examples": Setup("a quarter of the validation set is trained on", "shared examples", data=leaked),
    "repeated examples": Setup("a tenth of the training set are copies", "duplicates", data=repeated),
    "unbalanced": Setup("of two classes one in twenty is left", "class balance", ("validation gap",), data=unbalanced),
    "few examples": Setup("40 examples to train on", "validation gap", data=few),
    "heavy penalty": Setup(
        "l2 of strength 1", "penalty", ("loss curve", "learning rate", "update ratio", "dead units"),
        network(penalty=jnn.regularizers.l2(1.0)),
    ),
}  # fmt: skip

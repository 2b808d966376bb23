import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from experiments import fashion, transfer

pytestmark = pytest.mark.slow


def test_the_source_is_learned_and_more_examples_help(quick):
    results = quick("transfer", ["transfer"])
    assert min(results["source_accuracy"]) > 50
    mean = {way: np.mean(values, axis=0) for way, values in results["test_accuracy"].items()}
    assert all(values[-1] > 40 for values in mean.values())
    assert all(set(rates) <= set(transfer.RATES) for rates in results["learning_rates"].values())


def body_of(pictures):
    return jnn.tree.select(transfer.NETWORK.init(jax.random.key(1), pictures)[0], transfer.BODY)


def target():
    pictures = jnp.asarray(np.random.default_rng(0).integers(0, 256, (5, 4, 28, 28, 1)), jnp.uint8)
    return fashion.in_turn(pictures)


def test_classes_are_taken_in_turn():
    pictures, labels = fashion.in_turn(jnp.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(pictures, [0, 3, 1, 4, 2, 5])
    np.testing.assert_array_equal(labels, [0, 1, 0, 1, 0, 1])


def test_by_class_sorts():
    images, labels = np.arange(20), np.tile(np.arange(10), 2)
    np.testing.assert_array_equal(fashion.by_class(images, labels), np.stack([np.arange(10), np.arange(10, 20)], axis=1))


def tuned(way, body, data, steps):
    learned, frozen = transfer.WAYS[way]
    numbers = {"size": 10, "rate": 1e-3, "key": jax.random.key(2), "target": data, "steps": steps}
    return jnn.tree.flatten(transfer.tuned(body, learned=learned, frozen=frozen, **numbers))


def test_what_is_frozen_stays_and_what_is_not_learned_starts_anew():
    data = target()
    body = body_of(data[0])
    start, far = tuned("scratch", body, data, 0), {}
    for way in transfer.WAYS:
        found = tuned(way, body, data, 2)
        assert 0 < jnp.max(jnp.abs(found["vgg/head/w"] - start["vgg/head/w"])) < 0.01  # the same head to begin with
        for name, began in (("learned", jnn.tree.flatten(body)), ("new", start)):
            far[way, name] = max(float(jnp.max(jnp.abs(found[path] - began[path]))) for path in jnn.tree.flatten(body))
    assert far["frozen", "learned"] == far["random", "new"] == 0
    assert 0 < far["fine-tuned", "learned"] < 0.01 < far["scratch", "learned"]
    assert 0 < far["scratch", "new"] < 0.01 < far["frozen", "new"]


def test_examples_beyond_the_size_are_never_seen():
    pictures, labels = target()
    body = body_of(pictures)
    one, other = (tuned("frozen", body, (pictures.at[10:].set(value), labels), 3)["vgg/head/w"] for value in (0, 255))
    np.testing.assert_array_equal(one, other)


def test_the_rate_is_chosen_by_validation_for_each_size():
    draw = np.random.default_rng(0)
    scores = {"validation": draw.uniform(size=(6, 3, 4)), "test": draw.uniform(size=(6, 3, 4))}
    scores["validation"][:, [0, 1, 2], [3, 0, 1]] += 2
    test, rates = transfer.chosen(scores, transfer.RATES)
    np.testing.assert_array_equal(test, np.stack([scores["test"][:, i, j] for i, j in ((0, 3), (1, 0), (2, 1))], axis=1))
    assert rates == [transfer.RATES[i] for i in (3, 0, 1)]

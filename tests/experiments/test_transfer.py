import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from experiments import transfer

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
    return transfer.mixed(pictures)


def test_mixed_takes_the_classes_in_turn():
    pictures, labels = transfer.mixed(jnp.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(pictures, [0, 3, 1, 4, 2, 5])
    np.testing.assert_array_equal(labels, [0, 1, 0, 1, 0, 1])


def test_by_class_sorts():
    images, labels = np.arange(20), np.tile(np.arange(10), 2)
    np.testing.assert_array_equal(transfer.by_class(images, labels), np.stack([np.arange(10), np.arange(10, 20)], axis=1))


def test_frozen_moves_the_head_alone_and_scratch_forgets_the_body():
    data = target()
    body = body_of(data[0])
    tuned = {way: transfer.tuned(way, body, 10, 1e-3, jax.random.key(2), data, 2) for way in transfer.WAYS}
    start = transfer.tuned("frozen", body, 10, 1e-3, jax.random.key(2), data, 0)
    far = {
        way: max(float(jnp.max(jnp.abs(found[path] - w))) for path, w in jnn.tree.flatten(body).items())
        for way, found in ((way, jnn.tree.flatten(params)) for way, params in tuned.items())
    }
    assert far["frozen"] == 0 < far["fine-tuned"] < 0.01 < far["scratch"]
    for found in tuned.values():  # the same head to begin with
        moved = jnp.max(jnp.abs(found["vgg"]["head"]["w"] - start["vgg"]["head"]["w"]))
        assert 0 < moved < 0.01


def test_examples_beyond_the_size_are_never_seen():
    pictures, labels = target()
    body = body_of(pictures)
    one, other = (
        transfer.tuned("frozen", body, 10, 1e-3, jax.random.key(2), (pictures.at[10:].set(value), labels), 3)["vgg"]["head"][
            "w"
        ]
        for value in (0, 255)
    )
    np.testing.assert_array_equal(one, other)


def test_the_rate_is_chosen_by_validation_for_each_size():
    draw = np.random.default_rng(0)
    scores = {"validation": draw.uniform(size=(6, 3, 4)), "test": draw.uniform(size=(6, 3, 4))}
    scores["validation"][:, [0, 1, 2], [3, 0, 1]] += 2
    test, rates = transfer.chosen(scores, transfer.RATES)
    np.testing.assert_array_equal(test, np.stack([scores["test"][:, i, j] for i, j in ((0, 3), (1, 0), (2, 1))], axis=1))
    assert rates == [transfer.RATES[i] for i in (3, 0, 1)]

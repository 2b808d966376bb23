import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from experiments import fashion, feature_maps, image_classification

pytestmark = pytest.mark.slow


def test_the_cnn_learns_and_is_looked_into(quick):
    results = quick("image_classification", ["confusion", "mistakes", "filters", "saliency", "curves"])
    found = results["cnn"]
    assert found["test_accuracy"][0] > 40
    confusion = np.array(results["confusion"])
    np.testing.assert_allclose(100 * np.trace(confusion) / confusion.sum(), found["test_accuracy"][0], rtol=1e-5)
    assert found["chosen"] == max(found["validation_accuracy"], key=lambda kind: np.mean(found["validation_accuracy"][kind]))
    for blocks in results["features"].values():
        assert all(0 < block["correlation"] < 1 and 0 < block["zeros"] < 1 and block["variance"] > 0 for block in blocks)


@pytest.mark.parametrize("name", image_classification.NETWORKS)
def test_each_network_gives_ten_scores_of_pixels_and_is_small(name):
    model = image_classification.NETWORKS[name]
    pixels = jax.ShapeDtypeStruct((3, 28, 28, 1), jnp.uint8)
    params, state = jax.eval_shape(model.init, jax.random.key(0), pixels)
    logits, _ = jax.eval_shape(
        lambda p, s, x, key: model.apply(p, s, x, key=key, train=True), params, state, pixels, jax.random.key(0)
    )
    assert (logits.shape, logits.dtype) == ((3, 10), jnp.float32)
    assert 30_000 < sum(leaf.size for leaf in jax.tree.leaves(params)) < 200_000


def test_character_of_maps_is_that_of_its_definition():
    draw = np.random.default_rng(0)
    maps = np.maximum(draw.normal(size=(4, 5, 5, 3)), 0)
    maps[..., 2] = 2 * maps[..., 1]
    maps = np.concatenate([maps, np.zeros((4, 5, 5, 1))], axis=-1)  # a dead channel
    flat = maps.reshape(-1, 4)
    a, b = flat[:, 0], flat[:, 1]
    r = np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std())
    found = feature_maps.character(maps)
    np.testing.assert_allclose(found["correlation"], (2 * abs(r) + 1) / 3)
    np.testing.assert_allclose(found["variance"], flat.var(0).mean())
    np.testing.assert_allclose(found["zeros"], np.mean(flat == 0))


def test_saliency_is_how_the_score_changes_with_a_pixel():
    model = fashion.cnn()
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1)).astype(np.float32)
    params, state = model.init(jax.random.key(0), images)
    found = feature_maps.saliency((params, state), images, np.array([3, 7]))
    assert found.shape == (2, 28, 28)
    row, column = np.unravel_index(np.argmax(found[1]), (28, 28))
    moved = np.stack([images[1], images[1]])
    moved[:, row, column, 0] += [-0.5, 0.5]
    low, high = model.apply(params, state, moved)[0][:, 7]
    np.testing.assert_allclose(found[1, row, column], abs(high - low), rtol=0.02)


def test_the_first_blocks_are_those_of_the_network():
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1)).astype(np.uint8)
    params, state = fashion.cnn().init(jax.random.key(0), images)
    maps = feature_maps.after((params, state), images, 3)
    head, _ = jnn.dense(10).apply(params["head"], {}, jnp.mean(maps, axis=(1, 2)))
    np.testing.assert_allclose(head, fashion.cnn().apply(params, state, images)[0], rtol=1e-4, atol=1e-5)


def test_an_amount_of_zero_augments_nothing():
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1)).astype(np.uint8)
    plain, changed = (
        image_classification.augmentation(amount)(jax.random.key(0), jnp.asarray(images)) for amount in (0.0, 1.0)
    )
    np.testing.assert_array_equal(plain, images)
    assert np.all(np.any(np.asarray(changed) != images, axis=(1, 2, 3)))

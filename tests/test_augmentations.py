import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import jnn
from jnn import augmentations

# name -> an augmentation of its amount, which at 0 is the identity
FAMILY = {
    "flip": augmentations.flip,
    "flip, vertical": lambda share: augmentations.flip(share, vertical=True),
    "crop": lambda amount: augmentations.crop(4 * amount),
    "zoom": augmentations.zoom,
    "brightness": augmentations.brightness,
    "contrast": augmentations.contrast,
    "noise": lambda amount: augmentations.noise(20 * amount),
    "chain": lambda amount: augmentations.chain(augmentations.flip(amount), augmentations.crop(4 * amount)),
}
family = pytest.mark.parametrize("make", FAMILY.values(), ids=FAMILY)


def pictures(*leading, dtype=np.float32, size=(6, 5, 2)):
    return jnp.asarray(np.random.default_rng(0).integers(60, 180, (*leading, *size)), dtype)


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@family
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.uint8], ids=lambda d: d.__name__)
def test_shape_and_dtype_are_kept_and_nothing_is_the_identity(make, dtype, key):
    images = pictures(3, 2, dtype=dtype)
    changed = make(0.5)(key, images)
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert np.any(np.asarray(changed, np.float32) != np.asarray(images, np.float32))
    same(make(0.0)(key, images), images)


@family
def test_amounts_are_traced_and_runs_are_mapped(make, key):
    images, amounts = pictures(4), jnp.array([0.0, 0.5])
    mapped = jax.jit(jax.vmap(lambda amount: make(amount)(key, images)))(amounts)
    for amount, row in zip(amounts, mapped, strict=True):
        np.testing.assert_allclose(row, make(float(amount))(key, images), rtol=1e-5, atol=1e-4)


@family
def test_each_picture_has_its_own_draw(make, key):
    images = jnp.tile(pictures(), (40, 1, 1, 1))
    changed = np.asarray(make(0.5)(key, images))
    assert np.any(changed != changed[:1], axis=(1, 2, 3)).sum() > 5
    same(changed, make(0.5)(key, images))
    assert np.any(changed != np.asarray(make(0.5)(jax.random.key(1), images)))


@family
def test_gradients_by_pixels_and_amounts_are_numbers(make, key):
    by_pixels, by_amount = jax.grad(lambda x, a: jnp.sum(make(a)(key, x) ** 2), argnums=(0, 1))(pictures(4), 0.3)
    assert np.all(np.isfinite(by_pixels)) and np.isfinite(by_amount)
    assert np.any(by_pixels != 0)


@pytest.mark.parametrize(("vertical", "axis"), [(False, 2), (True, 1)])
def test_flip_mirrors_a_share(vertical, axis, key):
    images = pictures(400)
    flipped = np.asarray(augmentations.flip(0.25, vertical=vertical)(key, images))
    mirrored = np.flip(images, axis)
    is_mirrored = np.all(flipped == mirrored, axis=(1, 2, 3))
    same(flipped[~is_mirrored], images[~is_mirrored])
    assert abs(is_mirrored.mean() - 0.25) < 0.09  # four standard deviations
    same(augmentations.flip(1.0, vertical=vertical)(key, images), mirrored)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_crop_is_a_window_of_the_padded_picture(dtype, key):
    images, places = pictures(500, dtype=dtype), []
    for image, cropped in zip(np.asarray(images), np.asarray(augmentations.crop(1, fill=7)(key, images)), strict=True):
        padded = np.pad(image, [(1, 1), (1, 1), (0, 0)], constant_values=7)
        windows = {(i, j): padded[i : i + 6, j : j + 5] for i in range(3) for j in range(3)}
        places += [place for place, window in windows.items() if np.array_equal(window, cropped)]
    assert len(places) == 500
    counts = np.unique(places, axis=0, return_counts=True)[1]
    assert len(counts) == 9 and np.all(abs(counts / 500 - 1 / 9) < 0.06)


def test_a_crop_beyond_the_picture_leaves_the_filling(key):
    cropped = np.asarray(augmentations.crop(100, fill=3.0)(key, pictures(200)))
    assert np.any(np.all(cropped == 3.0, axis=(1, 2, 3)))


@pytest.mark.parametrize("shape", [(9, 8, 1), (7, 12, 3)], ids=str)
def test_zoom_is_scipys_about_the_centre(shape, key):
    images = pictures(30, size=shape)
    zoomed = np.asarray(augmentations.zoom(0.5, fill=20.0)(key, images))
    power = np.asarray(jax.random.uniform(key, (30, 1, 1, 1), jnp.float32, -1.0, 1.0)).ravel()
    factors = 1.5**power
    assert factors.min() < 0.75 and factors.max() > 1.35
    centre = (np.array(shape) - 1) / 2
    for image, found, factor in zip(np.asarray(images), zoomed, factors, strict=True):
        matrix = np.array([1 / factor, 1 / factor, 1])
        expected = ndimage.affine_transform(image, matrix, centre - matrix * centre, order=1, mode="grid-constant", cval=20.0)
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_brightness_and_contrast_change_mean_and_spread_by_the_factor(key):
    images = pictures(300)
    axes = (1, 2, 3)
    brighter, harder = augmentations.brightness(0.3)(key, images), augmentations.contrast(0.3)(key, images)
    factor = np.mean(brighter, axes) / np.mean(images, axes)
    np.testing.assert_allclose(brighter, factor[:, None, None, None] * images, rtol=1e-5)
    np.testing.assert_allclose(np.mean(harder, axes), np.mean(images, axes), rtol=1e-5)
    np.testing.assert_allclose(np.std(harder, axes), factor * np.std(images, axes), rtol=1e-4)  # the same key
    assert factor.min() > 0.7 - 1e-6 and factor.max() < 1.3 + 1e-6
    assert abs(factor.mean() - 1) < 0.04 and abs(factor.std() - 0.3 / np.sqrt(3)) < 0.02


def test_integers_are_rounded_and_cut_off_at_the_ends_of_their_range(key):
    images = jnp.tile(jnp.array([0, 100, 250, 255], jnp.uint8).reshape(2, 2, 1), (50, 1, 1, 1))
    exact = np.asarray(augmentations.brightness(0.9)(key, images.astype(jnp.float32)))
    assert exact.max() > 300
    same(augmentations.brightness(0.9)(key, images), np.clip(np.round(exact), 0, 255))


def test_noise_has_its_deviation(key):
    images = pictures(300)
    change = np.asarray(augmentations.noise(2.0)(key, images) - images)
    assert abs(change.mean()) < 0.06 and abs(change.std() - 2.0) < 0.04


def test_a_chain_is_one_after_the_other_with_keys_of_their_own(key):
    parts = [augmentations.crop(2), augmentations.brightness(0.2), augmentations.crop(2)]
    expected = pictures(20)
    for part, part_key in zip(parts, jax.random.split(key, 3), strict=True):
        expected = part(part_key, expected)
    same(augmentations.chain(*parts)(key, pictures(20)), expected)
    same(augmentations.chain()(key, pictures(20)), pictures(20))


def test_training_sees_augmented_pictures_and_evaluation_does_not(key):
    shown = lambda prediction, target: prediction
    model = jnn.serial(lambda x: jnp.mean(x.astype(jnp.float32), axis=(-3, -2, -1)))
    objective = jnn.supervised(model, shown, augment=augmentations.brightness(1.0))
    batch = pictures(1, dtype=np.uint8), jnp.zeros(1)
    quiet, _ = objective.loss({}, {}, batch)
    loud, _ = objective.loss({}, {}, batch, key=key, train=True)
    np.testing.assert_allclose(quiet, np.mean(batch[0]), rtol=1e-6)
    assert abs(loud / quiet - 1) > 0.01


def test_bad_amounts_and_shapes_are_refused(key, raises):
    with raises(ValueError, "flip: share is the probability of being mirrored and lies in [0, 1], got 2"):
        augmentations.flip(2)
    with raises(ValueError, "brightness: amount is the largest change of the factor and lies in [0, 1], got -0.1"):
        augmentations.brightness(-0.1)
    with raises(ValueError, "crop: padding is a number that is not negative, got -1"):
        augmentations.crop(-1)
    with raises(ValueError, "noise: deviation is a number that is not negative, got [1, 2]"):
        augmentations.noise([1, 2])
    for name, augmentation in {"zoom": augmentations.zoom(0.1), "crop": augmentations.crop(1)}.items():
        with raises(ValueError, f"{name}: expected images (..., height, width, channel), got (5, 5)"):
            augmentation(key, jnp.zeros((5, 5)))

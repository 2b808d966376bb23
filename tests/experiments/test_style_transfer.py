import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jnn
from experiments import commands, style_transfer, styles
from jnn.comparison.errors import InputError

pytestmark = pytest.mark.slow

NARROW = ((3, 2), (4, 3), (4, 2, 3, 4), (3, 2, 4, 3), (2, 3, 2, 4))  # VGG-19's depth
# where its convolutions stand in torchvision's `features`, each followed by its relu, each stage by a pooling
PLACES = ((0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28, 30, 32, 34))


def random_weights(path, rng):
    """A file as torchvision names and shapes them. -> {place: (weight, bias)}"""
    tensors, before = {"classifier.0.weight": np.zeros((5, 7), np.float32)}, 3
    for place, width in zip(sum(PLACES, ()), sum(NARROW, ()), strict=True):
        tensors[f"features.{place}.weight"] = rng.normal(size=(width, before, 3, 3)).astype(np.float32) / 3
        tensors[f"features.{place}.bias"] = rng.normal(size=width).astype(np.float32)
        before = width
    save_file(tensors, path)
    return tensors


def tiny_network(key):
    params, _ = jnn.models.vgg(10, stages=((4, 4), (6, 6)), hidden=()).init(key, jnp.ones((1, 8, 8, 3)))
    return styles.Network(jnn.tree.select(params, "stage_*"), jnp.float32(0.5), jnp.float32(0.3))


def test_the_cat_is_painted_and_the_quasi_newton_method_is_ahead(quick):
    results = quick("style_transfer", ["pictures", "losses"])
    quasi, adam = results["L-BFGS"], results["Adam"]
    assert np.mean(quasi["loss"]) < np.mean(adam["loss"])
    for found in (quasi, adam):
        assert np.all(np.array(found["style"]) < np.array(found["at_first"]["style"]) / 20)
        assert np.all(np.array(found["content"]) < 0.5)
    assert results["network_accuracy"] > 25  # in few steps; by chance 10


def test_features_with_torchvisions_weights_are_torchs(tmp_path):
    torch = pytest.importorskip("torch", reason="torch, whose outputs these are compared with, is not installed")
    tensors = random_weights(tmp_path / "vgg19.safetensors", np.random.default_rng(0))
    network = styles.load(str(tmp_path / "vgg19.safetensors"), NARROW)
    pixels = np.random.default_rng(1).uniform(size=(32, 32, 3)).astype(np.float32)
    found = styles.features(network, pixels)

    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.tensor(pixels) - mean) / deviation).permute(2, 0, 1)[None]
    for i, places in enumerate(PLACES, 1):
        for j, place in enumerate(places, 1):
            weight, bias = (torch.tensor(tensors[f"features.{place}.{kind}"]) for kind in ("weight", "bias"))
            x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, padding=1))
            np.testing.assert_allclose(found[f"{i}_{j}"], x[0].permute(1, 2, 0), rtol=1e-4, atol=1e-5)
        x = torch.nn.functional.avg_pool2d(x, 2)


def test_weights_that_do_not_fit_are_bad_input(tmp_path, capsys):
    save_file({"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"^--weights: .*features\.2\.bias"):
        styles.load(str(tmp_path / "other.safetensors"))
    assert commands.exit_code(lambda: styles.load(str(tmp_path / "none.safetensors"))) == 2
    assert "there is no file" in capsys.readouterr().err


def test_a_gram_matrix_is_the_mean_product_over_places(key):
    f = jax.random.normal(key, (3, 5, 2))
    flat = np.reshape(f, (15, 2))
    np.testing.assert_allclose(styles.gram(f), flat.T @ flat / 15, rtol=1e-5)


def test_a_picture_in_its_own_style_has_no_loss_but_its_variation(key):
    network, pixels = tiny_network(key), jax.random.uniform(key, (8, 8, 3))
    loss = styles.painting().loss
    own = network, pixels, styles.targets(network, pixels, pixels)
    value, aux = loss({"change": jnp.zeros((8, 8, 3))}, {}, own)
    down, right = np.diff(pixels, axis=0), np.diff(pixels, axis=1)
    np.testing.assert_allclose(value, styles.VARIATION * (np.mean(down**2) + np.mean(right**2)), rtol=1e-4)
    np.testing.assert_allclose([aux.metrics["content"], aux.metrics["style"]], 0, atol=1e-9)
    changed, aux = loss({"change": jnp.full((8, 8, 3), 0.1)}, {}, own)
    assert changed > value + 1e-3
    assert min(aux.metrics["content"], aux.metrics["style"]) > 0


def test_pictures_are_cut_to_their_middle_and_shrunk(tmp_path):
    from PIL import Image

    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = style_transfer.square(str(tmp_path / "wide.png"), 10)
    np.testing.assert_allclose(found, np.broadcast_to(np.array([200, 100, 50]) / 255, (10, 10, 3)), atol=1e-3)
    with pytest.raises(InputError, match=r"nothing\.png is no picture"):
        style_transfer.square(str(tmp_path / "nothing.png"), 10)

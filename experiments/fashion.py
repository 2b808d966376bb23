"""Fashion-MNIST as the scripts take it: the names of its classes, its parts, and networks of a size that suits its pictures."""

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from jnn.initializers import kaiming_normal

CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
VALIDATION = 6000


def parts():
    """-> train, validation, test: (images uint8 (n, 28, 28, 1), labels int32 (n,)) with 54,000, 6,000 and 10,000 examples."""
    (images, labels), test = jnn.data.fashion_mnist()
    return (images[VALIDATION:], labels[VALIDATION:]), (images[:VALIDATION], labels[:VALIDATION]), test


def by_class(images, labels) -> np.ndarray:
    """-> (10, n, 28, 28, 1): the pictures of each class, in their order."""
    return np.stack([images[labels == label] for label in range(10)])


def in_turn(pictures):
    """(classes, n, ...) -> pictures (classes * n, ...), labels: the classes in turn, so that any first part has all of them."""
    classes, n = pictures.shape[:2]
    labels = jnp.tile(jnp.arange(classes, dtype=jnp.int32), n)
    return jnp.swapaxes(pictures, 0, 1).reshape(classes * n, *pictures.shape[2:]), labels


def scaled(pixels):
    """0 to 255 -> float32 in [0, 1]. In the model, so that data stay a quarter as large."""
    return pixels.astype(jnp.float32) / 255


def vgg(classes=10):
    return jnn.serial(scaled, vgg=jnn.models.vgg(classes, stages=((16,), (32, 32), (64, 64)), hidden=()))


def cnn(classes=10):
    """Three convolutions with batch norm."""
    return jnn.serial(scaled, **cnn_blocks(3), **_top(classes))


def cnn_blocks(depth):
    """The first blocks of `cnn`, by name."""
    blocks = {"block_1": _block(32), "block_2": _block(64), "block_3": _block(128, pool=1)}
    return dict(list(blocks.items())[:depth])


def resnet(classes=10):
    """A stem and three residual blocks of two convolutions."""
    blocks = {"block_1": _residual_block(24, 1), "block_2": _residual_block(48, 2), "block_3": _residual_block(96, 2)}
    return jnn.serial(scaled, stem=_block(24), **blocks, **_top(classes))


def inception(classes=10):
    """A stem and two Inception modules."""
    block = jnn.models.inception_block
    blocks = {"mixed_1": block(16, 16, 32, 8, 8, 8), "pool_1": jnn.max_pool(2), "mixed_2": block(48, 32, 64, 8, 16, 16)}
    return jnn.serial(scaled, stem=_block(32), **blocks, **_top(classes))


def _top(classes):
    return {"pool": jnn.global_avg_pool(), "head": jnn.dense(classes)}


def _conv(features, window=3, stride=1):
    return jnn.conv(features, window, stride=stride, w_init=kaiming_normal(), b_init=None)


def _block(features, pool=2):
    """The pooling stands before what keeps the order of numbers, which then has a quarter of the work."""
    return jnn.serial(conv=_conv(features), pool=jnn.max_pool(pool), norm=jnn.batch_norm(), relu=jax.nn.relu)


def _residual_block(features, stride):
    layer = jnn.serial(
        conv_1=_conv(features, stride=stride),
        norm_1=jnn.batch_norm(),
        relu=jax.nn.relu,
        conv_2=_conv(features),
        norm_2=jnn.batch_norm(),
    )
    shortcut = jnn.serial(conv=_conv(features, 1, stride), norm=jnn.batch_norm())
    return jnn.serial(residual=jnn.residual(layer, shortcut), relu=jax.nn.relu)

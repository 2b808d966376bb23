"""Convolutional networks, in the form in which they are usually counted and compared."""

from collections.abc import Callable, Sequence

import jax

from jnn.combinators import branch, residual, serial
from jnn.initializers import kaiming_normal
from jnn.layers import avg_pool, batch_norm, conv, dense, dropout, flatten, global_avg_pool, max_pool
from jnn.numbers import whole, wholes
from jnn.types import Layer


def lenet(classes: int = 10, *, activation: Callable = jax.numpy.tanh) -> Layer:
    """(..., 28, 28, 1) -> (..., classes):  LeNet-5 (LeCun et al. 1998) with dense connections between all feature maps.

    The first convolution pads, so that 28 x 28 images count as the 32 x 32 of the paper; 61,706 parameters with 10 classes.
    """
    return serial(
        conv_1=conv(6, 5),
        activation_1=activation,
        pool_1=avg_pool(2),
        conv_2=conv(16, 5, padding="VALID"),
        activation_2=activation,
        pool_2=avg_pool(2),
        flatten=flatten(),
        dense_1=dense(120),
        activation_3=activation,
        dense_2=dense(84),
        activation_4=activation,
        head=dense(classes),
    )


VGG_19 = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512))


def vgg(
    classes: int = 1000, *, stages: Sequence[Sequence[int]] = VGG_19, hidden: Sequence[int] = (4096, 4096), rate=0.5
) -> Layer:
    """(..., height, width, 3) -> (..., classes):  VGG-19 (Simonyan & Zisserman 2015, configuration E).

    stages: the features of the 3 x 3 convolutions between two poolings; `stage_1` ... `stage_5`, each with
        `conv_1`, `conv_2`, ...
    hidden: the widths of the dense layers before the head; () for small images.
    rate: the share that dropout takes after each of them.
    143,667,240 parameters for 224 x 224 x 3 and 1,000 classes.
    """
    layers = {f"stage_{i}": _vgg_stage(features) for i, features in enumerate(stages, 1)}
    top = {}
    for i, width in enumerate(wholes("vgg", "hidden", hidden), 1):
        top |= {f"dense_{i}": _relu_dense(width), f"dropout_{i}": dropout(rate)}
    return serial(**layers, flatten=flatten(), **top, head=dense(classes))


def _vgg_stage(features):
    convolutions = {}
    for i, width in enumerate(wholes("vgg", "each of stages", features), 1):
        convolutions |= {f"conv_{i}": conv(width, 3, w_init=kaiming_normal()), f"relu_{i}": jax.nn.relu}
    return serial(**convolutions, pool=max_pool(2))


def _relu_dense(width):
    return serial(dense=dense(width, w_init=kaiming_normal()), relu=jax.nn.relu)


# blocks in each of the four stages, He et al. 2016, table 1
RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def resnet(depth: int = 18, classes: int = 1000, *, small: bool = False, axis_name: str | None = None) -> Layer:
    """(..., height, width, channels) -> (..., classes):  ResNet-18, -34 or -50 (He et al. 2016, table 1).

    Blocks of two 3 x 3 convolutions (18, 34), or bottlenecks 1 x 1, 3 x 3, 1 x 1 that halve the picture in the 3 x 3, as most
    implementations do.
    small: for pictures of about 32 x 32, a 3 x 3 stem of stride 1 and no pooling.
    axis_name: the mapped axis over which batch norm counts its examples together.
    With 1,000 classes 11,689,512, 21,797,672 and 25,557,032 parameters.
    """
    if depth not in RESNET_BLOCKS:
        raise ValueError(f"resnet: depth must be one of {', '.join(map(str, RESNET_BLOCKS))}, got {depth}")
    norm = lambda: batch_norm(axis_name=axis_name)
    stem = serial(conv=_conv(64, 3 if small else 7, 1 if small else 2), norm=norm(), relu=jax.nn.relu)
    pool = {} if small else {"pool": max_pool(3, stride=2, padding=((1, 1), (1, 1)))}
    stages, width_in = {}, 64
    for stage, blocks in enumerate(RESNET_BLOCKS[depth]):
        width, layers = 64 * 2**stage, {}
        for i in range(blocks):
            stride = 2 if stage > 0 and i == 0 else 1
            layers[f"block_{i}"], width_in = _residual_block(width_in, width, stride, depth >= 50, norm)
        stages[f"stage_{stage + 1}"] = serial(**layers)
    return serial(stem=stem, **pool, **stages, pool_all=global_avg_pool(), head=dense(classes))


def _residual_block(width_in, width, stride, bottleneck, norm):
    """-> the block and the number of features that it returns"""
    if bottleneck:
        width_out = 4 * width
        layer = serial(
            conv_1=_conv(width, 1),
            norm_1=norm(),
            relu_1=jax.nn.relu,
            conv_2=_conv(width, 3, stride),
            norm_2=norm(),
            relu_2=jax.nn.relu,
            conv_3=_conv(width_out, 1),
            norm_3=norm(),
        )
    else:
        width_out = width
        layer = serial(conv_1=_conv(width, 3, stride), norm_1=norm(), relu_1=jax.nn.relu, conv_2=_conv(width, 3), norm_2=norm())
    if stride == 1 and width_in == width_out:
        block = residual(layer)
    else:
        block = residual(layer, serial(conv=_conv(width_out, 1, stride), norm=norm()))
    return serial(residual=block, relu=jax.nn.relu), width_out


def _conv(features, window, stride=1):
    """Without bias, which the batch norm behind it has; padded alike on both sides, unlike "SAME" with a stride."""
    side = (window // 2, window // 2)
    return conv(features, window, stride=stride, padding=(side, side), w_init=kaiming_normal(), b_init=None)


def inception_block(ones: int, reduce_threes: int, threes: int, reduce_fives: int, fives: int, pooled: int) -> Layer:
    """(..., height, width, in) -> (..., height, width, ones + threes + fives + pooled):  an Inception module with dimension
    reductions (Szegedy et al. 2015, figure 2b; the arguments in the order of table 1)."""

    def relu_conv(features, window):
        return serial(conv=conv(features, window, w_init=kaiming_normal()), relu=jax.nn.relu)

    return branch(
        ones=relu_conv(ones, 1),
        threes=serial(reduce=relu_conv(reduce_threes, 1), conv=relu_conv(threes, 3)),
        fives=serial(reduce=relu_conv(reduce_fives, 1), conv=relu_conv(fives, 5)),
        pooled=serial(pool=max_pool(3, stride=1, padding="SAME"), conv=relu_conv(pooled, 1)),
        merge="concat",
    )


def temporal_convolution(
    features: Sequence[int], outputs: int, *, window: int = 3, activation: Callable = jax.nn.relu
) -> Layer:
    """(..., time, in) -> (..., time, outputs):  causal convolutions along time, the dilation doubled from one to the next.

    The output at a time depends on the inputs up to it: on the last 1 + (window - 1) * (2^len(features) - 1) of them.
    van den Oord et al. 2016, "WaveNet", without gates; Bai et al. 2018.
    """
    layers, window = {}, whole("temporal_convolution", "window", window)
    for i, width in enumerate(wholes("temporal_convolution", "features", features)):
        past = (window - 1) * 2**i
        layers[f"conv_{i}"] = conv(width, (window,), dilation=2**i, padding=((past, 0),), w_init=kaiming_normal())
        layers[f"activation_{i}"] = activation
    return serial(**layers, head=dense(outputs))

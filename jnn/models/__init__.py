"""Models: the standard networks of a first course, each a Layer like any other."""

from jnn.models.convolutional import inception_block, lenet, resnet, temporal_convolution, vgg
from jnn.models.feedforward import autoencoder, linear_classifier, mlp
from jnn.models.graphs import gat, gcn
from jnn.models.language import gpt, language_model

__all__ = [
    "autoencoder",
    "gat",
    "gcn",
    "gpt",
    "inception_block",
    "language_model",
    "lenet",
    "linear_classifier",
    "mlp",
    "resnet",
    "temporal_convolution",
    "vgg",
]

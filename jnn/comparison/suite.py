"""The tasks that jnn brings: real data in small networks, and problems whose every number is known.

The functions take the settings of a model and give the task in its quick size, for a CPU; FULL holds that of an accelerator."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jnn import data, losses, metrics, models
from jnn.combinators import residual, serial
from jnn.comparison.errors import CandidateError, InputError, did_you_mean
from jnn.comparison.imports import imported
from jnn.comparison.problems import noisy_quadratic, quadratic, rosenbrock
from jnn.comparison.tasks import Examples, Task
from jnn.initializers import kaiming_normal
from jnn.layers import avg_pool, batch_norm, conv, dense, dropout, flatten, global_avg_pool, graph_conv, on_nodes
from jnn.numbers import shown
from jnn.objectives import supervised
from jnn.trainings import take
from jnn.types import Layer, Objective


def digits_linear(label_noise: float = 0.0) -> Task:
    return _classification(
        "digits-linear",
        "softmax regression on scikit-learn's 8x8 digits: convex",
        serial(flatten(), dense(10)),
        lambda: Examples(data.digits()),
        label_noise,
        validation=300,
        test=300,
        steps=300,
        batch_size=32,
        floor=("accuracy", 0.95),
        make=digits_linear,
    )


def digits_mlp(width: int = 64, label_noise: float = 0.0) -> Task:
    return _classification(
        "digits-mlp",
        f"a network 64-{width}-10 with relu on scikit-learn's 8x8 digits",
        serial(flatten(), _relu_dense(width), dense(10)),
        lambda: Examples(data.digits()),
        label_noise,
        validation=300,
        test=300,
        steps=500,
        batch_size=32,
        floor=("accuracy", 0.97),
        make=digits_mlp,
    )


def digits_autoencoder(width: int = 32) -> Task:
    def load():
        images, _ = data.digits()
        return Examples((images, images.reshape(len(images), -1)))

    return Task(
        "digits-autoencoder",
        f"an autoencoder 64-{width}-8-{width}-64 with relu on scikit-learn's 8x8 digits, squared error of pixels in [0, 1]",
        supervised(
            serial(flatten(), _relu_dense(width), dense(8), _relu_dense(width), dense(64), jax.nn.sigmoid),
            losses.squared_error,
        ),
        load,
        validation=300,
        test=300,
        steps=400,
        batch_size=32,
        floor=("loss", 0.025),
        make=digits_autoencoder,
    )


def fashion_mlp(width: int = 64, label_noise: float = 0.0) -> Task:
    return _classification(
        "fashion-mlp",
        f"a network 784-{width}-10 with relu on Fashion-MNIST",
        serial(_grey, flatten(), _relu_dense(width), dense(10)),
        _fashion,
        label_noise,
        validation=1000,
        test=1000,
        steps=600,
        batch_size=32,
        floor=("accuracy", 0.82),
        points=10,
        make=fashion_mlp,
    )


def fashion_cnn(width: int = 8, label_noise: float = 0.0) -> Task:
    return _classification(
        "fashion-cnn",
        f"two 3x3 convolutions of stride 2 to {width} and {2 * width} features, and a dense layer, on Fashion-MNIST",
        serial(_grey, _relu_conv(width), _relu_conv(2 * width), flatten(), dense(10)),
        _fashion,
        label_noise,
        validation=500,
        test=1000,
        steps=200,
        batch_size=32,
        floor=("accuracy", 0.8),
        points=10,
        make=fashion_cnn,
    )


def fashion_resnet(width: int = 8, blocks: int = 1, label_noise: float = 0.0) -> Task:
    layers = {"stem": serial(conv=_norm_conv(width, 2), relu=jax.nn.relu, pool=avg_pool(2))}
    width_in = width
    for stage, features in enumerate((width, 2 * width), 1):
        for i in range(blocks):
            layers[f"block_{stage}_{i}"] = _residual_block(width_in, features)
            width_in = features
    return _classification(
        "fashion-resnet",
        f"a residual network with batch norm on Fashion-MNIST, {blocks} of {width} and {blocks} of {2 * width} features",
        serial(_grey, **layers, pool=global_avg_pool(), head=dense(10)),
        _fashion,
        label_noise,
        validation=500,
        test=1000,
        steps=200,
        batch_size=32,
        floor=("accuracy", 0.72),
        points=10,
        make=fashion_resnet,
    )


def fashion_autoencoder(width: int = 32, code: int = 8) -> Task:
    def error(prediction, images):
        return losses.squared_error(prediction, _grey(images).reshape(prediction.shape))

    objective = supervised(serial(_grey, flatten(), models.autoencoder(784, (width,), code), jax.nn.sigmoid), error)
    return Task(
        "fashion-autoencoder",
        f"an autoencoder 784-{width}-{code}-{width}-784 with relu on Fashion-MNIST, squared error of pixels in [0, 1]",
        _of(objective, lambda images: (images, images)),
        lambda: Examples(_fashion().pool[0]),
        validation=500,
        test=1000,
        steps=300,
        batch_size=32,
        floor=("loss", 0.04),
        points=10,
        make=fashion_autoencoder,
    )


def shakespeare_lstm(width: int = 32, length: int = 32) -> Task:
    return _language(
        "shakespeare-lstm",
        f"an LSTM of {width} features that reads {length} characters of tinyshakespeare and predicts the next",
        models.language_model(65, width=width // 2, features=width),
        length,
        steps=200,
        batch_size=8,
        floor=("loss", 2.35),
        make=shakespeare_lstm,
    )


def shakespeare_gpt(width: int = 32, length: int = 32, layers: int = 1, heads: int = 2) -> Task:
    return _language(
        "shakespeare-gpt",
        f"a transformer, {layers} x {width} wide, that reads {length} characters of tinyshakespeare and predicts the next",
        models.gpt(65, length, layers=layers, width=width, heads=heads),
        length,
        steps=400,
        batch_size=8,
        floor=("loss", 2.75),
        make=shakespeare_gpt,
    )


def cora_gcn(width: int = 16, label_noise: float = 0.0) -> Task:
    """Full-batch: 500 papers for validation, 1,000 for the test and the other 1,208 for training, as many as in FastGCN (Chen,
    Ma & Xiao 2018); each study draws which, as the standard split ranks methods by its luck (Shchur et al. 2018)."""
    network = serial(conv_1=graph_conv(width), relu=on_nodes(jax.nn.relu), dropout=on_nodes(dropout(0.5)), conv_2=graph_conv(7))

    def init(key, x):
        graph, _ = x
        return network.init(key, graph)

    def apply(params, state, x, *, key=None, train=False):
        graph, papers = x
        logits, state = network.apply(params, state, graph, key=key, train=train)
        return take(logits.nodes, papers), state

    def load():
        graph, labels, _ = data.cora()
        # rows that add up to 1, as in Kipf & Welling 2017
        nodes = graph.nodes / np.maximum(graph.nodes.sum(axis=1, keepdims=True), 1)
        papers = np.arange(len(labels), dtype=np.int32)
        return Examples((papers, labels), shared=graph._replace(nodes=nodes))

    task = _classification(
        "cora-gcn",
        f"a graph network with a hidden layer of {width} on the citations of Cora, full-batch",
        Layer(init, apply),
        load,
        label_noise,
        validation=500,
        test=1000,
        steps=100,
        floor=("accuracy", 0.84),
        points=5,
        make=cora_gcn,
    )

    def with_graph(batch):
        graph, (papers, *labels) = batch
        return ((graph, papers), *labels)

    return task._replace(objective=_of(task.objective, with_graph))


def sunspots_ar(width: int = 16, lags: int = 12) -> Task:
    """Years are drawn at random for validation and test, although their series overlap: right for a model of the past alone
    whose errors are uncorrelated (Bergmeir, Hyndman & Koo 2018)."""

    def load():
        _, numbers = data.sunspots()
        numbers = numbers / 100
        windows = np.lib.stride_tricks.sliding_window_view(numbers, lags + 1)
        return Examples((windows[:, :-1].copy(), windows[:, -1:].copy()))

    return Task(
        "sunspots-ar",
        f"next year's sunspots, in hundreds, from those of the last {lags} years by a network {lags}-{width}-1 with relu",
        supervised(models.mlp((width,), 1), losses.squared_error),
        load,
        validation=60,
        test=60,
        steps=300,
        batch_size=32,
        floor=("loss", 0.035),
        make=sunspots_ar,
    )


def _classification(name, about, model, load, label_noise, **settings) -> Task:
    """label_noise: this share of the labels is drawn anew from all classes, for training only (Zhang et al. 2017)."""
    objective = supervised(model, losses.softmax_cross_entropy, metrics={"accuracy": metrics.accuracy})
    if not isinstance(label_noise, int | float) or not 0 <= label_noise <= 1:
        raise ValueError(f"{name}: label_noise is a share and lies in [0, 1], got {label_noise}")
    if label_noise == 0:
        return Task(name, about, objective, load, **settings)

    def load_with_noise():
        examples = load()
        inputs, labels = examples.pool
        random = np.random.default_rng(0)  # the same for every study: the split differs
        anew = random.integers(0, labels.max() + 1, labels.shape, labels.dtype)
        noisy = np.where(random.random(labels.shape) < label_noise, anew, labels)
        return examples._replace(pool=(inputs, labels, noisy))

    def loss(params, state, batch, *, key=None, train=False):
        inputs, labels, noisy = batch
        return objective.loss(params, state, (inputs, noisy if train else labels), key=key, train=train)

    about = f"{about}, {100 * label_noise:g} % of the training labels random"
    return Task(name, about, Objective(objective.init, loss), load_with_noise, **settings)


def _language(name, about, model, length, **settings) -> Task:
    def load():
        tokens, _ = data.tiny_shakespeare()
        windows = tokens[: len(tokens) // (length + 1) * (length + 1)].reshape(-1, length + 1)
        return Examples((windows[:, :-1], windows[:, 1:]))

    objective = supervised(model, losses.softmax_cross_entropy, metrics={"accuracy": metrics.accuracy})
    return Task(name, about, objective, load, validation=100, test=500, points=10, **settings)


def _of(objective: Objective, rearranged) -> Objective:
    """The objective of batches in another form."""

    def loss(params, state, batch, **options):
        return objective.loss(params, state, rearranged(batch), **options)

    return Objective(lambda key, batch: objective.init(key, rearranged(batch)), loss)


def _fashion() -> Examples:
    """All 70,000, of which a study draws its own test part: that the official one is easy or hard is no part of a verdict."""
    (images, labels), (more_images, more_labels) = data.fashion_mnist()
    return Examples((np.concatenate([images, more_images]), np.concatenate([labels, more_labels])))


def _grey(images):
    """uint8 -> float32 in [0, 1]: the pictures stay bytes until a batch of them is used."""
    return images.astype(jnp.float32) / 255


def _relu_dense(features):
    return serial(dense=dense(features, w_init=kaiming_normal()), relu=jax.nn.relu)


def _relu_conv(features):
    return serial(conv=conv(features, 3, stride=2, w_init=kaiming_normal()), relu=jax.nn.relu)


def _norm_conv(features, stride):
    return serial(conv=conv(features, 3, stride=stride, w_init=kaiming_normal(), b_init=None), norm=batch_norm())


def _residual_block(width_in, width):
    """He et al. 2016, figure 3: where the width grows, the picture is halved and the shortcut a 1x1 convolution."""
    stride = 1 if width_in == width else 2
    layer = serial(first=_norm_conv(width, stride), relu=jax.nn.relu, second=_norm_conv(width, 1))
    if stride == 1:
        block = residual(layer)
    else:
        block = residual(layer, serial(conv=conv(width, 1, stride=stride, b_init=None), norm=batch_norm()))
    return serial(residual=block, relu=jax.nn.relu)


TASKS = {
    task.name: task
    for task in (
        digits_linear(),
        digits_mlp(),
        digits_autoencoder(),
        fashion_mlp(),
        fashion_cnn(),
        fashion_resnet(),
        fashion_autoencoder(),
        shakespeare_lstm(),
        shakespeare_gpt(),
        cora_gcn(),
        sunspots_ar(),
        rosenbrock(),
        quadratic(),
        noisy_quadratic(),
    )
}
DEFAULT_TASKS = ("digits-linear", "digits-mlp", "digits-autoencoder")
SUITE = (
    "fashion-mlp",
    "fashion-cnn",
    "fashion-resnet",
    "fashion-autoencoder",
    "shakespeare-lstm",
    "shakespeare-gpt",
    "cora-gcn",
    "sunspots-ar",
)
FULL = {
    "digits-linear": {"steps": 2000, "batch_size": 64},
    "digits-mlp": {"steps": 2000, "batch_size": 64, "width": 256},
    "digits-autoencoder": {"steps": 2000, "batch_size": 64, "width": 128},
    "fashion-mlp": {"steps": 3000, "batch_size": 128, "width": 256, "validation": 5000, "test": 10000},
    "fashion-cnn": {"steps": 2000, "batch_size": 128, "width": 32, "validation": 5000, "test": 10000},
    "fashion-resnet": {"steps": 1000, "batch_size": 128, "width": 16, "blocks": 2, "validation": 5000, "test": 10000},
    "fashion-autoencoder": {"steps": 3000, "batch_size": 128, "width": 256, "code": 32, "validation": 5000, "test": 10000},
    "shakespeare-lstm": {"steps": 1000, "batch_size": 32, "width": 128, "length": 64, "validation": 500, "test": 1000},
    "shakespeare-gpt": {
        "steps": 1000,
        "batch_size": 32,
        "width": 64,
        "layers": 2,
        "heads": 4,
        "length": 64,
        "validation": 500,
        "test": 1000,
    },
    "cora-gcn": {"steps": 300, "width": 64},
    "sunspots-ar": {"steps": 2000, "width": 64},
    "rosenbrock": {"steps": 10000, "dimensions": 100},
    "quadratic": {"steps": 5000, "dimensions": 256},
    "noisy-quadratic": {"steps": 5000, "dimensions": 10000},
}


def find_task(task: "str | Task", size: str = "quick") -> Task:
    """A task by name, `package.module:name` or `path/to/file.py:name`, of a Task or of a function that returns one; or the
    task itself.

    size: "quick" or "full"; a function of your own is told it where it takes `size`.
    Raises InputError for what is not there, CandidateError where the user's code raises."""
    if not isinstance(size, str) or size not in ("quick", "full"):
        raise InputError(f"a size is 'quick' or 'full', got {shown(size)}")
    if isinstance(task, Task):
        return task
    if not isinstance(task, str):
        raise InputError(f"a task is a name or a jnn.comparison.tasks.Task, got {shown(task)}")
    if task in TASKS:
        return TASKS[task] if size == "quick" else TASKS[task].vary(**FULL[task])
    if ":" not in task:
        raise InputError(
            f"there is no task {task!r}{did_you_mean(task, TASKS)}; there are {', '.join(TASKS)}, "
            "and path/to/file.py:NAME and package.module:NAME are taken too"
        )
    found = imported(task, "task", lambda value: isinstance(value, Task) or inspect.isfunction(value))
    return found if isinstance(found, Task) else _made(task, found, size)


def _made(spec, make, size) -> Task:
    sized = "size" in inspect.signature(make).parameters
    try:
        task = make(size=size) if sized else make()
    except (Exception, SystemExit) as error:
        raise CandidateError(f"{spec} raises {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise InputError(f"{spec} returned {type(task).__name__}, not a jnn.comparison.tasks.Task")
    return task if task.make is not None else task._replace(make=partial(make, size=size) if sized else make)

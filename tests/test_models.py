"""Every model is a row of CASES. Counts of parameters are the published ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn import models

from layer_properties import filled


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def images(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def tokens(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def ring(nodes=6, features=5):
    senders = jnp.arange(nodes)
    return jnn.Graph(jnp.ones((nodes, features)), senders, (senders + 1) % nodes)


class Case(NamedTuple):
    name: str
    make: Callable[[], jnn.Layer]
    x: Any  # shapes
    parameters: int  # the published count, or that of the formula beside it
    y: tuple[int, ...]


CASES = [
    Case("linear_classifier", lambda: models.linear_classifier(10), images(5, 784), 7850, (5, 10)),
    Case("mlp", lambda: models.mlp((300, 100), 10), images(2, 784), 784 * 300 + 300 + 300 * 100 + 100 + 1010, (2, 10)),
    Case("mlp with dropout", lambda: models.mlp((8,), 3, rate=0.5), images(4), 4 * 8 + 8 + 8 * 3 + 3, (3,)),
    Case(
        "autoencoder",
        lambda: models.autoencoder(784, (128,), 32),
        images(2, 784),
        2 * 784 * 128 + 128 + 784 + 2 * 128 * 32 + 32 + 128,
        (2, 784),
    ),
    Case("lenet", lambda: models.lenet(), images(2, 28, 28, 1), 61_706, (2, 10)),
    Case("vgg-19", lambda: models.vgg(), images(1, 224, 224, 3), 143_667_240, (1, 1000)),
    Case(
        "vgg for small images",
        lambda: models.vgg(10, stages=((8,), (16, 16)), hidden=()),
        images(2, 8, 8, 3),
        (27 * 8 + 8) + (72 * 16 + 16) + (144 * 16 + 16) + (2 * 2 * 16 * 10 + 10),
        (2, 10),
    ),
    Case("resnet-18", lambda: models.resnet(18), images(2, 224, 224, 3), 11_689_512, (2, 1000)),
    Case("resnet-34", lambda: models.resnet(34), images(2, 224, 224, 3), 21_797_672, (2, 1000)),
    Case("resnet-50", lambda: models.resnet(50), images(2, 224, 224, 3), 25_557_032, (2, 1000)),
    # the usual ResNet-18 for CIFAR-10: a 3 x 3 stem
    Case("resnet-18, small", lambda: models.resnet(18, 10, small=True), images(2, 32, 32, 3), 11_173_962, (2, 10)),
    # inception (3a) of GoogLeNet
    Case(
        "inception_block",
        lambda: models.inception_block(64, 96, 128, 16, 32, 32),
        images(1, 28, 28, 192),
        163_696,
        (1, 28, 28, 256),
    ),
    Case(
        "temporal_convolution",
        lambda: models.temporal_convolution((8, 8), 1),
        images(3, 40, 2),
        (3 * 2 * 8 + 8) + (3 * 8 * 8 + 8) + 9,
        (3, 40, 1),
    ),
    Case(
        "language_model",
        lambda: models.language_model(65),
        tokens(2, 7),
        65 * 64 + (64 + 256 + 1) * 4 * 256 + 256 * 65 + 65,
        (2, 7, 65),
    ),
    Case(
        "language_model of two gru with dropout",
        lambda: models.language_model(65, cell=jnn.gru, width=8, features=16, layers=2, rate=0.1),
        tokens(2, 7),
        65 * 8 + (8 + 16 + 1) * 48 + (16 + 16 + 1) * 48 + 16 * 65 + 65,
        (2, 7, 65),
    ),
    Case(
        "gpt-2 124M",
        lambda: models.gpt(50257, 1024, layers=12, width=768, heads=12),
        tokens(1, 1024),
        124_439_808,
        (1, 1024, 50257),
    ),
    Case(
        "gpt-2 1558M",
        lambda: models.gpt(50257, 1024, layers=48, width=1600, heads=25),
        tokens(1, 1024),
        1_557_611_200,
        (1, 1024, 50257),
    ),
    Case("gcn", lambda: models.gcn(16, 7), ring(6, 1433), 1433 * 16 + 16 + 16 * 7 + 7, (6, 7)),
    # per layer w, b and the two halves of the attention vector of each head
    Case("gat", lambda: models.gat(8, 7), ring(6, 1433), (1433 * 64 + 3 * 64) + (64 * 7 + 3 * 7), (6, 7)),
]

every_model = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
SMALL = [case for case in CASES if case.parameters < 400_000]


@every_model
def test_parameters_are_as_many_as_published_and_outputs_of_the_right_shape(case, key):
    model = case.make()
    params, state = jax.eval_shape(model.init, key, case.x)
    assert count(params) == case.parameters
    y, _ = jax.eval_shape(lambda p, s, x, k: model.apply(p, s, x, key=k, train=True), params, state, case.x, key)
    assert (y.shape, y.dtype) == (case.y, jnp.float32)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_a_step_of_sgd_reaches_every_parameter_and_lowers_the_loss(case, key):
    model = case.make()
    rng = np.random.default_rng(0)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(leaf) if isinstance(leaf, jax.Array) else jnp.asarray(rng.integers(0, 60, leaf.shape), jnp.int32)
        return jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)

    x = jax.tree.map(draw, case.x)
    target = draw(images(*case.y))

    @jax.jit
    def step(key, x, target):
        params, state = model.init(key, x)

        def loss(params):
            return jnp.mean(jnn.losses.squared_error(model.apply(params, state, x, key=key, train=True)[0], target))

        before, grads = jax.value_and_grad(loss)(params)
        return before, grads, loss(jax.tree.map(lambda p, g: p - 1e-4 * g, params, grads))

    before, grads, after = step(key, x, target)
    for path, grad in jnn.tree.flatten(grads).items():
        assert np.any(grad != 0), path
    assert after < before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.mlp(300, 10), "mlp: hidden must be a sequence of whole numbers, as (300,) is, got 300"),
        (
            lambda: models.autoencoder(9, 8, 2),
            "autoencoder: hidden must be a sequence of whole numbers, as (8,) is, got 8",
        ),
        (lambda: models.vgg(10, hidden=64), "vgg: hidden must be a sequence of whole numbers, as (64,) is, got 64"),
        (
            lambda: models.vgg(10, stages=(8, 16)),
            "vgg: each of stages must be a sequence of whole numbers, as (8,) is, got 8",
        ),
        (
            lambda: models.temporal_convolution(8, 1),
            "temporal_convolution: features must be a sequence of whole numbers, as (8,) is, got 8",
        ),
        (
            lambda: models.temporal_convolution((8,), 1, window=(3,)),
            "temporal_convolution: window must be a whole number, got (3,)",
        ),
        (lambda: models.gpt(9, 8, layers=0, width=8, heads=2), "gpt: layers must be at least 1, got 0"),
        (lambda: models.language_model(9, layers=1.5), "language_model: layers must be a whole number, got 1.5"),
        (
            lambda: models.language_model(9, cell=jnn.lstm(8)),
            "language_model: cell must be a factory, as jnn.lstm is, got Layer(lstm)",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(make, message, raises):
    with raises((TypeError, ValueError), message):
        make()


def test_an_autoencoder_reads_its_widths_once(key):
    once, _ = jax.eval_shape(models.autoencoder(9, (width for width in (8, 4)), 2).init, key, images(9))
    assert once.keys() == {"encoder", "decoder"}
    assert [layer["w"].shape for layer in once["decoder"].values()] == [(2, 4), (4, 8), (8, 9)]


@pytest.mark.parametrize("rotary", [False, True])
def test_gpt_refuses_more_tokens_than_its_length(rotary, key, raises):
    model = models.gpt(11, 4, layers=1, width=8, heads=2, rotary=rotary)
    with raises(ValueError, "gpt: expected at most 4 tokens, got 5 in (2, 5)"):
        jax.eval_shape(model.init, key, tokens(2, 5))


def test_resnet_says_which_depths_there_are(raises):
    with raises(ValueError, "resnet: depth must be one of 18, 34, 50, got 20"):
        models.resnet(20)


def linen_basic_block(p, s, x, stride):
    """He et al. 2016, figure 5 left, by flax."""

    def conv(w, x, stride=1):
        side = w.shape[0] // 2
        layer = nn.Conv(w.shape[-1], w.shape[:2], stride, padding=[(side, side)] * 2, use_bias=False)
        return layer.apply({"params": {"kernel": w}}, x)

    def norm(p, s, x):
        return nn.BatchNorm(use_running_average=True, epsilon=1e-5).apply({"params": p, "batch_stats": s}, x)

    layer, state = p["residual"]["layer"], s["residual"]["layer"]
    y = nn.relu(norm(layer["norm_1"], state["norm_1"], conv(layer["conv_1"]["w"], x, stride)))
    y = norm(layer["norm_2"], state["norm_2"], conv(layer["conv_2"]["w"], y))
    if "shortcut" in p["residual"]:
        shortcut, state = p["residual"]["shortcut"], s["residual"]["shortcut"]
        x = norm(shortcut["norm"], state["norm"], conv(shortcut["conv"]["w"], x, stride))
    return nn.relu(x + y)


def test_resnet_equals_one_written_in_flax(key):
    model = models.resnet(18, 10)
    x = jax.random.normal(key, (1, 64, 64, 3))
    params, state = jax.eval_shape(model.init, key, x)
    params = jax.tree.map(lambda p: p / np.sqrt(p.size / p.shape[-1]), filled(params))
    state = filled(state, seed=2, positive=True)

    def twin(params, state, x):
        stem, s = params["stem"], state["stem"]
        conv = nn.Conv(64, (7, 7), 2, padding=[(3, 3)] * 2, use_bias=False)
        x = conv.apply({"params": {"kernel": stem["conv"]["w"]}}, x)
        norm = nn.BatchNorm(use_running_average=True, epsilon=1e-5)
        x = nn.relu(norm.apply({"params": stem["norm"], "batch_stats": s["norm"]}, x))
        x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for stage in range(1, 5):
            for i in range(2):
                path = f"stage_{stage}", f"block_{i}"
                p, s = params[path[0]][path[1]], state[path[0]][path[1]]
                x = linen_basic_block(p, s, x, 2 if stage > 1 and i == 0 else 1)
        return x.mean((1, 2)) @ params["head"]["w"] + params["head"]["b"]

    y = jax.jit(model.apply)(params, state, x)[0]
    expected = jax.jit(twin)(params, state, x)
    assert np.all(np.isfinite(expected))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5 * float(jnp.max(jnp.abs(expected))))


def linen_gpt(params, tokens, heads):
    """GPT-2 by flax, from our parameters."""
    table, width = params["embed"]["table"], params["embed"]["table"].shape[1]
    x = table[tokens] + params["positions"]["table"][: tokens.shape[-1]]
    mask = nn.make_causal_mask(tokens)
    for i in range(params["repeat"]["attend"]["layer"]["norm"]["scale"].shape[0]):
        p = jax.tree.map(lambda a, i=i: a[i], params["repeat"])
        attend, think = p["attend"]["layer"], p["think"]["layer"]
        a = attend["attention"]
        head = width // heads
        inward = {
            long: {"kernel": a[short]["w"].reshape(width, heads, head), "bias": a[short]["b"].reshape(heads, head)}
            for short, long in (("q", "query"), ("k", "key"), ("v", "value"))
        }
        outward = {"out": {"kernel": a["out"]["w"].reshape(heads, head, width), "bias": a["out"]["b"]}}
        y = nn.LayerNorm(epsilon=1e-5).apply({"params": attend["norm"]}, x)
        x = x + nn.MultiHeadDotProductAttention(heads).apply({"params": inward | outward}, y, mask=mask)
        y = nn.LayerNorm(epsilon=1e-5).apply({"params": think["norm"]}, x)
        y = nn.gelu(y @ think["up"]["w"] + think["up"]["b"])
        x = x + y @ think["down"]["w"] + think["down"]["b"]
    return nn.LayerNorm(epsilon=1e-5).apply({"params": params["norm"]}, x) @ table.T


def test_gpt_equals_one_written_in_flax_and_decodes_as_the_full_pass(key):
    model = models.gpt(11, 8, layers=3, width=16, heads=4)
    x = jax.random.randint(key, (2, 8), 0, 11)
    params = filled(jax.eval_shape(model.init, key, x)[0])
    expected = jax.jit(linen_gpt, static_argnums=2)(params, x, 4)
    y = jax.jit(model.apply)(params, {}, x)[0]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)

    decoder = models.gpt(11, 8, layers=3, width=16, heads=4, cache=True)
    same, state = decoder.init(key, x)
    assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, params)
    step = jax.jit(decoder.apply)
    ys = []
    for t in range(8):
        logits, state = step(params, state, x[:, t : t + 1])
        ys.append(logits)
    np.testing.assert_allclose(jnp.concatenate(ys, 1), expected, rtol=1e-4, atol=1e-4)
    assert np.all(np.isnan(step(params, state, x[:, :1])[0]))


def test_gpt_with_rotary_positions_and_grouped_heads_decodes_as_the_full_pass(key):
    options = {"layers": 2, "width": 16, "heads": 4, "kv_heads": 2, "rotary": True}
    model, decoder = (models.gpt(11, 6, **options, cache=cache) for cache in (False, True))
    x = jax.random.randint(key, (3, 6), 0, 11)
    params, state = jax.jit(decoder.init)(key, x)
    expected = jax.jit(model.apply)(params, {}, x)[0]
    step = jax.jit(decoder.apply)
    first, state = step(params, state, x[:, :4])
    rest, state = step(params, state, x[:, 4:])
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), expected, rtol=1e-5, atol=1e-5)


def depends_on(f, x):
    """(outputs, inputs): whether the output at each time depends on the input at each time"""
    return np.any(jax.jacobian(f)(x) != 0, axis=(1, 3))


def test_temporal_convolution_sees_the_past_only_and_as_far_as_it_says(key):
    model = models.temporal_convolution((4, 4, 4), 1, activation=jax.nn.tanh)
    x = jax.random.normal(key, (20, 2))
    params, state = model.init(key, x)
    reach = 1 + (3 - 1) * (2**3 - 1)
    time = np.arange(20)
    expected = (time[:, None] >= time) & (time[:, None] - time < reach)
    np.testing.assert_array_equal(depends_on(lambda x: model.apply(params, state, x)[0], x), expected)


def test_a_vgg_learns_the_digits(key):
    pictures, labels = jnn.data.digits()
    model = models.vgg(10, stages=((8,), (16,)), hidden=())
    objective = jnn.supervised(model, jnn.losses.softmax_cross_entropy, metrics={"accuracy": jnn.metrics.accuracy})
    fitted = jnn.fit(
        jnn.training(objective, jnn.optim.adam(1e-2)),
        (pictures[:1000], labels[:1000]),
        key=key,
        steps=150,
        batch_size=32,
        eval_data=(pictures[1000:], labels[1000:]),
    )
    assert fitted.history["eval"]["accuracy"][-1] > 0.9

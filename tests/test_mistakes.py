"""What users get wrong, and the sentence that they read: where it was, what was expected, and what came."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jnn

KEY = jax.random.key(0)
X = jnp.ones((32, 64))
IMAGES = jnp.ones((4, 8, 8, 3))
SEQUENCES = jnp.ones((2, 5, 6))
GRAPH = jnn.Graph(jnp.ones((3, 4)), jnp.array([0, 1]), jnp.array([1, 2]))


def init(*layers, x=X, key=KEY, **named):
    return jnn.serial(*layers, **named).init(key, x)


def apply(*layers, x=X, wrong=None, key=None, train=False, params=None, **extra):
    """A model made for x is given `wrong` instead, under jit, or other parameters."""
    model = jnn.serial(*layers)
    made, state = model.init(KEY, x)
    run = jax.jit(lambda p, s, x, k, extra: model.apply(p, s, x, key=k, train=train, **extra))
    return run(made if params is None else params, state, x if wrong is None else wrong, key, extra)


def nested(*layers):
    return jnn.dense(64), jnn.serial(jax.nn.relu, inner=jnn.serial(*layers))


def never_calls(net, x):
    return net.encoder(x)


def calls_in_a_scan(net, x):
    return jax.lax.scan(lambda carry, x_t: (carry, net.drop(x_t)), None, x)[1]


def misspells(net, x):
    return net.encodr(x)


class Mistake(NamedTuple):
    name: str
    make: Callable
    message: str
    error: type[Exception] = ValueError


MISTAKES = [
    # shapes and dtypes of what flows through a model
    Mistake(
        "wrong width",
        lambda: apply(jnn.dense(3), wrong=jnp.ones((32, 10))),
        "dense_0: expected 64 features in the last axis, got (32, 10)",
    ),
    Mistake(
        "wrong width, nested",
        lambda: jnn.serial(jnp.abs, *nested(jnn.dense(3))[1:]).apply(
            {"serial_1": init(*nested(jnn.dense(3)))[0]["serial_1"]}, {}, jnp.ones((32, 5))
        ),
        "serial_1/inner/dense_0: expected 64 features in the last axis, got (32, 5)",
    ),
    Mistake(
        "integers into a dense layer",
        lambda: init(jnn.dense(3), x=jnp.ones((2, 4), jnp.int32)),
        "dense_0: expected floating-point input (..., in), got int32 (2, 4)",
    ),
    Mistake(
        "another dtype than the parameters'",
        lambda: apply(jnn.dense(3), wrong=X.astype(jnp.bfloat16)),
        "dense_0: expected float32 input, as the parameters are, got bfloat16: cast one of them",
    ),
    Mistake(
        "vectors into a convolution",
        lambda: init(jnn.conv(8, 3)),
        "conv_0: expected an array (..., height, width, channel), got float32 (32, 64)",
    ),
    Mistake(
        "bytes into a convolution",
        lambda: init(jnn.conv(8, 3), x=IMAGES.astype(jnp.uint8)),
        "conv_0: expected floating-point input (..., height, width, channel), got uint8 (4, 8, 8, 3): "
        "cast it, as in x.astype(jnp.float32)",
    ),
    Mistake(
        "other channels",
        lambda: apply(jnn.conv(8, 3), x=IMAGES, wrong=IMAGES[..., :1]),
        "conv_0: expected 3 features in the last axis, got (4, 8, 8, 1)",
    ),
    Mistake(
        "an image smaller than the window",
        lambda: init(jnn.conv(8, 9, padding="VALID"), x=IMAGES),
        "conv_0: expected at least 9 x 9 in height and width, got (4, 8, 8, 3)",
    ),
    Mistake(
        "groups that do not divide the channels",
        lambda: init(jnn.conv(8, 3, groups=2), x=IMAGES),
        "conv_0: 2 groups do not divide the 3 channels of (4, 8, 8, 3)",
    ),
    Mistake(
        "groups that do not divide the features",
        lambda: jnn.conv(7, 3, groups=2),
        "conv: 2 groups do not divide 7 features",
    ),
    Mistake(
        "too few axes to flatten",
        lambda: init(jnn.flatten()),
        "flatten_0: expected an array of at least 3 axes, got float32 (32, 64)",
    ),
    Mistake(
        "an embedding of numbers that are no tokens",
        lambda: init(jnn.embed(10, 4)),
        "embed_0: expected integers (...), got float32 (32, 64)",
    ),
    Mistake(
        "a sequence without a time axis",
        lambda: init(jnn.lstm(4), x=jnp.ones(3)),
        "lstm_0: expected floating-point input (..., time, in), got float32 (3,)",
    ),
    Mistake(
        "lengths of another shape",
        lambda: apply(jnn.gru(4), x=SEQUENCES, lengths=jnp.array([1, 2, 3])),
        "gru_0: expected lengths as integers (2,), got int32 (3,)",
    ),
    Mistake(
        "an initial state of another width",
        lambda: apply(jnn.rnn(4), x=SEQUENCES, initial=jnp.ones((2, 3))),
        "rnn_0: expected initial float32 (2, 4), got float32 (2, 3)",
    ),
    Mistake(
        "heads that do not divide the width",
        lambda: init(jnn.attention(4), x=SEQUENCES),
        "attention_0: 4 heads do not divide 6 features",
    ),
    Mistake(
        "a sequence longer than the positions",
        lambda: apply(jnn.learned_positions(4), x=SEQUENCES),
        "learned_positions_0: expected at most 4 steps, got 5 in (2, 5, 6)",
    ),
    Mistake(
        "an argument that no layer takes",
        lambda: apply(jnn.dense(3), lengths=jnp.array([1])),
        "serial: no layer inside takes the argument lengths; none of them takes any",
    ),
    # randomness and state
    Mistake(
        "dropout without a key",
        lambda: apply(*nested(jnn.dropout(0.5)), train=True),
        "serial_1/inner/dropout_0: needs a key when train=True",
    ),
    Mistake("init without a key", lambda: init(jnn.dense(3), key=None), "dense_0: init needs a key"),
    Mistake(
        "batch norm trained on a single example",
        lambda: apply(jnn.batch_norm(), x=X[:1], train=True),
        "batch_norm_0: cannot be trained on a single value for each channel, got (1, 64): a variance needs two; "
        "give more examples, or axis_name= where they lie along the axis of a vmap or of devices",
    ),
    Mistake(
        "batch norm without its state",
        lambda: jnn.serial(jnn.batch_norm()).apply(init(jnn.batch_norm())[0], {}, X),
        "batch_norm_0: expected state mean and var, got none",
    ),
    Mistake(
        "a rate that is a share in percent",
        lambda: jnn.dropout(50),
        "dropout: rate is the share dropped and lies in [0, 1], got 50",
    ),
    # what stands among the layers
    Mistake(
        "a factory not called",
        lambda: jnn.serial(jnn.dense(3), jnn.layer_norm),
        "layer_norm is a factory that returns a Layer: call it, as in layer_norm(...)",
        TypeError,
    ),
    Mistake(
        "a linen module",
        lambda: jnn.serial(nn.Dense(3)),
        "Dense is a module that holds its own parameters: wrap it, as in jnn.interop.linen(module)",
        TypeError,
    ),
    Mistake(
        "an NNX module",
        lambda: jnn.serial(nnx.Linear(3, 4, rngs=nnx.Rngs(0))),
        "Linear is a module that holds its own parameters: wrap what makes it, as in "
        "jnn.interop.nnx(lambda rngs: Linear(..., rngs=rngs))",
        TypeError,
    ),
    Mistake(
        "an equinox module",
        lambda: jnn.serial(eqx.nn.Linear(3, 4, key=KEY)),
        "Linear is a module that holds its own parameters: wrap what makes it, as in "
        "jnn.interop.equinox(lambda key: Linear(..., key=key))",
        TypeError,
    ),
    Mistake(
        "a class",
        lambda: jnn.serial(hk.Linear),
        "Linear is a class, not a layer: give a Layer or a function of one array",
        TypeError,
    ),
    Mistake(
        "a list of layers",
        lambda: jnn.serial([jnn.dense(3), jax.nn.relu]),
        "expected a Layer or a function of one array, got list of 2: write serial(*layers)",
        TypeError,
    ),
    Mistake(
        "a name instead of a function",
        lambda: jnn.serial("relu"),
        "expected a Layer or a function of one array, got str 'relu'",
        TypeError,
    ),
    Mistake(
        "features that are no whole number",
        lambda: jnn.dense(2.5),
        "dense: features must be a whole number, got 2.5",
        TypeError,
    ),
    Mistake(
        "features that no array could have",
        lambda: jnn.dense(10**5000),
        "dense: features must be at most 2147483647, got a int of too many digits",
        ValueError,
    ),
    Mistake(
        "an initializer by name",
        lambda: jnn.dense(3, w_init="lecun_normal"),
        "dense: w_init must be a function (key, shape, dtype) -> array, got 'lecun_normal'",
        TypeError,
    ),
    Mistake(
        "an eps for each feature",
        lambda: jnn.layer_norm(eps=(1e-5, 1e-6)),
        "layer_norm: eps must be one finite number, 0 or more, got (1e-05, 1e-06)",
        ValueError,
    ),
    Mistake(
        "statistics over more axes than any array has",
        lambda: init(jnn.group_norm(1, axes=2**31 - 1)),
        "group_norm_0: expected floating-point input of at least 2147483648 axes, got float32 (32, 64)",
    ),
    Mistake(
        "heads of nothing",
        lambda: init(jnn.attention(1), x=jnp.ones((2, 5, 0))),
        "attention_0: 1 heads do not divide 0 features",
    ),
    # parameters
    Mistake(
        "parameters of another model",
        lambda: apply(jnn.dense(3), params={"dense_7": {}}),
        "serial: parameters for dense_7, but its children are dense_0",
    ),
    Mistake(
        "parameters missing",
        lambda: apply(jnn.dense(3), params={}),
        "dense_0: expected parameters w and b, got none",
    ),
    Mistake(
        "parameters of another library",
        lambda: apply(jnn.dense(3), params={"dense_0": {"kernel": jnp.ones((64, 3)), "bias": jnp.ones(3)}}),
        "dense_0: expected parameters w and b, got ['bias', 'kernel']",
    ),
    Mistake(
        "params and state in one",
        lambda: jnn.serial(jnn.dense(3)).apply(init(jnn.dense(3)), {}, X),
        "serial: expected a dict of parameters, got tuple",
    ),
    Mistake(
        "a pattern that takes nothing",
        lambda: jnn.tree.select(init(encoder=jnn.dense(3))[0], "encodr"),
        "tree: no path contains 'encodr'; did you mean encoder?",
    ),
    # layers made of layers
    Mistake(
        "a child of compose never called",
        lambda: jnn.compose(never_calls, encoder=jnn.dense(3), head=jnn.dense(2)).init(KEY, X),
        "compose: the child head was never called by forward while init ran it",
    ),
    Mistake(
        "a child of compose misspelt",
        lambda: jnn.compose(misspells, encoder=jnn.dense(3)).init(KEY, X),
        "compose: no child is called encodr; did you mean encoder?",
        AttributeError,
    ),
    Mistake(
        "dropout inside a scan of compose",
        lambda: apply(jnn.compose(calls_in_a_scan, drop=jnn.dropout(0.5)), key=KEY, train=True),
        "compose_0/drop: is random, and would draw the same inside a scan, a vmap or another transformation within forward at "
        "every turn: call it outside, or use repeat",
    ),
    Mistake(
        "a residual of another width",
        lambda: init(jnn.residual(jnn.dense(3)), jnn.dense(2)),
        "residual_0: cannot add: layer gives float32 (32, 3), shortcut float32 (32, 64): give a shortcut to (32, 3), "
        "as in residual(layer, dense(3))",
    ),
    Mistake(
        "a repeated layer that changes the width",
        lambda: init(jnn.repeat(jnn.dense(3), 2), jnn.dense(2)),
        "repeat_0: expected an output like the input, float32 (32, 64), got float32 (32, 3)",
    ),
    Mistake(
        "one input for two parallel layers",
        lambda: init(jnn.parallel(jnn.dense(3), jnn.dense(3))),
        "parallel_0: expected a tuple of 2 inputs, one for each layer, got float32 (32, 64)",
    ),
    Mistake(
        "branches that do not fit",
        lambda: init(jnn.branch(jnn.dense(3), jnn.dense(4), merge="sum"), jnn.dense(2)),
        'branch_0: expected outputs of one dtype and shape for merge="sum", '
        "got dense_0 float32 (32, 3), dense_1 float32 (32, 4)",
    ),
    # graphs
    Mistake(
        "an array instead of a graph",
        lambda: init(jnn.graph_conv(3)),
        "graph_conv_0: expected a Graph(nodes, senders, receivers), got float32 (32, 64)",
    ),
    Mistake(
        "a graph into a dense layer",
        lambda: init(jnn.dense(3), x=GRAPH),
        "dense_0: expected an array (..., in), got a Graph: on_nodes(layer) applies a layer to its nodes",
    ),
    Mistake(
        "an edge to a node that there is not",
        lambda: init(jnn.graph_conv(3), x=GRAPH._replace(receivers=jnp.array([1, 3]))),
        "graph_conv_0: expected receivers in [0, 3), as there are 3 nodes, got 3 at edge 1",
    ),
    Mistake(
        "as many senders as receivers",
        lambda: init(jnn.graph_conv(3), x=GRAPH._replace(receivers=jnp.array([1]))),
        "graph_conv_0: expected as many senders as receivers, got 2 and 1",
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_answered_with_its_place_and_both_numbers(mistake, raises):
    with raises(mistake.error, mistake.message):
        mistake.make()


def test_there_are_no_two_alike():
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 30

"""A network with every layer of jnn that has a derivative, and how far its gradients are from differences, array by array."""

import re

import jax
import jax.numpy as jnp
import numpy as np

import jnn

AHEAD = ("pictures/", "maxout/")  # the paths of what lies ahead of `function` in `network`


def network(function=jnp.tanh, compute=jnp.float32):
    """A Layer: (batch, 8, 8, 1) pictures -> (batch, 3), through every layer and combinator. function: in the midst of it.
    compute: the dtype of its lstm."""
    pictures = jnn.serial(
        *(jnn.conv(4, 3), jnn.batch_norm(), jnn.prelu(), jnn.max_pool(2)),
        *(jnn.conv_transpose(6, 3, stride=2), jnn.group_norm(2), jnn.activations.gelu, jnn.avg_pool(2)),
        jnn.residual(jnn.serial(jnn.conv(6, 3, groups=3, dilation=2), jnn.dropout(0.2))),
    )
    series = jnn.serial(
        *(jnn.sinusoidal_positions(), jnn.learned_positions(16), jnn.bidirectional(jnn.rnn(4)), jnn.jordan(6, 4)),
        *(jnn.precision(jnn.lstm(6), compute), jnn.stateful(jnn.gru(6, reset_after=True, return_state=True))),
        *(jnn.remat(jnn.dense(8)), jnn.attention(4, kv_heads=2, causal=True, rotary=True)),
        *(jnn.layer_norm(), jnn.repeat(jnn.serial(jnn.dense(8), jnp.tanh), 2), jnn.rms_norm()),
    )
    graphs = jnn.serial(jnn.graph_conv(6), jnn.graph_attention(3, 2), jnn.on_nodes(jnn.dense(6)), jnn.pool_nodes())

    def forward(net, x):
        maps = net.pictures(x)
        places = maps.reshape(*maps.shape[:-3], -1, maps.shape[-1])
        time = jnp.arange(places.shape[-2])
        steps = net.series(places + net.embed(time % 5))
        ring = net.graphs(jnn.Graph(steps[0], time, jnp.roll(time, 1)))  # of the first picture
        return net.head((net.flatten(function(net.maxout(net.pooled(maps)))[..., None, None]), ring))

    return jnn.compose(
        forward,
        pictures=pictures,
        embed=jnn.embed(5, 6),
        series=series,
        graphs=graphs,
        pooled=jnn.branch(jnn.global_avg_pool(), jnn.global_max_pool(), merge="sum"),
        maxout=jnn.stochastic_depth(jnn.maxout(6, 3), 0.1),
        flatten=jnn.flatten(),
        head=jnn.serial(jnn.parallel(jnn.dense(3), jnn.dense(3)), jnp.add),
    )


@jax.custom_jvp
def off(x, factor):
    """tanh(x), whose derivative comes out `factor` times too large."""
    return jnp.tanh(x)


@off.defjvp
def _(primals, tangents):
    y = jnp.tanh(primals[0])
    return y, primals[1] * (1 - y * y) * tangents[0]


def by_array(factors, seed: int, h: float = 1e-5) -> tuple[list[dict[str, float]], dict[str, float]]:
    """For each of `factors` of the derivative in the midst, path -> |analytic - centred| / |analytic| along a random direction
    within that array; and path -> |analytic| there, as a share of the largest."""
    rng = np.random.default_rng(seed)
    x, key = rng.normal(size=(4, 8, 8, 1)), jax.random.key(seed)
    shapes, state = jax.eval_shape(network().init, key, jax.ShapeDtypeStruct(x.shape, jnp.float32))
    params = jax.tree.map(lambda a: 0.5 * rng.normal(size=a.shape), shapes)  # biases of zero would hide a sign
    state = jax.tree.map(lambda a: np.ones(a.shape), state)
    towards, places = rng.normal(size=(4, 3)), range(len(jax.tree.leaves(params)))
    flat, structure = jax.tree.flatten(params)
    directions = [rng.normal(size=a.shape) for a in flat]

    def value(flat, factor):
        layer = network(lambda z: off(z, factor), jnp.float64)
        return jnp.sum(towards * layer.apply(structure.unflatten(flat), state, jnp.asarray(x), key=key, train=True)[0])

    def moved(where):
        array, step = where
        return value([a + jnp.where(array == i, step, 0.0) * directions[i] for i, a in enumerate(flat)], 1.0)

    with jax.enable_x64(True):
        where = np.tile(places, 2), np.repeat([h, -h], len(flat))
        ahead, behind = jax.jit(lambda *where: jax.lax.map(moved, where))(*where).reshape(2, -1)
        slope = jax.jit(jax.grad(value))
        exact = [[float(jnp.vdot(g, d)) for g, d in zip(slope(flat, np.float64(f)), directions, strict=True)] for f in factors]
    numerical = np.asarray(ahead - behind) / (2 * h)
    errors = np.abs(np.array(exact) - numerical) / np.maximum(np.abs(exact), 1e-3 * np.max(np.abs(exact)))
    share = np.abs(exact[0]) / np.max(np.abs(exact[0]))
    *by_factor, shares = (dict(zip(jnn.tree.flatten(shapes), of.tolist(), strict=True)) for of in (*errors, share))
    return by_factor, shares


def by_layer(errors: dict[str, float]) -> dict[str, float]:
    """The largest error of the arrays of each layer; attention and bidirectional, made of several, are one each."""
    found: dict[str, float] = {}
    for path, error in errors.items():
        whole = re.match(r".*(attention|bidirectional)_\d+", path)
        layer = whole[0] if whole else path.rpartition("/")[0]
        found[layer] = max(found.get(layer, 0.0), error)
    return found

"""Is backpropagation right, and how well can a difference tell?

python -m experiments.gradient_check [--quick] [--seed 0] [--out runs/gradient_check]

One network with every layer of jnn that has a derivative, in float64: the gradient of each parameter array along a random
direction against the centred difference; then again with one function in its midst whose derivative is one percent off.
The error of forward and centred differences against the step h, of the loss of a tanh network on digits along a random
direction, in float32 and float64. Truncation, h |f''| / 2 and h^2 |f'''| / 6, from derivatives, meets rounding, eps |f| / h,
at the step where the sum is least (Press et al. 2007, section 5.7). Last, examples that are worked by hand in courses (the
first three in Li, Karpathy & Johnson's CS231n, 2016, lecture 4), by `jnn.check_gradients` and against their closed forms.

Expected: every array within 1e-7; slopes of 1, 2 and -1 to 0.04; centred differences are best near a step of 2e-6 in float64
and 1e-3 in float32. Two and a half minutes on one core, --quick 20 s.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.findings import Interval, picture, record, stage

STEPS = np.logspace(-1, -15, 57)


def every_layer(function=jnp.tanh):
    """A Layer: (batch, 8, 8, 1) pictures -> (batch, 3), through every layer and combinator. function: in the midst of it."""
    pictures = jnn.serial(
        *(jnn.conv(4, 3), jnn.batch_norm(), jnn.prelu(), jnn.max_pool(2)),
        *(jnn.conv_transpose(6, 3, stride=2), jnn.group_norm(2), jnn.activations.gelu, jnn.avg_pool(2)),
        jnn.residual(jnn.serial(jnn.conv(6, 3, groups=3, dilation=2), jnn.dropout(0.2))),
    )
    series = jnn.serial(
        *(jnn.sinusoidal_positions(), jnn.learned_positions(16), jnn.bidirectional(jnn.rnn(4)), jnn.jordan(6, 4)),
        *(jnn.lstm(6), jnn.gru(6, reset_after=True), jnn.dense(8), jnn.attention(4, kv_heads=2, causal=True, rotary=True)),
        *(jnn.layer_norm(), jnn.repeat(jnn.serial(jnn.dense(8), jnp.tanh), 2), jnn.rms_norm()),
    )
    graphs = jnn.serial(jnn.graph_conv(6), jnn.graph_attention(3, 2), jnn.on_nodes(jnn.dense(6)), jnn.pool_nodes())

    def forward(net, x):
        maps = net.pictures(x)
        places = maps.reshape(*maps.shape[:-3], -1, maps.shape[-1])
        time = jnp.arange(places.shape[-2])
        steps = net.series(places + net.embed(time % 5))
        ring = net.graphs(jnn.Graph(steps[0], time, jnp.roll(time, 1)))  # of the first picture
        return net.head(net.flatten(function(net.maxout(net.pooled(maps)))[..., None, None]) + ring)

    return jnn.compose(
        forward,
        pictures=pictures,
        embed=jnn.embed(5, 6),
        series=series,
        graphs=graphs,
        pooled=jnn.branch(jnn.global_avg_pool(), jnn.global_max_pool(), merge="sum"),
        maxout=jnn.stochastic_depth(jnn.maxout(6, 3), 0.1),
        flatten=jnn.flatten(),
        head=jnn.dense(3),
    )


@jax.custom_jvp
def off(x, factor):
    """tanh(x), whose derivative comes out `factor` times too large."""
    return jnp.tanh(x)


@off.defjvp
def _(primals, tangents):
    y = jnp.tanh(primals[0])
    return y, primals[1] * (1 - y * y) * tangents[0]


def by_array(factors, seed: int, h: float = 1e-5) -> list[dict[str, float]]:
    """For each of `factors` of the derivative in the midst, path -> |analytic - centred| / |analytic| along a random direction
    within that array."""
    rng = np.random.default_rng(seed)
    x, key = rng.normal(size=(4, 8, 8, 1)), jax.random.key(seed)
    shapes, state = jax.eval_shape(every_layer().init, key, jax.ShapeDtypeStruct(x.shape, jnp.float32))
    params = jax.tree.map(lambda a: 0.5 * rng.normal(size=a.shape), shapes)  # biases of zero would hide a sign
    state = jax.tree.map(lambda a: np.ones(a.shape), state)
    towards, places = rng.normal(size=(4, 3)), range(len(jax.tree.leaves(params)))
    flat, structure = jax.tree.flatten(params)
    directions = [rng.normal(size=a.shape) for a in flat]

    def value(flat, factor):
        layer = every_layer(lambda z: off(z, factor))
        return jnp.sum(towards * layer.apply(structure.unflatten(flat), state, jnp.asarray(x), key=key, train=True)[0])

    def moved(where):
        array, step = where
        return value([a + jnp.where(array == i, step, 0.0) * directions[i] for i, a in enumerate(flat)], 1.0)

    with jax.enable_x64(True):
        ahead, behind = jax.jit(lambda *where: jax.lax.map(moved, where))(
            np.tile(places, 2), np.repeat([h, -h], len(flat))
        ).reshape(2, -1)
        slope = jax.jit(jax.grad(value))
        exact = [[float(jnp.vdot(g, d)) for g, d in zip(slope(flat, np.float64(f)), directions, strict=True)] for f in factors]
    numerical = np.asarray(ahead - behind) / (2 * h)
    errors = np.abs(np.array(exact) - numerical) / np.maximum(np.abs(exact), 1e-3 * np.max(np.abs(exact)))
    return [dict(zip(jnn.tree.flatten(shapes), of.tolist(), strict=True)) for of in errors]


def differences(seeds: int, seed: int):
    """-> relative errors {dtype: (forward and centred, steps, seeds)}, and f, f', f'', f''' (seeds, 4), in float64."""
    images, labels = (part[:200] for part in jnn.data.digits())
    model = jnn.serial(jnn.flatten(), jnn.dense(32), jnp.tanh, jnn.dense(10))
    objective = jnn.supervised(model, jnn.losses.softmax_cross_entropy)

    def along(key, dtype):
        init_key, direction_key = jax.random.split(key)
        flat, restored = ravel_pytree(objective.init(init_key, (images, labels))[0])
        direction = jax.random.normal(direction_key, flat.shape, jnp.float32)
        cast = lambda a: jax.tree.map(lambda leaf: leaf.astype(dtype), restored(a))
        batch = jnp.asarray(images, dtype), labels
        return lambda t: objective.loss(jax.tree.map(lambda p, d: p + t * d, cast(flat), cast(direction)), {}, batch)[0]

    def derivatives(key):
        functions = [along(key, jnp.float64)]
        for _ in range(3):
            functions.append(jax.grad(functions[-1]))
        return jnp.stack([f(jnp.zeros([], jnp.float64)) for f in functions])

    def errors(dtype, exact):
        def both(h, key):
            f, h = along(key, dtype), h.astype(dtype)
            ahead, here, behind = f(h), f(jnp.zeros_like(h)), f(-h)
            return jnp.stack([(ahead - here) / h, (ahead - behind) / (2 * h)])

        found = np.asarray(
            jax.jit(lambda hs: jax.lax.map(lambda h: jax.vmap(lambda key: both(h, key))(keys), hs))(STEPS), float
        )
        return np.moveaxis(np.abs(found - exact[:, 1, None]) / np.abs(exact[:, 1, None]), 2, 0)

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), seeds)
        exact = np.asarray(jax.jit(jax.vmap(derivatives))(keys))
        return {dtype: errors(dtype, exact) for dtype in ("float32", "float64")}, exact


def predicted(exact, dtype, order: int):
    """The error of the difference of that order, (steps, seeds), and the step where it is least, (seeds,)."""
    f, slope, second, third = np.abs(exact).T
    truncation = second / 2 if order == 1 else third / 6
    rounding = np.finfo(dtype).eps / 2 * f  # half a unit in the last place
    h = STEPS[:, None]
    return (truncation * h**order + rounding / h) / slope, (rounding / truncation / order) ** (1 / (order + 1))


def exponent(errors, where) -> np.ndarray:
    """The slope of log error against log h over the steps `where`, (seeds,)."""
    return np.polyfit(np.log(STEPS[where]), np.log(np.maximum(errors[where], 1e-300)), 1)[0]


def worked():
    """name -> (function, arguments, its gradients by hand)"""
    w, x2 = np.array([2.0, -3, -3]), np.array([-1.0, -2])
    neuron = lambda w, x: jax.nn.sigmoid(w[0] * x[0] + w[1] * x[1] + w[2])
    s = 1 / (1 + np.exp(-(w[0] * x2[0] + w[1] * x2[1] + w[2])))
    W, x = np.array([[0.1, 0.5], [-0.3, 0.8]]), np.array([0.2, 0.4])
    V, t = np.array([[0.7, -0.2]]), np.array([0.5])
    a = np.tanh(W @ x)
    y = np.tanh(V @ a)
    back = (y - t) * (1 - y**2)
    deep = (V.T @ back) * (1 - a**2)
    return {
        "(x + y) z": (lambda x, y, z: (x + y) * z, (-2.0, 5.0, -4.0), (-4, -4, 3)),
        "sigmoid neuron": (neuron, (w, x2), (s * (1 - s) * np.array([*x2, 1]), s * (1 - s) * w[:2])),
        "|W x|²": (lambda W, x: jnp.sum((W @ x) ** 2), (W, x), (2 * np.outer(W @ x, x), 2 * W.T @ W @ x)),
        "two tanh layers": (
            lambda W, V, x: jnp.sum((jnp.tanh(V @ jnp.tanh(W @ x)) - t) ** 2) / 2,
            (W, V, x),
            (np.outer(deep, x), np.outer(back, a), W.T @ deep),
        ),
    }


def check_worked() -> dict[str, dict[str, float]]:
    """name -> the largest distance of `jax.grad` from the closed form, and the worst entry of `check_gradients`."""
    found = {}
    for name, (function, arguments, by_hand) in worked().items():
        worst = jnn.check_gradients(function, arguments).error
        with jax.enable_x64(True):
            grads = jax.grad(function, tuple(range(len(arguments))))(*map(jnp.asarray, arguments))
        gap = max(float(np.max(np.abs(np.asarray(g) - np.asarray(e)))) for g, e in zip(grads, by_hand, strict=True))
        found[name] = {"closed_form": gap, "check_gradients": worst}
    return found


def by_layer(errors: dict[str, float]) -> dict[str, float]:
    """The largest error of the arrays of each layer."""
    found: dict[str, float] = {}
    for path, error in errors.items():
        layer = path.rpartition("/")[0]
        found[layer] = max(found.get(layer, 0.0), error)
    return found


def draw(out, right, wrong, errors, exact):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 3.4))
        for axes, (dtype, orders) in zip(figure.subplots(1, 2, sharey=True), errors.items(), strict=True):
            for order, name, color in zip((1, 2), ("forward", "centred"), jnn.plots.COLORS, strict=False):
                jnn.plots.band(axes, STEPS, np.log10(np.maximum(orders[order - 1], 1e-16)).T, label=name, color=color)
                model = np.mean(np.log10(predicted(exact, dtype, order)[0]), axis=1)
                axes.plot(STEPS, model, "--", color=color, linewidth=1, label=f"{name}, predicted")
            axes.set(xscale="log", xlabel="step h", ylim=(-12, 3), title=f"Error of a difference in {dtype}")
        figure.axes[0].set_ylabel("log10 of the relative error")
        figure.axes[1].legend()
        picture(out, "steps", figure)
        figure = Figure(figsize=(8, 5.5))
        axes = figure.subplots()
        layers = by_layer(right)
        axes.plot(list(by_layer(wrong).values()), list(layers), "x", color=jnn.plots.COLORS[1], label="one derivative 1 % off")
        axes.plot(list(layers.values()), list(layers), "o", color=jnn.plots.COLORS[0], label="as it is")
        axes.axvline(1e-6, color="black", linewidth=1, linestyle=":")
        axes.set(
            xscale="log", xlabel="relative error of the worst array", title="Analytic against centred differences, by layer"
        )
        axes.tick_params(axis="y", labelsize=8)
        axes.legend(loc="upper right")
        picture(out, "layers", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "gradient_check", quick="3 seeds").parse_args(arguments)
    seeds, draws = (3, 1) if options.quick else (30, 5)
    with stage(f"a network of every layer, {draws} draws"):
        checked = [by_array([1.0, 1.01], options.seed + i) for i in range(draws)]
    right, wrong = ({path: max(of[i][path] for of in checked) for path in checked[0][i]} for i in (0, 1))
    found = {path for path, error in wrong.items() if error > 1e-6}
    with stage(f"{len(STEPS)} steps, 2 precisions, {seeds} seeds"):
        errors, exact = differences(seeds, options.seed)
    with stage("worked examples"):
        examples = check_worked()
    draw(options.out, right, wrong, errors, exact)

    slopes, best = {}, {}
    for order, name in enumerate(("forward", "centred"), 1):
        for dtype, of in errors.items():
            _, step = predicted(exact, dtype, order)
            mean = np.mean(np.log10(np.maximum(of[order - 1], 1e-16)), axis=1)
            best[f"{name} {dtype}"] = {
                "measured": float(STEPS[mean.argmin()]),
                "predicted": float(np.exp(np.mean(np.log(step)))),
            }
        middle = best[f"{name} float64"]["predicted"]
        windows = {"truncation": (10 * middle, 1e-2), "rounding": (1e-14, middle / 10)}
        for kind, (low, high) in windows.items():
            slopes[f"{name} {kind}"] = Interval.of(exponent(errors["float64"][order - 1], (low <= STEPS) & (high >= STEPS)))
    least = {name: f"{of['measured']:.0e} (predicted {of['predicted']:.0e})" for name, of in best.items()}
    finding = (
        f"In a network of {len(by_layer(right))} layers with parameters, all {len(right)} arrays agree with centred "
        f"differences to {max(right.values()):.0e}; with one derivative 1 % off, the {len(found)} arrays that it lies before "
        f"do not, by {np.median([wrong[path] for path in found]):.1%}. In float64 the error of forward differences goes as h "
        f"to the power of {slopes['forward truncation']:.2f} for large steps and {slopes['forward rounding']:.2f} for small "
        f"ones, that of centred ones {slopes['centred truncation']:.2f} and {slopes['centred rounding']:.2f} (mean and 95 % "
        f"interval over {seeds} seeds). The best step is, forward, {least['forward float32']} in float32 and "
        f"{least['forward float64']} in float64, centred, {least['centred float32']} and {least['centred float64']}. Worked "
        f"examples differ from their closed forms by at most {max(of['closed_form'] for of in examples.values()):.0e}."
    )
    results = {
        "errors": right,
        "errors_planted": wrong,
        "planted": sorted(found),
        "slopes": slopes,
        "best": best,
        "worked": examples,
    }
    return record(options, finding, results)


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

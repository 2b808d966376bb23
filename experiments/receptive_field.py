"""How far does a unit see, and what does a shift of the picture do to it?

python -m experiments.receptive_field [--quick] [--seed 0] [--out runs/receptive_field]

The receptive field is measured: the places of the input by which one unit of the output has a gradient, weights positive.
Stacks of L convolutions with window K against 1 + L (K - 1), and random stacks of convolutions and pooling against 1 + the sum
over layers of (window - 1) dilation times the strides before. A maximum hands its gradient to one place, so what it sees is the
union over many random inputs.
Within the field places do not count alike (Luo et al. 2016): the squared gradient of random linear stacks is spread as the sum
of L uniform steps, with standard deviation sqrt(L (K^2 - 1) / 12), so that what counts is a share that falls as 1 / sqrt(L).
Shifted by s pixels, Fashion-MNIST pictures go through a random convolution: does its output shift along (equivariance), with
circular padding, with zeros, in the interior, with a stride; and through pooling: does its output stay (invariance)? Both as
the norm of the change, relative to the distance of the outputs of two different pictures.

Expected: measured fields equal the formula, all of them; equivariance exact with circular padding and in the interior, and
with stride 2 at even shifts (below 1e-5); invariance grows with the window of the pooling and is exact for the global
maximum. Two minutes on 2 cores, --quick 20 s.
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

DEPTHS, WINDOWS = (1, 2, 4, 8, 16), (3, 5, 7)
POOLS = {"max_pool": jnn.max_pool, "avg_pool": jnn.avg_pool}


def formula(stack) -> int:
    """The receptive field of layers (kind, window, stride, dilation), in places of the input."""
    field, jump = 1, 1
    for _, window, stride, dilation in stack:
        field, jump = field + (window - 1) * dilation * jump, jump * stride
    return field


def measured(stack, draws: int = 200, seed: int = 0) -> int:
    """The extent of the places by which the middle unit behind the stack has a gradient, for any of `draws` random inputs."""
    layers = [
        jnn.conv(2, (window,), stride=stride, dilation=dilation, padding="VALID", w_init=jnn.initializers.constant(0.5))
        if kind == "conv"
        else POOLS[kind]((window,), stride=stride)
        for kind, window, stride, dilation in stack
    ]
    model = jnn.serial(*layers)
    length = formula(stack) + 4 * int(np.prod([stride for _, _, stride, _ in stack]))  # a few units behind it

    @jax.jit
    def seen(key):
        x = jax.random.uniform(key, (draws, length, 1))
        params, state = model.init(key, x)

        def middle(x):
            y = model.apply(params, state, x)[0]
            return jnp.sum(y[:, y.shape[1] // 2])

        return jnp.any(jax.grad(middle)(x) != 0, axis=(0, 2))

    return int(np.ptp(np.flatnonzero(seen(jax.random.key(seed))))) + 1


def random_stack(rng):
    """Up to five layers (kind, window, stride, dilation)."""
    stack = []
    for _ in range(rng.integers(1, 6)):
        kind = ("conv", "conv", "max_pool", "avg_pool")[rng.integers(4)]
        window, stride = int(rng.integers(1, 5)), int(rng.integers(1, 3))
        stack.append((kind, window, stride, int(rng.integers(1, 4)) if kind == "conv" else 1))
    return stack


def influence(depth: int, window: int, activation, seeds: int, seed: int, *, axes: int = 1, features: int = 16) -> np.ndarray:
    """The squared gradient of a middle unit by each place of its field, mean over seeds of weights and inputs: (seeds, field)
    in one dimension, (seeds, field, field) in two; each sums to 1."""
    conv = jnn.conv(features, (window,) * axes, b_init=None)
    deeper = [jnn.repeat(jnn.serial(activation, conv), depth - 1)] if depth > 1 else []
    model, field = jnn.serial(conv, *deeper), 1 + depth * (window - 1)
    shape = (field,) * axes + (features,)  # what the unit in its middle sees, without the padding
    like, state = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    flat, restored = ravel_pytree(jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like))

    def run(_, key):
        w_key, x_key = jax.random.split(key)
        # all weights of all layers at once, as the generator takes long to compile
        params = restored(jax.random.normal(w_key, flat.shape) / (features * window**axes) ** 0.5)
        value = lambda x: model.apply(params, state, x)[0][(field // 2,) * axes + (0,)]
        squared = jnp.sum(jax.grad(value)(jax.random.normal(x_key, shape)) ** 2, axis=-1)
        return squared / jnp.sum(squared)

    return np.asarray(jnn.sweep(run, jnp.zeros(1), seeds=seeds, seed=seed)[0])


def spread(influence) -> np.ndarray:
    """The standard deviation of the place that it weighs, in pixels, (seeds,)."""
    place = np.arange(influence.shape[-1])
    mean = influence @ place
    return np.sqrt(influence @ place**2 - mean**2)


def wrapped(x, n: int):
    """Pictures with n columns and rows of the other side around them."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(n, n), (n, n), (0, 0)], mode="wrap")


def shifts(images, most: int, seeds: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """kind -> case -> (seeds, most + 1): the change of a random convolution's output under shifts of 0 to `most` pixels."""
    conv, strided = (jnn.conv(8, 5, padding="VALID", stride=stride) for stride in (1, 2))
    padded = jnn.conv(8, 5)
    pools = {"no pooling": jnp.asarray} | {f"max {n} x {n}": pool(jnn.max_pool(n)) for n in (2, 4, 8)}
    pools |= {"mean 8 x 8": pool(jnn.avg_pool(8)), "global max": pool(jnn.global_max_pool())}

    def change(a, b, of):
        different = jnp.linalg.norm(of - jnp.roll(of, 1, axis=0))  # each picture and the next
        return jnp.linalg.norm(a - b) / different

    def run(shift, key, images):
        params, _ = conv.init(key, wrapped(images, 2))
        moved = jnp.roll(images, shift, axis=-2)
        seen = lambda layer, x: jax.nn.relu(layer.apply(params, {}, x)[0])
        y, y_moved = (seen(conv, wrapped(x, 2)) for x in (images, moved))
        z, z_moved = (seen(padded, x) for x in (images, moved))
        h, h_moved = (seen(strided, wrapped(x, 2)) for x in (images, moved))
        z_shifted = jnp.roll(z, shift, axis=-2)
        column = jnp.arange(z.shape[-2])
        inside = ((column >= shift + 2) & (column < z.shape[-2] - 2)).astype(z.dtype)[:, None]
        equivariance = {
            "circular padding": change(y_moved, jnp.roll(y, shift, axis=-2), y),
            "zeros": change(z_moved, z_shifted, z),
            "zeros, interior": change(z_moved * inside, z_shifted * inside, z),
            "circular, stride 2": change(h_moved, jnp.roll(h, shift // 2, axis=-2), h),
        }
        return {
            "equivariance": equivariance,
            "invariance": {name: change(pooled(y_moved), pooled(y), pooled(y)) for name, pooled in pools.items()},
        }

    found = jnn.sweep(run, jnp.arange(most + 1), seeds=seeds, seed=seed, data=images)
    return jax.tree.map(lambda a: np.asarray(a).T, found)


def pool(layer):
    """A layer without parameters as a function."""
    return lambda x: layer.apply({}, {}, x)[0]


def draw(out, fields, spreads, pictures, curves):
    marks, colors = "os^Dv*", jnn.plots.COLORS
    with jnn.plots.style():
        figure = Figure(figsize=(8, 3.4))
        left, right = figure.subplots(1, 2)
        left.plot(*zip(*fields, strict=True), "o", ms=4, alpha=0.6, color=colors[0])
        left.axline((1, 1), slope=1, color="black", linewidth=1, zorder=0)
        left.set(xlabel="formula, places", ylabel="measured by gradients, places", title="The receptive field, one dot a stack")
        for (window, by_kind), mark, color in zip(spreads.items(), marks, colors, strict=False):
            for (kind, values), line in zip(by_kind.items(), ("none", "full"), strict=True):
                mean, low, high = np.array([Interval.of(of) for of in values]).T
                label = f"window {window}, {kind}"
                error = [mean - low, high - mean]
                right.errorbar(DEPTHS, mean, error, fmt=mark, fillstyle=line, ms=5, capsize=2, color=color, label=label)
            depth = np.geomspace(1, DEPTHS[-1])
            right.plot(depth, np.sqrt(depth * (window**2 - 1) / 12), color=color, linewidth=1)
        right.set(xscale="log", yscale="log", xlabel="layers", ylabel="standard deviation, pixels", title="What counts of it")
        right.set_xticks(DEPTHS, DEPTHS)
        right.set_yticks((1, 2, 4, 8), (1, 2, 4, 8))
        right.minorticks_off()
        right.legend(fontsize=7)
        picture(out, "fields", figure)
        figure = Figure(figsize=(8, 1.9))
        for axes, (title, shown) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
            axes.imshow(np.sqrt(shown), cmap="cividis")
            axes.set_title(title, fontsize=8, loc="center")
            axes.set_xticks([0, len(shown) - 1], [1, len(shown)])
            axes.set_yticks([])
        figure.suptitle("Root mean square gradient of one unit by each pixel of its receptive field", fontsize=9)
        picture(out, "effective", figure)
        figure = Figure(figsize=(8, 3.4))
        for axes, (kind, cases) in zip(figure.subplots(1, 2), curves.items(), strict=True):
            for (case, values), mark, color in zip(cases.items(), marks, colors, strict=False):
                jnn.plots.band(axes, range(values.shape[1]), values, label=case, color=color, marker=mark, ms=4)
            axes.set(xlabel="shift, pixels", ylabel="change, 1 = another picture", title=f"{kind.capitalize()} under shifts")
            axes.set_ylim(top=1.4 * max(values.mean(axis=0).max() for values in cases.values()))
            axes.legend(fontsize=7, loc="upper left", ncols=2)
        picture(out, "shifts", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "receptive_field", quick="12 random stacks, 8 seeds").parse_args(arguments)
    count, seeds, examples = (12, 8, 32) if options.quick else (100, 50, 256)
    rng = np.random.default_rng(options.seed)
    plain = [[("conv", window, 1, 1)] * depth for window in (3, 5) for depth in (1, 2, 4)]
    stacks = plain + [random_stack(rng) for _ in range(count)]
    with stage(f"receptive fields of {len(stacks)} stacks"):
        fields = [(formula(stack), measured(stack)) for stack in stacks]
    kinds = {"linear": jnn.activations.identity, "relu": jax.nn.relu}
    windows = WINDOWS[:1] if options.quick else WINDOWS
    with stage(f"what counts of it: depths {DEPTHS}, windows {windows}, {seeds} seeds"):
        by_kind = lambda window: {
            name: [spread(influence(depth, window, f, seeds, options.seed)) for depth in DEPTHS] for name, f in kinds.items()
        }
        spreads = {window: by_kind(window) for window in windows}
    deep = (2, 8) if options.quick else (2, 8, 20)
    with stage(f"pictures of {deep} layers"):
        shown = {
            f"{depth} layers, {name}": influence(depth, 3, f, seeds, options.seed, axes=2).mean(axis=0)
            for depth in deep
            for name, f in kinds.items()
        }
    (images, _), _ = jnn.data.fashion_mnist()
    images = np.pad(images[:examples] / np.float32(255), [(0, 0), (2, 2), (2, 2), (0, 0)])
    with stage(f"shifts of {examples} pictures, {seeds} seeds"):
        curves = shifts(images, 8, seeds, options.seed)
    draw(options.out, fields, spreads, shown, curves)

    equal = sum(a == b for a, b in fields)
    predicted = {str(window): [float(np.sqrt(depth * (window**2 - 1) / 12)) for depth in DEPTHS] for window in windows}
    of = {kind: Interval.of(spreads[3][kind][-1]) for kind in kinds}
    whole = 1 + DEPTHS[-1] * 2
    equivariance, invariance = curves["equivariance"], curves["invariance"]
    at = lambda curve, shift: Interval.of(100 * curve[:, shift])
    finding = (
        f"Measured by gradients, {equal} of {len(fields)} stacks of convolutions and poolings have the receptive field of the "
        f"formula. Behind {DEPTHS[-1]} layers of window 3 it is {whole} places wide, but the squared gradient has a standard "
        f"deviation of {of['linear']:.2f} places in linear networks and {of['relu']:.2f} with relu (mean and 95 % interval "
        f"over {seeds} seeds), where uniform steps give {predicted['3'][-1]:.2f}. Shifted by up to 8 pixels, a convolution's "
        f"output shifts along to {equivariance['circular padding'].max():.1g} of the distance to another picture with circular "
        f"padding, to {equivariance['zeros, interior'].max():.1g} in the interior with zeros, but whole pictures with zeros "
        f"differ by {at(equivariance['zeros'], 8):.1f %} at 8 pixels, and with stride 2 by "
        f"{at(equivariance['circular, stride 2'], 1):.1f %} at 1 pixel ({equivariance['circular, stride 2'][:, 2].max():.1g} "
        f"at 2). A shift by 1 pixel changes features by {at(invariance['no pooling'], 1):.1f %} of that distance, pooled by "
        f"the maximum of 8 x 8 by {at(invariance['max 8 x 8'], 1):.1f %}, by the mean by "
        f"{at(invariance['mean 8 x 8'], 1):.1f %}, by the global maximum by {invariance['global max'].max():.1g} at any shift; "
        f"by 8 pixels it changes even the maxima of 8 x 8 by {at(invariance['max 8 x 8'], 8):.1f %}."
    )
    results = {
        "fields": fields,
        "spread": {str(window): {kind: np.transpose(s).tolist() for kind, s in of.items()} for window, of in spreads.items()},
        "spread_predicted": predicted,
        "curves": jax.tree.map(np.ndarray.tolist, curves),
    }
    return record(options, finding, results)


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

"""Surfaces of two numbers, and the ways of optimizers down them."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import jnn
from experiments.findings import picture, stage

STEPS, STARTS, ENOUGH = 500, 16, 1e-3


def quadratic(x, y):
    """Curvatures 1 and 1 / 100, turned by 30 degrees."""
    u, v = 0.866 * x + 0.5 * y, 0.866 * y - 0.5 * x
    return (u**2 + v**2 / 100) / 2


def rosenbrock(x, y):
    return (100 * (y - x**2) ** 2 + (1 - x) ** 2) / 100


def saddle(x, y):
    return x**2 / 2 - y**2 / 2 + y**4 / 4


# surface -> height, start, the least height, where that is, the window of the picture
SURFACES = {
    "quadratic": (quadratic, (-2.5, 2.0), 0.0, [(0, 0)], (-3.5, 3.5, -3, 4)),
    "rosenbrock": (rosenbrock, (-1.2, 1.0), 0.0, [(1, 1)], (-1.8, 1.8, -0.8, 2.2)),
    "saddle": (saddle, (-1.5, 0.01), -0.25, [(0, 1), (0, -1)], (-1.8, 1.8, -1.6, 1.6)),
}


def descent(factory):
    """A function for `sweep`: a whole run on a surface, -> path (STEPS, 2), height over the minimum (STEPS,)."""

    def train(hparams, key, data):
        def init(key, batch):
            start = data["start"][hparams["surface"]]
            # a start of its own for each key; on the saddle's ridge hardly any is on the ridge itself
            return {"at": start + jnp.array([0.1, 0.01]) * jax.random.normal(key, (2,))}, {}

        def loss(params, state, batch, *, key=None, train=False):
            x, y = params["at"]
            heights = [height(x, y) - least for height, _, least, *_ in SURFACES.values()]
            return jnp.stack(heights)[hparams["surface"]], jnn.Aux(state, {"at": params["at"]})

        training = jnn.training(jnn.Objective(init, loss), factory(hparams["rate"]))
        history = jnn.fit(training, (), key=key, steps=STEPS).history
        return history["at"], history["loss"]

    return train


def steps_to_stay(heights, share: float = ENOUGH) -> np.ndarray:
    """(..., steps) -> (...): how many steps until a height stays at or below `share` of the first; the number of steps where it
    never does."""
    above = ~(np.asarray(heights) <= share * np.asarray(heights)[..., :1])
    return np.where(above.any(axis=-1), above.shape[-1] - above[..., ::-1].argmax(axis=-1), 0)


def descents(optimizers, rates, seed: int) -> dict[str, dict[str, dict]]:
    """surface -> optimizer -> its tuned learning rate, steps from other starts (STARTS,), and the first of their paths."""
    data = {"start": jnp.array([start for _, start, *_ in SURFACES.values()])}
    grid = {
        "surface": jnp.repeat(jnp.arange(len(SURFACES)), len(rates)),
        "rate": jnp.tile(jnp.asarray(rates, jnp.float32), len(SURFACES)),
    }
    found: dict[str, dict[str, dict]] = {name: {} for name in SURFACES}
    for name, factory in optimizers.items():
        with stage(f"{name} on {len(SURFACES)} surfaces, {len(rates)} learning rates, {2 * STARTS} starts"):
            at, height = jnn.sweep(descent(factory), grid, seeds=2 * STARTS, seed=seed, data=data)
        at = np.asarray(at).reshape(len(SURFACES), len(rates), *at.shape[1:])
        height = np.asarray(height).reshape(at.shape[:-1])
        steps = steps_to_stay(height)
        for i, surface in enumerate(SURFACES):
            last = np.nan_to_num(height[i, :, :STARTS, -1] / height[i, :, :STARTS, 0], nan=np.inf, posinf=1e30)
            # the lowest end decides among those that do not arrive
            best = int(np.argmin(steps[i, :, :STARTS].mean(axis=1) + np.minimum(last.mean(axis=1), 1e6)))
            path = {"path": at[i, best, STARTS], "steps": steps[i, best, STARTS:], "learning_rate": float(rates[best])}
            found[surface][name] = path
    return found


def surface_axes(figure):
    """One axis for each surface, with its contours, start and minima."""
    axes_of = {}
    for axes, (name, (height, start, least, minima, window)) in zip(figure.subplots(1, 3), SURFACES.items(), strict=True):
        x, y = np.meshgrid(np.linspace(window[0], window[1], 121), np.linspace(window[2], window[3], 121))
        axes.contour(x, y, np.log10(height(x, y) - least + 1e-3), levels=10, colors="0.75", linewidths=0.6, linestyles="solid")
        axes.plot(*start, "k.", markersize=7)
        axes.plot(*np.transpose(minima), "k*", markersize=8, linestyle="none")
        axes.set(xlim=window[:2], ylim=window[2:], title=name, xlabel="x", ylabel="y")
        axes_of[name] = axes
    return axes_of


def paths(out, found):
    with jnn.plots.style():
        figure = Figure(figsize=(9, 3.6))
        for surface, axes in surface_axes(figure).items():
            for (name, one), color in zip(found[surface].items(), jnn.plots.COLORS, strict=False):
                axes.plot(*one["path"].T, color=color, linewidth=1.2, label=name, alpha=0.9)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
        picture(out, "paths", figure)


def animation(out, found, frames: int):
    """OUT/paths.gif: frames at steps on a logarithmic scale, as most happens at first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    # a palette of its own, as a chosen one takes two lines for one colour: each colour in steps to white, and greys
    pure = np.array([to_rgb(color) for color in (*jnn.plots.COLORS, "black")])
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(255 * (1 - np.linspace(0, 1, 12)[:, None, None] * (1 - pure))).astype(np.uint8).tobytes())
    pictures, shown = [], np.unique(np.rint(np.geomspace(1, STEPS, frames)).astype(int)) - 1
    with jnn.plots.style({"figure.constrained_layout.use": False}):
        figure = Figure(figsize=(8, 3), dpi=100)
        canvas = FigureCanvasAgg(figure)
        figure.subplots_adjust(left=0.06, right=0.99, top=0.9, bottom=0.26, wspace=0.25)
        lines = []
        for surface, axes in surface_axes(figure).items():
            for (name, one), color in zip(found[surface].items(), jnn.plots.COLORS, strict=False):
                line = axes.plot([], [], "o-", color=color, linewidth=1.2, label=name, markersize=5, markevery=[-1])[0]
                lines.append((line, one["path"]))
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="lower center", ncols=7)
        counter = figure.text(0.99, 0.95, "", ha="right")
        for step in shown:
            for line, path in lines:
                line.set_data(*path[: step + 1].T)
            counter.set_text(f"step {step}")
            canvas.draw()
            frame = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
            pictures.append(frame.quantize(palette=palette, dither=Image.Dither.NONE))
    durations = [80] * (len(pictures) - 1) + [2000]  # milliseconds
    pictures[0].save(out / "paths.gif", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True)

"""Surfaces of two numbers, and the ways of optimizers down them."""

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
            return {"at": data["starts"][hparams["surface"], hparams["start"]]}, {}

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


def drawn_starts(seed: int) -> np.ndarray:
    """(surfaces, 1 + 2 * STARTS, 2):  the start of the picture, those that tune, and those that measure, over the window."""
    shares, starts = np.random.default_rng(seed).random((len(SURFACES), 1 + 2 * STARTS, 2)), []
    for (_, start, _, _, window), share in zip(SURFACES.values(), shares, strict=True):
        low, high = np.reshape(window, (2, 2)).T
        starts.append([start, *(low + share[1:] * (high - low))])
    return np.array(starts, np.float32)


def descents(optimizers, rates, seed: int) -> dict[str, dict[str, dict]]:
    """surface -> optimizer -> its tuned learning rate, steps from other starts (STARTS,), and its path from the start of the
    picture, with the steps of that."""
    data = {"starts": jnp.asarray(drawn_starts(seed))}
    shape = len(SURFACES), len(rates), 1 + 2 * STARTS
    surface, rate, start = (index.ravel() for index in np.indices(shape))
    grid = {"surface": surface, "rate": np.asarray(rates, np.float32)[rate], "start": start}
    found: dict[str, dict[str, dict]] = {name: {} for name in SURFACES}
    for name, factory in optimizers.items():
        with stage(f"{name} on {len(SURFACES)} surfaces, {len(rates)} learning rates, {2 * STARTS} starts"):
            at, height = jnn.sweep(descent(factory), grid, seeds=1, seed=seed, data=data)
        at, height = np.asarray(at).reshape(*shape, STEPS, 2), np.asarray(height).reshape(*shape, STEPS)
        steps = steps_to_stay(height)
        tuning, measuring = slice(1, 1 + STARTS), slice(1 + STARTS, None)
        for i, of in enumerate(SURFACES):
            last = np.nan_to_num(height[i, :, tuning, -1] / height[i, :, tuning, 0], nan=np.inf, posinf=1e30)
            # the lowest end decides among those that do not arrive
            best = int(np.argmin(steps[i, :, tuning].mean(axis=1) + np.minimum(last.mean(axis=1), 1e6)))
            found[of][name] = {
                "path": at[i, best, 0],
                "path_steps": int(steps[i, best, 0]),
                "steps": steps[i, best, measuring],
                "learning_rate": float(rates[best]),
            }
    return found


def arrived(one) -> int:
    """How many of the runs did."""
    return int(np.sum(one["steps"] < STEPS))


def walk(one) -> str:
    """Steps in words: their median and range, and how many runs arrived."""
    steps = one["steps"]
    return f"{np.median(steps):.0f} ({steps.min()} to {steps.max()}, {arrived(one)} of {len(steps)} arrive)"


def contours(axes, surface: str):
    """Of a surface, with its start and minima."""
    height, start, least, minima, window = SURFACES[surface]
    x, y = np.meshgrid(np.linspace(window[0], window[1], 121), np.linspace(window[2], window[3], 121))
    axes.contour(x, y, np.log10(height(x, y) - least + 1e-3), levels=10, colors="0.75", linewidths=0.6, linestyles="solid")
    axes.plot(*start, "k.", markersize=7)
    axes.plot(*np.transpose(minima), "k*", markersize=8, linestyle="none")
    axes.set(xlim=window[:2], ylim=window[2:])


def paths(out, found):
    """Each optimizer's on each surface, with its steps."""
    names = list(next(iter(found.values())))
    with jnn.plots.style():
        figure = Figure(figsize=(1.4 * len(names), 4.6))
        for row, (surface, of) in zip(figure.subplots(len(found), len(names)), found.items(), strict=True):
            for axes, (name, one), color in zip(row, of.items(), jnn.plots.COLORS, strict=False):
                contours(axes, surface)
                axes.plot(*one["path"].T, color=color, linewidth=1.2)
                count = one["path_steps"]
                axes.set(xticks=[], yticks=[], xlabel=f"{count} steps" if count < STEPS else f"not in {STEPS} steps")
                if row[0].get_subplotspec().is_first_row():
                    axes.set_title(name)
            row[0].set_ylabel(surface)
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
        lines = []
        for axes, surface in zip(figure.subplots(1, len(found)), found, strict=True):
            contours(axes, surface)
            axes.set(title=surface, xlabel="x", ylabel="y")
            for (name, one), color in zip(found[surface].items(), jnn.plots.COLORS, strict=False):
                line = axes.plot([], [], "o-", color=color, linewidth=1.2, label=name, markersize=5, markevery=[-1])[0]
                lines.append((line, one["path"]))
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="lower center", ncols=7)
        figure.subplots_adjust(left=0.06, right=0.99, top=0.9, bottom=0.26, wspace=0.25)
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

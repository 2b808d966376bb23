"""Pictures of towers of several activations: gradients and outputs by layer, steps by depth."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments.findings import picture

# so that lines that lie over each other can be told apart, also without colour
LOOKS: list[dict[str, Any]] = [
    {"color": color, "marker": mark, "markersize": 4, "linestyle": style}
    for color, mark, style in zip(jnn.plots.COLORS, "o^sDo^sD", ["-"] * 4 + ["--"] * 4, strict=True)
]


def gradients(out, before, after, saturated):
    """Left the gradient's norm by layer, on the scale of all but sigmoid; right the shares of dead units of relu and of
    saturated outputs of `saturated`. before, after: {activation: what `towers.seen` found}."""
    layers = np.arange(1, 1 + before["relu"]["gradient"].shape[1])
    every = max(1, len(layers) // 8)
    with jnn.plots.style():
        figure = Figure(figsize=(9, 4.2))
        left, right = figure.subplots(1, 2)
        for i, (name, values) in enumerate(before.items()):
            look: dict[str, Any] = LOOKS[i] | {"markevery": (i % every, every)}
            jnn.plots.band(left, layers, np.log10(values["gradient"]), label=name, **look)
            kind = "dead" if name == "relu" else "saturated"
            if name in (*saturated, "relu"):
                look["linestyle"] = "-"
                jnn.plots.band(right, layers, 100 * values[kind], label=f"{name}, {kind}", **look)
                jnn.plots.band(right, layers, 100 * after[name][kind], **look | {"linestyle": ":"})
        others = np.log10([of["gradient"].mean(axis=0) for name, of in before.items() if name != "sigmoid"])
        first = np.log10(before["sigmoid"]["gradient"][:, 0]).mean()
        left.set(xlabel="layer", ylabel="log10 of the gradient's norm", ylim=(others.min() - 0.5, others.max() + 0.3))
        left.set_title(f"Before training (sigmoid: {first:.0f} at layer 1)")
        right.set(xlabel="layer", ylabel="% of units or outputs", title="Before training; after it dotted", ylim=(-3, 103))
        for axes in (left, right):
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4 if axes is left else 2)
        picture(out, "gradients", figure)


def speed(out, steps_by_name, depths, most: int, target: float):
    with jnn.plots.style():
        figure = Figure(figsize=(7, 3.6))
        axes = figure.subplots()
        for look, (name, steps) in zip(LOOKS, steps_by_name.items(), strict=False):
            values = np.minimum(np.array(steps).T, most)  # (runs, depths)
            jnn.plots.band(axes, depths, values, label=name, **look)
        axes.axhline(most, color="black", linestyle=":", linewidth=1, label="end of the run")
        axes.set(xscale="log", yscale="log", xlabel="hidden layers", ylabel=f"steps to a training loss of {target}")
        axes.set_xticks(depths, depths)
        ticks = [tick for tick in (10, 20, 50, 100, 200, 500) if tick <= most]
        axes.set_yticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        picture(out, "speed", figure)

"""What a quasi-Newton method sees on batches: its runs, and the changes of the gradient that it learns from."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments.descents import TITLES, started
from experiments.findings import picture

RATE = 0.1  # of the gradient descent whose changes are measured
COUNTED = 100  # steps; later, on all examples, searches fail as the loss is at its least to rounding


def on_batches(factory, problem):
    """-> (hparams, key, data) -> the loss on all examples after steps on batches, whose size is one of the hparams, and of
    L-BFGS the numbers of failed line searches and of pairs kept in the first COUNTED steps. Those of the examples that stand
    lowest in an order, of which there is one for each seed and step, are the batch."""

    def run(hparams, key, data):
        training, begun = started(factory, problem, hparams, key, data)

        def step(train_state, ranks):
            chosen = (ranks < hparams["size"]).astype(jnp.float32)
            after = training.step(train_state, (*data["examples"], chosen))[0]
            return after, counted(train_state.opt_state, after.opt_state)

        end, counts = jax.lax.scan(step, begun, data["ranks"][hparams["seed"]])
        params = jnn.optim.eval_params(end.opt_state, end.params)
        loss = problem.loss(params, {}, data["examples"], key=key, train=True)[0]
        return loss, jax.tree.map(lambda count: count[:COUNTED].sum(), counts)

    return run


def counted(before, after) -> dict:
    """What a step of L-BFGS did, told from the states around it; nothing of other optimizers."""
    if not hasattr(after, "memory"):
        return {}
    newest = after.memory.weights[0]  # a failed search waits for the gradient at its best point, and forgets all pairs
    kept = (newest != before.memory.weights[0]) & (newest != 0)
    return {"failed searches": after.fresh & ~before.fresh, "kept pairs": kept}


def changes(problem, key, data, sizes, draws: int = 50, descent: int = 10):
    """For each size of batch, of the changes y of the gradient along a step s of gradient descent, on one batch and on two:
    the mean square of their error as a share of |y|^2 on all examples, the share that curves downwards (s'y <= 0); and the
    error that two batches must have, as the gradients of examples scatter. -> {name: (sizes, descent)}"""

    @jax.jit
    def gradients(key, data):
        params, state = problem.init(key, data)

        def of_one(params, x, y):
            return problem.loss(params, state, (x[None], y[None]), key=key, train=True)[0]

        each = jax.vmap(jax.grad(of_one), (None, 0, 0))

        def step(params, _):
            grads = each(params, *data)
            moved = jax.tree.map(lambda p, g: p - RATE * jnp.mean(g, axis=0), params, grads)
            return moved, jnp.concatenate([g.reshape(len(data[1]), -1) for g in jax.tree.leaves(grads)], axis=1)

        return jax.lax.scan(step, params, length=descent + 1)[1]

    g = np.asarray(gradients(key, data))
    n, rng = g.shape[1], np.random.default_rng(0)
    found = {name: np.zeros((len(sizes), descent)) for name in ("one", "two", "formula", "down one", "down two")}
    for i, size in enumerate(sizes):
        mean = np.stack([np.isin(np.arange(n), rng.choice(n, size, False)) for _ in range(2 * draws)]).astype(np.float32) / size
        for t in range(descent):
            before, after = g[t], g[t + 1]
            y, s = after.mean(0) - before.mean(0), -before.mean(0)
            one, two = mean[:draws] @ (after - before), mean[draws:] @ after - mean[:draws] @ before
            for name, change in (("one", one), ("two", two)):
                found[name][i, t] = np.mean(np.sum((change - y) ** 2, axis=1)) / np.sum(y**2)
                found[f"down {name}"][i, t] = np.mean(change @ s <= 0)
            scatter = before.var(0, ddof=1).sum() + after.var(0, ddof=1).sum()
            found["formula"][i, t] = scatter / size * (1 - size / n) / np.sum(y**2)
    return found


def draw(out, sizes, batches, least: float, noise):
    """Ends on batches, and what is wrong with a pair."""
    with jnn.plots.style():
        figure = Figure(figsize=(8.5, 3))
        left, middle, right = figure.subplots(1, 3)
        for color, (method, of) in zip(jnn.plots.COLORS[2:], batches.items(), strict=False):
            gap = np.maximum(np.array(of["ends"]) - least, 1e-6)
            left.plot(sizes, gap, ".", color=color)
            left.plot(sizes, np.median(gap, axis=1), color=color, label=TITLES[method])
        left.set(xscale="log", yscale="log", xlabel="batch size", title="training loss above the least")
        for color, which in zip(jnn.plots.COLORS, ("one", "two"), strict=False):
            label = {"one": "on one batch", "two": "on two batches"}[which]
            middle.plot(sizes[:-1], noise[which].mean(1)[:-1], "o-", color=color, label=label)
            right.plot(sizes, 100 * noise[f"down {which}"].mean(1), "o-", color=color, label=label)
        middle.plot(sizes[:-1], noise["formula"].mean(1)[:-1], "k:", label="formula for two")
        middle.set(xscale="log", yscale="log", xlabel="batch size", title="squared error of y / $|y|^2$")
        right.set(xscale="log", xlabel="batch size", ylabel="% of changes", title="curving downwards ($s'y \\leq 0$)")
        for axes in (left, middle, right):
            axes.set_xticks(sizes, sizes)
            axes.minorticks_off()
            axes.legend()
        picture(out, "batches", figure)

"""What does the second derivative buy, and why do quasi-Newton methods want the full batch?

python -m experiments.second_order [--quick] [--seed 0] [--out runs/second_order]

Softmax regression and a network of eight hidden units (tanh) on 1,000 digits, with an L2 penalty, so that there is a minimum
to reach. On the full batch: Newton, its damping tuned; Newton by conjugate gradients and L-BFGS, the first length of a step
tuned (Nocedal & Wright 2006, chapters 3, 6 and 7); Adam, its learning rate tuned. Each has four trials, judged by the training
loss at the end, for that is what all of them minimise. Their losses over steps, over gradient evaluations (one for a step's
gradient, two for a Hessian-vector product, as many products for a Hessian as it has columns, a half for a value alone) and
over seconds. A step of jnn's L-BFGS is one evaluation, whatever its line search does.

Then L-BFGS on batches. Its curvature is that of a change of the gradient; between two batches the change is mostly noise.
At the points of a descent, such changes are measured on one batch and on two, by batch size.

Expected: on the regression Newton takes six steps and thousands of gradients, as its Hessians have hundreds of columns, L-BFGS
47 gradients, Newton by conjugate gradients 106 and the least time, Adam 297; on the network Newton, whose damping must bear
negative curvature, does not arrive in 40 steps. On batches of 32 Adam comes closer to the least loss (0.347 against 0.413), as
44 % of L-BFGS's pairs curve downwards. Seven minutes on one core, --quick 20 seconds.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from experiments import commands, curvature_pairs, descents
from experiments.findings import Interval, record, stage

EXAMPLES = 1000
PENALTY = 1e-3
MODELS = {"softmax regression": [], "network": [8]}
METHODS = {
    "newton": (lambda number: jnn.optim.newton(damping=number), (1e-3, 1e-2, 1e-1, 1.0)),
    "newton_cg": (jnn.optim.newton_cg, (0.25, 0.5, 1.0, 2.0)),
    "lbfgs": (jnn.optim.lbfgs, (0.25, 0.5, 1.0, 2.0)),
    "adam": (jnn.optim.adam, (3e-3, 1e-2, 3e-2, 1e-1)),
}
STEPS = {"newton": 40, "newton_cg": 60, "lbfgs": 1000, "adam": 4000}
QUICK = {"newton": 12, "newton_cg": 20, "lbfgs": 150, "adam": 400}
SIZES = (32, 100, 320, EXAMPLES)


def objective(hidden, pool: int = 1):
    model = jnn.serial(jnn.avg_pool(pool), jnn.flatten(), body=jnn.models.mlp(hidden, 10, activation=jnp.tanh))
    return jnn.supervised(model, jnn.losses.softmax_cross_entropy, penalty=jnn.regularizers.l2(PENALTY))


def main(arguments=None):
    quick = "2 seeds, fewer steps, pictures of 4 x 4, the regression only"
    options = commands.parser(__doc__, "second_order", quick=quick).parse_args(arguments)
    steps, seeds, batch_steps, pool = (QUICK, 2, 100, 2) if options.quick else (STEPS, 5, 500, 1)
    key, rng = jax.random.key(options.seed), np.random.default_rng(options.seed)
    examples = tuple(a[:EXAMPLES] for a in jnn.data.digits())
    problems = {name: objective(hidden, pool) for name, hidden in list(MODELS.items())[: 1 if options.quick else 2]}
    found, begun = {}, {}
    for name, problem in problems.items():
        print(name, file=sys.stderr)
        init = jax.jit(jax.vmap(lambda key, problem=problem: problem.init(key, examples)[0]))
        begun[name] = {"examples": examples, "params": init(jax.random.split(key, seeds))}
        found[name] = descents.compared(METHODS, problem, begun[name], steps, seeds)
    ((name, problem), *_), batches = problems.items(), {}
    ranks = np.array([[rng.permutation(EXAMPLES) for _ in range(batch_steps)] for _ in range(seeds)], np.int32)
    for method in ("lbfgs", "adam"):
        with stage(f"  {method} on batches of {', '.join(map(str, SIZES))}, {batch_steps} steps"):
            run, numbers = curvature_pairs.on_batches(METHODS[method][0], problem), np.array(METHODS[method][1], np.float32)
            ends = descents.swept(run, {**begun[name], "ranks": ranks}, numbers, SIZES, seeds=seeds)
        ends = np.nan_to_num(ends, nan=np.inf)
        best = ends.mean(axis=2).argmin(axis=0)
        batches[method] = [ends[b, i].tolist() for i, b in enumerate(best)]
    with stage("  changes of the gradient on one batch and on two"):
        noise = curvature_pairs.changes(problem, key, examples, SIZES)
    descents.draw(options.out, found)
    curvature_pairs.draw(options.out, SIZES, batches, min(run["loss"].min() for run in found[name].values()), noise)

    results = {"batches": batches, "sizes": SIZES, "noise": {name: value.mean(1).tolist() for name, value in noise.items()}}
    for name, methods in found.items():
        ends = {method: run["loss"][:, -1].tolist() for method, run in methods.items()}
        numbers = {method: run["number"] for method, run in methods.items()}
        results[name] = {"ends": ends, "numbers": numbers, "needed": descents.needed(methods)}
    return record(options, said(results, seeds, batch_steps), results)


def said(results, seeds: int, batch_steps: int) -> str:
    def cost(method, of):
        if not np.isfinite([value for values in of.values() for value in values]).all():
            reached = int(np.isfinite(of["steps"]).sum())
            return f"{method} there in {reached or 'none'} of {seeds} runs"
        steps, taken, seconds = (Interval.of(of[measure]) for measure in ("steps", "evaluations", "seconds"))
        return f"{method} {steps:.0f} steps, {taken:.0f} gradients, {seconds:.2g} s"

    parts = [
        f"On the {name} the training loss at which the worst of Adam's runs ends, and 0.001 more, takes "
        + "; ".join(cost(method, of) for method, of in results[name]["needed"].items())
        for name in MODELS
        if name in results
    ]
    lbfgs, adam = ([Interval.of(values) for values in results["batches"][method]] for method in ("lbfgs", "adam"))
    noise = results["noise"]
    return (
        f"{'. '.join(parts)} (means and 95 % intervals over {seeds} seeds, full batch, a Hessian-vector product counted as two "
        f"gradients). After {batch_steps} steps on batches of {SIZES[0]}, L-BFGS ends at a training loss of {lbfgs[0]:.3f} and "
        f"Adam at {adam[0]:.3f}, on the full batch at {lbfgs[-1]:.3f} and {adam[-1]:.3f}. A change of the gradient between two "
        f"batches of {SIZES[0]} has a squared error of {noise['two'][0]:.3g} times its own square (by the scatter of the "
        f"examples' gradients {noise['formula'][0]:.3g}), on one batch {noise['one'][0]:.3g}; {100 * noise['down two'][0]:.0f} "
        f"% of such pairs curve downwards on two batches, {100 * noise['down one'][0]:.0f} % on one."
    )


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

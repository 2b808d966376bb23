"""What does the second derivative buy, and why do quasi-Newton methods want the full batch?

python -m experiments.second_order [--quick] [--seed 0] [--out runs/second_order]

Softmax regression and a network of eight hidden units (tanh) on 1,000 digits, with an L2 penalty, so that there is a minimum
to reach. On the full batch: Newton, its damping tuned; Newton by conjugate gradients and L-BFGS, the first length of a step
tuned (Nocedal & Wright 2006, chapters 3, 6 and 7); Adam, its learning rate tuned. Each has six trials, judged by the training
loss at the end, for that is what all of them minimise. Their losses over steps, over gradient evaluations (one for a step's
gradient, two for a Hessian-vector product, as many products for a Hessian as it has columns, a half for a value alone) and
over seconds: of the tuned run alone, all methods timed in turns, the median shared out by evaluations. A step of jnn's L-BFGS
is one evaluation, whatever its line search does.

Then L-BFGS on batches, with the line searches that fail (it forgets its pairs then) and the pairs that it keeps. Its curvature
is that of a change of the gradient; between two batches the change is mostly noise. Along gradient descent on all examples, of
rate 0.1, such changes are measured on one batch and on two, by batch size. Their error grows as the rate to the power of -2, as
shorter steps change the gradient less. L-BFGS itself stores no pair that curves downwards.

Expected: on the regression Newton takes 17 steps and 20,817 gradients, as its Hessians have hundreds of columns, L-BFGS 47
gradients, Newton by conjugate gradients 106 (95 to 117), Adam 297 (259 to 336); on the network Newton, whose damping must bear
negative curvature, does not arrive in 100 steps. On batches of 32 Adam comes closer to the least loss (0.347 against 0.413),
and 44 % of the changes along gradient descent curve downwards. Eleven minutes on one core, --quick 20 seconds.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from experiments import commands, curvature_pairs, descents
from experiments.findings import Interval, is_at_edge, record, stage

EXAMPLES = 1000
PENALTY = 1e-3
MODELS = {"softmax regression": [], "network": [8]}
METHODS = {
    "newton": (lambda number: jnn.optim.newton(damping=number), (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)),
    "newton_cg": (jnn.optim.newton_cg, (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)),
    "lbfgs": (jnn.optim.lbfgs, (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)),
    "adam": (jnn.optim.adam, (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)),
}
STEPS = {"newton": 100, "newton_cg": 60, "lbfgs": 1000, "adam": 4000}
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
            ends, counts = descents.swept(run, {**begun[name], "ranks": ranks}, numbers, SIZES, seeds=seeds)
        ends = np.nan_to_num(ends, nan=np.inf)
        best = ends.mean(axis=2).argmin(axis=0)
        of_best = lambda a, best=best: [a[b, i].tolist() for i, b in enumerate(best)]
        batches[method] = {"ends": of_best(ends), "numbers": numbers[best].tolist()}
        batches[method] |= {of: of_best(count) for of, count in counts.items()}
    with stage("  changes of the gradient on one batch and on two"):
        noise = curvature_pairs.changes(problem, key, examples, SIZES)
    least = min(run["loss"].min() for run in found[name].values())

    results = {"batches": batches, "sizes": SIZES, "noise": {name: value.mean(1).tolist() for name, value in noise.items()}}
    for name, methods in found.items():
        ends = {method: run["loss"][:, -1].tolist() for method, run in methods.items()}
        numbers = {method: run["number"] for method, run in methods.items()}
        results[name] = {"ends": ends, "numbers": numbers, "needed": descents.needed(methods)}
    recorded = record(options, said(results, seeds, batch_steps), results)
    descents.draw(options.out, found)
    curvature_pairs.draw(options.out, SIZES, batches, least, noise)
    return recorded


def said(results, seeds: int, batch_steps: int) -> str:
    def cost(method, of):
        title = descents.TITLES[method]
        if not np.isfinite([value for values in of.values() for value in values]).all():
            return f"{title} in {int(np.isfinite(of['steps']).sum()) or 'none'} of {seeds} runs"
        steps, taken, seconds = (Interval.of(of[measure]) for measure in ("steps", "evaluations", "seconds"))
        return f"{title} after {steps:.0f} steps, {taken:.0f} gradients, {seconds:.2g} s"

    regression, *others = [name for name in MODELS if name in results]
    costs = {name: "; ".join(cost(*pair) for pair in results[name]["needed"].items()) for name in (regression, *others)}
    edges = [
        f"{descents.TITLES[method]} on the {name}"
        for name in costs
        for method, number in results[name]["numbers"].items()
        if is_at_edge(number, METHODS[method][1])
    ]
    batches, noise = results["batches"], results["noise"]
    lbfgs, adam = ([Interval.of(values) for values in batches[method]["ends"]] for method in ("lbfgs", "adam"))
    failed, kept = ([np.mean(of) for of in batches["lbfgs"][count]] for count in ("failed searches", "kept pairs"))
    return (
        f"On the {regression} second derivatives save steps, and gradients only where no whole Hessian is made: the training "
        f"loss at which the worst of Adam's runs ends, and 0.001 more, is reached by {costs[regression]}"
        f"{''.join(f'. On the {name}: {costs[name]}' for name in others)} (means and 95 % intervals over {seeds} seeds, full "
        "batch, a Hessian-vector product counted as two gradients; seconds are medians of the tuned run alone). Tuned to an "
        f"edge of the grid: {', '.join(edges) or 'none'}. After {batch_steps} steps on batches of {SIZES[0]}, L-BFGS ends at a "
        f"training loss of {lbfgs[0]:.3f} and Adam at {adam[0]:.3f}, on the full batch at {lbfgs[-1]:.3f} and {adam[-1]:.3f}. "
        f"In its first {curvature_pairs.COUNTED} steps on those batches {failed[0]:.0f} line searches of L-BFGS fail and "
        f"{kept[0]:.0f} pairs are kept, on the full batch {failed[-1]:.0f} and {kept[-1]:.0f}. Along gradient descent of rate "
        f"{curvature_pairs.RATE}, a change of the gradient between two batches of {SIZES[0]} has a squared error of "
        f"{noise['two'][0]:.3g} times its own square (by the scatter of the examples' gradients {noise['formula'][0]:.3g}; it "
        f"grows as the rate to the power of -2), on one batch {noise['one'][0]:.3g}; {100 * noise['down two'][0]:.0f} % of "
        f"these changes curve downwards on two batches, {100 * noise['down one'][0]:.0f} % on one."
    )


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))

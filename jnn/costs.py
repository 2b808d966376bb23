"""Floating-point operations of a traced function, by the names of its parts."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import jax

Path = tuple[str, ...]
Counts = dict[Path, float | None]

# primitives that are a program of their own, run once, and the parameter that holds it
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def flops_by_path(program, paths: Collection[Path]) -> Counts:
    """{path: operations}, each path with all that begins with it; None where the number cannot be known.

    program: what `jax.make_jaxpr` returns; nothing is compiled or run.
    paths: names as `jax.named_scope` has put them on the operations; the empty path stands for the whole.

    Every operation counts as XLA's cost analysis of it alone says: a multiplication and an addition are two, products with
    padding are none, and random bits, exponentials and the like (transcendentals) are not among them. The body of a loop
    counts as often as it runs, which the cost analysis of the whole would not do; of a `cond` the largest branch counts. A
    `while_loop` and a call of code that XLA does not see (a hand-written kernel, a callback) give None.
    """
    known = {path[:n] for path in paths for n in range(len(path) + 1)}
    counts = _count(program.jaxpr, (), known, {})
    return {path: _total(n for place, n in counts.items() if place[: len(path)] == path) for path in paths}


def _count(jaxpr, position: Path, known: Collection[Path], costs: dict) -> Counts:
    counts: Counts = defaultdict(float)
    for eqn in jaxpr.eqns:
        place = _advance(position, eqn.source_info.name_stack, known)
        for inner, flops in _count_operation(eqn, place, known, costs).items():
            counts[inner] = _total([counts[inner], flops])
    return counts


def _count_operation(eqn, place: Path, known: Collection[Path], costs: dict) -> Mapping[Path, float | None]:
    def inside(program) -> Counts:
        return _count(getattr(program, "jaxpr", program), place, known, costs)

    name, params = eqn.primitive.name, eqn.params
    if name in _CALLS:
        return inside(params[_CALLS[name]])
    if name == "scan":
        return {p: n if n is None else params["length"] * n for p, n in inside(params["jaxpr"]).items()}
    if name == "cond":
        branches = [inside(branch) for branch in params["branches"]]
        return max(branches, key=lambda counts: _order(_total(counts.values())))
    if name == "while":
        bodies = [*inside(params["cond_jaxpr"]).items(), *inside(params["body_jaxpr"]).items()]
        return {p: None for p, n in bodies if n != 0}
    if name.startswith("random_"):  # integers, on a CPU in a loop
        return {place: 0.0}
    if name in ("shard_map", "pallas_call") or "callback" in name:
        return {place: None}
    shapes = tuple(str(atom.aval) for atom in eqn.invars)
    key = (name, shapes, str(params))
    if key not in costs:
        costs[key] = _cost(eqn)
    return {place: costs[key]}


def _cost(eqn) -> float | None:
    """What XLA's cost analysis says of one operation before optimization, for the CPU: the only platform that gives it
    without compiling, and one on which a product of matrices is an operation and no library call."""
    try:
        arguments = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars]
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            lowered = jax.jit(lambda *args: eqn.primitive.bind(*args, **eqn.params)).lower(*arguments)
            analysis: Any = lowered.cost_analysis()
    except Exception:
        return None  # it means nothing on its own (a sum over devices), or there is no CPU backend
    text = lowered.as_text()
    if analysis is None or "stablehlo.custom_call" in text or "stablehlo.while" in text:
        return None
    return max(0.0, analysis.get("flops", 0.0))


def _advance(position: Path, name_stack, known: Collection[Path]) -> Path:
    """The place of an operation; scopes that are no known path, a user's own, are passed over."""
    for scope in name_stack.stack:
        if (*position, scope.name) in known:
            position = (*position, scope.name)
    return position


def _total(counts) -> float | None:
    total = 0.0
    for n in counts:
        if n is None:
            return None
        total += n
    return total


def _order(count: float | None) -> float:
    return float("inf") if count is None else count

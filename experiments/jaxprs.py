"""A function taken apart: its operations as nodes of a graph, each with its value and gradient, and where to draw them."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun

TIMES, MINUS, SIGMA = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}", "\N{GREEK SMALL LETTER SIGMA}"
SYMBOLS = {"add": "+", "add_any": "+", "sub": MINUS, "mul": TIMES, "div": "/", "neg": f"{TIMES} {MINUS}1", "logistic": SIGMA}
SYMBOLS |= {"reduce_sum": "sum", "integer_pow": "^", "dot_general": "matmul"}


class Operation(NamedTuple):
    name: str  # of the primitive
    label: str  # with constants written in
    apply: Any
    operands: list  # constants, and the numbers of nodes, each a tuple (number,)


class Node(NamedTuple):
    """An argument or an operation of a function."""

    operation: str  # the primitive's name; "" for an argument
    label: str
    inputs: tuple[int, ...]  # the nodes that it works on
    value: Any
    gradient: Any  # of the sum of the function's result by this value; None for integers and booleans
    handed: tuple  # the gradient along the edge from each input


def operations(jaxpr: Any, consts, arguments, before: list[Operation], first: int) -> tuple[list[Operation], list]:
    """-> the operations `before` and those of a jaxpr, numbered from `first`, and its results. What runs under `jit` is taken
    apart; what has a derivative of its own (relu) is one operation."""
    found = list(before)
    known = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, arguments, strict=True))

    def read(v):
        aval: Any = v.aval
        return np.asarray(v.val, aval.dtype) if isinstance(v, Literal) else known[v]

    for eqn in jaxpr.eqns:
        operands, name = [read(v) for v in eqn.invars], eqn.primitive.name
        if name in ("jit", "pjit", "closed_call"):
            inner = eqn.params["jaxpr"]
            found, results = operations(inner.jaxpr, inner.consts, operands, found, first)
        elif name in ("convert_element_type", "copy") and len({v.aval.dtype for v in (*eqn.invars, *eqn.outvars)}) == 1:
            results = operands  # nothing changes
        elif len(eqn.outvars) != 1:
            raise ValueError(f"graph: {name} has {len(eqn.outvars)} results, and a node has one")
        else:
            results = [(first + len(found),)]
            found.append(Operation(name, _label(eqn, operands), _applied(eqn, jaxpr.debug_info), operands))
        known |= dict(zip(eqn.outvars, results, strict=True))
    return found, [read(v) for v in jaxpr.outvars]


def _applied(eqn, debug_info):
    """The one operation as a function of its operands, of which two may be the same variable."""
    places = [Var(v.aval) for v in eqn.invars]
    nameless = debug_info._replace(arg_names=None, result_paths=None)
    alone = ClosedJaxpr(Jaxpr((), places, eqn.outvars, [eqn.replace(invars=places)], debug_info=nameless), ())
    return lambda *operands: jaxpr_as_fun(alone)(*operands)[0]


def _label(eqn: Any, operands) -> str:
    inner = eqn.params.get("call_jaxpr")  # of a function with a derivative of its own, known by its name
    name: str = eqn.primitive.name if inner is None else inner.jaxpr.debug_info.func_name
    symbol = SYMBOLS.get(name, name) + (f"{eqn.params['y']}" if name == "integer_pow" else "")
    is_node = [isinstance(operand, tuple) for operand in operands]
    if all(is_node) or len(operands) != 2 or np.size(operands[is_node.index(False)]) != 1:
        return symbol
    constant = f"{float(operands[is_node.index(False)]):g}"
    return f"{symbol} {constant}" if is_node[0] else f"{constant} {symbol}"


def graph(function, *arguments, names=()) -> list[Node]:
    """The nodes of a function of arrays to one array: its arguments (called `names`), then its operations as they run.

    Raises ValueError for an operation with several results (a loop with several values), and a result that is constant."""
    arguments = [jnp.asarray(a) for a in arguments]
    closed = jax.make_jaxpr(function)(*arguments)
    count = len(arguments)
    found, (output,) = operations(closed.jaxpr, closed.consts, [(i,) for i in range(count)], [], count)
    if not isinstance(output, tuple):
        raise ValueError("graph: the result does not depend on the arguments")
    inputs = [()] * count + [tuple(o[0] for o in operation.operands if isinstance(o, tuple)) for operation in found]

    def run(at_nodes: Any, at_edges: Any):
        values = [_moved(a, at) for a, at in zip(arguments, at_nodes, strict=False)]
        for operation, edges, at in zip(found, at_edges[count:], at_nodes[count:], strict=True):
            moved = iter(edges)
            operands = [
                _moved(values[o[0]], next(moved)) if isinstance(o, tuple) else jnp.asarray(o) for o in operation.operands
            ]
            values.append(_moved(operation.apply(*operands), at))
        return jnp.sum(values[output[0]]), values

    _, values = run([None] * len(inputs), [[None] * len(of) for of in inputs])
    zeros = [jnp.zeros_like(v) if jnp.issubdtype(v.dtype, jnp.floating) else None for v in values]
    gradients, handed = jax.grad(run, (0, 1), has_aux=True)(zeros, [tuple(zeros[i] for i in of) for of in inputs])[0]
    labels = list(names) or [f"x{i}" for i in range(count)]
    labels, kinds = labels + [o.label for o in found], [""] * count + [o.name for o in found]
    return [Node(*of) for of in zip(kinds, labels, inputs, values, gradients, handed, strict=True)]


def _moved(value: Any, by):
    return value if by is None else value + by


def layout(nodes: list[Node]) -> tuple[list[tuple[float, float]], dict[tuple[int, int], list[tuple[float, float]]]]:
    """-> the place of each node, and of each edge (input, node) the places that it passes. Columns by the longest way from an
    argument, long edges through a free place in each; within a column ordered by the mean height of neighbours (Sugiyama,
    Tagawa & Toda 1981)."""
    column = []
    for node in nodes:
        column.append(1 + max((column[i] for i in node.inputs), default=-1))
    for i, node in enumerate(nodes):
        users = [column[j] for j, user in enumerate(nodes) if i in user.inputs]
        if not node.inputs and users:
            column[i] = min(users) - 1  # an argument stands beside what first uses it
    edges = sorted({(i, j) for j, node in enumerate(nodes) for i in node.inputs})
    ways = {(i, j): [i, *((i, j, c) for c in range(column[i] + 1, column[j])), j] for i, j in edges}
    columns = [[i for i in range(len(nodes)) if column[i] == c] for c in range(max(column) + 1)]
    for way in ways.values():
        for place in way[1:-1]:
            columns[place[2]].append(place)
    neighbours: dict[Any, list] = {place: [] for of in columns for place in of}
    for way in ways.values():
        for a, b in itertools.pairwise(way):
            neighbours[a].append(b)
            neighbours[b].append(a)
    height = {place: (len(of) - 1) / 2 - k for of in columns for k, place in enumerate(of)}
    for _ in range(20):
        for of in columns:
            of.sort(key=lambda place: -np.mean([height[n] for n in neighbours[place]] or [0.0]))
            height |= {place: (len(of) - 1) / 2 - k for k, place in enumerate(of)}
    where = {place: (float(c), height[place]) for c, of in enumerate(columns) for place in of}
    return [where[i] for i in range(len(nodes))], {edge: [where[place] for place in way] for edge, way in ways.items()}

"""The four pairs of pure functions that everything in jnn is made of.

    Layer      init(key, x) -> (params, state)          apply(params, state, x, *, key=None, train=False) -> (y, state)
    Objective  init(key, batch) -> (params, state)      loss(params, state, batch, *, key=None, train=False) -> (scalar, Aux)
    Optimizer  init(params) -> opt_state                update(grads, opt_state, params=None, **extra) -> (updates, opt_state)
    Training   init(key, batch) -> TrainState           step(train_state, batch, *, train=True) -> (train_state, metrics)

`params` (trained) and `state` (carried, not trained) are nested dicts of arrays, `{}` where there is none.
`x` and `batch` given to an `init` are arrays, `jax.ShapeDtypeStruct`s, or pytrees of them: only shapes and dtypes are read.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

Params = Any  # nested dict of arrays
State = Any  # nested dict of arrays
PyTree = Any


class Layer(NamedTuple):
    """A function with parameters: `init` builds them, `apply` uses them."""

    init: Callable[..., tuple[Params, State]]
    apply: Callable[..., tuple[Any, State]]

    def __repr__(self) -> str:
        return f"Layer({factory(self.init) or 'init, apply'})"


class Objective(NamedTuple):
    """What is minimised: a scalar of parameters and a batch."""

    init: Callable[..., tuple[Params, State]]
    loss: Callable[..., tuple[Any, "Aux"]]


class Optimizer(NamedTuple):
    """Gradients to updates. Any optax transformation is one, and this is an optax transformation."""

    init: Callable[[Params], Any]
    update: Callable[..., tuple[Any, Any]]


class Training(NamedTuple):
    """An objective and an optimizer, as a step from one TrainState to the next."""

    init: Callable[..., "TrainState"]
    step: Callable[..., tuple["TrainState", dict[str, Any]]]


class Aux(NamedTuple):
    """What a loss returns beside its scalar."""

    state: State
    metrics: dict[str, Any]  # scalars, each the mean over the batch


class TrainState(NamedTuple):
    """Everything that a training run carries from one step to the next."""

    params: Params
    state: State
    opt_state: Any
    key: Any  # PRNG key, the same at every step: step t uses fold_in(key, t)
    step: Any  # int32 [], the number of steps taken


class Fitted(NamedTuple):
    """The end of a training run."""

    train_state: TrainState
    history: dict[str, Any]  # {"loss": (steps,), ...}; evaluations under "eval": {"loss": (evaluations,), ...}


class Graph(NamedTuple):
    """Nodes and directed edges: edge k leads from node `senders[k]` to node `receivers[k]`; an undirected edge is listed both
    ways. Several graphs are one Graph without edges between them, their nodes in a row, and `sizes` says where they part.

    Padding makes shapes equal: nodes beyond the sum of `sizes` are none, and an edge from -1 to -1 is none."""

    nodes: Any  # (n, features)
    senders: Any  # int (edges,)
    receivers: Any  # int (edges,)
    sizes: Any = None  # int (graphs,), the number of nodes of each; None: one graph, and every node is one


def factory(init: Any) -> str:
    """The function that made `init`, read off its name: "dense" for "dense.<locals>.init"; "" where none did."""
    scopes = getattr(init, "__qualname__", "").split(".<locals>.")
    return scopes[-2].rpartition(".")[2] if len(scopes) > 1 else ""


def is_pair(value: Any) -> bool:
    """Whether `value` is a tuple of two functions, whatever its class."""
    return isinstance(value, tuple) and len(value) == 2 and all(callable(part) for part in value)

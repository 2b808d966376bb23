"""Which optimizers the comparison can run: jnn's, and those of optax and optax.contrib, tried out and not guessed."""

import inspect
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jnn import optim
from jnn.comparison.entrants import NOT_OPTIMIZERS, enter, find_factory, innermost, takes_traced
from jnn.comparison.errors import InputError
from jnn.comparison.tasks import Task
from jnn.layers import dense
from jnn.losses import softmax_cross_entropy
from jnn.objectives import supervised


class Listed(NamedTuple):
    """An optimizer by the name under which it can be compared, and why it cannot; "" where it can."""

    name: str
    problem: str


def catalogue() -> list[Listed]:
    """All optimizers, each tried on one traced step of a small network."""
    return [Listed(name, _problem(name)) for name in names()]


def names() -> Iterator[str]:
    """jnn's by their names, optax's as `optax:NAME` and `optax.contrib:NAME`: functions that return a transformation, without
    the parts that optimizers are made of."""
    import optax
    import optax.contrib

    yield from sorted(set(optim.__all__) - NOT_OPTIMIZERS)
    for module, prefix in ((optax, "optax"), (optax.contrib, "optax.contrib")):
        for name, value in sorted(vars(module).items()):
            function = innermost(value)  # of optax.nadam, a partial of adam
            is_public = inspect.isfunction(function) and not name.startswith(("_", "scale_by_"))
            if is_public and _is_optimizer(function, prefix):
                yield f"{prefix}:{name}"


def _is_optimizer(factory, prefix: str) -> bool:
    if prefix == "optax":  # beside the aliases there are its transforms
        return factory.__module__ == "optax._src.alias"
    return "GradientTransformation" in str(inspect.signature(factory).return_annotation) or (
        "learning_rate" in inspect.signature(factory).parameters
    )


def _problem(name: str) -> str:
    factory = find_factory(name)
    batch = jax.ShapeDtypeStruct((4, 3), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
    parameters = inspect.signature(factory).parameters.values()
    missing = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD and p.name != "learning_rate"]
    if missing:
        return f"needs {' and '.join(missing)}: write a function that fills in what it needs, and compare that"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what optax will change
            takes_traced(enter(name, factory, {}), _TINY, batch)
    except InputError as error:
        return str(error).removeprefix(f"{name} on {_TINY.name} ").removeprefix(f"{name} ").split("\n")[0]
    return ""


_TINY = Task("a small network", "", supervised(dense(2), softmax_cross_entropy), steps=4, batch_size=4, points=1)

"""The optimizers of a comparison: found by name, checked, and made ready to run."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn import optim
from jnn.comparison.errors import CandidateError, InputError, did_you_mean
from jnn.comparison.imports import imported
from jnn.comparison.spaces import SPACES, UNKNOWN, Space, fixed
from jnn.comparison.tasks import Task
from jnn.numbers import shown
from jnn.optim.averages import judges_by_others
from jnn.optim.updates import call_update, difference
from jnn.trainings import training
from jnn.types import Objective, Optimizer, is_pair

NOT_OPTIMIZERS = {  # what jnn.optim has beside them
    "accumulate",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "ema_params",
    "eval_params",
    "freeze",
    "max_norm",
    "weight_decay",
}


class Entrant(NamedTuple):
    """An optimizer with its search space."""

    name: str
    factory: Callable  # keyword hyperparameters -> a pair
    space: dict[str, Space]  # the learning rate, or what is searched in its place, first
    scheduled: bool  # it takes `steps`: the schedule is its own, and the task's does not scale its updates
    source: str | None  # SHA-256 of the file that defines the factory
    trials: int = 1  # search points per study
    steps: int | None = None  # instead of the task's


def find_factory(spec: str) -> Callable:
    """A factory by name: `adam` (jnn's), `optax:adamw`, `package.module:name`, or `path/to/file.py:name`.

    Raises InputError for an unknown name, CandidateError where importing the user's file or module raises."""
    if ":" not in spec:
        name = spec
        known = sorted(set(optim.__all__) - NOT_OPTIMIZERS)
        if name in known:
            return getattr(optim, name)
        raise InputError(
            f"there is no optimizer {name!r} in jnn{did_you_mean(name, known)}; jnn has {', '.join(known)}, "
            "and optax:NAME, package.module:NAME and path/to/file.py:NAME are taken too"
        )
    return imported(spec, "function", callable)


def enter(name: str, factory: Callable, space: Mapping[str, Any], *, wide: bool = False) -> Entrant:
    """Checks a factory's signature against its space, which the first hyperparameter in the table of spaces completes, a
    learning rate for most; with `wide` all that the table has for it."""
    if not callable(factory):
        raise InputError(f"{name}: expected a function of hyperparameters, got {type(factory).__name__} {shown(factory)}")
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of some that are defined in C
        raise InputError(f"{name} does not say which hyperparameters it takes: write a function that does") from None
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    scheduled = "steps" in parameters
    taken = parameters if scheduled else [*parameters, "warmup"]  # a share of the steps, of the schedule that all share
    for hyperparameter in map(str, space):
        if hyperparameter not in taken and not open_ended:
            raise InputError(
                f"{name} takes no hyperparameter {hyperparameter!r}{did_you_mean(hyperparameter, taken)}; "
                f"it takes {', '.join(taken) or 'none'}"
            )
    for hyperparameter, interval in space.items():
        if not isinstance(interval, Space | int | float | np.number):
            raise InputError(
                f"the space of {name}'s {hyperparameter} is jnn.log_uniform(low, high), jnn.uniform(low, high) or a number, "
                f"got {shown(interval)}"
            )
    full: dict[str, Any] = dict(space)
    known = _known_spaces(factory)
    main = next(iter(known), "learning_rate")
    if main not in full and (main in parameters or open_ended):
        full[main] = known.get(main, UNKNOWN)
    if wide:
        full = {key: interval for key, interval in known.items() if key in taken} | full
    if not full:
        raise InputError(f"{name} takes no learning_rate: give the space of a hyperparameter that it takes")
    for parameter in parameters.values():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if required and parameter.name not in {*full, "steps"}:
            raise InputError(f"{name} needs a value for {parameter.name}: give it a space")
    full = {key: value if isinstance(value, Space) else fixed(value) for key, value in full.items()}
    ordered = dict(sorted(full.items(), key=lambda item: item[0] != main))
    return Entrant(name, factory, ordered, scheduled, source_hash(factory))


def _known_spaces(factory) -> Mapping[str, Space]:
    factory = innermost(factory)
    library = (getattr(factory, "__module__", None) or "").partition(".")[0]
    return SPACES.get(factory.__name__, {}) if library in ("jnn", "optax") else {}


def innermost(factory):
    """The function of a `functools.partial`."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return factory


def source_hash(factory) -> str | None:
    """SHA-256 of the file that defines a function; None where there is none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(innermost(factory)))
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None
    except (TypeError, OSError):  # defined in C, or in an interactive session
        return None


def build(entrant: Entrant, task: Task, hyperparameters: Mapping[str, Any]) -> Optimizer:
    """The optimizer as it runs on a task, with these hyperparameters, numbers or traced scalars."""
    extra = {"steps": task.steps} if entrant.scheduled else {}
    own = {name: value for name, value in hyperparameters.items() if name != "warmup" or _takes(entrant.factory, name)}
    optimizer = entrant.factory(**own, **extra)
    if not is_pair(optimizer):
        raise InputError(f"{entrant.name} returned {type(optimizer).__name__}, not a pair of functions (init, update)")
    optimizer = Optimizer(*optimizer)
    if entrant.scheduled:
        return optimizer
    schedule = task.schedule(task.steps)
    if len(own) < len(hyperparameters):
        schedule = _after_warmup(schedule, hyperparameters["warmup"], task.steps)
    return _scaled(optimizer, schedule)


def _middle(entrant: Entrant) -> dict[str, float]:
    """Hyperparameters to try a step with."""
    return {name: space.value(0.5) for name, space in entrant.space.items()}


def _takes(factory, name: str) -> bool:
    return name in inspect.signature(factory).parameters


def _after_warmup(schedule: Callable, share, steps: int) -> Callable:
    """The schedule times a ramp from 1 / length to 1 over its first `share` of the steps."""

    def warmed(count):
        length = jnp.maximum(jnp.asarray(share).astype(jnp.float32) * jnp.float32(steps), jnp.float32(1))
        return schedule(count) * jnp.minimum((count + 1).astype(jnp.float32) / length, jnp.float32(1))

    return warmed


def schedule_of(entrant: Entrant, task: Task, batch) -> str:
    """Whose schedule the optimizer follows on a task: "its own", "the task's", or "none" for one that is judged by other
    parameters than it trains. Such a one keeps averages or accepted points in its state, which scaled updates would miss."""
    if entrant.scheduled:
        return "its own"
    middle = _middle(entrant)

    def init(key):
        return training(task.objective, build(entrant, task, middle)).init(key, batch).opt_state

    return "none" if judges_by_others(jax.eval_shape(init, jax.random.key(0))) else "the task's"


def evaluates_within_a_step(entrant: Entrant, task: Task, batch) -> bool:
    """Whether its update evaluates the loss once more, as line searches and Hessian-vector products do."""
    middle = _middle(entrant)
    init, loss = task.objective
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return loss(*arguments, **options)

    train = training(Objective(init, counted), build(entrant, task, middle))
    jax.eval_shape(
        lambda: train.step(train.init(jax.random.key(0), batch), jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), batch))
    )
    return len(calls) > 1


def _scaled(optimizer: Optimizer, schedule: Callable) -> Optimizer:
    """The optimizer with its updates multiplied by a schedule of the step, if it is judged by the parameters that it trains."""

    def init(params):
        return jnp.zeros([], jnp.int32), optimizer.init(params)

    def update(grads, opt_state, params=None, **extra):
        count, inner = opt_state
        updates, inner = call_update(optimizer, grads, inner, params, **extra)
        if not judges_by_others(inner):
            factor = schedule(count)
            updates = jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)
        return updates, (count + 1, inner)

    return Optimizer(init, update)


def takes_traced(entrant: Entrant, task: Task, batch) -> bool:
    """Tries one step of the task without computing anything. False where the factory needs its hyperparameters concrete.

    Raises InputError for an optimizer that returns no pair, or whose update changes a shape or dtype, CandidateError where
    its own code raises."""
    middle = _middle(entrant)

    def one_step(hyperparameters):
        train = training(task.objective, build(entrant, task, hyperparameters))
        train_state = train.init(jax.random.key(0), batch)
        after, _ = train.step(train_state, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), batch))
        own = (lambda s: s.opt_state) if entrant.scheduled else (lambda s: s.opt_state[1])
        problem = difference(own(train_state), own(after), "leaves of init", "leaves of update")
        if problem:
            raise InputError(f"{entrant.name} on {task.name}: its update changes the structure of its state: {problem}")
        return after

    def attempt(function, *arguments):
        try:
            jax.eval_shape(function, *arguments)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, InputError):
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, ValueError) and str(error).startswith("apply_updates: "):
                problem = str(error).removeprefix("apply_updates: ")
                raise InputError(f"{entrant.name} on {task.name}: its updates do not fit the parameters: {problem}") from None
            raise CandidateError(f"{entrant.name} on {task.name} raises {type(error).__name__}: {error}") from error

    try:
        attempt(one_step, jax.tree.map(jnp.float32, middle))
        return True
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        try:
            attempt(lambda: one_step(middle))
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
            raise CandidateError(f"{entrant.name} on {task.name} needs a value while it is traced: {error}") from error
        return False

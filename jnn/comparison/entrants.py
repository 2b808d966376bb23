"""The optimizers of a comparison: found by name, checked, and made ready to run."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn import optim
from jnn.comparison.errors import InputError
from jnn.comparison.spaces import DEFAULT, DEFAULTS, Space, fixed
from jnn.comparison.tasks import Task, did_you_mean
from jnn.optim.updates import call_update, difference
from jnn.trainings import training
from jnn.types import Optimizer, is_pair

NOT_OPTIMIZERS = {
    "accumulate",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "freeze",
    "max_norm",
    "weight_decay",
}


class CandidateError(InputError):
    """The user's own code raised; its traceback belongs to the message."""


class Entrant(NamedTuple):
    """An optimizer with its search space."""

    name: str
    factory: Callable  # keyword hyperparameters -> a pair
    space: dict[str, Space]  # the learning rate first
    scheduled: bool  # it takes `steps`: the schedule is its own, and the task's does not scale its updates
    source: str | None  # SHA-256 of the file that defines the factory


def find_factory(spec: str) -> Callable:
    """A factory by name: `adam` (jnn's), `optax:adamw`, `package.module:name`, or `path/to/file.py:name`.

    Raises InputError for an unknown name, CandidateError where importing the user's file or module raises."""
    module_name, colon, name = spec.rpartition(":")
    if not colon:
        known = sorted(set(optim.__all__) - NOT_OPTIMIZERS)
        if name in known:
            return getattr(optim, name)
        raise InputError(
            f"there is no optimizer {name!r} in jnn{did_you_mean(name, known)}; jnn has {', '.join(known)}, "
            "and optax:NAME, package.module:NAME and path/to/file.py:NAME are taken too"
        )
    module = _import_file(Path(module_name)) if module_name.endswith(".py") else _import_module(module_name)
    factory = getattr(module, name, None)
    if not callable(factory):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{module_name} has no function {name!r}{did_you_mean(name, functions)}")
    return factory


def _import_file(path: Path):
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"candidate_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look for their module there
    _can_import_from(path.parent)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CandidateError(f"{path} does not import: {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str):
    _can_import_from(Path())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise InputError(f"there is no module {error.name!r}") from None
        raise CandidateError(f"{name} does not import: {type(error).__name__}: {error}") from error
    except (Exception, SystemExit) as error:
        raise CandidateError(f"{name} does not import: {type(error).__name__}: {error}") from error


def _can_import_from(folder: Path):
    """As for a script, now and when a factory imports something later."""
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))


def enter(name: str, factory: Callable, space: Mapping[str, Any]) -> Entrant:
    """Checks a factory's signature against its space, which the default learning rate completes."""
    if not callable(factory):
        raise InputError(f"{name}: expected a function of hyperparameters, got {type(factory).__name__} {factory!r}")
    parameters = inspect.signature(factory).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for hyperparameter in space:
        if hyperparameter not in parameters and not open_ended:
            raise InputError(
                f"{name} takes no hyperparameter {hyperparameter!r}{did_you_mean(hyperparameter, parameters)}; "
                f"it takes {', '.join(parameters) or 'none'}"
            )
    for hyperparameter, interval in space.items():
        if not isinstance(interval, Space | int | float):
            raise InputError(
                f"the space of {name}'s {hyperparameter} is jnn.log_uniform(low, high), jnn.uniform(low, high) or a number, "
                f"got {interval!r}"
            )
    full: dict[str, Any] = dict(space)
    if "learning_rate" not in full and ("learning_rate" in parameters or open_ended):
        full["learning_rate"] = _default_learning_rate(factory)
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
    ordered = dict(sorted(full.items(), key=lambda item: item[0] != "learning_rate"))
    return Entrant(name, factory, ordered, "steps" in parameters, _source_hash(factory))


def _default_learning_rate(factory) -> Space:
    library = getattr(factory, "__module__", "").partition(".")[0]
    return DEFAULTS.get(factory.__name__, DEFAULT) if library in ("jnn", "optax") else DEFAULT


def _evaluates_other_parameters(opt_state) -> bool:
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_schedule_free)
    return any(map(_is_schedule_free, nodes))


def _is_schedule_free(node) -> bool:
    return type(node).__name__ == "ScheduleFreeState"  # optax.contrib's; Defazio et al. 2024


def _source_hash(factory) -> str | None:
    try:
        file = inspect.getsourcefile(inspect.unwrap(factory))
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None
    except (TypeError, OSError):  # defined in C, or in an interactive session
        return None


def build(entrant: Entrant, task: Task, hyperparameters: Mapping[str, Any]) -> Optimizer:
    """The optimizer as it runs on a task, with these hyperparameters, numbers or traced scalars."""
    extra = {"steps": task.steps} if entrant.scheduled else {}
    optimizer = entrant.factory(**hyperparameters, **extra)
    if not is_pair(optimizer):
        raise InputError(f"{entrant.name} returned {type(optimizer).__name__}, not a pair of functions (init, update)")
    optimizer = Optimizer(*optimizer)
    return optimizer if entrant.scheduled else _scaled(optimizer, task.schedule(task.steps))


def _scaled(optimizer: Optimizer, schedule: Callable) -> Optimizer:
    """The optimizer with its updates multiplied by a schedule of the step."""

    def init(params):
        return jnp.zeros([], jnp.int32), optimizer.init(params)

    def update(grads, opt_state, params=None, **extra):
        count, inner = opt_state
        updates, inner = call_update(optimizer, grads, inner, params, **extra)
        factor = schedule(count)
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), (count + 1, inner)

    return Optimizer(init, update)


def takes_traced(entrant: Entrant, task: Task, batch) -> bool:
    """Tries one step of the task without computing anything. False where the factory needs its hyperparameters concrete.

    Raises InputError for an optimizer that returns no pair, or whose update changes a shape or dtype, CandidateError where
    its own code raises."""
    middle = {name: space.value(0.5) for name, space in entrant.space.items()}

    def one_step(hyperparameters):
        train = training(task.objective, build(entrant, task, hyperparameters))
        train_state = train.init(jax.random.key(0), batch)
        after, _ = train.step(train_state, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), batch))
        if _evaluates_other_parameters(train_state.opt_state):
            raise InputError(
                f"{entrant.name} is to be judged by other parameters than it trains (its schedule-free average), "
                "which is not supported: its verdict would be wrong"
            )
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

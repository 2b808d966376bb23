"""Search spaces of hyperparameters: maps from the unit interval, and one table of defaults for known optimizers."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jnn.comparison.errors import InputError
from jnn.numbers import is_real, shown


class Space(NamedTuple):
    """An interval of real numbers and the scale on which it is searched evenly."""

    low: float
    high: float
    scale: str  # "log", "linear", "complement" (1 - x is searched on a log scale), or "fixed" where low == high
    source: str = "given"  # where these limits are from

    def value(self, u):
        """float (...) in [0, 1) -> (...) in [low, high)."""
        if self.scale == "log":
            return self.low * (self.high / self.low) ** u
        if self.scale == "complement":
            return 1 - (1 - self.low) * ((1 - self.high) / (1 - self.low)) ** u
        return self.low + (self.high - self.low) * u

    def __str__(self) -> str:
        return f"{self.low:g}" if self.scale == "fixed" else f"{self.low:g} to {self.high:g} ({self.scale})"


def log_uniform(low: float, high: float) -> Space:
    """Evenly on a logarithmic scale between low > 0 and high."""
    low, high = _number("a log-uniform space", low), _number("a log-uniform space", high)
    if not 0 < low < high:
        raise InputError(f"a log-uniform space needs 0 < low < high, got {low:g} and {high:g}")
    return Space(low, high, "log")


def uniform(low: float, high: float) -> Space:
    """Evenly between low and high."""
    low, high = _number("a uniform space", low), _number("a uniform space", high)
    if not low < high:
        raise InputError(f"a uniform space needs low < high, got {low:g} and {high:g}")
    return Space(low, high, "linear")


def complement_log_uniform(low: float, high: float) -> Space:
    """1 - x evenly on a logarithmic scale, for momenta and decay rates: between 0.9 and 0.999 lie as many points under 0.99
    as above it."""
    low, high = _number("a complement space", low), _number("a complement space", high)
    if not low < high < 1:
        raise InputError(f"a complement space needs low < high < 1, got {low:g} and {high:g}")
    return Space(low, high, "complement")


def fixed(value: float) -> Space:
    """One number, not searched."""
    value = _number("a fixed hyperparameter", value)
    return Space(value, value, "fixed")


def _number(what: str, value) -> float:
    """One that is a number in float32 too, as hyperparameters are where they run."""
    if not is_real(value):
        raise InputError(f"{what} is made of numbers, got {shown(value)}")
    value = np.asarray(value).item()
    if not abs(value) <= _MOST:
        raise InputError(f"{what} is made of finite numbers, at most {_MOST:.3g} in size, got {shown(value, str)}")
    if 0 < abs(value) < _LEAST:
        raise InputError(f"{what} is made of 0 and numbers of at least {_LEAST:.3g} in size, got {shown(value, str)}")
    return float(value)


_LEAST, _MOST = float(jnp.finfo(jnp.float32).tiny), float(jnp.finfo(jnp.float32).max)


_SCALES = {"log": log_uniform, "linear": uniform, "complement": complement_log_uniform}


def parse(text: str) -> Space:
    """ "1e-4:1" (logarithmic), "0.5:0.99:linear", "0.9:0.999:complement", or "0.9" (fixed)."""
    low, *rest = text.split(":")
    try:
        if not rest:
            return fixed(float(low))
        high, *scale = rest
        if len(scale) < 2 and (not scale or scale[0] in _SCALES):
            return _SCALES[scale[0] if scale else "log"](float(low), float(high))
    except InputError:
        raise
    except ValueError:
        pass
    raise InputError(f"a space is LOW:HIGH, LOW:HIGH:linear, LOW:HIGH:complement, or one NUMBER, got {text!r}")


# Learning rates: three decades each, so that with equal trials every optimizer is searched as finely, around where the
# optimizer is best on the digits tasks and fashion-mlp (experiments/learning_rates; recorded in experiments/results). Runs of a
# few hundred steps on small networks want several times the rates of the literature's long runs. The report says where best
# trials lie on a border.
_PILOT = "three decades around the best on the digits tasks and fashion-mlp"
# The rest: the baselines of AlgoPerf (Dahl et al. 2023, arXiv:2306.07179; their files tuning_search_space.json).
_ALGOPERF = "AlgoPerf's baselines (Dahl et al. 2023)"
_SUTSKEVER = "the schedules' range in Sutskever et al. 2013"
_THEORY = "around the value of its theory"


def _rate(low):
    return log_uniform(low, 1000 * low)._replace(source=_PILOT)


_B1 = complement_log_uniform(0.9, 0.996)._replace(source=_ALGOPERF)
_DECAY = log_uniform(5e-3, 1.0)._replace(source=_ALGOPERF)
_MOMENTUM = complement_log_uniform(0.5, 0.99)._replace(source=_SUTSKEVER)
_WARMUP = uniform(0.0, 0.1)._replace(source="twice AlgoPerf's warm-up, 5 % of the steps (Dahl et al. 2023)")

# of an optimizer that is not in the table
UNKNOWN = _rate(1e-3)._replace(source="Adam's: nothing is known of where this optimizer is best")

# optimizer, by the name of its factory in jnn.optim, optax and optax.contrib -> hyperparameter -> space. The first is searched
# by default, the others where the comparison is asked for wide spaces. `warmup` is a share of the steps.
SPACES: dict[str, dict[str, Space]] = {
    "acprop": {"learning_rate": _rate(1e-5)},
    "adabelief": {"learning_rate": _rate(1e-3)},
    "adadelta": {"learning_rate": _rate(5e-1)},
    "adafactor": {"learning_rate": _rate(5e-3)},
    "adagrad": {"learning_rate": _rate(2e-2), "warmup": _WARMUP},
    "adam": {"learning_rate": _rate(1e-3), "b1": _B1, "warmup": _WARMUP},
    "adamax": {"learning_rate": _rate(2e-3)},
    "adamaxw": {"learning_rate": _rate(2e-3)},
    "adamw": {"learning_rate": _rate(1e-3), "b1": _B1, "weight_decay": _DECAY, "warmup": _WARMUP},
    "adan": {"learning_rate": _rate(1e-3)},
    "ademamix": {"learning_rate": _rate(1e-3)},
    "adopt": {"learning_rate": _rate(1e-3)},
    "amsgrad": {"learning_rate": _rate(2e-3)},
    "cocob": {"learning_rate": _rate(5e-6)},
    "dadapt_adamw": {"learning_rate": _rate(5e-2)},
    "delta_bar_delta": {"learning_rate": _rate(5e-2), "warmup": _WARMUP},
    "dog": {"learning_rate": _rate(5e-2)},
    "dowg": {"learning_rate": _rate(2e-2)},
    "fromage": {"learning_rate": _rate(2e-3)},
    "galore": {"learning_rate": _rate(2e-3)},
    "lamb": {"learning_rate": _rate(5e-4)},
    "lars": {"learning_rate": _rate(2e-1)},
    "lbfgs": {"learning_rate": _rate(1e-1)},
    "lion": {"learning_rate": _rate(2e-4), "b1": _B1, "warmup": _WARMUP},
    "madgrad": {"learning_rate": _rate(2e-3)},
    "momentum": {"learning_rate": _rate(2e-2), "momentum": _MOMENTUM, "warmup": _WARMUP},
    "momo": {"learning_rate": _rate(5e-1)},
    "momo_adam": {"learning_rate": _rate(2e-3)},
    "muon": {"learning_rate": _rate(1e-3), "warmup": _WARMUP},
    "nesterov": {"learning_rate": _rate(2e-2), "momentum": _MOMENTUM, "warmup": _WARMUP},
    "newton": {
        "damping": log_uniform(1e-3, 10.0)._replace(source="from hardly any to gradient descent"),
        "learning_rate": log_uniform(0.1, 10.0)._replace(source=_THEORY),
    },
    "newton_cg": {"learning_rate": log_uniform(0.1, 10.0)._replace(source=_THEORY)},
    "noisy_sgd": {"learning_rate": _rate(2e-2)},
    "novograd": {"learning_rate": _rate(5e-3)},
    "optimistic_adam": {"learning_rate": _rate(1e-3)},
    "optimistic_adam_v2": {"learning_rate": _rate(1e-3)},
    "optimistic_gradient_descent": {"learning_rate": _rate(5e-2)},
    "polyak_sgd": {"max_learning_rate": _rate(2e-1)},
    "prodigy": {"learning_rate": _rate(2e-1)},
    "radam": {"learning_rate": _rate(1e-2)},
    "rmsprop": {"learning_rate": _rate(1e-3)},
    "rprop": {"learning_rate": _rate(2e-3)},
    "schedule_free_adamw": {"learning_rate": _rate(2e-3)},
    "schedule_free_sgd": {"learning_rate": _rate(1e-1)},
    "sgd": {"learning_rate": _rate(5e-2), "warmup": _WARMUP},
    "sign_sgd": {"learning_rate": _rate(5e-4)},
    "signum": {"learning_rate": _rate(2e-4)},
    "simplified_ademamix": {"learning_rate": _rate(5e-6)},
    "sm3": {"learning_rate": _rate(5e-3)},
    "yogi": {"learning_rate": _rate(2e-3)},
}

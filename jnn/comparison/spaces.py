"""Search spaces of hyperparameters: maps from the unit interval, and the defaults for known optimizers."""

import math
from typing import NamedTuple

from jnn.comparison.errors import InputError


class Space(NamedTuple):
    """An interval of real numbers and the scale on which it is searched evenly."""

    low: float
    high: float
    scale: str  # "log", "linear", or "fixed" where low == high

    def value(self, u):
        """float (...) in [0, 1) -> (...) in [low, high)."""
        if self.scale == "log":
            return self.low * (self.high / self.low) ** u
        return self.low + (self.high - self.low) * u

    def __str__(self) -> str:
        return f"{self.low:g}" if self.scale == "fixed" else f"{self.low:g} to {self.high:g} ({self.scale})"


def log_uniform(low: float, high: float) -> Space:
    """Evenly on a logarithmic scale between low > 0 and high."""
    if not (0 < low < high and math.isfinite(high)):
        raise InputError(f"a log-uniform space needs 0 < low < high, got {low:g} and {high:g}")
    return Space(float(low), float(high), "log")


def uniform(low: float, high: float) -> Space:
    """Evenly between low and high."""
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"a uniform space needs low < high, got {low:g} and {high:g}")
    return Space(float(low), float(high), "linear")


def fixed(value: float) -> Space:
    """One number, not searched."""
    if not math.isfinite(value):
        raise InputError(f"a fixed hyperparameter must be finite, got {value:g}")
    return Space(float(value), float(value), "fixed")


def parse(text: str) -> Space:
    """ "1e-4:1" (logarithmic), "0.5:0.99:linear", or "0.9" (fixed)."""
    low, *rest = text.split(":")
    try:
        if not rest:
            return fixed(float(low))
        high, *scale = rest
        if scale in ([], ["log"]):
            return log_uniform(float(low), float(high))
        if scale == ["linear"]:
            return uniform(float(low), float(high))
    except InputError:
        raise
    except ValueError:
        pass
    raise InputError(f"a space is LOW:HIGH, LOW:HIGH:linear, or one NUMBER, got {text!r}")


# The default spaces of the learning rate, in three decades each, so that with equal trials every optimizer is searched as
# finely. Each is centred on where the best learning rates of the digits tasks lie (seen on a grid, at the tasks' horizons):
# runs of a few hundred steps on small networks want several times the rates of the literature's long runs. The report prints
# them, and says where best trials lie on a border.
DEFAULTS = {
    "sgd": log_uniform(1e-1, 100.0),
    "momentum": log_uniform(3e-2, 30.0),
    "adagrad": log_uniform(3e-2, 30.0),
    "muon": log_uniform(1e-3, 1.0),
    "lion": log_uniform(1e-4, 1e-1),
}
DEFAULT = log_uniform(1e-3, 1.0)  # of Adam and its kin, and of any optimizer that is not known

"""Optimizers and transforms of gradients: factories of (init, update) pairs with optax's signature, so each goes wherever an
optax one goes, and an optax one wherever one of these does.

Defaults are optax's. Every real number may be a traced scalar, or a schedule: a function of the step, counted from 0.
Moments are kept in float32 or better, updates in the parameters' dtype."""

from jnn.optim.adaptive import adagrad, adam, adamw, rmsprop
from jnn.optim.averages import ema_params, eval_params
from jnn.optim.first_order import delta_bar_delta, lion, momentum, nesterov, sgd
from jnn.optim.freezing import freeze
from jnn.optim.matrices import muon
from jnn.optim.quasi_newton import lbfgs
from jnn.optim.second_order import newton, newton_cg
from jnn.optim.transforms import accumulate, chain, clip_by_global_norm, clip_by_value, max_norm, weight_decay
from jnn.optim.updates import apply_updates

__all__ = [
    "accumulate",
    "adagrad",
    "adam",
    "adamw",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "delta_bar_delta",
    "ema_params",
    "eval_params",
    "freeze",
    "lbfgs",
    "lion",
    "max_norm",
    "momentum",
    "muon",
    "nesterov",
    "newton",
    "newton_cg",
    "rmsprop",
    "sgd",
    "weight_decay",
]

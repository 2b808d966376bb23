"""Optimizers: factories of (init, update) pairs with optax's signature, so each goes wherever an optax one goes."""

from jnn.optim.averages import ema_params, eval_params
from jnn.optim.first_order import adam, momentum, sgd
from jnn.optim.freezing import freeze
from jnn.optim.quasi_newton import lbfgs
from jnn.optim.second_order import newton, newton_cg
from jnn.optim.updates import apply_updates

__all__ = [
    "adam",
    "apply_updates",
    "ema_params",
    "eval_params",
    "freeze",
    "lbfgs",
    "momentum",
    "newton",
    "newton_cg",
    "sgd",
]
